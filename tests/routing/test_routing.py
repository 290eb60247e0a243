"""Views, costs and choices: small structs in, a choice with all its reasons out."""

import pytest
from fleets import COSTS, IDLE, card, fleet_of
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from jedlik.core.errors import Bug
from jedlik.core.ids import RequestId, WorkerId
from jedlik.core.protocol import Load, State
from jedlik.routing.admit import no_worker, retry_after_s, too_late, too_many
from jedlik.routing.choose import MAX_HOLDERS, MAX_IDLE, Policies, Selection, excluded
from jedlik.routing.choose import choose as choose_among
from jedlik.routing.cost import Dispatch, backlog_s, cost_seconds, cost_tokens, first_token_s, missing_tokens
from jedlik.routing.policies.named import make
from jedlik.routing.policy import Ask, Matches
from jedlik.routing.view import SEQUENCE_TOKENS, Booking, Fleet, WorkerView

TIMED = replace(IDLE, costs=COSTS)


def view_of(load: Load | None = TIMED) -> WorkerView:
    view = WorkerView(card("a"))
    if load is not None:
        view.report(load)
    return view


def ask(history: int = 200, output: int = 10, name: str = "r", avoid: tuple[WorkerId, ...] = ()) -> Ask:
    return Ask(
        request_id=RequestId(name), choice=0, model="m", history_tokens=history, output_tokens=output, avoid=avoid
    )


def choose(fleet: Fleet, ask: Ask, matches: Matches) -> Selection:
    """By the default policy."""
    return choose_among(fleet, ask, matches, Policies(make(), make()))


def chosen(choice: Selection) -> str | None:
    return choice.chosen.worker if choice.chosen else None


def matches(**tokens: int) -> Matches:
    return Matches(cached={WorkerId(f"{name}@1"): count for name, count in tokens.items()})


# --- view ---


def test_a_report_ends_what_it_includes_and_no_more() -> None:
    view = view_of(IDLE)
    numbers = [view.book(Booking(100 * i, 150 * i)) for i in (1, 2, 3)]
    assert numbers == [1, 2, 3]
    assert (view.sequences, view.backlog_tokens, view.context_tokens) == (3, 600, 900)
    view.report(replace(IDLE, last_submit=2, running=2, waiting_tokens=50, context_tokens=40))
    assert (view.sequences, view.backlog_tokens, view.context_tokens) == (3, 350, 490)
    view.unbook(1)
    view.unbook(3)
    assert (view.sequences, view.backlog_tokens) == (2, 50)
    view.check()


def test_workers_are_kept_in_order_of_backlog() -> None:
    fleet = fleet_of(a=IDLE, b=replace(IDLE, waiting_tokens=10), c=replace(IDLE, running=1))
    assert [view.card.name for view in fleet.least_loaded("m")] == ["a", "b", "c"]
    first = fleet.get(WorkerId("a@1"))
    assert first is not None
    first.book(Booking(1000, 1000))
    fleet.rerank(first)
    assert [view.card.name for view in fleet.least_loaded("m")] == ["b", "c", "a"]
    fleet.remove(WorkerId("b@1"))
    assert [view.card.name for view in fleet.least_loaded("m")] == ["c", "a"]
    assert list(fleet.least_loaded("other")) == []
    fleet.check()
    with pytest.raises(Bug, match="in the fleet already"):
        fleet.add(card("a"))


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3), st.integers(0, 500)), max_size=60))
def test_sums_and_ranks_follow_whatever_happens(steps: list[tuple[int, int, int]]) -> None:
    fleet = fleet_of(a=IDLE, b=IDLE, c=None, d=None, e=IDLE)
    views = list(fleet)
    for which, action, amount in steps:
        view = views[which]
        if action == 0:
            view.book(Booking(amount, amount))
        elif action == 1:
            view.unbook(amount % (view.submits + 1))
        else:
            view.report(replace(IDLE, waiting_tokens=amount, last_submit=amount % (view.submits + 1)))
        fleet.rerank(view)
        fleet.check()


# --- cost ---


