"""A setup that is built can be run; what can't be is named by its key, with what to do."""

import msgspec
import pytest

from jedlik.core.config import FaultConfig, PoolConfig, ServeConfig, SimulationConfig, WorkerConfig
from jedlik.core.errors import ConfigError
from jedlik.perf.linear import PhaseCosts
from jedlik.perf.profile import Profile
from jedlik.sim.setup import Setup, pool_problems, simulation_problems, worker_index
from jedlik.sim.setup import build as built

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


def build(pools: tuple[PoolConfig, ...] = (POOL,), profiles: dict[str, Profile] = PROFILES, **given: object) -> Setup:
    return built(with_pools(pools), SimulationConfig(**given), profiles)  # type: ignore[arg-type]


def with_pools(pools: tuple[PoolConfig, ...]) -> ServeConfig:
    return msgspec.structs.replace(CONFIG, pools=pools)


def test_pools_take_what_they_do_not_say_from_their_profile() -> None:
    own = pool(name="b", count=1, gpus=8, kv_cache_bytes=64 * 7, kv_token_bytes=7, start_s=5.0)
    setup = built(with_pools((POOL, own)), SimulationConfig(), PROFILES, seed=7, duration_s=60.0)
    assert [(pool.gpus, pool.kv_tokens, pool.start_s) for pool in setup.pools] == [(2, 992, 60.0), (8, 64, 5.0)]
    assert setup.workers == ["a/0", "a/1", "b/0"]
    assert [pool.name for pool in setup.pool_of] == ["a", "a", "b"]
    assert (setup.model, setup.seed, setup.duration_s) == ("m", 7, 60.0)


def test_faults_come_in_order_of_time_with_their_workers_by_name() -> None:
    faults = tuple(FaultConfig(at_s=at, kind="crash", worker=worker) for at, worker in ((3, 1), (1, "a/0"), (2, None)))
    setup = build(faults=faults)
    assert [(fault.at_s, fault.worker) for fault in setup.faults] == [(1, "a/0"), (2, None), (3, "a/1")]


def test_each_gateway_can_have_a_policy_of_its_own() -> None:
    setup = build()
    assert setup.policy() is not setup.policy()
    assert setup.shadow is None


@pytest.mark.parametrize(
    ("given", "key", "text"),
    [
        ({"pools": (pool(count=0),)}, "pools[0].count", "begins with 1"),
        ({"pools": (pool(count=1, min=2),)}, "pools[0].count", "between"),
        ({"pools": (pool(count=3, max=2),)}, "pools[0].count", "between"),
        ({"pools": (pool(name="a/b"),)}, "pools[0].name", "no / or @"),
        ({"pools": (POOL, POOL)}, "pools[1].name", "taken"),
        ({"pools": (POOL, pool(name="b", model="n"))}, "pools", "one model at a time"),
        ({"pools": (pool(worker=WorkerConfig(block_size=32)),)}, "pools[0].worker.block_size", "worker.block_size"),
        ({"faults": (FaultConfig(at_s=1.0, kind="crash", peer=1),)}, "simulation.faults[0].peer", "only a cut"),
        ({"faults": (FaultConfig(at_s=1.0, kind="cut", worker=1),)}, "simulation.faults[0].peer", "name both"),
        (
            {"faults": (FaultConfig(at_s=1.0, kind="cut", worker=1, peer="a/1"),)},
            "simulation.faults[0].peer",
            "to itself",
        ),
        (
            {"faults": (FaultConfig(at_s=1.0, kind="cut", worker=1, peer="b/1"),)},
            "simulation.faults[0].peer",
            "did you mean 'a/",
        ),
        ({"faults": (FaultConfig(at_s=1.0, kind="crash", worker=2),)}, "simulation.faults[0].worker", "has 2"),
        ({"faults": (FaultConfig(at_s=1.0, kind="crash", worker="a/7"),)}, "simulation.faults[0].worker", "did you"),
        ({"pools": (pool(host="x/y"),)}, "pools[0].host", "no /"),
        ({"pools": (pool(host="x", workers_per_host=2),)}, "pools[0].workers_per_host", "say one"),
        ({"pools": (pool(role="prefill"),)}, "pools", "the role decode or both"),
        ({"pools": (pool(role="decode"),)}, "pools", "the role prefill or both"),
        ({"pools": (POOL, pool(name="b", role="decode")), "handoffs": False}, "simulation.handoffs", "must hand off"),
    ],
)
def test_what_cannot_run_is_named(given: dict[str, object], key: str, text: str) -> None:
    around = {"pools": (POOL,)} | given
    config = with_pools(around.pop("pools"))  # type: ignore[arg-type]
    simulation = SimulationConfig(**around)  # type: ignore[arg-type]
    found = [*pool_problems(config), *simulation_problems(config.worker_pools, simulation)]
    assert [problem.key for problem in found] == [key]
    assert text in found[0].text
    with pytest.raises(ConfigError):
        built(config, simulation, PROFILES)


@pytest.mark.parametrize(
    ("pool", "text"),
    [
        (pool(profile="silent"), "does not say how large"),
        (pool(profile=None), r"pools\[0\].profile: is missing"),
        (pool(kv_cache_bytes=15, kv_token_bytes=1), "hold no block of 16"),
        (pool(kv_host_bytes=15, kv_token_bytes=1), r"kv_host_bytes: 15 tokens hold no block"),
        (pool(kv_disk="/d:15", kv_token_bytes=1), r"kv_disk: 15 tokens hold no block"),
        (pool(kv_disk="/d", kv_token_bytes=1), r"write PATH:BYTES"),
        (pool(kv_host_bytes=64), r"kv_token_bytes: profile p does not say"),
        (pool(kv_object_bytes=64), r"kv_token_bytes: profile p does not say"),
    ],
)
def test_a_cache_that_is_unknown_or_too_small_is_refused(pool: PoolConfig, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        build((pool,))


def test_the_workers_of_a_host_share_its_disk() -> None:
    shares = (pool(count=2, host="x"), pool(name="b", count=1, host="x"), pool(name="c", workers_per_host=2))
    pools = tuple(msgspec.structs.replace(one, kv_disk="/d:960", kv_token_bytes=1) for one in shares)
    assert [one.kv_disk_tokens for one in build(pools).pools] == [320, 320, 480]


@pytest.mark.parametrize(("named", "index"), [(1, 1), ("a/1", 1), ("0", 0), (-1, None), ("b/0", None), ("2", None)])
def test_workers_by_index_and_by_name(named: int | str, index: int | None) -> None:
    assert worker_index(named, ["a/0", "a/1"]) == index


def test_where_kv_moves_the_fleet_says_where_workers_are_and_how_large_a_token_is() -> None:
    sized = msgspec.structs.replace(PROFILE, kv_bytes_per_token=100)
    pools = (
        pool(role="prefill", host="x"),
        pool(name="b", count=3, role="decode", workers_per_host=2, kv_token_bytes=7, kv_host_bytes=64 * 7),
    )
    setup = build(pools, {"p": sized})
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
    assert build(pools, {"p": sized}, handoffs=handoffs).handoffs is hands_off
