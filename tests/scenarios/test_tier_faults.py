"""Every fault at every stage of an offload or fetch: nobody's request fails, no token is wrong, no block is lost."""

from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jedlik.core.config import FaultConfig, NetworkConfig
from jedlik.sim.outcome import SimulationRun
from jedlik.sim.setup import Setup
from moving_world import NETWORK, WORKER, Moment, Watched, a_fleet, a_pool
from sim_world import Conversations

FAST = msgspec.structs.replace(
    NETWORK, host_bandwidth_bytes_s=4e10, disk_bandwidth_bytes_s=5e9, object_bandwidth_bytes_s=2e9, object_block_s=1e-4
)
DEVICE = 16 * 210
STAGES = {
    "offload begins": ("offload begun", 5, 0.0),
    "offload under way": ("offload begun", 9, 2e-5),
    "offloaded": ("offload landed", 9, 0.0),
    "fetch begins": ("fetch begun", 2, 0.0),
    "fetch under way": ("fetch begun", 3, 2e-5),
    "fetched": ("fetch landed", 3, 0.0),
    "after a fetch": ("fetch landed", 3, 0.02),
}
Fault = Callable[[Watched, Moment], None]
FAULTS: dict[str, Fault] = {
    "crashes": lambda w, m: w.suffer("crash", m.decoder),
    "hangs for good": lambda w, m: w.suffer("hang", m.decoder),
    "hangs a moment": lambda w, m: w.suffer("hang", m.decoder, for_s=0.3),
    "becomes slow": lambda w, m: w.suffer("slow", m.decoder, factor=20.0, for_s=2.0),
    "is cut off": lambda w, m: w.suffer("partition", m.decoder, for_s=1.0),
    "drains": lambda w, m: w.suffer("drain", m.decoder, for_s=3.0),
    "loses its clients": lambda w, m: w.abandon_all(),
}


@dataclass(frozen=True)
class Sizes:
    """In multiples of the device's."""

    host: float = 0.0
    disk: float = 0.0
    object: float = 0.0


BOTH = Sizes(2.0, 6.0)


def tiered(sizes: Sizes, workers: int = 2, network: NetworkConfig = FAST, **worker: object) -> Setup:
    """Workers whose device is far too small for all conversations."""
    pool = a_pool("t", workers, kv_tokens=DEVICE)
    changed = {f"kv_{tier}_tokens": int(DEVICE * getattr(sizes, tier)) for tier in ("host", "disk", "object")}
    setup = a_fleet(msgspec.structs.replace(pool, **changed), worker=msgspec.structs.replace(WORKER, **worker))
    return msgspec.structs.replace(setup, network=network, handoffs=False)


def talks(seed: int = 3, talks: int = 8) -> Conversations:
    return Conversations(seed, talks=talks, turns=4, think_s=0.5, over_s=1.0)


def fine(world: Watched, abandoned: bool = False) -> SimulationRun:
    result = world.run()
    endings = {outcome.outcome for outcome in result.outcomes}
    assert endings <= ({"length", "abandoned"} if abandoned else {"length"})
    return result


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("sizes", [Sizes(4.0), BOTH, Sizes(disk=6.0)], ids=["host", "both", "disk"])
def test_whatever_happens_at_any_stage_nobody_notices(sizes: Sizes, stage: str, fault: str) -> None:
    world = Watched(tiered(sizes, disk_admission="all"), talks())
    kind, time, delay_s = STAGES[stage]
    struck: list[Moment] = []

    def strike(moment: Moment) -> None:
        struck.append(moment)
        FAULTS[fault](world, moment)

    world.stages.on(kind, time, lambda moment: world.simulation.heap.after(delay_s, strike, moment))
    fine(world, abandoned=fault == "loses its clients")
    assert struck
    assert world.stages.moved_blocks


@pytest.mark.parametrize("sizes", [Sizes(4.0), Sizes(1.0, 6.0), Sizes(object=8.0)], ids=["host", "disk", "object"])
def test_what_left_the_device_is_fetched_instead_of_computed(sizes: Sizes) -> None:
    plain = fine(Watched(tiered(Sizes()), talks()))
    kept = fine(Watched(tiered(sizes, disk_admission="all"), talks()))
    hits = {name: tier.hits for name, tier in kept.movement.tiers.items()}
    assert sum(hits.values()) > 50, hits
    cached = [sum(outcome.cached_tokens for outcome in result.outcomes) for result in (plain, kept)]
    assert cached[1] > 1.2 * cached[0]
    for tier in kept.movement.tiers.values():
        assert tier.wanted == tier.hits + sum(tier.misses.values())


