"""What the gateway node does when workers die, hang, fall silent or refuse, and when it stood still itself."""

import pytest
from gateway_given import (
    EOS,
    A,
    B,
    C,
    arrive,
    broken,
    card,
    ended,
    facts,
    first,
    gateway,
    keys_of,
    last,
    load,
    more,
    of,
    request,
    said,
    stored,
    submits,
    without_notes,
)
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from jedlik.core.config import GatewayConfig, WorkerConfig
from jedlik.core.effects import Deliver, Kick, StreamEnded, ToWorkerEffect, Wake
from jedlik.core.errors import Fault, FaultKind
from jedlik.core.events import Arrived, Consumed, FromWorker, Woken, WorkerJoined, WorkerLost
from jedlik.core.facts import Answered, Migrated, Suspected
from jedlik.core.ids import StreamId, WorkerId
from jedlik.core.protocol import Facts, Resync, Snapshot, State, Stored, Tokens
from jedlik.core.requests import Sampling
from jedlik.core.tokens import pack
from jedlik.nodes.gateway.node import GatewayNode
from jedlik.nodes.gateway.streams import Health, Peer
from jedlik.nodes.gateway.workers import HEALTH, judge, next_check_s
from jedlik.routing.view import WorkerView

SILENT = GatewayConfig(silent_suspect_s=1.5, silent_fence_s=5.0)


def other(worker: WorkerId) -> WorkerId:
    return B if worker == A else A


def woken(node: GatewayNode, until: float, at: float = 0.0) -> float:
    """Deliver wakes when they are due, as a driver does; returns when the last one came."""
    effects = node.handle(Woken(), at)
    while True:
        wakes = of(Wake, effects)
        if not wakes or wakes[-1].at > until:
            return at
        at = wakes[-1].at
        effects = node.handle(Woken(), at)


def test_a_lost_worker_s_stream_goes_on_elsewhere_with_the_tokens_already_sent() -> None:
    node = gateway(A, B)
    [(worker, submit)] = submits(node.handle(Arrived(request()), 0.0))
    node.handle(said(worker, first(submit.handle, 7, cached=4)), 0.1)
    node.handle(said(worker, more(submit.handle, 8)), 0.2)
    effects = node.handle(WorkerLost(worker, "it died"), 0.3)
    [(second, again)] = submits(effects)
    assert second == other(worker)
    assert (again.attempt, again.output, again.number) == (2, pack([7, 8]), 1)
    assert again.handle != submit.handle
    assert (again.prompt, again.stopping, again.sampling) == (submit.prompt, submit.stopping, submit.sampling)
    assert [(m.attempt, m.delivered, m.reason) for m in facts(Migrated, effects)] == [
        (2, 2, "the worker was lost: it died")
    ]
    node.check()
    assert node.handle(said(worker, more(submit.handle, 99)), 0.35) == []
    started_again = Tokens(step=1, handles=[again.handle], tokens=[9], started=[first(again.handle, 0).started[0]])
    assert node.handle(said(second, started_again), 0.4) == [Deliver(streams=[StreamId(1)], tokens=[9])]
    effects = node.handle(said(second, last(again.handle, EOS, "stop", EOS)), 0.5)
    [answer] = facts(Answered, effects)
    assert (answer.attempts, answer.output_tokens, answer.cached_tokens) == (2, 4, 4)
    node.check()


@pytest.mark.parametrize(("token", "reason", "stop"), [(EOS, "stop", EOS), (9, "length", None)])
def test_a_stream_that_lacks_only_its_end_just_ends(token: int, reason: str, stop: int | None) -> None:
    node = gateway(A, B)
    [(worker, submit)] = submits(node.handle(Arrived(request(max_tokens=2)), 0.0))
    node.handle(said(worker, first(submit.handle, 7)), 0.1)
    node.handle(said(worker, more(submit.handle, token)), 0.2)
    effects = node.handle(WorkerLost(worker, "it died"), 0.3)
    [deliver] = of(Deliver, effects)
    assert [(end.reason, end.stop_token, end.fault) for end in deliver.ended] == [(reason, stop, None)]
    assert submits(effects) == []
    node.check()