def test_cost_in_seconds_is_the_documented_sum() -> None:
    view = view_of(replace(TIMED, running=2, waiting=1, waiting_tokens=150, context_tokens=1000))
    parts = cost_seconds(view, Dispatch(history_tokens=300, output_tokens=10, cached_tokens=160), COSTS)
    own = 2 * 0.01 + 140 * 0.001 + (140 * 160 + 140 * 141 / 2) * 1e-6
    assert parts["prefill"] == pytest.approx(own)
    assert parts["wait"] == pytest.approx(2 * 0.01 + 150 * 0.001 + 150 * 151 / 2 * 1e-6)
    assert parts["stall"] == pytest.approx(3 * own)
    assert parts["slowdown"] == pytest.approx(10 * (3 * 0.002 + 1000e-6 + 4 * (0.002 + 300e-6)))
    assert parts["memory"] == 0.0


def test_a_full_batch_makes_one_wait_for_a_place() -> None:
    demand = Dispatch(history_tokens=300, output_tokens=10, cached_tokens=0)
    full, free = view_of(replace(TIMED, running=8)), view_of(replace(TIMED, running=7))
    assert cost_seconds(full, demand, COSTS)["wait"] > cost_seconds(free, demand, COSTS)["wait"] == 0.0
    assert cost_tokens(full, demand)["wait"] > cost_tokens(free, demand)["wait"] == 0.0


def test_what_does_not_fit_into_memory_costs() -> None:
    view = view_of(replace(TIMED, held_blocks=90))
    assert missing_tokens(view, Dispatch(history_tokens=300, output_tokens=10, cached_tokens=0)) == 140
    assert missing_tokens(view, Dispatch(history_tokens=300, output_tokens=10, cached_tokens=160)) == 0
    assert missing_tokens(view_of(None), Dispatch(history_tokens=300, output_tokens=10, cached_tokens=0)) == 0
    assert cost_tokens(view, Dispatch(history_tokens=300, output_tokens=10, cached_tokens=0))["memory"] == 140


def test_cost_without_a_profile_is_in_tokens() -> None:
    view = view_of(replace(IDLE, running=2, waiting_tokens=50))
    view.book(Booking(30, 30))
    parts = cost_tokens(view, Dispatch(history_tokens=100, output_tokens=10, cached_tokens=64))
    assert parts == {"wait": 80.0, "prefill": 36.0, "batch": 3.0 * SEQUENCE_TOKENS, "memory": 0.0}
    assert Dispatch(history_tokens=64, output_tokens=10, cached_tokens=64).uncached_tokens == 1


def test_a_correction_multiplies_wait_and_prefill_only() -> None:
    view = view_of(replace(TIMED, running=2, waiting=1, waiting_tokens=150, context_tokens=1000))
    demand = Dispatch(history_tokens=300, output_tokens=10, cached_tokens=160)
    before, alone = cost_seconds(view, demand, COSTS), first_token_s(view, demand, COSTS)
    view.correct(3.0)
    after = cost_seconds(view, demand, COSTS)
    assert after == before | {name: 3 * before[name] for name in ("wait", "prefill")}
    assert first_token_s(view, demand, COSTS) == alone == before["wait"] + before["prefill"]


def test_several_prompts_wait_for_less_than_one_long_one() -> None:
    one, many = (replace(TIMED, waiting=n, waiting_tokens=4000) for n in (1, 40))
    assert backlog_s(view_of(one), COSTS) > backlog_s(view_of(many), COSTS)
    assert backlog_s(view_of(one), COSTS, shared_tokens=4000) == 0.0


# --- choose ---


def test_a_cached_prefix_wins_until_its_worker_is_too_busy() -> None:
    fleet = fleet_of(a=TIMED, b=TIMED)
    assert chosen(choose(fleet, ask(2000), matches(b=1600))) == "b@1"
    busy = fleet_of(a=TIMED, b=replace(TIMED, running=2, waiting=4, waiting_tokens=8000))
    assert chosen(choose(busy, ask(2000), matches(b=1600))) == "a@1"


