"""Requests that are held back or refused: given these reports, expect these dispatches, at these times."""

from random import Random

import pytest
from gateway_given import COSTS, A, B, arrive, card, ended, facts, first, gateway, last, load, request, said, submits
from msgspec.structs import replace

from jedlik.core.config import GatewayConfig
from jedlik.core.effects import Deliver, Drained, GatewayEffect, Wake
from jedlik.core.errors import Fault
from jedlik.core.events import Abandoned, Arrived, Cut, Drain, GatewayEvent, Woken, WorkerJoined, WorkerLost
from jedlik.core.facts import Routed
from jedlik.core.ids import Handle, RequestId, StreamId, WorkerId
from jedlik.core.protocol import State
from jedlik.nodes.gateway.node import GatewayNode
from jedlik.routing.estimates import ENOUGH_REQUESTS

PROMISES = GatewayConfig(slo_ttft_s=1.0, slo_itl_s=0.02, silent_suspect_s=1e6, silent_fence_s=1e6)
READY = load(costs=COSTS)


def warm(*workers: WorkerId, config: GatewayConfig = PROMISES) -> GatewayNode:
    """A gateway that has seen enough to refuse: answers of five tokens, nothing found cached."""
    node = gateway(*workers, config=config)
    handle = 0
    for worker in workers:
        node.handle(said(worker, READY), 0.0)
    for number in range(ENOUGH_REQUESTS):
        effects = node.handle(Arrived(request(f"w{number}", range(number, number + 20), stream=10_000 + number)), 0.0)
        ((worker, submit),) = submits(effects)
        handle = submit.handle
        node.handle(said(worker, first(handle, 5)), 0.0)
        for _ in range(3):
            node.handle(said(worker, replace(first(handle, 5), started=[])), 0.0)
        node.handle(said(worker, last(handle, 5)), 0.0)
        node.handle(said(worker, replace(READY, last_submit=submit.number)), 0.0)
    node.check()
    return node


def busy(node: GatewayNode, worker: WorkerId, **changes: object) -> list[GatewayEffect]:
    return node.handle(said(worker, replace(READY, last_submit=10_000, **changes)), 1.0)


def test_a_request_that_can_not_be_in_time_is_told_when_to_come_again() -> None:
    node = warm(A, B)
    for worker in (A, B):
        busy(node, worker, waiting=9, waiting_tokens=4000, waiting_pairs=0)
    effects = node.handle(Arrived(request()), 1.0)
    assert submits(effects) == []
    assert ended(effects) == [(1, "abort", "overloaded")]
    (end,) = [e for deliver in effects if isinstance(deliver, Deliver) for e in deliver.ended]
    assert end.fault is not None
    assert end.fault.retry_after_s == pytest.approx(3.3, abs=0.15)  # 4 s of backlog, 63 steps, 1 s promised
    assert node.explain(RequestId("r"))[-1].deferred.startswith("the first token would take")
    node.check()


def test_nothing_is_refused_without_a_promise() -> None:
    node = gateway(A)
    node.handle(said(A, replace(READY, waiting=9, waiting_tokens=40_000)), 0.0)
    assert len(arrive(node, request())) == 1


def waiting_at(node: GatewayNode) -> list[GatewayEffect]:
    """A worker whose short answers a prefill of 100 ms would spoil."""
    busy(node, A, running=6, context_tokens=100)
    return node.handle(Arrived(request(prompt=range(10, 310), max_tokens=5)), 1.0)


def test_a_request_that_would_harm_waits_for_a_worker_to_change() -> None:
    node = warm(A)
    effects = waiting_at(node)
    assert (submits(effects), ended(effects)) == ([], [])
    assert node.health()["waiting"] == 1
    (wake,) = [e for e in effects if isinstance(e, Wake)]
    assert 1.0 < wake.at <= 2.0
    node.check()
    effects = busy(node, A)  # idle again
    assert [worker for worker, _ in submits(effects)] == [A]
    assert node.health()["waiting"] == 0
    node.check()


def test_those_who_wait_go_in_order_of_arrival() -> None:
    node = warm(A)
    waiting_at(node)
    node.handle(Arrived(request("s", range(400, 700), stream=2, max_tokens=5)), 1.1)
    first_out = submits(busy(node, A))
    assert first_out[0][1].request_id == "r"


