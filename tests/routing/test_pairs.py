"""Where prompts are prefilled: situations computed by hand. Steps of 10 ms, 1 ms a prefilled token, 2 ms a sequence."""

from typing import Any

import pytest
from fleets import BLOCK, COSTS, IDLE, ask, card
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from jedlik.core.config import Role
from jedlik.core.ids import Handle, WorkerId
from jedlik.core.moves import PathCosts
from jedlik.core.protocol import Layout, Load, State, StepCosts
from jedlik.perf.step import prefill_s
from jedlik.routing.choose import Policies, Selection, choose
from jedlik.routing.estimates import OutputLengths
from jedlik.routing.pairs import HANDOFF_S, between, first_token_s, handoff_kind, paired, refusal
from jedlik.routing.policies.named import POLICIES, make
from jedlik.routing.policy import Ask, Matches, Offer, Wait
from jedlik.routing.slo import prospect
from jedlik.routing.view import INCLUDED_S, Booking, Fleet, WorkerView

FLAT = StepCosts(base_s=0.01, prefill_token_s=0.001, prefill_pair_s=0.0, decode_sequence_s=0.002, context_token_s=0.0)
BYTES = card("x").layout.block_bytes
SHM, TCP = PathCosts("shm", 0.001, 0.0), PathCosts("tcp", 0.002, 0.0)
FREE = replace(IDLE, costs=FLAT, paths=(SHM, TCP))


def joined(fleet: Fleet, name: str, role: Role, load: Load | None = FREE, **changes: object) -> WorkerView:
    """A worker that takes part in hand-offs, in this role."""
    shape = {"handoffs": ("slots",), "host": "h", **changes}
    view = fleet.add(replace(card(name), **shape))
    fleet.assume(view, State(0, role))
    if load is not None:
        view.report(load)
        fleet.rerank(view)
    return view


def split(decoding: Load | None = FREE, prefilling: Load | None = FREE, role: Role = "decode") -> Fleet:
    """One that decodes, "d", and one that prefills, "p"."""
    fleet = Fleet()
    joined(fleet, "d", role, decoding)
    joined(fleet, "p", "prefill", prefilling)
    return fleet


def matches(**tokens: int) -> Matches:
    return Matches(cached={WorkerId(f"{name}@1"): count for name, count in tokens.items()})


def offered(fleet: Fleet, what: Ask | None = None, have: Matches | None = None) -> Offer:
    """The first worker that decodes, with its best place."""
    what, have = what or ask(), have or matches()
    view = next(fleet.least_loaded("m"))
    offer = Offer(
        view=view, cached_tokens=have.cached.get(view.card.worker, 0), tiers=have.tiers.get(view.card.worker, ())
    )
    fleet.check()
    return paired([offer], fleet, what, have)[0]


def decided(fleet: Fleet, what: Ask | None = None, have: Matches | None = None, policy: str = "jedlik") -> Selection:
    return choose(fleet, what or ask(), have or matches(), Policies(make(policy), make()))


# --- who can be paired ---


def test_a_pair_needs_the_same_revision_and_layout_and_the_same_kind_of_hand_off() -> None:
    d, p = (replace(card(name), handoffs=("slots",)) for name in "dp")
    assert refusal(d, p) is None
    assert refusal(d, replace(p, revision="r2")) == "d@1 has another revision of the model"
    assert (
        refusal(d, replace(p, layout=Layout(dtype="bfloat16", layers=1, kv_heads=1, head_dim=8, block_size=BLOCK)))
        == "d@1 has blocks of another layout"
    )
    assert (
        refusal(d, replace(p, handoffs=("nixl",))) == "d@1 and p@1 have no kind of hand-off in common (slots and nixl)"
    )
    assert refusal(d, replace(p, handoffs=())) == "p@1 takes part in no hand-off of blocks"
    assert refusal(card("d"), p) == "d@1 takes part in no hand-off of blocks"


KINDS = st.lists(st.sampled_from(("slots", "pull-by-url", "connector")), unique=True).map(tuple)


@given(decodes=KINDS, prefills=KINDS)
def test_the_kind_of_hand_off_is_the_first_of_the_decoding_worker_that_both_have(
    decodes: tuple[str, ...], prefills: tuple[str, ...]
) -> None:
    d, p = replace(card("d"), handoffs=decodes), replace(card("p"), handoffs=prefills)
    kind = handoff_kind(d, p)
    assert (kind is None) == (not set(decodes) & set(prefills))
    assert (kind is None) == (refusal(d, p) is not None)
    if kind is not None:
        assert kind in prefills
        assert not set(decodes[: decodes.index(kind)]) & set(prefills)