def test_every_candidate_is_reported_with_its_parts_or_its_exclusion() -> None:
    fleet = fleet_of(a=TIMED, b=TIMED, c=TIMED, d=TIMED, e=TIMED)
    a, b, c, d, _ = fleet
    a.suspect = "suspect: silent for 2.0 s"
    b.state = State(1, draining=True)
    c.state = State(1, role="prefill")
    choice = choose(fleet, ask(avoid=(d.card.worker,)), matches(b=64))
    assert {x.worker: x.excluded for x in choice.candidates} == {
        "a@1": "suspect: silent for 2.0 s",
        "b@1": "draining",
        "c@1": "prefill only",
        "d@1": "failed this request before",
        "e@1": None,
    }
    [able] = [x for x in choice.candidates if x.excluded is None]
    assert able.cost_s == sum(able.parts.values()) > 0
    assert choice.unit == "s"
    assert chosen(choose(fleet, ask(5000), matches())) is None


def test_one_unknown_profile_makes_all_relative() -> None:
    assert choose(fleet_of(a=TIMED, b=IDLE), ask(), matches()).unit == "tokens"
    assert choose(fleet_of(a=TIMED, b=None), ask(), matches()).unit == "tokens"


def test_ties_are_spread_by_turn_and_repeat_for_the_same_one() -> None:
    fleet = fleet_of(a=IDLE, b=IDLE, c=IDLE, d=IDLE)
    picks = [chosen(choose(fleet, replace(ask(), turn=i), matches())) for i in range(400)]
    assert picks == [chosen(choose(fleet, replace(ask(), turn=i), matches())) for i in range(400)]
    assert all(95 <= picks.count(f"{name}@1") <= 105 for name in "abcd")


def test_choosing_looks_at_a_bounded_number_of_workers() -> None:
    fleet = Fleet()
    for number in range(300):
        fleet.add(card(f"w{number:03}"))
    everywhere = Matches(cached={view.card.worker: 16 for view in fleet})
    assert len(choose(fleet, ask(), everywhere).candidates) == MAX_HOLDERS + MAX_IDLE


def test_a_holder_among_many_is_found() -> None:
    fleet = Fleet()
    for number in range(300):
        fleet.add(card(f"w{number:03}"))
    assert chosen(choose(fleet, ask(), matches(w277=160))) == "w277@1"


# --- admit ---


def test_too_many_in_flight_are_refused_with_a_time_to_retry() -> None:
    fleet = fleet_of(a=replace(TIMED, waiting=1, waiting_tokens=4000))
    assert too_many(7, 1, 8, fleet) is None
    fault = too_many(7, 2, 8, fleet)
    assert fault is not None
    assert fault.kind == "overloaded"
    assert fault.retry_after_s == pytest.approx(backlog_s(next(iter(fleet)), COSTS))
    assert retry_after_s(fleet_of(a=TIMED)) == 1.0
    assert retry_after_s(fleet_of(a=replace(TIMED, waiting=9, waiting_tokens=10**6))) == 30.0


def test_a_deadline_is_refused_only_where_it_is_known_to_be_missed() -> None:
    assert too_late(1.0, None) is None
    assert too_late(1.0, 1.0) is None
    assert too_late(None, 0.1) is None
    fault = too_late(1.0, 0.1)
    assert fault is not None
    assert (fault.kind, fault.retry_after_s) == ("overloaded", 1.0)
    passed = too_late(None, 0.0)
    assert passed is not None
    assert passed.kind == "timeout"


def test_no_worker_says_what_happened() -> None:
    fault = no_worker("m", 10.0, "the worker was lost: it died")
    assert fault.kind == "unavailable"
    assert fault.retry_after_s is not None
    assert "10.0 s" in fault.message
    assert "it died" in fault.message


def test_a_prompt_that_is_only_scored_needs_no_room_for_an_answer() -> None:
    length = card("a").max_model_len
    assert excluded(view_of(), ask(history=length, output=0)) is None
    assert excluded(view_of(), ask(history=length, output=1)) is not None
    assert excluded(view_of(), ask(history=length + 1, output=0)) is not None