def test_at_its_last_moment_it_goes_or_is_refused() -> None:
    node = warm(A)
    (wake,) = [e for e in waiting_at(node) if isinstance(e, Wake)]
    at, effects = wake.at, list[GatewayEffect]()
    for _ in range(50):
        effects = node.handle(Woken(), at)
        if submits(effects) or ended(effects):
            break
        at = max(at + 1e-3, min([e.at for e in effects if isinstance(e, Wake)], default=at))
    assert submits(effects) or ended(effects) == [(1, "abort", "overloaded")]
    assert at <= 2.0
    node.check()


@pytest.mark.parametrize(
    ("event", "outcome"),
    [
        (Abandoned(RequestId("r")), []),
        (Cut(StreamId(1), 0), []),
        (Drain(cut=True), [(1, "abort", "unavailable")]),
        (WorkerLost(A, "gone"), []),
    ],
)
def test_whatever_happens_meanwhile_it_ends_once(event: GatewayEvent, outcome: list[tuple[int, str, str]]) -> None:
    node = warm(A)
    waiting_at(node)
    assert ended(node.handle(event, 1.1)) == outcome
    node.check()
    if isinstance(event, WorkerLost):  # nobody is left: the next look ends it
        assert ended(node.handle(Woken(), 2.1)) == [(1, "abort", "unavailable")]
    assert node.health()["in_flight"] == 0
    node.check()


def test_its_own_deadline_counts_while_it_waits() -> None:
    node = warm(A)
    busy(node, A, running=6, context_tokens=100)
    node.handle(Arrived(replace(request(prompt=range(10, 310), max_tokens=5), deadline_s=0.4)), 1.0)
    effects = node.handle(Woken(), 1.5)
    assert submits(effects) == []
    assert ended(effects) == [(1, "abort", "timeout")]
    node.check()


def test_what_was_taken_in_is_never_refused() -> None:
    node = warm(A, B)
    (submit,) = arrive(node, request(), now=1.0)
    for worker in (A, B):
        busy(node, worker, waiting=9, waiting_tokens=40_000, waiting_pairs=0)
    holder = A if node.explain(RequestId("r"))[0].chosen == A else B
    effects = node.handle(WorkerLost(holder, "died"), 1.2)
    assert [s.attempt for _, s in submits(effects)] == [2]
    assert submit.attempt == 1
    node.check()


@pytest.mark.parametrize("seed", range(12))
def test_every_stream_ends_once_whatever_comes(seed: int) -> None:
    rng, node = Random(seed), warm(A, B)
    live: dict[Handle, WorkerId] = {}
    ends: list[int] = []
    asked, now = 0, 1.0

    def take(effects: list[GatewayEffect]) -> None:
        live.update({submit.handle: worker for worker, submit in submits(effects)})
        ends.extend(stream for stream, _, _ in ended(effects))
        node.check()

    for _ in range(150):
        now += rng.random() * 0.3
        worker = rng.choice((A, B))
        match rng.randrange(4):
            case 0:
                asked += 1
                prompt = range(10, 10 + rng.choice((20, 300, 390)))
                take(node.handle(Arrived(request(f"q{asked}", prompt, stream=asked, max_tokens=5)), now))
            case 1:
                running, queued = rng.randrange(8), rng.choice((0, 0, 500, 3000))
                report = replace(READY, last_submit=10_000, running=running, waiting_tokens=queued)
                take(node.handle(said(worker, report), now))
            case 2 if live:
                handle = rng.choice(sorted(live))
                holder = live.pop(handle)
                if rng.random() < 0.5:
                    take(node.handle(said(holder, replace(last(handle, 5), started=first(handle, 5).started)), now))
                else:
                    fault = Fault(kind="overloaded", message="full")
                    message = last(handle, 5)
                    finished = [replace(message.finished[0], reason="abort", fault=fault)]
                    take(node.handle(said(holder, replace(message, handles=[], tokens=[], finished=finished)), now))
            case _:
                take(node.handle(Woken(), now))
    for handle, holder in sorted(live.items()):
        take(node.handle(said(holder, replace(last(handle, 5), started=first(handle, 5).started)), now))
    for _ in range(200):
        now += 0.1
        take(node.handle(Woken(), now))
        for handle, holder in sorted(live.items()):
            del live[handle]
            take(node.handle(said(holder, replace(last(handle, 5), started=first(handle, 5).started)), now))
    assert sorted(ends) == list(range(1, asked + 1))


def several(name: str = "r", stream: int = 1) -> Arrived:
    return Arrived(request(name, range(10, 310), stream, max_tokens=5, choices=3))


