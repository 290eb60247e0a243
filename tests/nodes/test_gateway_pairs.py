"""Hand-offs, tiers, roles and hints at the gateway node: given these events, expect these effects."""

import random

import pytest
from gateway_given import (
    BLOCK,
    COSTS,
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
    of,
    request,
    said,
    submits,
)
from msgspec.structs import replace

from jedlik.core.config import Role
from jedlik.core.effects import ToWorkerEffect
from jedlik.core.errors import Fault
from jedlik.core.events import Abandoned, Arrived, Drain, Flip, GatewayEvent, WorkerJoined, WorkerLost
from jedlik.core.facts import FirstToken, Routed
from jedlik.core.ids import Handle, RequestId, WorkerId
from jedlik.core.moves import PathCosts
from jedlik.core.protocol import (
    AssumeRole,
    Card,
    Facts,
    Load,
    Remote,
    Resync,
    Snapshot,
    State,
    Stored,
    Submit,
    TierSize,
)
from jedlik.core.requests import KvHint, Request
from jedlik.nodes.gateway.node import GatewayNode

SHM = PathCosts("shm", 0.0001, 0.0)
PROMPT = range(10, 110)
ROLES: tuple[Role, ...] = ("prefill", "decode", "both")


def mover(worker: WorkerId, tiers: tuple[TierSize, ...] = ()) -> Card:
    return replace(card(worker), handoffs=("slots",), host="h", tiers=tiers)


def report(last_submit: int = 0, **changes: object) -> Load:
    return load(last_submit, costs=COSTS, paths=(SHM,), **changes)


def join(node: GatewayNode, worker: WorkerId, role: Role = "both", shape: Card | None = None) -> None:
    node.handle(WorkerJoined(shape or mover(worker)), 0.0)
    for tier in range(1 + len(shape.tiers if shape else ())):
        node.handle(said(worker, Snapshot(number=0, chunk=0, last=True, runs=[], digest=0, tier=tier)), 0.0)
    node.handle(said(worker, State(1, role)), 0.0)
    node.handle(said(worker, report()), 0.0)
    node.check()


def split() -> GatewayNode:
    """A decodes and is busy, B prefills."""
    node = gateway()
    join(node, A, "decode")
    join(node, B, "prefill")
    node.handle(said(A, report(running=6)), 0.0)
    return node


def booked(node: GatewayNode, worker: WorkerId) -> tuple[int, int]:
    """(prefill tokens, context tokens) in a worker's view."""
    view = node._fleet.get(worker)
    assert view is not None
    node.check()
    return view.backlog_tokens, view.context_tokens


def asked(name: str = "r", stream: int = 1) -> Request:
    return request(name, PROMPT, stream)


# --- hand-offs ---


def test_a_request_goes_to_who_decodes_with_the_word_who_prefills() -> None:
    node = split()
    effects = node.handle(Arrived(asked()), 0.0)
    [(worker, submit)], [routed] = submits(effects), facts(Routed, effects)
    assert worker == A
    assert submit.remote is not None
    assert (submit.remote.worker, submit.remote.compute) == (B, True)
    assert submit.remote.expected_s == pytest.approx(2 * 0.005 + 0.099 + 9 * 0.0001 + 0.005)
    assert (routed.chosen, routed.remote, routed.compute) == (A, B, True)
    assert routed.predicted_ttft_s == pytest.approx(submit.remote.expected_s + 0.006)
    assert booked(node, A) == (0, 100)
    assert booked(node, B) == (99, 0)


def test_what_is_prefilled_elsewhere_is_booked_there_until_a_report_includes_it_or_the_first_token() -> None:
    node = split()
    [submit] = arrive(node, asked())
    node.handle(said(B, report()), 0.01)
    assert booked(node, B) == (99, 0)
    node.handle(said(B, report(waiting=1, waiting_tokens=99)), 0.1)
    assert booked(node, B) == (99, 0)
    node.handle(said(A, first(submit.handle, 7)), 0.3)
    node.handle(said(B, report()), 0.3)
    assert booked(node, B) == (0, 0)
    [submit] = arrive(node, asked("s", 2), 0.4)
    node.handle(said(A, first(submit.handle, 7)), 0.5)
    assert booked(node, B) == (0, 0)