def test_a_pair_is_made_by_a_kind_that_both_have() -> None:
    fleet = Fleet()
    joined(fleet, "d", "decode", replace(FREE, running=6, context_tokens=600), handoffs=("connector", "pull-by-url"))
    joined(fleet, "p", "prefill", handoffs=("slots", "pull-by-url"))
    pair = offered(fleet).pair
    assert pair is not None
    assert (pair.worker, pair.kind) == ("p@1", "pull-by-url")


def test_workers_without_a_kind_in_common_are_never_paired() -> None:
    fleet = Fleet()
    joined(fleet, "d", "decode", handoffs=("connector",))
    joined(fleet, "p", "prefill", handoffs=("slots",))
    assert offered(fleet).pair is None
    choice = decided(fleet)
    (excluded,) = [c.excluded for c in choice.candidates if c.excluded]
    assert "no kind of hand-off in common (connector and slots)" in excluded


@pytest.mark.parametrize(
    "changes",
    [
        {"revision": "r2"},
        {"handoffs": ()},
        {"layout": Layout(dtype="bfloat16", layers=1, kv_heads=1, head_dim=8, block_size=BLOCK)},
        {"model": "n"},
    ],
)
def test_who_does_not_fit_is_not_asked(changes: dict[str, Any]) -> None:
    fleet = Fleet()
    joined(fleet, "d", "decode", replace(FREE, running=6, context_tokens=600))
    joined(fleet, "p", "prefill", **changes)
    assert offered(fleet).pair is None


def test_nor_who_is_suspect_leaving_avoided_or_short() -> None:
    busy = replace(FREE, running=6, context_tokens=600)
    for name, value in (
        ("suspect", "suspect: silent"),
        ("state", State(1, "prefill", True)),
        ("card", replace(card("p"), handoffs=("slots",), max_model_len=199)),
    ):
        fleet = split(busy)
        setattr(fleet.get(WorkerId("p@1")), name, value)
        assert offered(fleet).pair is None
    assert offered(split(busy), replace(ask(), avoid=("p@1",))).pair is None
    assert offered(split(busy), replace(ask(), alone=True)).pair is None
    assert offered(split(busy), ask(1)).pair is None
    assert offered(split(busy)).pair is not None


# --- what it costs ---


def test_the_terms_of_a_remote_prefill_are_the_documented_ones() -> None:
    fleet = split(replace(FREE, running=4, context_tokens=400), replace(FREE, waiting=1, waiting_tokens=50))
    offer = offered(fleet, have=matches(d=32, p=16))
    pair, terms = offer.pair, offer.terms
    assert pair is not None
    assert terms is not None
    assert (pair.worker, pair.compute, pair.supplied_tokens, pair.computed_tokens) == ("p@1", True, 199, 183)
    wait, own = 0.01 + 0.05, 2 * 0.01 + 183 * 0.001
    assert terms["remote_wait"] == pytest.approx(wait)
    assert terms["remote_prefill"] == pytest.approx(own)
    assert terms["transfer"] == pytest.approx(6 * 0.001)  # 83 tokens in the last chunk, in 6 blocks
    assert terms["handoff"] == HANDOFF_S
    assert terms["wait"] == 0.0
    last = 0.01 + 0.001
    assert terms["prefill"] == pytest.approx(last)
    assert terms["stall"] == pytest.approx(4 * last)
    assert pair.expected_s == pytest.approx(wait + own + 0.006 + HANDOFF_S)
    assert first_token_s(terms) == pytest.approx(pair.expected_s + last)
    assert offer.instead is not None
    assert offer.instead.worker is None
    assert offer.instead.parts["prefill"] == pytest.approx(0.02 + 0.168)
    assert sum(offer.instead.parts.values()) > sum(terms.values())


def test_what_decoding_and_memory_cost_is_the_same_wherever_it_is_prefilled() -> None:
    offer = offered(split(replace(FREE, running=6, context_tokens=400, held_blocks=95)), replace(ask(), reuse=0.5))
    assert offer.terms is not None
    assert offer.instead is not None
    assert offer.terms["memory"] > 0
    for name in ("slowdown", "memory", "evicted"):
        assert offer.terms[name] == offer.instead.parts[name]


