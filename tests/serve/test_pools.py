"""`pools:` and `simulation:`: one file for `serve`, `simulate` and `plan`; what is wrong is named with line and key."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jedlik.core.config import NetworkConfig, PoolConfig, ServeConfig, SimulationConfig, WorkerConfig
from jedlik.core.errors import ConfigError
from jedlik.serve.pools import line_of, pool_configs, priced
from jedlik.serve.settings import Settings, settle
from jedlik.sim.setup import build
from jedlik.sizing import candidates

POOL = "pools:\n  - {name: a, count: 2, profile: p}\n"
AROUND = POOL + "simulation:\n"
SPLIT = """
model: m
engine: simulated
kv_host_bytes: 2GiB
worker: {max_sequences: 32, block_size: 64}
pools:
  - {name: first, role: prefill, min: 2, profile: qwen3-32b-fp8/h100/tp1}
  - {name: then, role: decode, count: 3, max: 4, profile: qwen3-32b-fp8/h100/tp1}
"""


def settled(folder: Path, text: str, simulated: bool = True) -> Settings:
    file = folder / "cluster.yaml"
    file.write_text(text)
    return settle({}, {}, file, simulated)


def test_both_sections_are_read(tmp_path: Path) -> None:
    network = "  network: {latency_s: 1e-3, bandwidth_bytes_s: 2.5e9}\n"
    found = settled(tmp_path, AROUND + network + "  gateways: 2\n")
    assert found.config.pools == (PoolConfig(name="a", count=2, profile="p"),)
    assert found.simulation == SimulationConfig(
        gateways=2, network=NetworkConfig(latency_s=0.001, bandwidth_bytes_s=2.5e9)
    )


def test_pools_without_a_model_serve_their_first_profile_but_only_when_simulated(tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text(POOL)
    assert settle({}, {}, file, simulated=True).config.model == "p"
    assert settle({"model": "m"}, {}, file, simulated=True).config.model == "m"
    with pytest.raises(ConfigError, match="no model"):
        settle({}, {}, file)


def test_one_file_drives_serve_simulate_and_plan(tmp_path: Path) -> None:
    served = settled(tmp_path, SPLIT, simulated=False).config
    assert (served.roles, served.engine) == ([*["prefill"] * 2, *["decode"] * 3], "simulated")
    assert {pool.profile for pool in pool_configs(served).values()} == {"qwen3-32b-fp8/h100/tp1"}
    found = settled(tmp_path, SPLIT).config
    file = tmp_path / "cluster.yaml"
    setup = build(found, SimulationConfig(), priced(found.worker_pools, file))
    assert setup.workers == ["first/0", "first/1", "then/0", "then/1", "then/2"]
    assert [pool.kv_host_tokens for pool in setup.pools] == [(2 << 30) // 131072] * 2
    assert (found.planner.min_prefill, found.planner.min_decode, found.planner.min_workers) == (2, 1, 2)
    ((pool, profile),) = candidates.pools(found, file, None, None)
    assert (pool.profile, profile.device) == ("qwen3-32b-fp8/h100/tp1", "h100")


def test_a_pool_takes_what_it_leaves_out_from_the_top(tmp_path: Path) -> None:
    text = SPLIT + "  - {name: own, engine: torch, kv_host_bytes: 1GiB, worker: {max_sequences: 8}, profile: q}\n"
    first, _, own = settled(tmp_path, text).config.worker_pools
    assert (first.model, first.engine, first.kv_host_bytes) == ("m", "simulated", 2 << 30)
    assert (own.model, own.engine, own.kv_host_bytes) == ("m", "torch", 1 << 30)
    assert own.worker == WorkerConfig(max_sequences=8, block_size=64)
    with pytest.raises(ConfigError, match=r"cluster.yaml:9: pools\[2\].engine: differs"):
        settled(tmp_path, text + "planner: {budget: 8}\n", simulated=False)
    assert pool_configs(settled(tmp_path, text, simulated=False).config)["own"].engine == "torch"


@pytest.mark.parametrize(
    ("flags", "pools"),
    [
        ({}, [("workers", "both", 2)]),
        ({"workers": "3"}, [("workers", "both", 3)]),
        ({"prefill": "1", "decode": "2"}, [("prefill", "prefill", 1), ("decode", "decode", 2)]),
        ({"prefill": "1", "workers": "2"}, [("prefill", "prefill", 1), ("workers", "both", 2)]),
    ],
)
def test_flags_are_shorthand_for_pools(flags: dict[str, object], pools: list[tuple[str, str, int]]) -> None:
    config = settle({"model": "m", **flags}, {}, None).config
    assert [(pool.name, pool.role, pool.replicas) for pool in config.worker_pools] == pools
    assert [role for _, role, count in pools for _ in range(count)] == config.roles


def test_flags_count_the_only_pool_of_their_role(tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text(POOL)
    assert settle({"workers": "5"}, {}, file, simulated=True).config.roles == ["both"] * 5
    with pytest.raises(ConfigError, match="--prefill counts the only pool with the role prefill, and there are 0"):
        settle({"prefill": "5"}, {}, file, simulated=True)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("pools:\n  - {name: a, cout: 2, profile: p}", 2, "pools[0].cout: unknown key 'cout'; did you mean 'count'?"),
        (AROUND + "  gateway: 2", 4, "simulation.gateway: unknown key 'gateway'; did you mean 'gateways'?"),
        (AROUND + "  network:\n    latency: 1", 5, "did you mean 'latency_s'?"),
        (AROUND + "  faults:\n    - at_s: 1\n      kind: crash\n      wroker: 1", 7, "did you mean 'worker'?"),
        (AROUND + "  faults:\n    - {at_s: 1, kind: crush}", 5, "which are crash, hang"),
        (AROUND + "  faults:\n    - {at_s: -1, kind: crash}", 5, "faults[0].at_s: -1 is out of range: at least 0"),
        (AROUND + "  faults:\n    - {at_s: 1, kind: crash, for_s: 0}", 5, "faults[0].for_s: 0 is out of range"),
        (AROUND + "  faults:\n    - {at_s: 1, kind: crash, worker: a/2}", 5, "did you mean 'a/"),
        (AROUND + "  network:\n    kv_block_s: -1", 5, "simulation.network.kv_block_s: -1 is out of range"),
        (AROUND + "  network:\n    bandwidth_bytes_s: 0", 5, "bandwidth_bytes_s: 0 is out of range: more than 0"),
        (AROUND + "  gateways: 0", 4, "simulation.gateways: 0 is out of range: at least 1"),
        ("pools:\n  - name: a\n    count: many\n    profile: p", 3, "pools[0].count: 'many' is not a"),
        ("pools:\n  - name: a\n    kv_cache_bytes: 3 tokens", 3, "pools[0].kv_cache_bytes: '3 tokens' is not a size"),
        ("pools:\n  - {name: a, gpus: -1}", 2, "pools[0].gpus: -1 is out of range: at least 0"),
        ("pools:\n  - {name: a, role: reader}", 2, "which are prefill, decode, both"),
        ("pools:\n  - {name: a, worker: {max_sequnces: 3}}", 2, "worker.max_sequnces: unknown key"),
        ("model: m\npools:\n  - {name: a, role: prefill}", 2, "give a pool the role decode or both"),
        ("model: m\npools:", 2, "pools: a value is missing"),
        ("pools: 3", 1, "pools: expected a list"),
        ("simulation: 3", 1, "simulation: expected a mapping"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("simulated", [True, False])
def test_what_is_wrong_is_named_with_its_line(
    tmp_path: Path, text: str, line: int, message: str, simulated: bool
) -> None:
    with pytest.raises(ConfigError) as caught:
        settled(tmp_path, text if "model" in text else "model: m\n" + text, simulated)
    assert f"cluster.yaml:{line + ('model' not in text)}: " in str(caught.value)
    assert message in str(caught.value)


def test_an_unknown_profile_is_named_with_its_line_and_the_nearest(tmp_path: Path) -> None:
    found = settled(tmp_path, "pools:\n  - name: a\n    count: 1\n    profile: qwen3-32b-fp8/h200/tp3\n")
    with pytest.raises(ConfigError, match=r"cluster.yaml:4: pools\[0\].profile: .*did you mean"):
        priced(found.config.worker_pools, tmp_path / "cluster.yaml")


def test_the_profile_of_each_pool_is_looked_up() -> None:
    pools = tuple(PoolConfig(name=name, count=1, profile=f"qwen3-32b-fp8/{name}/tp2") for name in ("h100", "h200"))
    found = priced(pools, Path("nothing.yaml"))
    assert sorted(profile.device for profile in found.values()) == ["h100", "h200"]


def test_a_limit_of_all_pools_limits_the_server() -> None:
    pools = (PoolConfig(name="a", max=3), PoolConfig(name="b", max=2))
    config = ServeConfig(model="m", pools=pools)
    assert config.most_workers == 2


@given(st.integers(1, 9), st.integers(0, 9))
def test_the_line_of_a_key_is_where_it_stands(pools: int, wanted: int) -> None:
    """Of a key that does not exist, the line of what would hold it."""
    text = "pools:\n" + "".join(f"  - name: a{number}\n    count: 1\n" for number in range(pools))
    expected = 3 + 2 * wanted if wanted < pools else 1
    assert line_of(text, f"pools[{wanted}].count") == expected