@pytest.mark.parametrize("how", ["abandoned", "failed", "decoder lost", "prefiller lost", "cut"])
def test_no_booking_is_left_whatever_ends_the_attempt(how: str) -> None:
    node = split()
    join(node, C, "decode")
    node.handle(said(C, report(running=8)), 0.0)
    [submit] = arrive(node, asked())
    assert submit.remote is not None
    if how == "abandoned":
        node.handle(Abandoned(submit.request_id), 0.1)
    elif how == "failed":
        [(worker, again)] = submits(
            node.handle(said(A, broken(submit.handle, Fault(kind="internal", message="oh"))), 0.1)
        )
        assert (worker, again.remote and again.remote.worker) == (C, B)
        assert booked(node, B) == (99, 0)
        node.handle(said(C, last(again.handle, 7)), 0.2)
    elif how == "decoder lost":
        [(worker, again)] = submits(node.handle(WorkerLost(A, "died"), 0.1))
        assert worker == C
        node.handle(said(C, last(again.handle, 7)), 0.2)
    elif how == "prefiller lost":
        effects = node.handle(WorkerLost(B, "died"), 0.1)  # the decoding worker goes on by itself
        assert (submits(effects), ended(effects)) == ([], [])
        node.check()
        join(node, B, "prefill")
        node.handle(said(A, first(submit.handle, 7)), 0.2)
    else:
        assert ended(node.handle(Drain(cut=True), 0.1)) == [(1, "abort", "unavailable")]
    assert booked(node, B) == (0, 0)
    assert all(peer.view.remote_prefills == {} for peer in node._peers.values())


def test_the_first_token_tries_the_step_model_of_who_prefilled() -> None:
    node = split()
    [submit] = arrive(node, asked())
    assert submit.remote is not None
    [token] = facts(FirstToken, node.handle(said(A, first(submit.handle, 7)), 0.3))
    rest = submit.remote.expected_s + 0.006 - 0.109
    assert token.worker == B
    assert token.ratio == pytest.approx((0.3 - rest) / 0.109)
    node.check()


def test_choices_of_one_request_are_prefilled_once_where_it_is_prefilled() -> None:
    node = split()
    sent = arrive(node, replace(asked(), choices=2))
    assert [submit.remote.worker if submit.remote else None for submit in sent] == [B, B]
    assert booked(node, B) == (100, 0)  # the second finds all but a token there


def test_a_prompt_whose_logprobs_are_wanted_is_prefilled_where_it_is_decoded() -> None:
    node, what = split(), asked()
    what = replace(what, sampling=replace(what.sampling, prompt_logprobs=1))
    [submit] = arrive(node, what)
    assert submit.remote is None


def test_what_only_another_worker_has_is_pulled_from_there() -> None:
    node = gateway()
    join(node, A)
    join(node, B)
    keys = keys_of(PROMPT[:96])
    node.handle(said(B, Facts(1, [Stored(None, keys)], sum(keys) & (2**64 - 1))), 0.0)
    node.handle(said(B, report(running=8, context_tokens=800)), 0.0)
    effects = node.handle(Arrived(asked()), 0.0)
    [(worker, submit)] = submits(effects)
    assert worker == A
    assert submit.remote == Remote(B, False, 24 * 0.0001 + 0.005)
    assert booked(node, A) == (4 - 1, 100)
    assert booked(node, B) == (0, 800)


# --- tiers ---


def test_tiers_are_followed_priced_and_told() -> None:
    node = gateway()
    tiers = (TierSize("host", 100), TierSize("disk", 100))
    join(node, A, shape=mover(A, tiers))
    keys = keys_of(PROMPT)
    for tier, depth in ((0, 5), (2, 20)):
        node.handle(said(A, Facts(1, [Stored(None, keys[:depth])], sum(keys[:depth]) & (2**64 - 1), tier)), 0.0)
    node.handle(said(A, load(costs=COSTS, paths=(PathCosts("disk", 0.001, 0.0),))), 0.0)
    [routed] = facts(Routed, node.handle(Arrived(asked()), 0.0))
    [candidate] = routed.candidates
    assert (candidate.cached_tokens, candidate.tier_tokens) == (5 * BLOCK, 15 * BLOCK)
    assert candidate.parts["fetch"] == pytest.approx(15 * 0.001)
    assert candidate.parts["prefill"] == pytest.approx(0.005 + 0.02)
    assert booked(node, A) == (20, 100)