def test_a_transfer_slower_than_the_prefill_is_what_one_waits_for() -> None:
    slow = replace(FREE, running=6, paths=(PathCosts("shm", 0.05, 0.0),))
    offer = offered(split(slow, replace(FREE, paths=())))
    assert offer.terms is not None
    assert offer.terms["transfer"] == pytest.approx(13 * 0.05 - (0.02 + 0.199))  # 199 tokens in 13 blocks


def test_bytes_count() -> None:
    offer = offered(split(replace(FREE, running=6), replace(FREE, paths=(PathCosts("shm", 0.0, 0.001 / BYTES),))))
    assert offer.terms is not None
    assert offer.terms["transfer"] == pytest.approx(7 * 0.001)  # the last chunk: 99 tokens in 7 blocks


def test_an_idle_decode_worker_prefills_itself_and_a_busy_one_does_not() -> None:
    assert offered(split()).pair is None
    assert offered(split()).instead is not None
    assert offered(split(replace(FREE, running=4, context_tokens=400))).pair is not None
    queued = replace(FREE, waiting=3, waiting_tokens=3000)
    assert offered(split(replace(FREE, running=4), queued)).pair is None
    assert offered(split(replace(FREE, running=4)), have=matches(d=192)).pair is None  # hardly anything is lacking


def test_a_backlog_at_the_decode_worker_passes_meanwhile() -> None:
    offer = offered(split(replace(FREE, waiting=1, waiting_tokens=600)))
    assert offer.terms is not None
    remote = sum(offer.terms[name] for name in ("remote_wait", "remote_prefill", "transfer", "handoff"))
    assert offer.terms["wait"] == pytest.approx(0.06 + 0.6 - remote)


def test_corrections_are_of_whose_step_model_it_is() -> None:
    fleet = split(replace(FREE, running=6))
    before = offered(fleet)
    for name, correction in (("d", 2.0), ("p", 1.5)):
        view = fleet.get(WorkerId(f"{name}@1"))
        assert view is not None
        view.correct(correction)
    after = offered(fleet)
    assert before.terms is not None
    assert after.terms is not None
    assert after.terms["prefill"] == pytest.approx(2 * before.terms["prefill"])
    assert after.terms["remote_prefill"] == pytest.approx(1.5 * before.terms["remote_prefill"])


# --- who prefills ---


def test_the_prefiller_with_the_prefix_or_with_the_shorter_queue() -> None:
    fleet = Fleet()
    joined(fleet, "d", "decode", replace(FREE, running=6))
    joined(fleet, "p", "prefill", replace(FREE, waiting=1, waiting_tokens=30))
    joined(fleet, "q", "prefill", replace(FREE, waiting=1, waiting_tokens=60))
    assert (pair := offered(fleet).pair) is not None
    assert pair.worker == "p@1"
    assert (pair := offered(fleet, have=matches(q=160)).pair) is not None
    assert pair.worker == "q@1"


def test_a_holder_behind_many_idle_ones_is_asked() -> None:
    fleet = Fleet()
    joined(fleet, "d", "decode", replace(FREE, running=6))
    for number in range(9):
        joined(fleet, f"p{number}", "prefill", replace(FREE, waiting=1, waiting_tokens=number))
    assert (pair := offered(fleet, have=matches(p8=160)).pair) is not None
    assert (pair.worker, pair.compute) == ("p8@1", True)


def test_who_does_both_prefills_for_decode_workers_where_nobody_else_does_and_its_batch_bears_it() -> None:
    fleet = Fleet()
    joined(fleet, "d", "decode", replace(FREE, running=7, context_tokens=700))
    both = joined(fleet, "b", "both", replace(FREE, running=1, waiting=3, waiting_tokens=90))
    what = replace(ask(), reuse=0.5)
    decode = [
        o
        for o in paired([Offer(view=v, cached_tokens=0) for v in fleet.least_loaded("m")], fleet, what, matches())
        if o.pair
    ]
    [offer] = decode
    assert offer.worker == "d@1"
    assert offer.terms is not None
    assert offer.instead is not None
    own = 0.02 + 0.199
    assert offer.terms["remote_stall"] == pytest.approx(4 * own)
    assert offer.terms["evicted"] == pytest.approx(offer.instead.parts["evicted"] + 0.5 * own)
    joined(fleet, "p", "prefill")
    offer = next(
        o
        for o in paired([Offer(view=v, cached_tokens=0) for v in fleet.least_loaded("m")], fleet, what, matches())
        if o.pair
    )
    assert offer.pair is not None
    assert (offer.pair.worker, "remote_stall" in (offer.terms or {})) == ("p@1", False)
    assert both.state.role == "both"


