"""Given these events, expect these effects of the worker node."""

import pytest

from jedlik.core.effects import RunStep, ToClient
from jedlik.core.errors import Bug
from jedlik.core.events import ClientJoined, ClientLost, Drain, FromClient, StepEnded, Woken
from jedlik.core.facts import StepRan
from jedlik.core.ids import BlockIndex, GatewayId, Handle, Lane
from jedlik.core.protocol import (
    RUN_AHEAD_TOKENS,
    Ack,
    AssumeRole,
    Cancel,
    Goodbye,
    Load,
    Resync,
    Snapshot,
    State,
    Tokens,
)
from jedlik.core.requests import Sampling, Stopping
from jedlik.core.step import Chunk, Open, Step, StepDone
from jedlik.core.tokens import pack
from worker_world import EOS, GATEWAY, World, continuation, make_card, make_submit, next_token

PROMPT = [11, 12, 13, 14, 15, 16]


def test_one_request_from_submit_to_its_last_token() -> None:
    world = World()
    join = world.node.handle(ClientJoined(GATEWAY), 0.0)
    assert [type(e.message) for e in join if isinstance(e, ToClient)] == [State, Load, Snapshot, Load][: len(join) - 1]
    submit = make_submit(1, PROMPT, stopping=Stopping(max_tokens=2, ignore_eos=True))
    effects = world.node.handle(FromClient(GATEWAY, submit), 1.0)
    opened = Open(
        lane=Lane(0), prompt=pack(PROMPT), output=b"", sampling=submit.sampling, choice=0, banned_until=0, banned=()
    )
    first = Step(
        step_id=1,
        closed=[],
        opened=[opened],
        tables=[(Lane(0), [BlockIndex(1), BlockIndex(2)])],
        prefills=[Chunk(Lane(0), 0, 6, True)],
        decodes=[],
        decode_context=0,
    )
    second = Step(step_id=2, closed=[], opened=[], tables=[], prefills=[], decodes=[Lane(0)], decode_context=7)
    assert [e for e in effects if isinstance(e, RunStep)] == [RunStep(first), RunStep(second)]
    effects = world.node.handle(StepEnded(StepDone(step_id=1, lanes=[Lane(0)], tokens=[500], elapsed_s=0.01)), 1.1)
    (tokens,) = [e.message for e in effects if isinstance(e, ToClient) and isinstance(e.message, Tokens)]
    assert (tokens.step, tokens.handles, tokens.tokens, tokens.finished) == (1, [1], [500], [])
    assert (tokens.started[0].handle, tokens.started[0].cached_tokens, tokens.started[0].queued_s) == (1, 0, 0.0)
    effects = world.node.handle(StepEnded(StepDone(step_id=2, lanes=[Lane(0)], tokens=[501], elapsed_s=0.01)), 1.2)
    (tokens,) = [e.message for e in effects if isinstance(e, ToClient) and isinstance(e.message, Tokens)]
    assert (tokens.tokens, tokens.finished[0].reason, tokens.finished[0].stop_token) == ([501], "length", None)
    assert not [e for e in effects if isinstance(e, RunStep)]
    world.node.check()


def test_a_known_prefix_is_not_computed_again() -> None:
    world = World()
    world.join()
    world.say(make_submit(1, PROMPT * 2))
    world.settle()
    before = world.engine.computed_tokens
    world.say(make_submit(2, PROMPT * 2, stopping=Stopping(max_tokens=1)))
    world.settle()
    assert world.started[1].cached_tokens == 0
    assert world.started[2].cached_tokens == 8  # 12 tokens are 3 blocks of 4, but one token at least is computed
    assert world.engine.computed_tokens - before == 4
    assert world.tokens[2] == world.tokens[1][:1]


def test_tenants_share_nothing() -> None:
    world = World()
    world.join()
    world.say(make_submit(1, PROMPT * 2, tenant="a"))
    world.settle()
    world.say(make_submit(2, PROMPT * 2, tenant="b"))
    world.settle()
    assert world.started[2].cached_tokens == 0


def test_the_same_prompt_twice_at_once_is_computed_once() -> None:
    world = World(max_step_tokens=64)
    world.join()
    prompt = list(range(20, 60))
    world.say(make_submit(1, list(range(100, 104)), stopping=Stopping(max_tokens=1)))
    world.say(make_submit(2, prompt))
    world.say(make_submit(3, prompt))
    world.settle()
    assert world.started[3].cached_tokens == 36
    assert world.tokens[2] == world.tokens[3]