def test_one_resync_asks_for_every_tier() -> None:
    node = gateway()
    join(node, A, shape=mover(A, (TierSize("host", 100),)))
    effects = node.handle(said(A, Facts(3, [], 0, 1)), 5.0)
    assert [e.message for e in of(ToWorkerEffect, effects)] == [Resync()]
    assert (
        of(ToWorkerEffect, node.handle(said(A, Snapshot(number=9, chunk=0, last=True, runs=[], digest=0, tier=0)), 5.1))
        == []
    )
    assert (
        of(ToWorkerEffect, node.handle(said(A, Snapshot(number=3, chunk=0, last=True, runs=[], digest=0, tier=1)), 5.1))
        == []
    )
    assert of(ToWorkerEffect, node.handle(said(A, Facts(4, [], 0, 1)), 9.0)) == []
    node.check()


# --- roles ---


def told(node: GatewayNode, worker: WorkerId, role: Role) -> list[AssumeRole]:
    effects = node.handle(Flip(worker, role), 1.0)
    node.check()
    return [e.message for e in of(ToWorkerEffect, effects) if isinstance(e.message, AssumeRole)]


def test_a_role_takes_effect_with_the_workers_answer() -> None:
    node = gateway()
    for worker in (A, B, C):
        join(node, worker)
    assert node.flip_refusal(A, "prefill") is None
    assert told(node, A, "prefill") == [AssumeRole("prefill")]
    assert [w.worker for w in node.cards()] == [A, B, C]
    assert node.roles()[0] == {"worker": A, "name": "a", "role": "both", "epoch": 1, "told": "prefill"}
    node.handle(said(A, State(2, "prefill")), 1.1)
    assert node.roles()[0] == {"worker": A, "name": "a", "role": "prefill", "epoch": 2}
    assert [w.worker for w in node.cards()] == [B, C]
    node.handle(said(A, State(1, "both")), 1.2)  # an older word
    assert [w.worker for w in node.cards()] == [B, C]
    assert {worker for worker, _ in submits(node.handle(Arrived(asked()), 1.3))} <= {B, C}
    node.check()


def test_a_needed_role_is_never_left_empty() -> None:
    node = gateway()
    join(node, A)
    assert node.flip_refusal(A, "prefill") == "nobody would be left to decode for model 'm'"
    assert node.flip_refusal(A, "decode") == "nobody would be left to prefill for model 'm'"
    assert node.flip_refusal(A, "both") == "a@1 has the role 'both' already"
    assert node.flip_refusal(B, "both") == "no worker 'b@1' is connected"
    assert told(node, A, "prefill") == []
    join(node, B)
    assert told(node, A, "prefill") == [AssumeRole("prefill")]
    assert node.flip_refusal(A, "prefill") == "a@1 was told so already"
    assert (
        node.flip_refusal(B, "prefill") == "nobody would be left to decode for model 'm'"
    )  # though A has not answered
    assert node.flip_refusal(B, "decode") is None
    node.handle(said(A, State(2, "prefill")), 1.0)
    node.handle(said(B, State(2, "both", True)), 1.0)
    assert node.flip_refusal(B, "decode") == "b@1 is draining"
    assert node.flip_refusal(A, "both") is None
    assert node.flip_refusal(A, "decode") == "nobody would be left to prefill for model 'm'"


def test_another_models_workers_do_not_count() -> None:
    node = gateway()
    join(node, A)
    join(node, B, shape=replace(mover(B), model="n"))
    assert node.flip_refusal(A, "prefill") == "nobody would be left to decode for model 'm'"


