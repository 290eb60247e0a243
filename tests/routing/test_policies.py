"""Each policy on fleets small enough to compute by hand."""

from collections import Counter
from collections.abc import Sequence

import pytest
from fleets import COSTS, ask, load, offer
from hypothesis import given
from hypothesis import strategies as st

from jedlik.core.errors import ConfigError
from jedlik.core.facts import Candidate
from jedlik.core.ids import WorkerId
from jedlik.routing.choose import decide
from jedlik.routing.policies.named import POLICIES, make
from jedlik.routing.policies.published import Session
from jedlik.routing.policy import Ask, Offer, Policy, draw, exact, lowest

BUSY = 70
"""Requests that put a fleet out of SGLang's and AIBrix's balance."""


def chosen(policy: Policy, offers: Sequence[Offer], what: Ask | None = None) -> str:
    picked = decide(policy, offers, what or ask()).chosen
    assert picked is not None
    return picked.worker.split("@")[0]


def costs(policy: Policy, offers: Sequence[Offer], what: Ask | None = None) -> dict[str, float]:
    verdict = decide(policy, offers, what or ask())
    return {c.worker.split("@")[0]: c.cost_s for c in verdict.scored}


TABLE: list[tuple[str, list[Offer], str]] = [
    # fewest requests, then least queued
    ("least_loaded", [offer("a", load(3)), offer("b", load(2, queued=900)), offer("c", load(2, queued=800))], "c"),
    # no session: as least_loaded
    ("session", [offer("a", load(3)), offer("b", load(2, queued=900)), offer("c", load(2, queued=800))], "c"),
    # a: (0 + 200)/16 - 10 + (800 + 200)/16 = 65, b: (160 + 200)/16 - 0 + 200/16 = 35
    ("dynamo", [offer("a", load(1, context=800), cached=160), offer("b", load(1, queued=160))], "b"),
    # the same prefix wins where the contexts there are short: a: 12.5 - 10 + 25 = 27.5
    ("dynamo", [offer("a", load(1, context=200), cached=160), offer("b", load(1, queued=160))], "a"),
    # a match of 64 of 200 tokens (32 %) beats an idle worker, one of 48 (24 %) doesn't
    ("sglang", [offer("a", load(9, cache_blocks=50), cached=64), offer("b", load(0, cache_blocks=10))], "a"),
    ("sglang", [offer("a", load(0, cache_blocks=50), cached=48), offer("b", load(9, cache_blocks=10))], "b"),
    # out of balance (70 - 0 > 64): the shortest queue
    ("sglang", [offer("a", load(BUSY), cached=192), offer("b", load(0)), offer("c", load(1))], "b"),
    # 70 - 5 > 64 and 70 > 7.5 is out of balance, 200 - 135 > 64 but 200 < 1.5 x 135 is not
    ("sglang", [offer("a", load(BUSY), cached=192), offer("b", load(5))], "b"),
    ("sglang", [offer("a", load(200), cached=192), offer("b", load(135))], "a"),
    # the longest match, of equal ones the one with fewer requests
    ("aibrix", [offer("a", load(9), cached=64), offer("b", load(3), cached=64), offer("c", load(0), cached=48)], "b"),
    # nobody holds anything: fewest requests
    ("aibrix", [offer("a", load(2)), offer("b", load(1))], "b"),
    # 20 - 3 > 16: fewest requests
    ("aibrix", [offer("a", load(20), cached=192), offer("b", load(3))], "b"),
    # a has 12 requests where mean + 2 sigma of (12, 0, 0, 0, 0, 0, 0) is 1.7 + 8.4: its match doesn't count
    ("aibrix", [offer("a", load(12), cached=192), *(offer(n, load(0), 16 * (n == "g")) for n in "bcdefg")], "g"),
    # a: (100 + 40) x 3 = 420, b: (0 + 200) x 2 = 400, c: (0 + 140) x 3 = 420
    ("lmetric", [offer("a", load(2, 100), 160), offer("b", load(1)), offer("c", load(2), 60)], "b"),
    # a: 0.3 + 0.01 + 0.04 + ... = 0.35, b: 0.01 + 0.2 + ... = 0.23
    ("predicted_ttft", [offer("a", load(0, queued=300), cached=160), offer("b", load(0))], "b"),
    ("predicted_ttft", [offer("a", load(0, queued=100), cached=160), offer("b", load(0))], "a"),
    # in tokens where one has no profile: a: 100 + 40, b: 200
    ("predicted_ttft", [offer("a", load(0, queued=100), cached=160), offer("b", None)], "a"),
    # in tokens: a: 100 + 40 + 32 x 2, b: 200
    ("jedlik", [offer("a", load(2, 100, costs=None), cached=160), offer("b", load(0, costs=None))], "b"),
    ("jedlik", [offer("a", load(1, 100, costs=None), cached=160), offer("b", load(0, costs=None))], "a"),
]


