"""Who is offered to a policy, what becomes of one that fails, and the shadow that changes nothing."""

from collections.abc import Sequence

import pytest
from fleets import COSTS, IDLE, ask, card, fleet_of, load
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from jedlik.core.facts import Candidate
from jedlik.core.ids import WorkerId
from jedlik.core.protocol import Load
from jedlik.routing.choose import MAX_OFFERS, Policies, choose
from jedlik.routing.cost import Dispatch, first_token_s
from jedlik.routing.policies.named import POLICIES, make
from jedlik.routing.policies.plugged import Plugged
from jedlik.routing.policy import Ask, Matches, Offer, Refuse, Scored, Wait
from jedlik.routing.view import Fleet

TIMED = replace(IDLE, costs=COSTS)


class Broken(Scored):
    """Wrong in a way of one's choice."""

    name = "broken"

    def __init__(self, how: str) -> None:
        self._how = how

    def filter(self, offers: Sequence[Offer], ask: Ask) -> Sequence[Offer]:
        if self._how == "filter nobody":
            return []
        if self._how == "filter a stranger":
            return [Offer(view=offers[0].view, cached_tokens=0)]
        return offers

    def score(self, offers: Sequence[Offer], ask: Ask) -> list[dict[str, float]]:
        if self._how == "score raises":
            raise KeyError("no such thing")
        if self._how == "score too few":
            return []
        if self._how == "score no dicts":
            return [1.0 for _ in offers]  # type: ignore[misc]
        return [{"x": float("nan") if self._how == "score not a number" else 1.0} for _ in offers]

    def pick(self, scored: Sequence[Candidate], ask: Ask) -> Candidate:
        return replace(scored[0]) if self._how == "pick a copy" else scored[0]


HOWS = {
    "filter nobody": "filter returned no worker",
    "filter a stranger": "not offered",
    "score raises": "KeyError: 'no such thing'",
    "score too few": "0 costs for 2 workers",
    "score no dicts": "float where a dict of terms belongs",
    "score not a number": "no finite number",
    "pick a copy": "not scored",
}


@pytest.mark.parametrize("how", HOWS)
def test_a_policy_that_fails_is_replaced_for_that_request_and_the_choice_says_why(how: str) -> None:
    fleet = fleet_of(a=TIMED, b=load(requests=5, queued=500))
    choice = choose(fleet, ask(), Matches(cached={}), Policies(Plugged(Broken(how)), make()))
    plain = choose(fleet, ask(), Matches(cached={}), Policies(make(), make()))
    assert choice == replace(plain, failure=choice.failure)
    assert (choice.policy, plain.failure) == ("jedlik", "")
    assert choice.failure.startswith("policy broken failed: ")
    assert HOWS[how] in choice.failure


@pytest.mark.parametrize("how", HOWS)
def test_a_shadow_that_fails_is_only_a_note(how: str) -> None:
    fleet = fleet_of(a=TIMED, b=TIMED)
    choice = choose(fleet, ask(), Matches(cached={}), Policies(make(), make(), Plugged(Broken(how))))
    assert (choice.policy, choice.failure) == ("jedlik", "")
    assert choice.shadow is not None
    assert choice.shadow.chosen is None
    assert HOWS[how] in choice.shadow.failure


def test_a_sound_policy_of_a_users_own_is_followed() -> None:
    choice = choose(
        fleet_of(a=TIMED, b=TIMED), ask(), Matches(cached={}), Policies(Plugged(Broken("not at all")), make())
    )
    assert (choice.policy, choice.failure, choice.unit) == ("broken", "", "s")
    assert [c.parts for c in choice.candidates] == [{"x": 1.0}, {"x": 1.0}]


def test_the_prediction_is_the_step_models_whatever_the_policy_counts() -> None:
    fleet = fleet_of(a=load(requests=3, queued=300), b=None)
    busy, new = fleet
    choice = choose(fleet, ask(), Matches(cached={busy.card.worker: 192}), Policies(make("sglang"), make()))
    assert choice.chosen is not None
    assert choice.chosen.worker == "a@1"
    assert choice.first_token_s == first_token_s(
        busy, Dispatch(history_tokens=200, output_tokens=10, cached_tokens=192), COSTS
    )
    assert choose(fleet, ask(), Matches(cached={}), Policies(make("least_loaded"), make())).first_token_s is None
    assert new.load is None