def test_prompt_logprobs_are_not_asked_for_twice() -> None:
    node = gateway(A, B)
    ask = replace(request(), sampling=Sampling(prompt_logprobs=1))
    [(worker, submit)] = submits(node.handle(Arrived(ask), 0.0))
    assert submit.sampling.prompt_logprobs == 1
    node.handle(said(worker, first(submit.handle, 7)), 0.1)
    [(_, again)] = submits(node.handle(WorkerLost(worker, "it died"), 0.3))
    assert again.sampling == replace(ask.sampling, prompt_logprobs=None)


def test_without_another_worker_a_stream_waits_and_goes_on_when_one_joins() -> None:
    node = gateway(A)
    [submit] = arrive(node, request())
    node.handle(said(A, first(submit.handle, 7)), 0.1)
    effects = node.handle(WorkerLost(A, "it died"), 1.0)
    assert submits(effects) == []
    assert of(Wake, effects) == [] or of(Wake, effects)[-1].at <= 11.0
    node.check()
    effects = node.handle(WorkerJoined(card(WorkerId("a@2"))), 4.0)
    assert [(w, s.output) for w, s in submits(effects)] == [("a@2", pack([7]))]
    node.check()


def test_waiting_for_a_worker_ends_with_a_proper_error() -> None:
    node = gateway(A)
    arrive(node, request())
    node.handle(WorkerLost(A, "it died"), 1.0)
    assert ended(node.handle(Woken(), 10.9)) == []
    effects = node.handle(Woken(), 11.0)
    assert ended(effects) == [(1, "abort", "unavailable")]
    [end] = of(Deliver, effects)[0].ended
    assert end.fault is not None
    assert "it died" in end.fault.message
    node.check()


def test_a_new_request_waits_for_a_worker_if_configured() -> None:
    node = gateway(config=GatewayConfig(no_worker_wait_s=3.0))
    effects = node.handle(Arrived(request()), 1.0)
    assert [wake.at for wake in of(Wake, effects)] == [4.0]
    assert len(submits(node.handle(WorkerJoined(card(A)), 2.0))) == 1
    node.check()


def test_a_waiting_request_s_deadline_is_kept() -> None:
    node = gateway(config=GatewayConfig(no_worker_wait_s=30.0))
    node.handle(Arrived(replace(request(), deadline_s=2.0)), 1.0)
    assert ended(node.handle(Woken(), 3.0)) == [(1, "abort", "timeout")]


def test_attempts_are_limited() -> None:
    node = gateway(A, config=GatewayConfig(max_attempts=2))
    arrive(node, request())
    node.handle(WorkerJoined(card(B)), 0.0)
    assert len(submits(node.handle(WorkerLost(A, "it died"), 1.0))) == 1
    node.handle(WorkerJoined(card(C)), 1.0)
    effects = node.handle(WorkerLost(B, "it died too"), 2.0)
    assert submits(effects) == []
    assert ended(effects) == [(1, "abort", "unavailable")]
    node.check()


@pytest.mark.parametrize("kind", ["unavailable", "internal", "overloaded"])
def test_a_fault_that_another_worker_may_not_have_moves_the_stream(kind: FaultKind) -> None:
    node = gateway(A, B)
    [(worker, submit)] = submits(node.handle(Arrived(request()), 0.0))
    effects = node.handle(said(worker, broken(submit.handle, Fault(kind=kind, message="no"))), 0.1)
    assert [w for w, _ in submits(effects)] == [other(worker)]
    assert ended(effects) == []
    node.check()


@pytest.mark.parametrize("kind", ["invalid", "timeout"])
def test_a_fault_of_the_request_ends_it(kind: FaultKind) -> None:
    node = gateway(A, B)
    [(worker, submit)] = submits(node.handle(Arrived(request()), 0.0))
    fault = Fault(kind=kind, message="no", param="prompt")
    effects = node.handle(said(worker, broken(submit.handle, fault)), 0.1)
    assert of(Deliver, effects) == [
        Deliver(streams=[], tokens=[], started=[], ended=[StreamEnded(StreamId(1), "abort", None, fault)])
    ]
    node.check()


