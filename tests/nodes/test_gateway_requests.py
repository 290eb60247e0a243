"""A request's life at the gateway node while its worker is well."""

import pytest
from gateway_given import (
    COSTS,
    KEY,
    A,
    B,
    arrive,
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
from msgspec.structs import replace

from jedlik.core.config import GatewayConfig
from jedlik.core.effects import Deliver, Drained, Kick, StreamEnded, StreamStarted, ToWorkerEffect
from jedlik.core.events import Abandoned, Arrived, Consumed, Cut, Drain, FromWorker, WorkerJoined
from jedlik.core.facts import Answered, Routed, Suspected
from jedlik.core.ids import GatewayId, Handle, RequestId, StreamId, WorkerId
from jedlik.core.protocol import Ack, Cancel, State, StepCosts, Tokens
from jedlik.core.trace import TraceContext
from jedlik.kv.prefix_chains import Naming
from jedlik.nodes.gateway.node import GatewayNode

EOS_TOKEN = 2


def test_a_request_from_arrival_to_its_last_token() -> None:
    node = gateway(A)
    ask = request()
    effects = node.handle(Arrived(ask), 1.0)
    [(worker, submit)] = submits(effects)
    assert worker == A
    assert (submit.attempt, submit.number, submit.choice, submit.output) == (1, 1, 0, b"")
    assert (submit.prompt, submit.stopping, submit.sampling) == (ask.prompt, ask.stopping, ask.sampling)
    [routed] = facts(Routed, effects)
    assert (routed.chosen, routed.prompt_tokens, routed.unit) == (A, 20, "tokens")
    assert node.explain(ask.request_id) == (routed,)
    started = StreamStarted(StreamId(1), A, 16)
    assert node.handle(said(A, first(submit.handle, 7, cached=16)), 1.5) == [
        Deliver(streams=[StreamId(1)], tokens=[7], started=[started])
    ]
    assert node.handle(said(A, more(submit.handle, 8)), 1.6) == [Deliver(streams=[StreamId(1)], tokens=[8])]
    effects = node.handle(said(A, last(submit.handle, EOS_TOKEN, "stop", EOS_TOKEN)), 2.0)
    end = StreamEnded(StreamId(1), "stop", EOS_TOKEN)
    assert without_notes(effects) == [Deliver(streams=[StreamId(1)], tokens=[EOS_TOKEN], started=[], ended=[end])]
    answer = Answered(
        request_id=ask.request_id,
        choice=0,
        outcome="stop",
        prompt_tokens=20,
        cached_tokens=16,
        output_tokens=3,
        attempts=1,
        queued_s=0.25,
        ttft_s=0.5,
        duration_s=1.0,
        tenant="t",
        model="m",
        worker=A,
    )
    assert facts(Answered, effects) == [answer]
    node.check()
    assert node.handle(said(A, more(submit.handle, 9)), 2.1) == []


def test_the_trace_of_a_request_goes_to_its_worker_and_into_the_fact_with_tenant_model_and_pool() -> None:
    trace = TraceContext("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "rojo=1")
    node = gateway()
    node.handle(WorkerJoined(replace(card(A), pool="chat")), 0.0)
    [submit] = arrive(node, replace(request(), trace=trace))
    assert submit.trace == trace
    [fact] = facts(Answered, node.handle(said(A, last(submit.handle, EOS_TOKEN, "stop", EOS_TOKEN)), 2.0))
    assert (fact.tenant, fact.model, fact.pool, fact.worker, fact.trace) == ("t", "m", "chat", A, trace)


def test_without_a_worker_a_request_is_refused_with_a_time_to_retry() -> None:
    node = gateway()
    effects = node.handle(Arrived(request(choices=2)), 0.0)
    assert ended(effects) == [(1, "abort", "unavailable"), (2, "abort", "unavailable")]
    [deliver] = of(Deliver, effects)
    assert all(end.fault and end.fault.retry_after_s for end in deliver.ended)
    node.check()


def test_a_request_for_a_model_nobody_serves_is_refused() -> None:
    node = GatewayNode(GatewayConfig(), GatewayId("g@1"), Naming(KEY))
    node.handle(WorkerJoined(card(A, model="other")), 0.0)
    assert ended(node.handle(Arrived(request()), 0.0)) == [(1, "abort", "unavailable")]


def test_more_than_may_be_in_flight_is_overload() -> None:
    node = gateway(A, config=GatewayConfig(max_in_flight=2))
    assert len(arrive(node, request("r1", choices=2))) == 2
    assert ended(node.handle(Arrived(request("r2", stream=9)), 0.0)) == [(9, "abort", "overloaded")]


def test_what_exceeds_the_limit_alone_is_not_told_to_come_again() -> None:
    node = gateway(A, config=GatewayConfig(max_in_flight=2))
    assert ended(node.handle(Arrived(request("r1", choices=3)), 0.0)) == [(n, "abort", "invalid") for n in (1, 2, 3)]


def test_a_request_id_in_flight_is_not_taken_twice() -> None:
    node = gateway(A)
    arrive(node, request("r1"))
    assert ended(node.handle(Arrived(request("r1", stream=9)), 0.0)) == [(9, "abort", "invalid")]
    node.check()


def test_a_prefix_goes_where_its_blocks_are() -> None:
    node = gateway(A, B)
    prompt = list(range(10, 90))
    node.handle(said(B, stored(1, keys_of(prompt[:64]))), 0.0)
    for name in ("r1", "r2", "r3"):
        effects = node.handle(Arrived(request(name, prompt, stream=int(name[1]))), 0.0)
        [routed] = facts(Routed, effects)
        assert routed.chosen == B
        assert {c.worker: c.cached_tokens for c in routed.candidates} == {A: 0, B: 64}
        [(worker, submit)] = submits(effects)
        node.handle(said(worker, last(submit.handle, 5)), 0.0)
    stranger = request("s", prompt, stream=8)
    other = replace(stranger, tenant="else")
    [routed] = facts(Routed, node.handle(Arrived(other), 0.0))
    assert [c.cached_tokens for c in routed.candidates] == [0, 0]


def test_own_bookings_spread_a_burst_before_any_report() -> None:
    node = gateway(A, B)
    chosen = [submits(node.handle(Arrived(request(f"r{i}", range(i, i + 40), stream=i)), 0.0))[0][0] for i in range(8)]
    assert sorted(chosen) == [A] * 4 + [B] * 4
    node.check()


def test_a_report_ends_the_bookings_that_it_includes() -> None:
    node = gateway(A, B)
    arrive(node, request("r1"))
    arrive(node, request("r2", stream=2))
    for worker in (A, B):
        node.handle(said(worker, load(last_submit=1, running=1)), 0.1)
    node.check()
    assert [c.parts["wait"] for c in _routed(node, "r3", 3).candidates] == [0.0, 0.0]


def _routed(node: GatewayNode, name: str, stream: int) -> Routed:
    return facts(Routed, node.handle(Arrived(request(name, stream=stream)), 0.2))[0]


def test_costs_are_seconds_where_every_candidate_has_a_profile() -> None:
    node = gateway(A, B)
    node.handle(said(A, load(costs=COSTS)), 0.0)
    assert _routed(node, "r1", 1).unit == "tokens"
    node.handle(
        said(
            B,
            load(
                costs=StepCosts(
                    base_s=0.005, prefill_token_s=0.01, prefill_pair_s=0.0, decode_sequence_s=0.001, context_token_s=0.0
                )
            ),
        ),
        0.0,
    )
    routed = _routed(node, "r2", 2)
    assert (routed.unit, routed.chosen) == ("s", A)


def test_a_deadline_that_cant_be_kept_is_refused_and_another_is_passed_on() -> None:
    node = gateway(A)
    node.handle(said(A, load(costs=COSTS, waiting=1, waiting_tokens=1000)), 0.0)
    ask = request()
    late = replace(ask, deadline_s=0.5)
    assert ended(node.handle(Arrived(late), 0.0)) == [(1, "abort", "overloaded")]
    fine = replace(ask, deadline_s=5.0)
    [submit] = arrive(node, fine)
    assert submit.budget_s == 5.0


def test_choices_of_a_request_share_the_prompt_of_the_first() -> None:
    node = gateway(A, B)
    effects = node.handle(Arrived(request(prompt=range(300), choices=3)), 0.0)
    assert len({worker for worker, _ in submits(effects)}) == 1
    assert [submit.choice for _, submit in submits(effects)] == [0, 1, 2]
    node.check()


def test_a_cut_cancels_and_says_nothing_more() -> None:
    node = gateway(A)
    [submit] = arrive(node, request())
    node.handle(said(A, first(submit.handle, 7)), 0.1)
    effects = node.handle(Cut(StreamId(1), 1), 0.2)
    assert without_notes(effects) == [ToWorkerEffect(A, Cancel([submit.handle]))]
    assert [(a.outcome, a.output_tokens) for a in facts(Answered, effects)] == [("cut", 1)]
    assert node.handle(said(A, more(submit.handle, 8)), 0.3) == []
    assert node.handle(Cut(StreamId(1), 1), 0.4) == []
    node.check()


def test_an_abandoned_request_is_cancelled_at_each_of_its_workers() -> None:
    node = gateway(A)
    handles = [submit.handle for submit in arrive(node, request(choices=2))]
    effects = node.handle(Abandoned(RequestId("r")), 0.2)
    assert without_notes(effects) == [ToWorkerEffect(A, Cancel(handles))]
    assert [a.outcome for a in facts(Answered, effects)] == ["abandoned", "abandoned"]
    node.check()


def test_consumption_is_acknowledged_with_the_next_tokens() -> None:
    node = gateway(A, config=GatewayConfig(ack_every_tokens=4))
    [submit] = arrive(node, request(max_tokens=90))
    node.handle(said(A, first(submit.handle, 7)), 0.1)
    for token in range(10, 15):
        node.handle(said(A, more(submit.handle, token)), 0.1)
    assert node.handle(Consumed(StreamId(1), 3), 0.2) == []
    assert node.handle(Consumed(StreamId(1), 5), 0.2) == []
    effects = node.handle(said(A, more(submit.handle, 20)), 0.3)
    assert effects[1:] == [ToWorkerEffect(A, Ack([submit.handle], [5]))]
    assert node.handle(said(A, more(submit.handle, 21)), 0.3) == [Deliver(streams=[StreamId(1)], tokens=[21])]


def test_consumption_is_acknowledged_at_once_when_the_worker_may_wait_for_it() -> None:
    node = gateway(A)
    [submit] = arrive(node, request(max_tokens=90))
    node.handle(said(A, first(submit.handle, 7)), 0.1)
    for _ in range(63):
        node.handle(said(A, more(submit.handle, 9)), 0.1)
    assert node.handle(Consumed(StreamId(1), 16), 0.2) == [ToWorkerEffect(A, Ack([submit.handle], [16]))]


def test_draining_workers_get_nothing_new_and_old_states_are_ignored() -> None:
    node = gateway(A, B)
    node.handle(FromWorker(A, State(5, draining=True)), 0.0)
    node.handle(FromWorker(A, State(4, draining=False)), 0.0)
    assert [c.worker for c in node.cards()] == [B]
    effects = node.handle(Arrived(request()), 0.0)
    [routed] = facts(Routed, effects)
    assert routed.chosen == B
    assert [(c.worker, c.excluded) for c in routed.candidates if c.excluded] == [(A, "draining")]


def test_a_draining_gateway_finishes_what_runs_and_says_so_once() -> None:
    node = gateway(A)
    [submit] = arrive(node, request("r1"))
    assert of(Drained, node.handle(Drain(), 0.1)) == []
    assert ended(node.handle(Arrived(request("r2", stream=2)), 0.2)) == [(2, "abort", "unavailable")]
    assert len(of(Drained, node.handle(said(A, last(submit.handle, 5)), 0.3))) == 1
    assert of(Drained, node.handle(said(A, load()), 0.4)) == []


def test_what_is_still_running_when_the_drain_budget_is_spent_is_ended_with_a_reason() -> None:
    node = gateway(A)
    [submit] = arrive(node, request("r1"))
    node.handle(Drain(), 0.1)
    effects = node.handle(Drain(cut=True), 5.1)
    assert ended(effects) == [(1, "abort", "unavailable")]
    assert [m.message for m in of(ToWorkerEffect, effects)] == [Cancel([submit.handle])]
    assert len(of(Drained, effects)) == 1
    node.check()


@pytest.mark.parametrize("change", [{"schema": 99}, {"hash_check": "else"}])
def test_a_worker_that_hashes_or_speaks_otherwise_is_sent_away(change: dict[str, object]) -> None:
    node = gateway()
    effects = node.handle(WorkerJoined(replace(card(A), **change)), 0.0)
    assert [k.worker for k in of(Kick, effects)] == [A]
    assert [s.health for s in facts(Suspected, effects)] == ["fenced"]
    assert node.cards() == []
    assert node.handle(said(A, load()), 0.1) == []


def test_a_prompt_too_long_for_a_worker_goes_to_one_with_more_context() -> None:
    node = gateway(A)
    node.handle(WorkerJoined(card(B, max_model_len=2000)), 0.0)
    [(worker, _)] = submits(node.handle(Arrived(request(prompt=range(100, 600))), 0.0))
    assert worker == B


def test_max_tokens_zero_ends_without_a_token() -> None:
    node = gateway(A)
    [submit] = arrive(node, request(max_tokens=0))
    message = last(submit.handle, 5)
    effects = node.handle(
        said(
            A, Tokens(step=1, handles=[], tokens=[], started=first(submit.handle, 5).started, finished=message.finished)
        ),
        0.5,
    )
    [deliver] = of(Deliver, effects)
    assert (deliver.tokens, len(deliver.started)) == ([], 1)
    assert ended(effects) == [(1, "length", None)]


def test_tokens_of_another_workers_attempt_are_stale() -> None:
    node = gateway(A, B)
    [(worker, submit)] = submits(node.handle(Arrived(request()), 0.0))
    other = WorkerId("b@1" if worker == A else "a@1")
    assert node.handle(said(other, more(submit.handle, 5)), 0.1) == []
    assert node.handle(said(worker, more(Handle(99), 5)), 0.1) == []


def test_health_and_explain_are_plain_values() -> None:
    node = gateway(A)
    health = node.health()
    assert health["draining"] is False
    assert [w["worker"] for w in health["workers"]] == [A]  # type: ignore[attr-defined]
    assert node.explain(RequestId("unknown")) == ()


def test_explanations_are_bounded() -> None:
    node = gateway(A, config=GatewayConfig(explain_requests=2))
    for i in range(4):
        arrive(node, request(f"r{i}", stream=i))
    assert [bool(node.explain(RequestId(f"r{i}"))) for i in range(4)] == [False, False, True, True]