@pytest.mark.parametrize("run_ahead", [True, False])
def test_a_stop_token_ends_and_its_dead_token_is_dropped(run_ahead: bool) -> None:
    stopping = Stopping(max_tokens=50, stop_token_ids=(continuation(PROMPT, Stopping(max_tokens=50), 128)[4],))
    world = World(run_ahead=run_ahead)
    world.join()
    world.say(make_submit(1, PROMPT, stopping=stopping))
    world.settle()
    assert world.tokens[1] == continuation(PROMPT, stopping, 128)
    assert world.finished[1].reason == "stop"
    assert world.finished[1].stop_token == stopping.stop_token_ids[0]
    assert world.engine.steps == 5 + run_ahead


def test_min_tokens_bans_stop_tokens_in_the_engine() -> None:
    first = next_token(PROMPT)
    stopping = Stopping(max_tokens=6, min_tokens=3, stop_token_ids=(first,))
    world = World()
    world.join()
    world.say(make_submit(1, PROMPT, stopping=stopping))
    assert world.queue[0].opened[0].banned == tuple(sorted((first, EOS)))
    world.settle()
    assert world.tokens[1] == continuation(PROMPT, stopping, 128)
    assert len(world.tokens[1]) >= 3


def test_a_long_prefill_leaves_decodes_one_chunk_apart() -> None:
    world = World(max_step_tokens=16)
    world.join()
    world.say(make_submit(1, PROMPT, stopping=Stopping(max_tokens=40, ignore_eos=True)))
    world.step()
    world.say(make_submit(2, list(range(100, 200)), stopping=Stopping(max_tokens=2, ignore_eos=True)))
    seen = []
    while 2 not in world.tokens:
        step = world.step()
        assert step is not None
        seen.append((len(step.decodes), sum(c.length for c in step.prefills)))
    mixed = [pair for pair in seen if pair[1]]
    assert all(decodes == 1 and 0 < prefill <= 15 for decodes, prefill in mixed)
    assert sum(p for _, p in mixed) == 100
    world.settle()


def test_prompt_logprobs_without_a_token() -> None:
    world = World()
    world.join()
    prompt = list(range(20, 60))
    world.say(make_submit(1, prompt))
    world.settle()
    sampling = Sampling(temperature=0.0, prompt_logprobs=0)
    world.say(make_submit(2, prompt, sampling=sampling, stopping=Stopping(max_tokens=0)))
    world.settle()
    logprobs = world.started[2].prompt_logprobs
    assert logprobs is not None
    assert [x.logprob for x in logprobs] == [-float(at) for at in range(1, 40)]
    assert world.started[2].cached_tokens == 0
    assert 2 not in world.tokens
    assert (world.finished[2].reason, world.finished[2].fault) == ("length", None)


def test_logprobs_follow_their_sequence() -> None:
    world = World()
    world.join()
    world.say(make_submit(1, PROMPT, sampling=Sampling(temperature=0.0, logprobs=0), stopping=Stopping(max_tokens=3)))
    world.say(make_submit(2, PROMPT[:3], stopping=Stopping(max_tokens=3)))
    world.settle()
    assert [x.logprob for x in world.logprobs[1]] == [-6.0, -7.0, -8.0][: len(world.tokens[1])]
    assert 2 not in world.logprobs


def test_an_unacknowledged_sequence_pauses_and_goes_on() -> None:
    world = World()
    world.join()
    world.say(make_submit(1, PROMPT, stopping=Stopping(max_tokens=100, ignore_eos=True)))
    while world.step() is not None:
        pass
    assert len(world.tokens[1]) == RUN_AHEAD_TOKENS
    world.say(Ack([Handle(1), Handle(77)], [10]))  # one that is unknown, and a position short
    while world.step() is not None:
        pass
    assert len(world.tokens[1]) == RUN_AHEAD_TOKENS + 10
    world.settle()
    assert world.tokens[1] == continuation(PROMPT, Stopping(max_tokens=100, ignore_eos=True), 128)


def test_who_waits_for_an_acknowledgement_holds_up_nobody() -> None:
    stopping = Stopping(max_tokens=100, ignore_eos=True)
    world = World(make_card(max_sequences=1))
    world.join()
    world.say(make_submit(1, PROMPT, stopping=stopping))
    while world.step() is not None:
        pass
    world.say(make_submit(2, PROMPT[:3], stopping=Stopping(max_tokens=5, ignore_eos=True)))
    while world.step() is not None:
        pass
    assert world.finished[2].reason == "length"
    assert len(world.tokens[1]) == RUN_AHEAD_TOKENS
    world.settle()
    assert world.tokens[1] == continuation(PROMPT, stopping, 128)


def test_a_continued_attempt_starts_after_what_was_delivered() -> None:
    stopping = Stopping(max_tokens=20, ignore_eos=True)
    whole = continuation(PROMPT, stopping, 128)
    world = World()
    world.join()
    world.say(make_submit(1, PROMPT, output=whole[:9], stopping=stopping, attempt=2))
    world.settle()
    assert world.tokens[1] == whole[9:]
    world.say(make_submit(2, PROMPT, output=whole, stopping=stopping, attempt=2))
    assert world.finished[2].reason == "length"


