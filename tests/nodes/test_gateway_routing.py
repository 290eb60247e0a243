"""Policies, shadow, sessions and predictions at the gateway node."""

from collections.abc import Sequence

import pytest
from gateway_given import COSTS, KEY, A, B, C, card, facts, first, keys_of, last, load, request, said, stored, submits
from msgspec.structs import replace

from jedlik.core.config import GatewayConfig
from jedlik.core.events import Abandoned, Arrived, FromWorker, WorkerJoined
from jedlik.core.facts import FirstToken, Routed
from jedlik.core.ids import GatewayId, RequestId, WorkerId
from jedlik.core.protocol import Snapshot
from jedlik.core.requests import Request
from jedlik.kv.prefix_chains import Naming
from jedlik.nodes.gateway.node import GatewayNode
from jedlik.routing.estimates import MIN_SAMPLES
from jedlik.routing.policies.named import make
from jedlik.routing.policy import Ask, Offer, Policy, Scored


def gateway(*workers: WorkerId, policy: Policy | None = None, shadow: Policy | None = None) -> GatewayNode:
    config = GatewayConfig(slo_ttft_s=2.0, slo_itl_s=0.03)
    node = GatewayNode(config, GatewayId("g@1"), Naming(KEY), None, policy, shadow)
    for worker in workers:
        node.handle(WorkerJoined(card(worker)), 0.0)
        node.handle(FromWorker(worker, Snapshot(number=0, chunk=0, last=True, runs=[], digest=0)), 0.0)
        node.handle(said(worker, load(costs=COSTS)), 0.0)
    return node


def routed(node: GatewayNode, what: Request, now: float = 0.0) -> Routed:
    [fact] = facts(Routed, node.handle(Arrived(what), now))
    node.check()
    return fact


class Recording(Scored):
    """Keeps what it was asked."""

    name = "recording"

    def __init__(self) -> None:
        self.asks: list[Ask] = []

    def score(self, offers: Sequence[Offer], ask: Ask) -> list[dict[str, float]]:
        self.asks.append(ask)
        return [{"cost": 1.0} for _ in offers]


class Failing(Scored):
    name = "failing"

    def score(self, offers: Sequence[Offer], ask: Ask) -> list[dict[str, float]]:
        raise RuntimeError("not today")


def test_the_policy_given_is_followed_and_named() -> None:
    node = gateway(A, B, C, policy=make("round_robin"))
    decisions = [routed(node, request(f"r{i}", stream=i)) for i in range(4)]
    assert [d.chosen for d in decisions] == [A, B, C, A]
    assert {(d.policy, d.unit, d.failure, d.shadow) for d in decisions} == {("round_robin", "turns", "", None)}


def test_the_default_is_ours() -> None:
    assert routed(gateway(A), request()).policy == "jedlik"


def test_a_policy_is_asked_with_the_session_and_what_counts_as_good() -> None:
    policy = Recording()
    node = gateway(A, policy=policy)
    routed(node, replace(request(max_tokens=9), session="s"), now=5.0)
    (asked,) = policy.asks
    assert (asked.request_id, asked.history_tokens, asked.output_tokens, asked.session) == ("r", 20, 9, "s")
    assert (asked.ttft_s, asked.itl_s, asked.waited_s, asked.reuse) == (2.0, 0.03, 0.0, 0.0)
    assert not asked.shed  # nobody knows yet whether caches are cold


def test_a_policy_for_everyone_learns_of_every_holder() -> None:
    workers = [WorkerId(f"w{n:02}@1") for n in range(40)]
    prompt = list(range(10, 90))
    for name, expected in (("lmetric", 40), ("jedlik", 16)):
        seen: list[int] = []
        node = gateway(*workers, policy=make(name), shadow=Depths(seen))
        for worker in workers:
            node.handle(said(worker, stored(1, keys_of(prompt[:64]))), 0.0)
        routed(node, request(prompt=prompt))
        assert seen == [64] * expected


class Depths(Scored):
    """Keeps how much each worker that is offered holds."""

    name = "depths"

    def __init__(self, seen: list[int]) -> None:
        self._seen = seen

    def score(self, offers: Sequence[Offer], ask: Ask) -> list[dict[str, float]]:
        self._seen.extend(offer.cached_tokens for offer in offers)
        return [{} for _ in offers]


