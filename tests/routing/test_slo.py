"""Where promises let a request go: situations computed by hand, with steps of 10 ms and 1 ms a prefilled token."""

from collections.abc import Sequence

import pytest
from fleets import COSTS, IDLE, ask, load, offer
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from jedlik.core.protocol import StepCosts
from jedlik.routing.estimates import OutputLengths
from jedlik.routing.policies.named import make
from jedlik.routing.policy import Ask, Offer, Refuse, Wait
from jedlik.routing.slo import prospect

FLAT = StepCosts(base_s=0.0, prefill_token_s=0.001, prefill_pair_s=0.0, decode_sequence_s=0.0, context_token_s=0.0)
READY = replace(IDLE, costs=FLAT)


def promised(history: int = 200, ttft_s: float = 1.0, **changes: object) -> Ask:
    return replace(ask(history), **{"ttft_s": ttft_s, "shed": True, **changes})


def answer(offers: Sequence[Offer], what: Ask) -> Sequence[str] | Wait | Refuse:
    kept = make("jedlik").filter(offers, what)
    return kept if isinstance(kept, Wait | Refuse) else [o.worker.split("@")[0] for o in kept]


def lengths(tokens: int) -> OutputLengths:
    """Answers that were all about so long."""
    seen = OutputLengths()
    for _ in range(3000):
        seen.observe(tokens)
    return seen


def test_in_time_and_harmless_is_the_cheapest() -> None:
    offers = [offer("a", load(queued=300, costs=FLAT)), offer("b", load(queued=100, costs=FLAT))]
    assert answer(offers, promised()) == ["b"]
    offers[0] = offer("a", load(queued=290, costs=FLAT), cached=199)
    assert answer(offers, promised(ttft_s=0.32)) == ["a"]  # 0.291 s there, 0.3 s at the other


def test_nowhere_in_time_because_of_load_is_refused_with_the_time_that_is_lacking() -> None:
    offers = [offer("a", load(queued=1500, costs=FLAT)), offer("b", load(queued=2500, costs=FLAT))]
    refusal = answer(offers, promised())
    assert isinstance(refusal, Refuse)
    assert refusal.retry_after_s == pytest.approx(0.7)
    assert refusal.pressed
    assert (refusal.kind, [seen.worker for seen in refusal.candidates]) == ("late", ["a@1", "b@1"])
    assert refusal.candidates[0].excluded == "first token in 1.70 s, 0.00 answers would miss their pace"


@pytest.mark.parametrize("changes", [{"shed": False}, {"reuse": 1.5}])
def test_where_nothing_may_be_refused_the_late_go_where_they_are_least_in_the_way(changes: dict[str, object]) -> None:
    busy = offer("a", load(queued=2000, costs=FLAT), cached=190)
    free = offer("b", load(queued=1500, costs=FLAT))
    assert answer([busy, free], replace(promised(), **changes)) == ["a"]  # 10 tokens of work instead of 200


def test_too_long_for_an_idle_worker_is_taken_unless_load_is_too_much() -> None:
    offers = [offer("a", READY), offer("b", load(queued=50, costs=FLAT))]
    assert answer(offers, promised(3000)) == ["a"]
    refusal = answer(offers, promised(3000, pressed=True))
    assert isinstance(refusal, Refuse)
    assert not refusal.pressed  # it says nothing about load
    assert refusal.kind == "long"
    assert refusal.retry_after_s == pytest.approx(3.0)
    assert answer(offers, promised(3000, pressed=True, shed=False)) == ["a"]


def test_without_promise_or_step_times_everybody_is_left() -> None:
    offers = [offer("a", load(queued=9999, costs=FLAT)), offer("b", load(4, costs=FLAT))]
    assert answer(offers, ask()) == ["a", "b"]
    assert answer([offer("a", load(costs=None)), offers[1]], promised()) == ["a", "b"]


