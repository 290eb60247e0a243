"""Every fault at every stage of a hand-off: nobody's request fails, no token is wrong, no block is lost or misread."""

from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jedlik.core.config import FaultConfig
from jedlik.core.protocol import AssumeRole
from jedlik.core.sums import float_sum
from jedlik.sim.outcome import SimulationRun
from jedlik.sim.workload.offered import Workload
from moving_world import WORKER, HandOffs, Moment, a_fleet, a_pool
from sim_world import Conversations, drawn

STAGES = {
    "asked": ("asked", 7, 0.0),
    "queued": ("asked", 7, 0.002),
    "granted": ("granted", 7, 0.0),
    "reserved": ("reserved", 7, 0.0),
    "first push under way": ("begun", 20, 0.0),
    "another push under way": ("begun", 41, 0.0002),
    "landed": ("landed", 33, 0.0),
    "pushed": ("pushed", 33, 0.0),
    "committed": ("pushed", 33, 0.0015),
    "done": ("released", 7, 0.0),
    "decoding": ("released", 7, 0.05),
}
"""(message or move, the n-th, seconds after it)"""


def both_crash(world: HandOffs, moment: Moment) -> None:
    for worker in (moment.decoder, moment.prefiller):
        world.suffer("crash", worker)


Fault = Callable[[HandOffs, Moment], None]
FAULTS: dict[str, Fault] = {
    "P crashes": lambda w, m: w.suffer("crash", m.prefiller),
    "P hangs for good": lambda w, m: w.suffer("hang", m.prefiller),
    "P hangs a moment": lambda w, m: w.suffer("hang", m.prefiller, for_s=0.2),
    "P hangs too long": lambda w, m: w.suffer("hang", m.prefiller, for_s=2.0),
    "P becomes slow": lambda w, m: w.suffer("slow", m.prefiller, factor=30.0, for_s=5.0),
    "the link is cut a moment": lambda w, m: w.suffer("cut", m.prefiller, peer=m.decoder, for_s=0.2),
    "the link is cut": lambda w, m: w.suffer("cut", m.decoder, peer=m.prefiller, for_s=5.0),
    "P is cut off from the gateway": lambda w, m: w.suffer("partition", m.prefiller, for_s=2.0),
    "P drains": lambda w, m: w.suffer("drain", m.prefiller, for_s=5.0),
    "D crashes": lambda w, m: w.suffer("crash", m.decoder),
    "D hangs for good": lambda w, m: w.suffer("hang", m.decoder),
    "D hangs a moment": lambda w, m: w.suffer("hang", m.decoder, for_s=0.7),
    "D drains": lambda w, m: w.suffer("drain", m.decoder, for_s=5.0),
    "both crash": both_crash,
    "the client goes away": lambda w, m: w.abandon(m.request_id),
    "P is to decode": lambda w, m: w.say(m.prefiller, AssumeRole("decode")),
    "D is to prefill": lambda w, m: w.say(m.decoder, AssumeRole("prefill")),
}


def a_world(host: str | None = None, seed: int = 1) -> HandOffs:
    """Two workers that mostly prefill and two that mostly decode: but everybody may do both, for others too."""
    setup = a_fleet(a_pool("p", 2, host=host), a_pool("d", 2, host=host), seed=seed)
    workload = drawn(seed, 16, 40.0, prefix_pieces=6, own_pieces=12, outputs=(2, 30))
    return HandOffs(setup, workload, ["p/0", "p/1", "d/0"])


def fine(world: HandOffs, abandoned: int = 0) -> SimulationRun:
    result = world.run()
    endings = [outcome.outcome for outcome in result.outcomes]
    assert endings.count("abandoned") == abandoned
    assert endings.count("length") == len(endings) - abandoned
    assert world.stages.reached["landed"]
    return result


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("host", [None, "one"], ids=["hosts", "host"])
def test_whatever_happens_at_any_stage_nobody_notices(stage: str, fault: str, host: str | None) -> None:
    world = a_world(host)
    kind, time, delay_s = STAGES[stage]
    struck: list[Moment] = []

    def strike(moment: Moment) -> None:
        struck.append(moment)
        FAULTS[fault](world, moment)

    world.stages.on(kind, time, lambda moment: world.simulation.heap.after(delay_s, strike, moment))
    fine(world, abandoned=fault == "the client goes away")
    assert struck