def test_a_policy_that_raises_loses_its_request_to_the_default_and_the_fact_says_so() -> None:
    node = gateway(A, B, policy=Failing(), shadow=Failing())
    effects = node.handle(Arrived(request()), 0.0)
    [fact] = facts(Routed, effects)
    assert len(submits(effects)) == 1
    assert (fact.policy, fact.failure) == ("jedlik", "policy failing failed: RuntimeError: not today")
    assert fact.shadow is not None
    assert (fact.shadow.chosen, fact.shadow.failure) == (None, "policy failing failed: RuntimeError: not today")
    node.check()


def test_a_shadow_is_recorded_and_not_followed() -> None:
    node = gateway(A, B, shadow=make("round_robin"))
    prompt = list(range(10, 90))
    node.handle(said(B, stored(1, keys_of(prompt[:64]))), 0.0)
    for number, turn in enumerate((A, B, A)):
        fact = routed(node, request(f"r{number}", prompt, stream=number))
        assert fact.chosen == B
        assert fact.shadow is not None
        assert (fact.shadow.policy, fact.shadow.chosen, fact.shadow.unit) == ("round_robin", turn, "turns")
        assert node.explain(fact.request_id) == (fact,)
        node.handle(Abandoned(fact.request_id), 0.0)


def test_what_was_predicted_is_remembered_beside_what_happened() -> None:
    node = gateway(A)
    effects = node.handle(Arrived(request()), 1.0)
    [fact], [(_, submit)] = facts(Routed, effects), submits(effects)
    assert fact.predicted_ttft_s == pytest.approx(0.005 + 20 * 0.001)
    [token] = facts(FirstToken, node.handle(said(A, first(submit.handle, 7)), 1.05))
    assert (token.request_id, token.choice, token.worker) == (fact.request_id, 0, A)
    assert token.predicted_s == fact.predicted_ttft_s
    assert token.observed_s == pytest.approx(0.05)
    assert token.ratio == pytest.approx(2.0)
    [remembered] = node.explain(fact.request_id)
    assert remembered == replace(fact, observed_ttft_s=pytest.approx(0.05))


def test_each_choice_is_observed_for_itself() -> None:
    node = gateway(A, B)
    handles = [s.handle for _, s in submits(node.handle(Arrived(request(choices=2)), 1.0))]
    chosen = [fact.chosen for fact in node.explain(RequestId("r"))]
    for handle, worker, now in zip(handles[::-1], chosen[::-1], (1.5, 1.75), strict=True):
        assert worker is not None
        node.handle(said(worker, first(handle, 7)), now)
    assert [(d.choice, d.observed_ttft_s) for d in node.explain(RequestId("r"))] == [(0, 0.75), (1, 0.5)]


def test_predictions_are_corrected_by_what_workers_turned_out_to_need() -> None:
    node = gateway(A)
    plain = 0.005 + 20 * 0.001
    for number in range(MIN_SAMPLES):
        effects = node.handle(Arrived(request(f"r{number}", stream=number)), float(number))
        [fact], [(_, submit)] = facts(Routed, effects), submits(effects)
        assert fact.predicted_ttft_s == pytest.approx(plain)
        node.handle(said(A, first(submit.handle, 7)), number + 3 * plain)
        node.handle(said(A, last(submit.handle, 7)), number + 0.5)
        node.check()
    fact = routed(node, request("next", stream=99), 100.0)
    assert fact.predicted_ttft_s == pytest.approx(3 * plain)
    [candidate] = fact.candidates
    assert candidate.parts["prefill"] == pytest.approx(3 * plain)
    node.handle(Abandoned(fact.request_id), 100.0)
    node.handle(WorkerJoined(card(A)), 101.0)  # it restarted: nothing is known of it any more
    node.handle(said(A, load(costs=COSTS)), 101.0)
    assert routed(node, request("last", stream=100), 101.0).predicted_ttft_s == pytest.approx(plain)


def test_without_a_step_model_nothing_is_predicted_and_the_time_still_kept() -> None:
    node = gateway(A)
    node.handle(said(A, load()), 0.0)
    effects = node.handle(Arrived(request()), 1.0)
    [fact], [(_, submit)] = facts(Routed, effects), submits(effects)
    assert fact.predicted_ttft_s is None
    assert facts(FirstToken, node.handle(said(A, first(submit.handle, 7)), 1.5)) == []
    assert node.explain(fact.request_id)[0].observed_ttft_s == 0.5
