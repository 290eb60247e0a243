"""The requirement curve: limits and directions of any queue, values by hand, and the least count that suffices."""

from itertools import pairwise
from math import ceil, exp, floor, inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jedlik.core.plans import Promise
from jedlik.core.protocol import StepCosts
from jedlik.perf.model import LinearModel
from jedlik.planning.engine import Engine, Lengths, Mix, mix_of
from jedlik.planning.lengths import bucket_of
from jedlik.planning.requirement import (
    EXACT,
    FULL,
    KV_SHARE,
    Curve,
    Pace,
    batch_spread,
    beyond,
    both_curve,
    decode_curve,
    decode_misses,
    late_share,
    misses,
    pace_of,
    prefill_curve,
    prefill_misses,
    slow_share,
)

COSTS = StepCosts(
    base_s=0.008, prefill_token_s=3.5e-5, prefill_pair_s=1.4e-9, decode_sequence_s=3.1e-5, context_token_s=1.5e-8
)
"""About a 32B model on two H200."""
ENGINE = Engine(LinearModel(COSTS), 2048, 256, 1_000_000)
PROMISE = Promise(1.0, 0.03)
NOBODY = Promise(None, None)


def requests(prompt: int = 1500, answer: int = 200, slo_ttft_s: float | None = 1.0, engine: Engine = ENGINE) -> Mix:
    """All alike."""
    return mix_of(
        engine, Lengths({bucket_of(prompt): 1.0}, prompt), Lengths({bucket_of(answer): 1.0}, answer), 0.0, slo_ttft_s
    )


MIX = requests()
VARIED = mix_of(
    ENGINE,
    Lengths({bucket_of(200): 5.0, bucket_of(2000): 3.0, bucket_of(12_000): 1.0}),
    Lengths({bucket_of(30): 2.0, bucket_of(400): 1.0}),
    0.3,
    1.0,
)
MIXES = {"alike": MIX, "varied": VARIED}
LOADS = st.floats(0.02, 0.98)
SERVERS = st.integers(1, 40)

# --- waiting --------------------------------------------------------------------------------------------------------


def test_one_server_with_exponential_times_is_an_m_m_1() -> None:
    """P(wait > t) = load * exp(-(1 - load) * t / service)."""
    for load, within_s in ((0.5, 0.0), (0.5, 0.3), (0.8, 1.0), (0.9, 4.0)):
        assert late_share(1, load, 0.2, 2.0, within_s) == pytest.approx(load * exp(-(1 - load) * within_s / 0.2))


def test_nobody_waits_without_load_and_everybody_at_full_load() -> None:
    for servers in (1, 3, 100):
        assert late_share(servers, 0.0, 0.2, 2.0, 0.0) == 0.0
        assert late_share(servers, 1.0, 0.2, 2.0, 100.0) == 1.0
        assert late_share(servers, 7.0, 0.2, 2.0, 100.0) == 1.0
        assert late_share(servers, 1e-6, 0.2, 2.0, 0.0) < 1e-5
        assert late_share(servers, FULL - 1e-9, 0.2, 2.0, 0.0) > 0.95 - 0.01 * servers**0.5
    assert late_share(2, 0.9, 0.0, 2.0, 1.0) == 0.0


@given(SERVERS, SERVERS, LOADS, st.floats(0.01, 2), st.floats(0.1, 6), st.floats(0, 3))
def test_more_servers_at_equal_load_wait_less(
    one: int, other: int, load: float, service_s: float, variability: float, within_s: float
) -> None:
    few, many = sorted((one, other))
    assert late_share(few, load, service_s, variability, within_s) >= late_share(
        many, load, service_s, variability, within_s
    )


@given(SERVERS, st.floats(0, 1.2), st.floats(0, 1.2), st.floats(0.1, 6), st.floats(0, 3))
def test_more_load_waits_more(servers: int, one: float, other: float, variability: float, within_s: float) -> None:
    low, high = sorted((one, other))
    less = late_share(servers, low, 0.2, variability, within_s)
    assert 0 <= less <= late_share(servers, high, 0.2, variability, within_s) + 1e-12 <= 1 + 1e-9