def test_from_a_tier_that_is_slower_than_computing_nothing_is_fetched() -> None:
    crawling = msgspec.structs.replace(FAST, host_bandwidth_bytes_s=3e8)
    result = fine(Watched(tiered(Sizes(4.0), network=crawling), talks()))
    host = result.movement.tiers["host"]
    assert (host.wanted, host.hits) == (0, 0)
    assert host.written


@pytest.mark.parametrize("deadline_s", [0.001, 0.003, 0.006])
def test_what_comes_late_is_computed_and_its_blocks_are_nobodys_until_it_has_come(deadline_s: float) -> None:
    steady = msgspec.structs.replace(FAST, host_bandwidth_bytes_s=6e9)
    world = Watched(tiered(Sizes(5.0), network=steady, load_deadline_s=deadline_s), talks(talks=16))
    host = fine(world).movement.tiers["host"]
    assert host.misses["late"]


@pytest.mark.parametrize("time", range(1, 9))
def test_who_goes_away_in_the_middle_of_a_load_leaves_no_blocks_to_be_written_under_others(time: int) -> None:
    steady = msgspec.structs.replace(FAST, host_bandwidth_bytes_s=6e9)
    world = Watched(tiered(Sizes(5.0), network=steady), talks(talks=16))
    world.stages.on("fetch begun", time, lambda moment: world.abandon_all())
    fine(world, abandoned=True)


def test_a_disk_is_found_again_after_a_crash() -> None:
    setup = tiered(Sizes(disk=8.0), workers=1, disk_admission="all")
    crash = FaultConfig(at_s=2.4, kind="crash", worker="t/0")
    result = fine(Watched(msgspec.structs.replace(setup, faults=(crash,)), talks()))
    lost = fine(Watched(msgspec.structs.replace(tiered(Sizes(8.0), workers=1), faults=(crash,)), talks()))

    def first_after(run: SimulationRun) -> float:
        """Share of the prompts' tokens that was cached, of the first answers after the restart."""
        back = [outcome for outcome in run.outcomes if outcome.attempts > 1]
        assert back
        return sum(o.cached_tokens for o in back) / sum(o.prompt_tokens for o in back)

    assert first_after(result) > first_after(lost)


@st.composite
def worlds(draw: st.DrawFn) -> Watched:
    sizes = Sizes(*(draw(st.sampled_from([0.0, 0.3, 1.0, 5.0])) for _ in range(3)))
    network = msgspec.structs.replace(
        FAST,
        host_bandwidth_bytes_s=draw(st.sampled_from([1e9, 4e10])),
        disk_bandwidth_bytes_s=draw(st.sampled_from([5e8, 5e9])),
    )
    setup = tiered(
        sizes,
        workers=draw(st.integers(1, 3)),
        network=network,
        disk_admission=draw(st.sampled_from(["second_touch", "all"])),
        host_eviction=draw(st.sampled_from(["lru", "s3fifo"])),
        offload_blocks=draw(st.sampled_from([30, 4096])),
        load_deadline_s=draw(st.sampled_from([0.01, 5.0])),
        handoff_share=draw(st.sampled_from([0.2, 1.0])),
        max_sequences=draw(st.sampled_from([2, 16])),
        run_ahead=draw(st.booleans()),
    )
    kinds = st.sampled_from(["crash", "hang", "partition", "slow"])
    faults = [
        FaultConfig(at_s=at, kind=kind, worker="t/0", for_s=for_s)  # type: ignore[arg-type]
        for at, kind, for_s in draw(st.lists(st.tuples(st.floats(0, 4), kinds, st.floats(0.01, 2)), max_size=3))
    ]
    faults.sort(key=lambda fault: fault.at_s)
    return Watched(msgspec.structs.replace(setup, faults=tuple(faults)), talks(draw(st.integers(0, 999)), 5))


@settings(max_examples=80, deadline=None)
@given(worlds())
def test_whatever_happens_whenever_everybody_is_answered_and_nothing_is_lost(world: Watched) -> None:
    fine(world)