def test_a_newer_attempt_drops_the_older() -> None:
    world = World()
    world.join()
    world.say(make_submit(1, PROMPT, request_id="r"))
    world.say(make_submit(2, PROMPT, request_id="r", attempt=2))
    world.settle()
    assert 1 not in world.finished
    assert world.finished[2].reason == "length"
    world.say(make_submit(3, PROMPT, request_id="r", attempt=3))
    world.say(make_submit(4, PROMPT, request_id="r", attempt=2))
    fault = world.finished[4].fault
    assert fault is not None
    assert fault.kind == "invalid"


def test_cancel_frees_within_one_step() -> None:
    world = World()
    world.join()
    world.say(make_submit(1, PROMPT, stopping=Stopping(max_tokens=60, ignore_eos=True)))
    world.step()
    world.say(Cancel([Handle(1), Handle(99)]))
    world.step()
    world.step()
    assert not world.queue
    world.now += 1.0
    world.send(Woken())
    assert world.loads[-1].held_blocks == 0
    assert 1 not in world.finished


@pytest.mark.parametrize("leave", [ClientLost(GATEWAY), FromClient(GATEWAY, Goodbye())])
def test_a_gateway_that_leaves_takes_its_work_along(leave: ClientLost | FromClient) -> None:
    world = World()
    world.join()
    other = GatewayId("h@1")
    world.join(other)
    world.say(make_submit(1, PROMPT))
    world.say(make_submit(2, PROMPT), other)
    world.send(leave)
    world.settle(other)
    assert set(world.finished) == {2}
    world.say(make_submit(3, PROMPT))  # late, of a connection that is gone
    assert 3 not in world.finished


def test_what_can_never_be_served_is_refused_at_once() -> None:
    world = World(make_card(max_model_len=32), max_waiting=2, max_step_tokens=4)
    world.join()
    refused = {
        10: make_submit(10, list(range(32))),
        11: make_submit(11, []),
        12: make_submit(12, [1, 5000]),
    }
    for submit in refused.values():
        world.say(submit)
    kinds = {handle: f.fault.kind for handle, f in world.finished.items() if f.fault}
    assert kinds == dict.fromkeys(refused, "invalid")
    world.say(make_submit(1, list(range(31)), stopping=Stopping(max_tokens=9, ignore_eos=True)))
    world.settle()
    assert len(world.tokens[1]) == 1


def overloaded(world: World) -> list[int]:
    return [h for h, f in world.finished.items() if f.fault and f.fault.kind == "overloaded"]


@pytest.mark.parametrize(("places", "may_wait"), [(8, 0), (8, 3), (1, 0), (1, 2)])
def test_only_what_could_not_run_at_once_counts_as_waiting(places: int, may_wait: int) -> None:
    """An idle worker takes as many as have a place, and so many more may wait, however quickly they come."""
    world = World(make_card(total_blocks=256, max_sequences=places), max_waiting=may_wait)
    world.join()
    for handle in range(1, places + may_wait + 4):
        world.say(make_submit(handle, PROMPT, stopping=Stopping(max_tokens=8, ignore_eos=True)))
    assert overloaded(world) == list(range(places + may_wait + 1, places + may_wait + 4))
    world.settle()
    assert len(world.tokens) == places + may_wait
    world.say(make_submit(100, PROMPT))
    assert overloaded(world) == list(range(places + may_wait + 1, places + may_wait + 4))


def test_a_place_without_memory_is_none() -> None:
    """Eight places and memory for two long prompts: the third would wait, and none may."""
    world = World(make_card(total_blocks=40, max_sequences=8), max_waiting=0, max_step_tokens=64)
    world.join()
    for handle in range(1, 5):
        world.say(make_submit(handle, list(range(100 * handle, 100 * handle + 60))))
    assert overloaded(world) == [3, 4]


def test_what_is_cached_needs_no_memory_of_its_own() -> None:
    world = World(make_card(total_blocks=40, max_sequences=8), max_waiting=0, max_step_tokens=64)
    world.join()
    for handle in range(1, 5):
        world.say(make_submit(handle, list(range(60)), stopping=Stopping(max_tokens=8, ignore_eos=True)))
        world.step()
    assert overloaded(world) == []


def test_priority_goes_first_and_waiting_counts() -> None:
    world = World(make_card(max_sequences=1))
    world.join()
    world.say(make_submit(1, PROMPT, stopping=Stopping(max_tokens=3, ignore_eos=True)))
    world.say(make_submit(2, PROMPT[:2], priority=1))
    world.now += 0.5
    world.say(make_submit(3, PROMPT[:3], priority=0))
    world.now += 20.0
    world.say(make_submit(4, PROMPT[:4], priority=0))
    world.settle()
    assert list(world.finished) == [1, 3, 2, 4]