def test_overload_everywhere_is_said_at_once() -> None:
    node = gateway(A)
    [submit] = arrive(node, request())
    effects = node.handle(
        said(A, broken(submit.handle, Fault(kind="overloaded", message="full", retry_after_s=3.0))), 0.1
    )
    assert ended(effects) == [(1, "abort", "overloaded")]


def test_a_silent_worker_is_suspect_then_fenced_and_never_trusted_again() -> None:
    node = gateway(A, B, config=SILENT)
    [(worker, submit)] = submits(node.handle(Arrived(request()), 0.0))
    healthy = other(worker)
    node.handle(said(healthy, load()), 1.4)
    effects = node.handle(Woken(), 1.5)
    assert [(s.worker, s.health) for s in facts(Suspected, effects)] == [(worker, "suspect")]
    assert [c.worker for c in node.cards()] == [healthy]
    node.check()
    for at in (2.8, 4.2):
        node.handle(said(healthy, load()), at)
        node.handle(Woken(), at + 0.1)
    effects = node.handle(Woken(), 5.0)
    assert [(s.worker, s.health) for s in facts(Suspected, effects)] == [(worker, "fenced")]
    assert [k.worker for k in of(Kick, effects)] == [worker]
    assert [w for w, _ in submits(effects)] == [healthy]
    assert node.handle(said(worker, first(submit.handle, 7)), 5.1) == []
    assert [k.worker for k in of(Kick, node.handle(WorkerJoined(card(worker)), 5.2))] == [worker]
    node.check()


@given(st.floats(0.0, 1e6), st.sampled_from(["ok", "suspect"]))
def test_a_check_that_is_due_finds_something(heard_at: float, health: Health) -> None:
    """However sums are rounded: else it would be due at once, for ever in a world whose clock stands."""
    peer = Peer(view=WorkerView(card(A)), heard_at=heard_at)
    peer.health = health
    opinion = judge(peer, SILENT, WorkerConfig(), next_check_s(peer, SILENT)).opinion
    assert HEALTH[health, opinion] != health


def test_a_suspect_worker_that_speaks_again_is_trusted_again() -> None:
    node = gateway(A, config=SILENT)
    node.handle(Woken(), 1.5)
    assert node.cards() == []
    effects = node.handle(said(A, load()), 1.7)
    assert [(s.worker, s.health) for s in facts(Suspected, effects)] == [(A, "ok")]
    assert [c.worker for c in node.cards()] == [A]
    [wake] = of(Wake, effects)
    assert wake.at == pytest.approx(3.2)


def test_wakes_come_in_time_to_see_silence() -> None:
    node = gateway(config=SILENT)
    effects = node.handle(WorkerJoined(card(A)), 0.0)
    seen = []
    while of(Wake, effects):
        at = of(Wake, effects)[-1].at
        effects = node.handle(Woken(), at)
        seen += [(at, s.health) for s in facts(Suspected, effects)]
    assert seen == [(1.5, "suspect"), (5.0, "fenced")]


def test_a_gateway_that_stood_still_fences_nobody() -> None:
    node = gateway(A, B, config=SILENT)
    woken(node, 1.0)
    effects = node.handle(said(A, load()), 60.0)
    effects += node.handle(Woken(), 60.0)
    assert facts(Suspected, effects) == []
    assert {c.worker for c in node.cards()} == {A, B}
    assert of(Wake, effects)[-1].at == pytest.approx(61.5)
    node.handle(said(A, load()), 61.0)
    assert [s.worker for s in facts(Suspected, node.handle(Woken(), 61.5))] == [B]