@pytest.mark.parametrize(("name", "offers", "expected"), TABLE)
def test_the_choice_is_the_one_computed_by_hand(name: str, offers: list[Offer], expected: str) -> None:
    assert chosen(make(name), offers) == expected
    assert chosen(make(name), offers[::-1]) == expected


def test_dynamos_cost_in_blocks() -> None:
    verdict = decide(make("dynamo"), [offer("a", load(1, queued=160, context=800), cached=64)], ask(200))
    assert verdict.chosen is not None
    assert verdict.chosen.parts == {"prefill": 360 / 16 - 4, "decode": 1000 / 16}
    assert verdict.unit == "blocks"


def test_lmetrics_product_and_its_least_token() -> None:
    assert costs(make("lmetric"), [offer("a", load(2, 100), 160), offer("b", load(1))]) == {"a": 420, "b": 400}
    assert costs(make("lmetric"), [offer("a", load(0), cached=200)]) == {"a": 1.0}


def test_predicted_ttft_is_the_documented_sum() -> None:
    [(_, cost)] = costs(make("predicted_ttft"), [offer("a", load(2, 300, 500), cached=160)]).items()
    decode = (COSTS.decode_sequence_s * 2 + COSTS.context_token_s * 500) * (300 + 40) / 100
    assert cost == pytest.approx(0.001 * 300 + 0.01 + 0.001 * 40 + 1e-6 * 40 * (160 + 20) + decode)


def test_round_robin_takes_turns_whatever_comes_and_goes() -> None:
    policy = make("round_robin")
    a, b, c = (offer(name, load(n)) for n, name in enumerate("abc"))
    assert [chosen(policy, [c, a, b]) for _ in range(4)] == ["a", "b", "c", "a"]
    assert [chosen(policy, [a, c]) for _ in range(2)] == ["c", "a"]
    assert chosen(policy, [a, b, c]) == "b"
    other = Ask(request_id=ask().request_id, choice=0, model="another model", history_tokens=10, output_tokens=10)
    assert chosen(policy, [a, b, c], other) == "a"
    assert chosen(policy, [a, b, c]) == "c"


def test_random_is_even_and_the_same_for_the_same_turn() -> None:
    offers = [offer(name, load(n)) for n, name in enumerate("abcd")]
    picks = [chosen(make("random"), offers, ask(turn=i)) for i in range(400)]
    assert picks == [chosen(make("random"), offers[::-1], ask(turn=i)) for i in range(400)]
    assert all(95 <= picks.count(name) <= 105 for name in "abcd")


def test_power_of_two_never_takes_the_busiest_and_draws_every_pair() -> None:
    offers = [offer(name, load(n)) for n, name in enumerate("abcd")]
    verdicts = [decide(make("power_of_two"), offers, ask(turn=i)) for i in range(200)]
    pairs = {tuple(sorted(c.worker[0] for c in verdict.scored)) for verdict in verdicts}
    assert pairs == {("a", "b"), ("a", "c"), ("a", "d"), ("b", "c"), ("b", "d"), ("c", "d")}
    assert all(v.chosen and v.chosen.worker[0] == min(c.worker[0] for c in v.scored) for v in verdicts)
    assert chosen(make("power_of_two"), offers[:1]) == "a"