def test_where_nothing_happens_all_is_prefilled_elsewhere() -> None:
    world = a_world()
    result = fine(world)
    assert [fact.cause for fact in world.ended] == [""] * result.offered
    assert sum(fact.tokens for fact in world.ended) == sum(fact.wanted for fact in world.ended)
    movement = result.movement
    assert movement.handoffs == result.offered
    assert movement.handoff_bytes == sum(fact.blocks for fact in world.ended) * 16 * 100_000
    assert not movement.fallbacks


def test_what_comes_from_elsewhere_is_not_computed_here() -> None:
    """Of a prompt that was handed off a worker computes the last token, and the answer."""
    setup = a_fleet(a_pool("p", 1), a_pool("d", 1))
    for compute in (True, False):
        world = HandOffs(setup, drawn(1, 1, prefix_pieces=6, own_pieces=12, outputs=(5, 5)), ["p/0", "d/0"], compute)
        [outcome] = world.run().outcomes
        one, other = sorted(world.stages.computed_tokens.values())
        if compute:
            assert (one, other) == (5, outcome.prompt_tokens - 1)
        else:
            assert (one, other) == (0, outcome.prompt_tokens + 4)


def test_a_pull_brings_what_is_cached_elsewhere_and_no_more() -> None:
    world = HandOffs(a_fleet(a_pool("p", 2)), Conversations(3, talks=6, turns=4), ["p/0", "p/1"], compute=False)
    world.run()
    assert {fact.cause for fact in world.ended} == {""}
    assert 0 < sum(fact.tokens for fact in world.ended) < sum(fact.wanted for fact in world.ended)
    assert all(fact.tokens % 16 == 0 for fact in world.ended)


@pytest.mark.parametrize("tokens", [16 * 130, 16 * 180, 16 * 260])
def test_where_memory_is_short_hand_offs_wait_shrink_or_are_given_up(tokens: int) -> None:
    """Longest prompts nearly fill a cache: whoever runs is preempted, on both sides."""
    setup = a_fleet(a_pool("p", 2, kv_tokens=tokens), a_pool("d", 2, kv_tokens=tokens))
    world = HandOffs(setup, drawn(5, 40, 60.0, prefix_pieces=6, own_pieces=20, outputs=(20, 200)), ["p/0", "p/1"])
    fine(world)
    preempted = sum(p.node.load(0.0).preemptions for p in world.simulation.network.workers.values())
    assert preempted or tokens > 16 * 200
    assert any(fact.tokens for fact in world.ended)


@pytest.mark.parametrize("fault", ["P crashes", "P hangs too long", "the link is cut", "D hangs a moment"])
@pytest.mark.parametrize("time", [3, 9, 17])
def test_where_memory_is_short_what_may_still_be_written_is_given_to_nobody(fault: str, time: int) -> None:
    setup = a_fleet(a_pool("p", 2, kv_tokens=16 * 150), a_pool("d", 2, kv_tokens=16 * 150))
    world = HandOffs(setup, drawn(7, 40, 80.0, prefix_pieces=3, own_pieces=9, outputs=(20, 100)), ["p/0", "p/1"])
    world.stages.on("begun", time, lambda moment: FAULTS[fault](world, moment))
    fine(world)