def test_a_hung_step_makes_a_worker_suspect_then_fenced() -> None:
    node = gateway(A, B)
    [(worker, _)] = submits(node.handle(Arrived(request()), 0.0))
    assert facts(Suspected, node.handle(said(worker, load(1, step_age_s=4.9)), 4.9)) == []
    effects = node.handle(said(worker, load(1, step_age_s=5.1)), 5.1)
    assert [(s.worker, s.health) for s in facts(Suspected, effects)] == [(worker, "suspect")]
    effects = node.handle(said(worker, load(1, step_age_s=10.1)), 10.1)
    assert [k.worker for k in of(Kick, effects)] == [worker]
    assert [w for w, _ in submits(effects)] == [other(worker)]
    node.check()


def test_long_prefills_that_progress_are_no_alarm() -> None:
    node = gateway(A)
    for step in range(40):
        age = 4.0
        effects = node.handle(said(A, load(steps=step, step_age_s=age, step_predicted_s=0.9)), step * age)
        assert facts(Suspected, effects) == []
    effects = node.handle(said(A, load(step_age_s=15.0, step_predicted_s=4.0)), 170.0)
    assert facts(Suspected, effects) == []


def test_a_worker_that_breaks_the_protocol_is_fenced() -> None:
    for wrong in ([1, 2], [-1], [1000]):
        node = gateway(A, B)
        [(worker, submit)] = submits(node.handle(Arrived(request()), 0.0))
        effects = node.handle(said(worker, Tokens(step=1, handles=[submit.handle], tokens=wrong)), 0.1)
        assert [k.worker for k in of(Kick, effects)] == [worker]
        assert [w for w, _ in submits(effects)] == [other(worker)]
        node.check()


def test_a_second_connection_of_the_same_incarnation_replaces_the_first() -> None:
    node = gateway(A)
    [submit] = arrive(node, request())
    effects = node.handle(WorkerJoined(card(A)), 0.5)
    [(worker, again)] = submits(effects)
    assert (worker, again.attempt, again.number) == (A, 2, 1)
    assert node.handle(said(A, first(submit.handle, 7)), 0.6) == []
    node.check()


def test_a_gap_in_the_facts_asks_for_a_snapshot_but_not_all_the_time() -> None:
    node = gateway(A)
    keys = keys_of(range(40))
    effects = node.handle(said(A, Facts(2, [Stored(None, keys)], 0)), 2.0)
    assert without_notes(effects) == [ToWorkerEffect(A, Resync())]
    assert without_notes(node.handle(said(A, Facts(3, [], 0)), 2.1)) == []
    again = [at for at in range(20, 100) if without_notes(node.handle(said(A, Facts(4, [], 0)), at / 10))]
    assert again == [30, 50, 90]
    total = sum(keys) & (2**64 - 1)
    node.handle(said(A, Snapshot(number=4, chunk=0, last=True, runs=[Stored(None, keys)], digest=total)), 10.0)
    assert without_notes(node.handle(said(A, Facts(5, [], total)), 10.1)) == []


def test_a_wrong_digest_asks_for_a_snapshot() -> None:
    node = gateway(A)
    wrong = replace(stored(1, keys_of(range(40))), digest=12345)
    assert without_notes(node.handle(said(A, wrong), 2.0)) == [ToWorkerEffect(A, Resync())]


def test_states_wake_parked_streams() -> None:
    node = gateway(A)
    arrive(node, request())
    node.handle(WorkerJoined(card(B)), 0.0)
    node.handle(FromWorker(B, State(1, draining=True)), 0.0)
    assert submits(node.handle(WorkerLost(A, "it died"), 1.0)) == []
    assert [w for w, _ in submits(node.handle(FromWorker(B, State(2)), 2.0))] == [B]
    node.check()


def test_consumption_goes_on_after_a_migration() -> None:
    node = gateway(A, B)
    [(worker, submit)] = submits(node.handle(Arrived(request(max_tokens=99)), 0.0))
    for _ in range(20):
        node.handle(said(worker, more(submit.handle, 7)), 0.1)
    node.handle(WorkerLost(worker, "it died"), 0.2)
    assert without_notes(node.handle(Consumed(StreamId(1), 20), 0.3)) == []
    node.check()