def test_a_session_stays_and_only_those_of_a_lost_worker_move() -> None:
    policy, offers = make("session"), [offer(name, load(n % 2)) for n, name in enumerate("abcde")]
    homes = {s: chosen(policy, offers, ask(session=s)) for s in (f"s{i}" for i in range(200))}
    assert set(homes.values()) == set("abcde")
    left = [o for o in offers if o.view.card.name != "c"]
    after = {s: chosen(policy, left, ask(session=s)) for s in homes}
    assert all(after[s] == home for s, home in homes.items() if home != "c")


def test_a_session_leaves_a_worker_with_far_more_than_its_share() -> None:
    policy, idle = make("session"), [offer(name, load(0)) for name in "abcd"]
    home = chosen(policy, idle, ask(session="s"))

    def loaded(there: int, elsewhere: int) -> list[Offer]:
        return [offer(name, load(there if name == home else elsewhere)) for name in "abcd"]

    assert chosen(policy, loaded(Session.FREE_REQUESTS - 1, 0), ask(session="s")) == home
    assert chosen(policy, loaded(Session.FREE_REQUESTS, 0), ask(session="s")) != home
    # 12 + 1 against 1.25 x (12 + 30 + 1)/4 = 13.4; 13 + 1 against 13.75
    assert chosen(policy, loaded(12, 10), ask(session="s")) == home
    assert chosen(policy, loaded(13, 10), ask(session="s")) != home


def test_names_are_those_of_the_table_and_a_wrong_one_says_the_nearest() -> None:
    assert [make(name).name for name in POLICIES] == list(POLICIES)
    assert make().name == "jedlik"
    with pytest.raises(ConfigError, match=r"'round-robin': did you mean round_robin\?"):
        make("round-robin")
    with pytest.raises(ConfigError, match="there are jedlik, round_robin, "):
        make("xyz")


def test_equals_are_spread_by_turn_and_the_lowest_may_be_negative() -> None:
    def scored(*values: float) -> list[Candidate]:
        return [
            Candidate(worker=WorkerId(f"{name}@1"), cost_s=v, cached_tokens=0, parts={})
            for name, v in zip("abcd", values, strict=False)
        ]

    near = scored(1.0, 1.009, 1.011)
    assert {lowest(near, ask(turn=i)).worker for i in range(50)} == {"a@1", "b@1"}
    assert {exact(near, ask(turn=i)).worker for i in range(50)} == {"a@1"}
    assert {exact(scored(2.0, 2.0, 3.0), ask(turn=i)).worker for i in range(50)} == {"a@1", "b@1"}
    assert {lowest(scored(-2.0, -1.0), ask(turn=i)).worker for i in range(50)} == {"a@1"}


@pytest.mark.parametrize("count", range(2, 9))
@pytest.mark.parametrize("purpose", ["tie", "worker", "first", "second"])
def test_turns_in_a_row_are_spread_evenly_wherever_they_begin(count: int, purpose: str) -> None:
    for begin in (0, 1, 977, 2**32 - 1):
        drawn = Counter(draw(ask(turn=begin + n), purpose, count) for n in range(100))
        assert set(drawn) == set(range(count))
        assert max(drawn.values()) <= 100 / count + 4


def test_the_two_draws_of_power_of_two_are_independent() -> None:
    pairs = Counter((draw(ask(turn=n), "first", 4), draw(ask(turn=n), "second", 3)) for n in range(1200))
    assert len(pairs) == 12
    assert max(pairs.values()) < 150


LOADS = st.builds(load, st.integers(0, 90), st.integers(0, 9000), st.integers(0, 9000), st.integers(0, 100))
OFFERS = st.lists(st.tuples(st.none() | LOADS, st.integers(0, 12)), min_size=1, max_size=20)


@given(st.sampled_from(sorted(POLICIES)), OFFERS, st.integers(1, 4000), st.sampled_from(["", "s"]))
def test_any_policy_chooses_among_any_offers_and_in_any_order(
    name: str, given_offers: list[tuple[object, int]], history: int, session: str
) -> None:
    offers = [offer(f"w{at}", report, 16 * depth) for at, (report, depth) in enumerate(given_offers)]  # type: ignore[arg-type]
    what = ask(history, session=session)
    verdict = decide(make(name), offers, what)
    assert verdict.chosen in verdict.scored
    assert len(verdict.scored) + len(verdict.passed_over) <= len(offers)
    assert decide(make(name), offers[::-1], what).chosen == verdict.chosen
