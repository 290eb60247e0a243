"""A setup that is built can be run; what can't be is named by its key, with what to do."""

import msgspec
import pytest

from jedlik.core.config import FaultConfig, FleetConfig, NetworkConfig, PoolConfig, ServeConfig, WorkerConfig
from jedlik.core.errors import ConfigError
from jedlik.perf.linear import PhaseCosts
from jedlik.perf.profile import Profile
from jedlik.sim.setup import build, problems, worker_index

PROFILE = Profile(
    name="m/gpu/tp2",
    model="m",
    device="gpu",
    backend="b",
    gpus=2,
    kv_tokens=1000,
    costs=PhaseCosts(
        prefill_base_s=0.01,
        prefill_token_s=1e-5,
        prefill_pair_s=1e-9,
        decode_base_s=0.01,
        decode_sequence_s=1e-5,
        context_token_s=1e-8,
    ),
)
PROFILES = {"p": PROFILE, "silent": msgspec.structs.replace(PROFILE, kv_tokens=None)}
CONFIG = ServeConfig(model="m", worker=WorkerConfig(block_size=16))
POOL = PoolConfig(name="a", count=2, profile="p")


def pool(**given: object) -> PoolConfig:
    return PoolConfig(**({"name": "a", "count": 2, "profile": "p"} | given))  # type: ignore[arg-type]


def fleet(**given: object) -> FleetConfig:
    return FleetConfig(**({"pools": (POOL,)} | given))  # type: ignore[arg-type]


def test_pools_take_what_they_do_not_say_from_their_profile() -> None:
    own = PoolConfig(name="b", count=1, profile="p", gpus=8, kv_tokens=64, start_s=5.0)
    setup = build(CONFIG, fleet(pools=(POOL, own)), PROFILES, seed=7, duration_s=60.0)
    assert [(pool.gpus, pool.kv_tokens, pool.start_s) for pool in setup.pools] == [(2, 992, 60.0), (8, 64, 5.0)]
    assert setup.workers == ["a/0", "a/1", "b/0"]
    assert [pool.name for pool in setup.pool_of] == ["a", "a", "b"]
    assert (setup.model, setup.seed, setup.duration_s) == ("m", 7, 60.0)


def test_faults_come_in_order_of_time_with_their_workers_by_name() -> None:
    faults = tuple(FaultConfig(at_s=at, kind="crash", worker=worker) for at, worker in ((3, 1), (1, "a/0"), (2, None)))
    setup = build(CONFIG, fleet(faults=faults), PROFILES)
    assert [(fault.at_s, fault.worker) for fault in setup.faults] == [(1, "a/0"), (2, None), (3, "a/1")]


def test_each_gateway_can_have_a_policy_of_its_own() -> None:
    setup = build(CONFIG, fleet(), PROFILES)
    assert setup.policy() is not setup.policy()
    assert setup.shadow is None