def test_a_prefix_that_another_worker_has_is_pulled_where_that_is_quicker() -> None:
    fleet = Fleet()
    joined(fleet, "a", "both", replace(FREE, running=1))
    joined(fleet, "b", "both", replace(FREE, running=2))
    offer = offered(fleet, have=matches(b=160))
    pair, terms = offer.pair, offer.terms
    assert pair is not None
    assert terms is not None
    assert (pair.worker, pair.compute, pair.supplied_tokens, pair.computed_tokens) == ("b@1", False, 160, 0)
    assert terms["transfer"] == pytest.approx(10 * 0.001)
    assert (terms["remote_prefill"], terms["remote_wait"]) == (0.0, 0.0)
    assert terms["prefill"] == pytest.approx(0.01 + 0.04)
    for other in (matches(a=160, b=160), matches()):
        assert offered(fleet, have=other).pair is None
    shared = Matches(cached={WorkerId("b@1"): 160}, shared={WorkerId("b@1"): 160})  # still to be computed there
    assert offered(fleet, have=shared).pair is None


# --- what is not known ---


@pytest.mark.parametrize("unknown", ["steps here", "steps there", "path"])
@pytest.mark.parametrize("role", ["decode", "both"])
def test_where_nothing_can_be_compared_the_role_decides(unknown: str, role: Role) -> None:
    pathless, stepless = replace(FREE, paths=()), replace(FREE, costs=None)
    loads = {"steps here": (stepless, FREE), "steps there": (FREE, stepless), "path": (pathless, pathless)}
    pair = offered(split(*loads[unknown], role=role)).pair
    assert (pair is not None) == (role == "decode")
    assert pair is None or (pair.worker, pair.compute, pair.expected_s) == ("p@1", True, 0.0)


def test_known_places_come_before_unknown_ones() -> None:
    fleet = Fleet()
    joined(fleet, "d", "decode", replace(FREE, running=6))
    joined(fleet, "p", "prefill", None)
    joined(fleet, "q", "prefill", replace(FREE, waiting=1, waiting_tokens=60))
    assert (pair := offered(fleet, have=matches(p=160)).pair) is not None
    assert pair.worker == "q@1"


def test_paths_by_host_and_by_whether_they_work() -> None:
    fleet = split()
    d, p = (fleet.get(WorkerId(f"{name}@1")) for name in "dp")
    assert d is not None
    assert p is not None
    assert between(p, d) == SHM
    d.card = replace(d.card, host="")
    assert between(p, d) == TCP  # nothing is known of its host
    p.report(replace(FREE, paths=(TCP, PathCosts("nixl", 0.0001, 0.0))))
    assert between(p, d) == PathCosts("nixl", 0.0001, 0.0)
    p.report(replace(FREE, paths=(TCP, PathCosts("nixl", 0.0001, 0.0, False))))
    assert between(p, d) == TCP
    p.report(replace(FREE, paths=(replace(TCP, open=False),)))
    assert between(p, d) == "the path to it (tcp) failed recently"
    assert offered(fleet).pair is None
    p.report(replace(FREE, paths=()))
    assert between(p, d) == TCP  # by the other's word
    d.report(replace(FREE, paths=()))
    assert between(p, d) is None


# --- at a choice ---


def test_every_policy_gets_the_same_pair_for_the_worker_it_picks() -> None:
    fleet = split(replace(FREE, running=6))
    for name in POLICIES:
        choice = decided(fleet, policy=name)
        assert choice.chosen is not None
        assert choice.offer is not None
        assert choice.offer.pair is not None
        assert (choice.chosen.worker, choice.chosen.remote, choice.chosen.compute) == ("d@1", "p@1", True), name


def test_so_does_one_that_is_offered_more_workers_than_are_compared() -> None:
    fleet = Fleet()
    for number in range(40):
        joined(fleet, f"d{number}", "decode", replace(FREE, running=6))
    joined(fleet, "p", "prefill")
    choice = decided(fleet, policy="round_robin")
    assert choice.chosen is not None
    assert choice.chosen.remote == "p@1"
    assert any(seen is choice.chosen for seen in choice.candidates)