def test_a_deadline_that_passes_while_waiting() -> None:
    world = World(make_card(max_sequences=1))
    world.join()
    world.say(make_submit(1, PROMPT, stopping=Stopping(max_tokens=30, ignore_eos=True), budget_s=0.1))
    world.say(make_submit(2, PROMPT, budget_s=0.1))
    assert world.wake_at is not None
    assert world.wake_at <= 0.1
    world.now = 0.11
    world.send(Woken())
    fault = world.finished[2].fault
    assert fault is not None
    assert fault.kind == "timeout"
    world.settle()
    assert world.finished[1].reason == "length"


def test_preemption_changes_no_token() -> None:
    world = World(make_card(total_blocks=12, max_model_len=40), max_step_tokens=32)
    world.join()
    stopping = Stopping(max_tokens=20, ignore_eos=True)
    prompts = {h: list(range(h * 50, h * 50 + 9)) for h in range(1, 5)}
    for handle, prompt in prompts.items():
        world.say(make_submit(handle, prompt, stopping=stopping))
    world.settle()
    assert sum(n.fact.preempted for n in world.notes if isinstance(n.fact, StepRan)) > 0
    for handle, prompt in prompts.items():
        assert world.tokens[handle] == continuation(prompt, stopping, 40)


def test_drain_finishes_what_runs_and_says_so() -> None:
    world = World()
    world.join()
    world.say(make_submit(1, PROMPT))
    world.send(Drain())
    assert world.states[-1] == State(2, "both", True)
    world.say(make_submit(2, PROMPT))
    fault = world.finished[2].fault
    assert fault is not None
    assert fault.kind == "unavailable"
    assert not world.drained
    world.settle()
    assert world.finished[1].fault is None
    assert world.drained


def test_a_role_is_a_new_state() -> None:
    world = World()
    world.join()
    world.send(FromClient(GATEWAY, AssumeRole("prefill")))
    assert world.states == [State(1), State(2, "prefill")]


def test_an_engine_failure_ends_everything() -> None:
    world = World()
    world.join()
    world.say(make_submit(1, PROMPT))
    world.send(StepEnded(StepDone(step_id=1, lanes=[], tokens=[], elapsed_s=0.0, error="out of memory")))
    fault = world.finished[1].fault
    assert fault is not None
    assert (fault.kind, "out of memory" in fault.message) == ("internal", True)
    assert world.drained
    assert world.states[-1].draining
    world.send(StepEnded(StepDone(step_id=2, lanes=[], tokens=[], elapsed_s=0.0, error="out of memory")))


def test_an_answer_for_other_lanes_is_our_bug() -> None:
    world = World()
    world.join()
    world.say(make_submit(1, PROMPT))
    with pytest.raises(Bug, match="answers for lanes"):
        world.node.handle(StepEnded(StepDone(step_id=1, lanes=[Lane(5)], tokens=[1], elapsed_s=0.01)), 0.0)


def test_facts_reach_every_gateway_and_a_snapshot_equals_them() -> None:
    world = World(make_card(total_blocks=12, max_model_len=40))
    world.join()
    for handle in range(1, 6):
        world.say(make_submit(handle, list(range(handle * 30, handle * 30 + 14))))
        world.settle()
    late = GatewayId("late@1")
    world.join(late)
    assert world.views[late].keys == world.views[GATEWAY].keys
    world.say(Resync())
    assert world.views[late].keys == world.views[GATEWAY].keys
    assert world.views[GATEWAY].keys


def test_load_reports_change_heartbeat_and_last_submit() -> None:
    world = World()
    world.join()
    other = GatewayId("h@1")
    world.join(other)
    world.loads.clear()
    world.say(make_submit(1, PROMPT, number=5))
    world.now = 0.3
    world.send(Woken())
    mine, theirs = world.loads[-2:]
    assert (mine.last_submit, theirs.last_submit) == (5, 0)
    assert mine.running == 1
    assert mine.step_age_s == pytest.approx(0.3)
    assert world.wake_at == pytest.approx(0.3 + world.config.heartbeat_s)


def test_costs_are_learnt_and_reported() -> None:
    world = World(max_step_tokens=64)
    world.join()
    for handle in range(1, 12):
        world.say(make_submit(handle, list(range(handle * 40, handle * 40 + 30)), stopping=Stopping(max_tokens=4)))
        world.settle()
    world.now += 1
    world.send(Woken())
    costs = world.loads[-1].costs
    assert costs is not None
    assert costs.base_s > 0
    world.say(make_submit(50, PROMPT))
    assert world.queue[0].predicted_s == pytest.approx(0.01, rel=0.3)