def test_a_policy_for_everyone_is_offered_all_and_reported_a_few() -> None:
    fleet = Fleet()
    for number in range(300):
        view = fleet.add(card(f"w{number:03}"))
        view.report(load(requests=1 + (number != 277)))
        fleet.rerank(view)
    matches = Matches(cached={WorkerId("w123@1"): 192})
    choice = choose(fleet, ask(), matches, Policies(make("lmetric"), make()))
    assert choice.chosen is not None
    assert choice.chosen.worker == "w123@1"
    assert len(choice.candidates) == MAX_OFFERS
    assert choice.chosen in choice.candidates
    turns = choose(fleet, ask(), matches, Policies(make("round_robin"), make()))
    assert [c.worker for c in turns.candidates if c.excluded is None] == ["w000@1"]
    assert {c.excluded for c in turns.candidates} == {None, "passed over by round_robin"}


REPORTS = st.builds(load, st.integers(0, 20), st.integers(0, 900), st.integers(0, 900), st.integers(0, 9))


@given(
    st.sampled_from(sorted(POLICIES)),
    st.sampled_from(sorted(POLICIES)),
    st.lists(st.tuples(st.none() | REPORTS, st.integers(0, 12)), min_size=1, max_size=30),
    st.integers(1, 6),
)
def test_a_shadow_never_changes_the_choice(
    serving: str, shadowing: str, workers: list[tuple[Load | None, int]], requests: int
) -> None:
    fleet = fleet_of(**{f"w{at:02}": report for at, (report, _) in enumerate(workers)})
    matches = Matches(
        cached={view.card.worker: 16 * depth for view, (_, depth) in zip(fleet, workers, strict=True) if depth}
    )
    alone = Policies(make(serving), make())
    watched = Policies(make(serving), make(), make(shadowing))
    for number in range(requests):
        what = ask(name=f"r{number}", session="s")
        plain, seen = choose(fleet, what, matches, alone), choose(fleet, what, matches, watched)
        assert seen.shadow is not None
        assert seen.shadow.policy == shadowing
        assert seen.shadow.failure == ""
        assert seen.shadow.chosen in {c.worker for c in seen.shadow.candidates}
        assert replace(seen, shadow=None) == plain


class Holding(Scored):
    """Holds everything back."""

    name = "holding"

    def __init__(self, answer: Wait | Refuse) -> None:
        self._answer = answer

    def filter(self, offers: Sequence[Offer], ask: Ask) -> Wait | Refuse:
        return self._answer

    def score(self, offers: Sequence[Offer], ask: Ask) -> list[dict[str, float]]:
        raise AssertionError("nobody is left to be scored")


@pytest.mark.parametrize("answer", [Wait(0.5, "not now"), Refuse(retry_after_s=2.0, why="never")])
def test_a_policy_may_hold_a_request_back_unless_it_was_taken_in(answer: Wait | Refuse) -> None:
    fleet, policies = fleet_of(a=TIMED, b=TIMED), Policies(Plugged(Holding(answer)), make())
    choice = choose(fleet, ask(), Matches(cached={}), policies)
    assert (choice.chosen, choice.deferred, choice.failure) == (None, answer, "")
    assert [c.excluded for c in choice.candidates] == ["passed over by holding"] * 2
    taken = choose(fleet, replace(ask(), taken=True), Matches(cached={}), policies)
    assert taken.chosen is not None
    assert "would hold back a request that was taken in" in taken.failure


@pytest.mark.parametrize(
    "answer",
    [Wait(0.0, ""), Wait(float("nan"), ""), Wait(float("inf"), ""), Refuse(retry_after_s=float("nan"), why="")],
)
def test_a_time_that_does_not_pass_is_no_answer(answer: Wait | Refuse) -> None:
    choice = choose(fleet_of(a=TIMED), ask(), Matches(cached={}), Policies(Plugged(Holding(answer)), make()))
    assert choice.chosen is not None
    assert "filter said" in choice.failure


def test_a_shadow_that_would_wait_says_so_and_has_not_failed() -> None:
    policies = Policies(make(), make(), Plugged(Holding(Wait(0.5, "not now"))))
    shadow = choose(fleet_of(a=TIMED), ask(), Matches(cached={}), policies).shadow
    assert shadow is not None
    assert (shadow.chosen, shadow.failure, shadow.deferred) == (None, "", "not now")