def test_the_default_charges_a_worker_for_its_best_place_and_says_what_it_compared() -> None:
    fleet = split(replace(FREE, running=6))
    choice = decided(fleet)
    assert choice.chosen is not None
    assert choice.offer is not None
    assert choice.chosen.parts == choice.offer.terms
    assert choice.chosen.cost_s == sum(choice.chosen.parts.values())
    assert choice.chosen.instead is not None
    assert choice.chosen.instead.worker is None
    assert choice.first_token_s is None  # two models share in it
    assert {c.worker: c.excluded for c in choice.candidates} == {"d@1": None, "p@1": "prefill only"}


def test_why_a_prefiller_fits_nobody_is_told() -> None:
    fleet = split(replace(FREE, running=6))
    joined(fleet, "q", "prefill", revision="r2")
    told = {c.worker: c.excluded for c in decided(fleet).candidates}
    assert told[WorkerId("q@1")] == "prefill only, and for nobody here: d@1 has another revision of the model"


def test_prefill_workers_serve_requests_only_while_nobody_decodes() -> None:
    fleet = split()
    d = fleet.get(WorkerId("d@1"))
    assert d is not None
    assert (choice := decided(fleet)).chosen is not None
    assert choice.chosen.worker == "d@1"
    d.suspect = "suspect: silent"
    choice = decided(fleet)
    assert choice.chosen is not None
    assert (choice.chosen.worker, choice.chosen.remote) == ("p@1", None)


def test_a_promise_looks_at_the_first_token_of_the_pair_and_at_the_harm_where_it_is_prefilled() -> None:
    lengths = OutputLengths()
    for _ in range(3000):
        lengths.observe(5)
    what = replace(ask(), ttft_s=2.0, itl_s=0.05, lengths=lengths)
    fleet = Fleet()
    joined(fleet, "d", "decode", replace(FREE, running=6, context_tokens=600))
    alone = decided(fleet, what)
    assert isinstance(alone.deferred, Wait)  # its prefill would spoil the pace of six
    joined(fleet, "p", "prefill", replace(FREE, waiting=1, waiting_tokens=30))
    choice = decided(fleet, what)
    assert choice.chosen is not None
    assert choice.chosen.remote == "p@1"
    late = decided(fleet, replace(what, ttft_s=0.26, shed=True))  # the pair takes 0.28 s
    assert late.chosen is None


@pytest.mark.parametrize(("role", "harm"), [("prefill", 0.0), ("both", 5.0)])
def test_a_remote_prefill_harms_who_decodes_where_it_is_computed(role: Role, harm: float) -> None:
    lengths = OutputLengths()
    for _ in range(3000):
        lengths.observe(5)
    fleet = Fleet()
    joined(fleet, "d", "decode", replace(FREE, running=7, context_tokens=700))
    joined(fleet, "p", role, replace(FREE, running=5, context_tokens=500))
    what = replace(ask(), itl_s=0.05, lengths=lengths)
    offers = paired([Offer(view=view, cached_tokens=0) for view in fleet.least_loaded("m")], fleet, what, matches())
    [offer] = [offer for offer in offers if offer.worker == "d@1"]
    assert offer.pair is not None
    assert offer.terms is not None
    found = prospect(offer, FLAT, offer.terms, what)
    assert found.first_token_s == pytest.approx(first_token_s(offer.terms))
    assert found.harm == pytest.approx(harm, abs=0.3)


# --- tiers ---


def test_a_tier_is_charged_for_what_it_holds_beyond_the_device() -> None:
    fleet = Fleet()
    host = PathCosts("host", 0.001, 0.0)
    view = joined(fleet, "a", "both", replace(FREE, paths=(host,)))
    have = Matches(cached={view.card.worker: 32}, tiers={view.card.worker: (("host", 160),)})
    choice = decided(fleet, have=have)
    assert choice.chosen is not None
    assert choice.chosen.parts["fetch"] == pytest.approx(8 * 0.001)
    assert choice.chosen.parts["prefill"] == pytest.approx(0.01 + 0.04)
    assert (choice.chosen.cached_tokens, choice.chosen.tier_tokens) == (32, 128)
    assert choice.first_token_s == pytest.approx(0.008 + 0.05)


@pytest.mark.parametrize("paths", [(), (PathCosts("host", 1.0, 0.0),), (PathCosts("host", 0.001, 0.0, False),)])
def test_what_is_unknown_slow_or_broken_is_computed(paths: tuple[PathCosts, ...]) -> None:
    fleet = Fleet()
    view = joined(fleet, "a", "both", replace(FREE, paths=paths))
    have = Matches(cached={view.card.worker: 32}, tiers={view.card.worker: (("host", 160),)})
    choice = decided(fleet, have=have)
    assert choice.chosen is not None
    assert choice.chosen.parts["fetch"] == 0.0
    assert choice.chosen.parts["prefill"] == pytest.approx(prefill_s(FLAT, 168, 32, 100))