def test_choices_of_a_request_wait_and_go_together() -> None:
    node = warm(A)
    busy(node, A, running=6, context_tokens=100)
    assert submits(node.handle(several(), 1.0)) == []
    assert node.health()["waiting"] == node.waiting_choices() == 3
    node.check()
    assert [submit.choice for _, submit in submits(busy(node, A))] == [0, 1, 2]
    assert node.waiting_choices() == 0
    node.check()


def test_choices_of_a_request_are_refused_together_and_count_once() -> None:
    node = warm(A)
    busy(node, A, waiting=9, waiting_tokens=4000, waiting_pairs=0)
    effects = node.handle(several(), 1.0)
    assert submits(effects) == []
    assert ended(effects) == [(stream, "abort", "overloaded") for stream in (1, 2, 3)]
    assert [fact.shed for fact in facts(Routed, effects)] == ["late"]
    node.check()


def test_where_a_choice_is_cut_while_it_waits_the_others_still_go() -> None:
    node = warm(A)
    busy(node, A, running=6, context_tokens=100)
    node.handle(several(), 1.0)
    node.handle(Cut(StreamId(1), 0), 1.1)
    node.check()
    assert [submit.choice for _, submit in submits(busy(node, A))] == [1, 2]
    node.check()


def test_who_waited_waits_for_a_worker_as_a_new_request_would_where_all_are_lost() -> None:
    node = warm(A, config=replace(PROMISES, no_worker_wait_s=5.0))
    (wake,) = [e for e in waiting_at(node) if isinstance(e, Wake)]
    node.handle(WorkerLost(A, "gone"), 1.1)
    assert ended(node.handle(Woken(), wake.at)) == []
    assert (node.health()["waiting"], node.health()["parked"]) == (0, 1)
    node.check()
    assert [worker for worker, _ in submits(node.handle(WorkerJoined(card(B)), 4.0))] == [B]
    node.check()


def test_who_waits_for_any_worker_may_then_have_to_wait_for_a_better_moment() -> None:
    node = warm(A, config=replace(PROMISES, no_worker_wait_s=5.0))
    busy(node, A, running=6, context_tokens=100)
    node.handle(said(A, State(1, draining=True)), 1.0)
    node.handle(several(), 1.0)
    assert node.health()["parked"] == 3
    node.handle(said(A, State(2, draining=False)), 1.0)
    assert (node.health()["waiting"], node.health()["parked"]) == (3, 0)
    node.check()


def test_a_gateway_that_drains_lets_those_who_wait_finish() -> None:
    node = warm(A)
    waiting_at(node)
    assert not any(isinstance(e, Drained) for e in node.handle(Drain(), 1.1))
    ((_, submit),) = submits(busy(node, A))
    effects = node.handle(said(A, replace(last(submit.handle, 5), started=first(submit.handle, 5).started)), 1.2)
    assert ended(effects) == [(1, "length", None)]
    assert any(isinstance(e, Drained) for e in effects)
    node.check()


def test_what_was_decided_of_it_can_be_explained() -> None:
    node = warm(A)
    (held,) = facts(Routed, waiting_at(node))
    assert (held.chosen, held.shed, held.waited_s) == (None, "", 0.0)
    assert "would miss their pace" in held.deferred
    (seen,) = held.candidates
    assert (seen.worker, seen.parts.keys() >= {"wait", "prefill", "stall"}) == (A, True)
    assert facts(Routed, busy(node, A, running=6, context_tokens=110)) == []  # looked at again, with nothing new to say
    node.handle(said(A, replace(READY, last_submit=10_000)), 1.25)
    decisions = node.explain(RequestId("r"))
    assert [(decision.chosen, decision.waited_s) for decision in decisions] == [(None, 0.0), (A, 0.25)]


def test_a_deadline_that_can_not_be_kept_is_told_as_that() -> None:
    node = warm(A)
    busy(node, A, waiting=9, waiting_tokens=4000, waiting_pairs=0)
    node.handle(Arrived(replace(request(), deadline_s=0.5)), 1.0)
    assert node.explain(RequestId("r"))[0].shed == "late"  # the promise breaks first
    plain = gateway(A)
    plain.handle(said(A, load(costs=COSTS, waiting=9, waiting_tokens=4000)), 0.0)
    effects = plain.handle(Arrived(replace(request(), deadline_s=0.5)), 0.0)
    assert [(fact.chosen, fact.shed) for fact in facts(Routed, effects)] == [(None, "deadline")]
    assert ended(effects) == [(1, "abort", "overloaded")]