@pytest.mark.parametrize(
    ("given", "key", "text"),
    [
        ({"pools": ()}, "pools", "empty"),
        ({"pools": (PoolConfig(name="a", count=0, profile="p"),)}, "pools[0].count", "at least 1"),
        ({"pools": (PoolConfig(name="a", count=1, profile="p", gpus=-1),)}, "pools[0].gpus", "0 (a CPU) or more"),
        ({"pools": (PoolConfig(name="a", count=1, profile="p", start_s=-1.0),)}, "pools[0].start_s", "0 or more"),
        ({"pools": (PoolConfig(name="a/b", count=1, profile="p"),)}, "pools[0].name", "no / or @"),
        ({"pools": (POOL, POOL)}, "pools[1].name", "taken"),
        ({"gateways": 0}, "gateways", "at least 1"),
        ({"network": NetworkConfig(latency_s=-1.0)}, "network.latency_s", "0 or more"),
        ({"network": NetworkConfig(bandwidth_bytes_s=0.0)}, "network.bandwidth_bytes_s", "carry something"),
        ({"faults": (FaultConfig(at_s=-1.0, kind="crash"),)}, "faults[0].at_s", "0 or more"),
        ({"faults": (FaultConfig(at_s=1.0, kind="hang", for_s=0.0),)}, "faults[0].for_s", "no time"),
        ({"faults": (FaultConfig(at_s=1.0, kind="slow", factor=0.0),)}, "faults[0].factor", "more than 0"),
        ({"faults": (FaultConfig(at_s=1.0, kind="lose_facts", share=1.5),)}, "faults[0].share", "between 0 and 1"),
        ({"faults": (FaultConfig(at_s=float("nan"), kind="crash"),)}, "faults[0].at_s", "0 or more"),
        ({"pools": (pool(workers_per_host=0),)}, "pools[0].workers_per_host", "at least 1"),
        ({"pools": (pool(kv_token_bytes=0),)}, "pools[0].kv_token_bytes", "at least 1"),
        ({"pools": (pool(host="x/y"),)}, "pools[0].host", "no /"),
        ({"pools": (pool(host="x", workers_per_host=2),)}, "pools[0].workers_per_host", "say one of the two"),
        ({"pools": (pool(kv_host_tokens=-1),)}, "pools[0].kv_host_tokens", "0 (no such tier) or more"),
        ({"pools": (pool(kv_disk_tokens=-1),)}, "pools[0].kv_disk_tokens", "0 (no such tier) or more"),
        ({"pools": (pool(role="prefill"),)}, "pools", "the role decode or both"),
        ({"pools": (pool(role="decode"),)}, "pools", "the role prefill or both"),
        ({"pools": (POOL, pool(name="b", role="decode")), "handoffs": False}, "handoffs", "must hand off"),
        ({"network": NetworkConfig(disk_bandwidth_bytes_s=-5.0)}, "network.disk_bandwidth_bytes_s", "carry something"),
        ({"network": NetworkConfig(object_block_s=-1.0)}, "network.object_block_s", "0 or more"),
        ({"faults": (FaultConfig(at_s=1.0, kind="crash", peer=1),)}, "faults[0].peer", "only a cut"),
        ({"faults": (FaultConfig(at_s=1.0, kind="cut", worker=1),)}, "faults[0].peer", "name both"),
        ({"faults": (FaultConfig(at_s=1.0, kind="cut", worker=1, peer="a/1"),)}, "faults[0].peer", "to itself"),
        ({"faults": (FaultConfig(at_s=1.0, kind="cut", worker=1, peer="b/1"),)}, "faults[0].peer", "did you mean 'a/"),
        ({"faults": (FaultConfig(at_s=1.0, kind="crash", worker=2),)}, "faults[0].worker", "has 2, numbered from 0"),
        ({"faults": (FaultConfig(at_s=1.0, kind="crash", worker="a/7"),)}, "faults[0].worker", "did you mean 'a/"),
    ],
)
def test_what_cannot_run_is_named(given: dict[str, object], key: str, text: str) -> None:
    found = list(problems(fleet(**given)))
    assert [problem.key for problem in found] == [key]
    assert text in found[0].text
    with pytest.raises(ConfigError, match="fleet"):
        build(CONFIG, fleet(**given), PROFILES)


@pytest.mark.parametrize(
    ("pool", "text"),
    [
        (PoolConfig(name="a", count=1, profile="silent"), "does not say how large"),
        (PoolConfig(name="a", count=1, profile="p", kv_tokens=15), "hold no block of 16"),
        (pool(kv_host_tokens=15, kv_token_bytes=1), r"kv_host_tokens: 15 tokens hold no block"),
        (pool(kv_disk_tokens=15, kv_token_bytes=1), r"kv_disk_tokens: 15 tokens hold no block"),
        (pool(kv_host_tokens=64), r"kv_token_bytes: profile p does not say"),
        (pool(kv_object_tokens=64), r"kv_token_bytes: profile p does not say"),
    ],
)
def test_a_cache_that_is_unknown_or_too_small_is_refused(pool: PoolConfig, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        build(CONFIG, fleet(pools=(pool,)), PROFILES)


@pytest.mark.parametrize(("named", "index"), [(1, 1), ("a/1", 1), ("0", 0), (-1, None), ("b/0", None), ("2", None)])
def test_workers_by_index_and_by_name(named: int | str, index: int | None) -> None:
    assert worker_index(named, ["a/0", "a/1"]) == index


def test_where_kv_moves_the_fleet_says_where_workers_are_and_how_large_a_token_is() -> None:
    sized = msgspec.structs.replace(PROFILE, kv_bytes_per_token=100)
    pools = (
        pool(role="prefill", host="x"),
        pool(name="b", count=3, role="decode", workers_per_host=2, kv_token_bytes=7, kv_host_tokens=64),
    )
    setup = build(CONFIG, fleet(pools=pools), {"p": sized})
    assert setup.hosts == ["x", "x", "b/host0", "b/host0", "b/host1"]
    assert [p.kv_token_bytes for p in setup.pools] == [100, 7]
    assert [p.kv_host_tokens for p in setup.pools] == [0, 64]
    assert setup.handoffs


@pytest.mark.parametrize(
    ("handoffs", "role", "hands_off"), [(None, "both", False), (None, "prefill", True), (True, "both", True)]
)
def test_workers_hand_off_where_a_pool_has_a_role_or_the_fleet_says_so(
    handoffs: bool | None, role: str, hands_off: bool
) -> None:
    pools = (POOL, pool(name="b", role=role, kv_token_bytes=1))
    sized = msgspec.structs.replace(PROFILE, kv_bytes_per_token=100)
    assert build(CONFIG, fleet(pools=pools, handoffs=handoffs), {"p": sized}).handoffs is hands_off