def test_harm_is_who_would_miss_its_pace_and_long_answers_bear_more() -> None:
    decoding = offer("a", load(4, costs=FLAT))
    short = promised(100, itl_s=0.01, lengths=lengths(5))  # 0.1 s of stall are 10 tokens' time
    long = promised(100, itl_s=0.01, lengths=lengths(500))
    terms = make("jedlik").score([decoding], short)[0]
    assert prospect(decoding, FLAT, terms, short).harm == pytest.approx(4, rel=0.05)
    assert prospect(decoding, FLAT, terms, long).harm < 0.1
    assert prospect(offer("b", READY), FLAT, terms, short).harm == 0
    slow = replace(FLAT, decode_sequence_s=0.1)
    assert prospect(decoding, slow, terms, long).harm == 4  # the step itself is too slow for any


def test_who_would_harm_waits_and_may_harm_more_the_longer_it_has_waited() -> None:
    offers = [offer("a", load(1, costs=FLAT))]
    what = promised(100, ttft_s=1.1, itl_s=0.01, lengths=lengths(5))
    harm = prospect(offers[0], FLAT, make("jedlik").score(offers, what)[0], what).harm
    assert 0.9 < harm <= 1
    waiting = answer(offers, what)
    assert isinstance(waiting, Wait)
    assert waiting.seconds == pytest.approx(harm * 1.0, rel=1e-6)  # of 1.1 s all but its own 0.1 s
    later = answer(offers, replace(what, ttft_s=0.6, waited_s=0.5))
    assert isinstance(later, Wait)
    assert later.seconds == pytest.approx(harm - 0.5, rel=1e-6)
    assert answer(offers, replace(what, ttft_s=0.1, waited_s=1.0)) == ["a"]  # its last moment, and one for one


def test_at_the_last_moment_more_than_one_answer_is_too_much() -> None:
    offers = [offer("a", load(5, costs=FLAT))]
    what = promised(100, ttft_s=0.1, itl_s=0.01, waited_s=1.0, lengths=lengths(5))
    refusal = answer(offers, what)
    assert isinstance(refusal, Refuse)
    assert (refusal.pressed, refusal.kind) == (True, "harm")
    assert answer(offers, replace(what, shed=False)) == ["a"]
    assert answer(offers, replace(what, reuse=1.0)) == ["a"]


def test_what_cached_tokens_are_worth_keeps_a_conversation_at_its_worker() -> None:
    holder, idle = offer("a", load(2, queued=300, costs=COSTS), cached=192), offer("b", load(costs=COSTS))
    picked = {reuse: _pick([holder, idle], replace(ask(), reuse=reuse)) for reuse in (0.0, 4.0)}
    assert picked == {0.0: "b", 4.0: "a"}


def _pick(offers: Sequence[Offer], what: Ask) -> str:
    terms = make("jedlik").score(offers, what)
    return min(zip(terms, offers, strict=True), key=lambda case: sum(case[0].values()))[1].worker.split("@")[0]


@given(
    st.lists(st.tuples(st.integers(0, 8), st.integers(0, 3000), st.integers(0, 190)), min_size=1, max_size=5),
    st.floats(0.02, 3),
    st.floats(0, 4),
    st.none() | st.floats(0.005, 0.1),
    st.tuples(st.booleans(), st.booleans(), st.sampled_from([0.0, 0.9, 1.0, 3.0])),
)
def test_what_is_said_can_be_followed(
    workers: list[tuple[int, int, int]],
    promise_s: float,
    waited_s: float,
    itl_s: float | None,
    may: tuple[bool, bool, float],
) -> None:
    shed, pressed, reuse = may
    offers = [offer(f"w{n}", load(r, q, costs=COSTS), cached) for n, (r, q, cached) in enumerate(workers)]
    what = replace(ask(), ttft_s=promise_s - waited_s, waited_s=waited_s, itl_s=itl_s)
    what = replace(what, shed=shed, pressed=pressed, reuse=reuse)
    kept = make("jedlik").filter(offers, what)
    if isinstance(kept, Refuse):
        assert shed
        assert reuse < 1
        assert kept.retry_after_s >= 0
        assert kept.pressed == (kept.kind != "long")
    elif isinstance(kept, Wait):
        assert itl_s is not None  # there is nobody else to mind
        assert 0 < kept.seconds <= promise_s - waited_s
    else:
        assert len(kept) == 1
        assert kept[0] in offers
        return
    assert [seen.worker for seen in kept.candidates] == [o.worker for o in offers]
    assert all(seen.parts and seen.excluded for seen in kept.candidates)