def test_each_tier_is_asked_for_what_nearer_ones_lack_as_far_as_that_pays() -> None:
    fleet = Fleet()
    paths = (PathCosts("host", 0.001, 0.0), PathCosts("disk", 0.004, 0.0), PathCosts("object", 0.1, 0.0))
    view = joined(fleet, "a", "both", replace(FREE, paths=paths))
    tiers = (("host", 64), ("disk", 128), ("object", 192))
    choice = decided(fleet, have=Matches(cached={view.card.worker: 0}, tiers={view.card.worker: tiers}))
    assert choice.chosen is not None
    assert choice.chosen.parts["fetch"] == pytest.approx(4 * 0.001 + 4 * 0.004)
    assert choice.chosen.parts["prefill"] == pytest.approx(0.01 + 0.072)


def test_a_worker_that_holds_a_prompt_in_a_tier_is_found_among_many() -> None:
    fleet = Fleet()
    for number in range(100):
        joined(fleet, f"w{number}", "both", replace(FREE, paths=(PathCosts("host", 0.0001, 0.0),)))
    worker = WorkerId("w77@1")
    choice = decided(fleet, have=Matches(cached={worker: 0}, tiers={worker: (("host", 192),)}))
    assert choice.chosen is not None
    assert choice.chosen.worker == worker


# --- what is booked ---


def test_an_errand_ends_with_a_report_that_came_well_after_it() -> None:
    view = WorkerView(card("p"))
    view.book_remote_prefill(Handle(1), Booking(150, 0, 49), 3.0)
    view.report(FREE, 3.0 + INCLUDED_S / 2)
    assert view.backlog_tokens == 150
    view.book_remote_prefill(Handle(2), Booking(10, 0, 0), 3.0 + INCLUDED_S)
    view.report(replace(FREE, waiting=1, waiting_tokens=150), 3.0 + INCLUDED_S)
    assert (view.backlog_tokens, list(view.remote_prefills)) == (160, [Handle(2)])
    view.report(FREE, 3.0 + 2 * INCLUDED_S)
    assert view.remote_prefills == {}


def test_an_errand_ends_with_the_second_report_or_when_it_is_done() -> None:
    view = WorkerView(card("p"))
    view.report(FREE)
    view.book_remote_prefill(Handle(1), Booking(150, 0, 49), 0.0)
    view.book_remote_prefill(Handle(2), Booking(10, 0, 0), 0.0)
    assert (view.backlog_tokens, view.backlog_pairs, view.sequences, view.context_tokens) == (160, 18730, 2, 0)
    view.release_remote_prefill(Handle(2))
    view.release_remote_prefill(Handle(2))
    view.report(FREE)
    assert view.backlog_tokens == 150  # this report may have been on its way already
    view.report(replace(FREE, waiting=1, waiting_tokens=150, waiting_pairs=9))
    assert (view.backlog_tokens, view.sequences, view.remote_prefills) == (150, 1, {})
    view.check()


def test_roles_say_where_a_worker_is_ranked() -> None:
    fleet = split()
    d, p = (fleet.get(WorkerId(f"{name}@1")) for name in "dp")
    assert d is not None
    assert p is not None
    fleet.assume(d, State(1, "prefill"))
    assert (list(fleet.least_loaded("m")), list(fleet.prefillers("m"))) == ([], [d, p])
    fleet.assume(p, State(1, "both"))
    assert (list(fleet.least_loaded("m")), list(fleet.prefillers("m"))) == ([p], [d])
    fleet.check()
    fleet.remove(d.card.worker)
    assert not fleet.split("m")
    assert fleet.movers("m") == 1
    fleet.check()


def test_arriving_sequences_count_as_running_ones_without_prefill() -> None:
    one = replace(IDLE, costs=COSTS, waiting=3, arriving=2, waiting_tokens=100)
    view = WorkerView(card("a"))
    view.report(one)
    alone = WorkerView(card("b"))
    alone.report(replace(one, waiting=1, arriving=0))
    assert view.backlog_pairs == alone.backlog_pairs
    assert view.sequences == alone.sequences + 2