@given(SERVERS, LOADS, st.floats(0.1, 6), st.floats(-1, 3), st.floats(-1, 3))
def test_more_time_is_late_less_often(servers: int, load: float, variability: float, one: float, other: float) -> None:
    short_s, long_s = sorted((one, other))
    assert late_share(servers, load, 0.2, variability, short_s) >= late_share(servers, load, 0.2, variability, long_s)


@given(SERVERS, LOADS, st.floats(0.1, 6), st.floats(0.1, 6))
def test_what_varies_more_waits_more(servers: int, load: float, one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert late_share(servers, load, 0.2, low, 0.3) <= late_share(servers, load, 0.2, high, 0.3)


def test_beyond_is_the_normal_tail() -> None:
    assert [beyond(z) for z in (-inf, 0.0, inf)] == [1.0, 0.5, 0.0]
    assert beyond(1.0) == pytest.approx(0.158655, abs=1e-6)
    assert beyond(-1.0) == pytest.approx(1 - 0.158655, abs=1e-6)


# --- first tokens ---------------------------------------------------------------------------------------------------


def test_a_first_token_is_late_when_its_wait_exceeds_what_its_prefill_leaves() -> None:
    rate, servers = 20.0, 2
    load = rate * MIX.prefill_s / servers
    expected = late_share(servers, load, MIX.prefill_s, 1.0, 1.0 - MIX.prefill_s)
    assert prefill_misses(MIX, servers, rate, PROMISE) == pytest.approx(expected)


def test_without_a_promise_only_a_full_pool_misses() -> None:
    at_full = 2 / MIX.prefill_s
    assert prefill_misses(MIX, 2, 0.99 * at_full, NOBODY) == 0.0
    assert prefill_misses(MIX, 2, at_full, NOBODY) == 1.0


def test_a_prefill_that_takes_too_long_beside_answers_is_late_for_sure() -> None:
    tight = Promise(MIX.prefill_s * 1.01, None)
    assert prefill_misses(MIX, 4, 0.001, tight) < 0.01
    assert prefill_misses(MIX, 4, 0.001, tight, beside_s=0.02 * MIX.prefill_s) == 1.0


# --- decode ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefills", [True, False])
@pytest.mark.parametrize("mix", MIXES.values(), ids=MIXES)
@given(st.floats(0.01, 60))
def test_a_pace_satisfies_littles_law(mix: Mix, prefills: bool, each: float) -> None:
    """Sequences in the batch = rate x time an answer takes; steps take what they take with such a batch."""
    pace = pace_of(mix, ENGINE, each, prefills)
    if pace is None:
        return
    chunk_rate = each * mix.chunks if prefills else 0.0
    busy = each * mix.prefill_s + chunk_rate * pace.beside_s if prefills else 0.0
    steps_per_s = (1 - busy) / pace.step_s + chunk_rate  # a step that prefills decodes as well
    assert busy < 1
    assert pace.batch == pytest.approx(each * mix.answer_tokens / steps_per_s, rel=0.02)
    assert pace.step_s == pytest.approx(ENGINE.step_s(pace.batch, mix.context_tokens), rel=0.02)
    assert pace.beside_s == pytest.approx(pace.batch * ENGINE.token_s(mix.context_tokens), rel=0.02)


def test_a_pace_by_hand() -> None:
    """Steps of 10 ms and 0.1 ms per sequence, answers of 100 tokens, 20 a second: b = 2000 (0.01 + 0.0001 b)."""
    engine = Engine(
        LinearModel(
            StepCosts(base_s=0.01, prefill_token_s=0.0, prefill_pair_s=0.0, decode_sequence_s=1e-4, context_token_s=0.0)
        ),
        2048,
        256,
        1_000_000,
    )
    pace = pace_of(requests(100, 100, engine=engine), engine, 20.0, prefills=False)
    assert pace is not None
    assert pace.batch == pytest.approx(25, rel=0.01)
    assert pace.step_s == pytest.approx(0.0125, rel=0.01)
    assert pace.beside_s == pytest.approx(0.0025, rel=0.01)


def test_nothing_to_do_is_an_empty_batch() -> None:
    assert pace_of(MIX, ENGINE, 0.0, prefills=True) == Pace(0.0, ENGINE.step_s(0, MIX.context_tokens), 0.0)


def test_the_batch_is_bound_by_sequences_and_by_the_cache() -> None:
    pace = pace_of(MIX, ENGINE, 10.0, prefills=False)
    assert pace is not None
    assert pace.batch > 8
    for most, fits in ((ceil(pace.batch), True), (floor(pace.batch), False)):
        few = ENGINE._replace(sequences=most)
        small = ENGINE._replace(kv_tokens=round(most * MIX.context_tokens / KV_SHARE))
        for engine in (few, small):
            assert (pace_of(MIX, engine, 10.0, prefills=False) is not None) == fits
            assert (slow_share(MIX, engine, 1, 10.0, NOBODY) < 1) == fits
            assert (misses(MIX, engine, 1, 10.0, NOBODY) < 1) <= fits


def test_an_overloaded_worker_has_no_pace() -> None:
    assert pace_of(MIX, ENGINE, 1.01 / MIX.prefill_s, prefills=True) is None
    assert misses(MIX, ENGINE, 1, 1.01 / MIX.prefill_s, NOBODY) == 1.0
    assert slow_share(MIX, ENGINE, 1, 1.01 / MIX.decode_s, NOBODY) == 1.0


def test_steps_slower_than_promised_miss_and_faster_ones_do_not() -> None:
    pace = pace_of(MIX, ENGINE, 5.0, prefills=False)
    assert pace is not None
    just = pace.step_s
    found = [decode_misses(MIX, pace, 1, 5.0, Promise(None, just * part), False) for part in (0.5, 1.0, 2.0)]
    assert found == [pytest.approx(1, abs=1e-3), pytest.approx(0.5), pytest.approx(0, abs=1e-3)]
    assert decode_misses(MIX, pace, 1, 5.0, NOBODY, False) == 0.0
    assert batch_spread(Pace(0.0, just, 0.0), 100, 100) == 0.0
    assert decode_misses(MIX, Pace(0.0, just, 0.0), 1, 0.0, Promise(None, just * 0.99), False) == 1.0


@given(st.floats(1, 100), st.floats(1, 2000), st.floats(1, 2000))
def test_the_batchs_spread_is_poissons_evened_out_over_long_answers(batch: float, tokens: float, mean: float) -> None:
    spread_s = batch_spread(Pace(batch, 0.01, batch * 1e-4), tokens, mean)
    one_look_s = tokens * 1e-4 * batch**0.5
    assert 0 < spread_s <= one_look_s * (1 + 1e-9)
    if tokens <= mean:
        assert spread_s == pytest.approx(one_look_s)


# --- together -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mix", MIXES.values(), ids=MIXES)
@given(st.integers(1, 20), st.floats(0, 30), st.floats(0, 30))
def test_misses_do_not_fall_with_the_rate(mix: Mix, servers: int, one: float, other: float) -> None:
    low, high = sorted((one * servers, other * servers))
    for less, more in (
        (misses(mix, ENGINE, servers, low, PROMISE), misses(mix, ENGINE, servers, high, PROMISE)),
        (prefill_misses(mix, servers, low, PROMISE), prefill_misses(mix, servers, high, PROMISE)),
        (slow_share(mix, ENGINE, servers, low, PROMISE), slow_share(mix, ENGINE, servers, high, PROMISE)),
    ):
        assert -1e-9 <= less <= 1 + 1e-9
        assert more >= min(0.5, less) - 1e-6  # above a half a tail of normal form need not grow


@pytest.mark.parametrize("mix", MIXES.values(), ids=MIXES)
@given(st.integers(1, 20), st.integers(1, 20), st.floats(0, 200))
def test_more_workers_do_not_miss_more(mix: Mix, one: int, other: int, rate: float) -> None:
    few, many = sorted((one, other))
    more = misses(mix, ENGINE, few, rate, PROMISE)
    if more <= 0.5:
        assert misses(mix, ENGINE, many, rate, PROMISE) <= more + 1e-9
        assert slow_share(mix, ENGINE, many, rate, PROMISE) <= slow_share(mix, ENGINE, few, rate, PROMISE) + 1e-9
    assert prefill_misses(mix, many, rate, PROMISE) <= prefill_misses(mix, few, rate, PROMISE) + 1e-9


# --- curves ---------------------------------------------------------------------------------------------------------

CURVES = {
    f"{pool} {name}": curve
    for name, mix in MIXES.items()
    for pool, curve in (
        ("both", both_curve(mix, ENGINE, PROMISE, 0.035)),
        ("prefill", prefill_curve(mix, PROMISE, 0.02)),
        ("decode", decode_curve(mix, ENGINE, PROMISE, 0.02)),
    )
}


@pytest.mark.parametrize("curve", CURVES.values(), ids=CURVES)
def test_more_workers_take_more(curve: Curve) -> None:
    rates = [curve.rate(servers) for servers in range(150)]
    assert rates[0] == 0.0
    assert all(after > before for before, after in pairwise(rates))
    each = [rate / servers for servers, rate in enumerate(rates) if servers]
    assert all(after >= before * (1 - 1e-5) for before, after in pairwise(each))  # and each of them no less


@pytest.mark.parametrize("curve", CURVES.values(), ids=CURVES)
@given(st.floats(0, 2000), st.integers(0, 150))
def test_as_many_workers_as_are_needed_and_no_more(curve: Curve, rate: float, most: int) -> None:
    needed = next((servers for servers in range(most) if curve.rate(servers) >= rate), most)
    assert curve.workers(rate, most) == needed


def test_nothing_needs_nobody() -> None:
    for curve in CURVES.values():
        assert curve.workers(0.0, 9) == curve.workers(-1.0, 9) == 0
        assert curve.workers(1e-9, 9) == 1
        assert curve.workers(1e9, 9) == 9


@pytest.mark.parametrize("servers", [1, 3, EXACT, 40, 128])
def test_at_the_rate_of_a_curve_misses_are_just_bearable(servers: int) -> None:
    for bearable in (0.01, 0.05, 0.2):
        rate = both_curve(VARIED, ENGINE, PROMISE, bearable).rate(servers)
        assert misses(VARIED, ENGINE, servers, rate, PROMISE) <= bearable + 1e-6
        assert misses(VARIED, ENGINE, servers, rate * 1.03, PROMISE) > bearable


def test_whoever_bears_more_needs_fewer() -> None:
    rates = [both_curve(VARIED, ENGINE, PROMISE, bearable).rate(4) for bearable in (0.001, 0.01, 0.1, 0.4)]
    assert rates == sorted(rates)
    promises = (Promise(0.5, 0.012), Promise(1.0, 0.02), Promise(4.0, 0.1), NOBODY)
    rates = [both_curve(MIX, ENGINE, promise, 0.03).rate(4) for promise in promises]
    assert rates == sorted(rates)
    assert rates[0] < rates[-1]


def test_a_small_cache_and_a_short_batch_bound_the_curve() -> None:
    free = decode_curve(MIX, ENGINE, NOBODY, 0.03).rate(3)
    for engine in (ENGINE._replace(sequences=10), ENGINE._replace(kv_tokens=round(10 * MIX.context_tokens / KV_SHARE))):
        bound = decode_curve(MIX, engine, NOBODY, 0.03).rate(3)
        assert bound < free / 2
        # of ten in a batch, each takes so long
        assert bound == pytest.approx(3 * 10 / (MIX.answer_tokens * ENGINE.step_s(10, MIX.context_tokens)), rel=0.02)


def test_a_promise_that_no_worker_keeps_has_no_rate() -> None:
    never = both_curve(MIX, ENGINE, Promise(1.0, 0.001), 0.03)
    assert never.rate(4) == pytest.approx(0, abs=1e-3)
    assert never.workers(1.0, 6) == 6