def test_prefill_workers_serve_while_nobody_else_is_ready() -> None:
    node = split()
    node.handle(WorkerLost(A, "died"), 0.5)
    assert [w.worker for w in node.cards()] == [B]
    [(worker, submit)] = submits(node.handle(Arrived(asked()), 0.6))
    assert (worker, submit.remote) == (B, None)
    join(node, A, "decode")
    assert [w.worker for w in node.cards()] == [A]


# --- hints ---


def test_a_hint_goes_with_every_attempt() -> None:
    node = gateway(A, B)
    hint = KvHint(pin_s=5.0, next_turn_s=2.0)
    [submit] = arrive(node, replace(request(), hint=hint))
    assert submit.hint == hint
    worker = A if node._peers[A].attempts else B
    [(_, again)] = submits(node.handle(WorkerLost(worker, "died"), 0.1))
    assert again.hint == hint
    assert arrive(gateway(A), request())[0].hint is None


# --- whatever happens ---


class Disorder:
    """Workers that come, go and change their roles, requests, reports and tokens, in any order."""

    def __init__(self, seed: int) -> None:
        self.rng, self.node, self.now, self.number = random.Random(seed), gateway(), 0.0, 0
        self.epochs: dict[WorkerId, int] = {}
        self.live: dict[Handle, tuple[WorkerId, Submit]] = {}
        self.remote = 0

    def tell(self, event: GatewayEvent) -> None:
        self.now += 0.01
        for worker, submit in submits(self.node.handle(event, self.now)):
            self.live[submit.handle] = (worker, submit)
            self.remote += submit.remote is not None
        self.node.check()
        self.node.cards()

    def act(self) -> None:
        actions = [self.join, self.lose, self.arrive, self.arrive, self.report, self.report, self.token, self.token]
        self.rng.choice([*actions, self.state, self.flip, self.abandon])()

    def any_worker(self) -> WorkerId | None:
        return self.rng.choice(sorted(self.node._peers)) if self.node._peers else None

    def any_role(self) -> Role:
        return self.rng.choice(ROLES)

    def join(self) -> None:
        if len(self.node._peers) < 5:
            self.number += 1
            worker = WorkerId(f"w{self.rng.randrange(8)}@1")  # perhaps one that was here before
            self.epochs.setdefault(worker, 0)
            self.tell(WorkerJoined(mover(worker)))

    def lose(self) -> None:
        if (worker := self.any_worker()) and self.rng.random() < 0.5:
            self.tell(WorkerLost(worker, "died"))

    def arrive(self) -> None:
        self.number += 1
        prompt = range(10, 10 + self.rng.choice([2, 40, 120]))
        self.tell(Arrived(request(f"r{self.number}", prompt, 10 * self.number, choices=self.rng.choice([1, 2]))))

    def report(self) -> None:
        if worker := self.any_worker():
            seen = max((submit.number for at, submit in self.live.values() if at == worker), default=0)
            waiting = self.rng.choice([0, 500])
            self.tell(said(worker, report(seen, running=self.rng.randrange(8), waiting_tokens=waiting)))

    def token(self) -> None:
        if self.live:
            handle = self.rng.choice(sorted(self.live))
            worker, _ = self.live.pop(handle)
            self.tell(said(worker, first(handle, 7) if self.rng.random() < 0.3 else last(handle, 7)))

    def state(self) -> None:
        if worker := self.any_worker():
            self.epochs[worker] += 1
            self.tell(said(worker, State(self.epochs[worker], self.any_role())))

    def flip(self) -> None:
        if worker := self.any_worker():
            self.tell(Flip(worker, self.any_role()))

    def abandon(self) -> None:
        self.tell(Abandoned(RequestId(f"r{self.rng.randrange(self.number + 1)}")))


def test_any_order_of_events_leaves_nothing_booked() -> None:
    remote = 0
    for seed in range(40):
        world = Disorder(seed)
        for _ in range(150):
            world.act()
        world.tell(Drain(cut=True))
        assert all(not peer.view.remote_prefills and not peer.view.bookings for peer in world.node._peers.values())
        remote += world.remote
    assert remote > 100
