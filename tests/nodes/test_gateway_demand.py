"""What a gateway tells the planner."""

from gateway_given import A, B, arrive, first, gateway, load, request, said

from jedlik.core.config import GatewayConfig
from jedlik.core.effects import GatewayEffect, ToPlanner, Wake
from jedlik.core.events import Woken
from jedlik.core.plans import Report
from jedlik.core.protocol import Finished, Started, StepCosts, Tokens
from jedlik.nodes.gateway.node import GatewayNode
from jedlik.planning.lengths import bucket_of

SLO = GatewayConfig(slo_ttft_s=0.5, slo_itl_s=0.1, shed=False)
SLOW = StepCosts(base_s=1.0, prefill_token_s=0.0, prefill_pair_s=0.0, decode_sequence_s=0.0, context_token_s=0.0)
"""No prompt keeps half a second at a worker like this."""


def reports(effects: list[GatewayEffect]) -> list[Report]:
    return [effect.report for effect in effects if isinstance(effect, ToPlanner)]


def report(node: GatewayNode, now: float) -> Report:
    (one,) = reports(node.handle(Woken(), now))
    return one


def test_a_report_comes_every_period_even_if_nothing_happened() -> None:
    node = gateway(A, reports=True)
    wakes = [effect.at for effect in node.handle(Woken(), 0.0) if isinstance(effect, Wake)]
    assert all(at <= 1.0 for at in wakes)
    assert reports(node.handle(Woken(), 0.9)) == []
    first_one, second = report(node, 1.0), report(node, 2.0)
    assert (first_one.period_s, second.period_s) == (1.0, 1.0)
    assert second.demand.arrived == 0
    assert second.workers == []  # it has not said what it has to do: unknown, not idle


def test_no_report_where_none_is_wanted() -> None:
    node = gateway(A)
    assert [reports(node.handle(Woken(), now)) for now in (1.0, 5.0)] == [[], []]


def test_demand_and_what_became_of_it() -> None:
    node = gateway(A, B, config=SLO, reports=True)
    node.handle(said(A, load()), 0.0)
    for name, stream in (("kept", 1), ("late", 2)):
        (submit,) = arrive(node, request(name, stream=stream), 0.0)
        at = 0.2 if name == "kept" else 0.7
        chosen = next(w for w in (A, B) if submit.handle in node._peers[w].attempts)
        node.handle(said(chosen, first(submit.handle, 5, cached=16)), at)
        end = Tokens(step=2, handles=[submit.handle], tokens=[6], finished=[Finished(submit.handle, "length")])
        node.handle(said(chosen, end), at + 0.05)
    demand = report(node, 1.0).demand
    assert (demand.arrived, demand.prompt_tokens, demand.prompts) == (2, 40, {bucket_of(20): 2})
    assert (demand.answered, demand.met, demand.refused, demand.failed) == (2, 1, 0, 0)
    assert (demand.cached_tokens, demand.answered_prompt_tokens, demand.output_tokens) == (32, 40, 4)
    assert demand.outputs == {bucket_of(2): 2}
    assert demand.missed_alone == 0
    assert demand.itl_count == 2
    assert report(node, 2.0).demand.answered == 0


def test_a_request_that_nobody_could_have_answered_in_time_is_told_apart() -> None:
    node = gateway(A, config=SLO, reports=True)
    node.handle(said(A, load(costs=SLOW)), 0.0)
    (submit,) = arrive(node, request(), 0.0)
    node.handle(
        said(A, Tokens(step=1, handles=[submit.handle], tokens=[5], started=[Started(submit.handle, 0, 0.0)])), 0.9
    )
    node.handle(
        said(A, Tokens(step=2, handles=[submit.handle], tokens=[6], finished=[Finished(submit.handle, "length")])), 0.95
    )
    demand = report(node, 1.0).demand
    assert (demand.answered, demand.met, demand.missed_alone) == (1, 0, 1)


def test_workers_are_seen_with_their_load_and_what_waits_at_the_gateway() -> None:
    node = gateway(A, reports=True, config=GatewayConfig(no_worker_wait_s=9.0))
    node.handle(said(A, load(running=3, waiting=2, waiting_tokens=500, costs=SLOW)), 0.5)
    seen = report(node, 1.0)
    (worker,) = seen.workers
    assert (worker.worker, worker.role, worker.running, worker.waiting_tokens) == (A, "both", 3, 500)
    assert (worker.age_s, worker.costs, worker.trusted) == (0.5, SLOW, True)
    alone = gateway(reports=True, config=GatewayConfig(no_worker_wait_s=9.0))
    arrive(alone, request(), 0.0)
    seen = report(alone, 1.0)
    assert (seen.waiting, seen.waiting_tokens, seen.in_flight) == (1, 20, 1)