def test_leaps_are_cut_where_steps_would_have_seen_a_hand_off() -> None:
    """A hand-off shifts what shares a step with what, so single requests differ; means are those of steps."""
    setup = a_fleet(a_pool("p", 1), a_pool("d", 2), step_by_step=False)
    ttft_s, duration_s = {False: 0.0, True: 0.0}, {False: 0.0, True: 0.0}
    for seed in range(4, 10):
        workload = drawn(seed, 40, 15.0, prefix_pieces=6, own_pieces=12, outputs=(50, 300))
        events = {}
        for step_by_step in (False, True):
            world = HandOffs(msgspec.structs.replace(setup, step_by_step=step_by_step), workload, ["p/0"])
            run = world.run()
            assert len(world.ended) > 10
            events[step_by_step] = run.events
            ttft_s[step_by_step] += float_sum(one.ttft_s or 0.0 for one in run.outcomes)
            duration_s[step_by_step] += float_sum((one.ended_s or 0.0) - one.arrived_s for one in run.outcomes)
        assert events[False] < events[True] / 1.5
    assert ttft_s[False] == pytest.approx(ttft_s[True], rel=0.05)
    assert duration_s[False] == pytest.approx(duration_s[True], rel=0.01)


DEADLY = ("crash", "hang", "partition", "drain")
NAMES = ("p/0", "p/1", "d/0", "d/1")


@st.composite
def scripts(draw: st.DrawFn) -> list[FaultConfig]:
    """Up to three that may cost an attempt, and cut links."""
    faults = []
    for kind in draw(st.lists(st.sampled_from(DEADLY), max_size=3)) + draw(st.lists(st.just("cut"), max_size=3)):
        worker, peer = draw(st.permutations(NAMES))[:2]
        fault = {"at_s": draw(st.floats(0.0, 1.5)), "kind": kind, "worker": worker}
        fault |= {"for_s": draw(st.floats(0.01, 3.0))} | ({"peer": peer} if kind == "cut" else {})
        faults.append(msgspec.convert(fault, FaultConfig))
    return sorted(faults, key=lambda fault: fault.at_s)


@st.composite
def worlds(draw: st.DrawFn) -> tuple[HandOffs, bool]:
    """And whether nothing deadly happens."""
    tokens = draw(st.sampled_from([16 * 150, 16 * 400]))
    hosts = draw(st.sampled_from([(None, None), ("one", "one"), ("one", None)]))
    pools = [a_pool(name, 2, kv_tokens=tokens, host=host) for name, host in zip("pd", hosts, strict=True)]
    worker = msgspec.structs.replace(
        WORKER,
        run_ahead=draw(st.booleans()),
        max_sequences=draw(st.sampled_from([2, 16])),
        max_step_tokens=draw(st.sampled_from([48, 256, 1000])),
        handoff_share=draw(st.sampled_from([0.2, 0.5, 1.0])),
        handoff_patience_s=draw(st.sampled_from([0.05, 0.5])),
    )
    setup = a_fleet(*pools, worker=worker, seed=draw(st.integers(0, 99)))
    faults = tuple(draw(scripts()))
    return HandOffs(
        msgspec.structs.replace(setup, faults=faults),
        draw(workloads()),
        draw(st.sampled_from([["p/0"], ["p/0", "p/1"], [*NAMES]])),
        draw(st.sampled_from([True, True, False])),
    ), not any(fault.kind in DEADLY for fault in faults)


@st.composite
def workloads(draw: st.DrawFn) -> Workload:
    seed = draw(st.integers(0, 999))
    if draw(st.booleans()):
        return Conversations(seed, talks=6, turns=3, over_s=1.0)
    rate = draw(st.sampled_from([10.0, 100.0]))
    return drawn(seed, draw(st.integers(1, 20)), rate, prefix_pieces=4, own_pieces=8, outputs=(1, 60))


@settings(max_examples=100, deadline=None)
@given(worlds())
def test_whatever_happens_whenever_everybody_is_answered_and_nothing_is_lost(given: tuple[HandOffs, bool]) -> None:
    world, quiet = given
    result = world.run()
    assert {outcome.outcome for outcome in result.outcomes} <= {"length"}
    assert not quiet or {outcome.attempts for outcome in result.outcomes} == {1}
