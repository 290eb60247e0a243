"""Generators: their rates, bursts and shared prefixes are those asked for; what cannot be asked for is named."""

from itertools import pairwise
from pathlib import Path
from random import Random
from statistics import fmean, pstdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jedlik.core.errors import ConfigError
from jedlik.sim.workload.load import KNOWN, load
from jedlik.sim.workload.offered import Offered
from jedlik.sim.workload.options import WorkloadOptions
from jedlik.sim.workload.renewal import Gaps, gaps
from jedlik.sim.workload.spec import parse

AS_IT_IS = WorkloadOptions()


def offers(spec: str, seed: int = 0, options: WorkloadOptions = AS_IT_IS) -> list[Offered]:
    return list(load(spec, options, seed).arrivals())


def variation(found: list[Offered]) -> float:
    between = [later.at_s - sooner.at_s for sooner, later in pairwise(found)]
    return pstdev(between) / fmean(between)


@pytest.mark.parametrize(
    ("spec", "rate", "cv"),
    [
        ("poisson:rate=5,input=1000,output=100,duration=2000", 5, 1.0),
        ("gamma:rate=5,cv=3,duration=4000", 5, 3.0),
        ("gamma:rate=5,cv=0.5,duration=2000", 5, 0.5),
        ("gamma:rate=5,cv=0,duration=2000", 5, 0.0),
        ("sinusoid:min=1,max=9,period=100,duration=2000", 5, 1.4),
        ("sinusoid:rate=5,amplitude=4,period=100,duration=2000", 5, 1.4),
        ("shared_prefix:rate=5,duration=2000", 5, 1.0),
    ],
)
def test_rate_and_variation_are_as_asked(spec: str, rate: float, cv: float) -> None:
    found = offers(spec)
    duration_s = 4000 if "4000" in spec else 2000
    assert len(found) / duration_s == pytest.approx(rate, rel=0.1)
    assert variation(found) == pytest.approx(cv, abs=0.25)
    assert all(0 <= offered.at_s < duration_s for offered in found)
    assert {(offered.text.tokens, offered.output_tokens) for offered in found} == {(1000, 100)}
    assert found == offers(spec)
    assert found != offers(spec, seed=1)


def test_a_sinusoid_is_low_at_the_start_and_high_in_the_middle() -> None:
    found = offers("sinusoid:min=1,max=9,period=1000,duration=1000")
    early, high = (sum(1 for o in found if low <= o.at_s < low + 100) / 100 for low in (0, 450))
    assert early < 2
    assert high > 8


def test_a_sinusoid_may_be_said_in_two_ways() -> None:
    low_and_high = offers("sinusoid:min=1,max=9,period=100,duration=200")
    assert offers("sinusoid:rate=5,amplitude=4,period=100,duration=200") == low_and_high


def test_unique_prompts_share_nothing() -> None:
    found = offers("poisson:rate=5,duration=100,input=1300,input_cv=1")
    ids = [piece for offered in found for piece in offered.text.ids]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("mean", [2, 300])
@pytest.mark.parametrize("cv", [0.3, 1.0, 2.0])
def test_lengths_vary_about_their_mean(mean: int, cv: float) -> None:
    found = offers(f"poisson:rate=10,duration=300,output={mean},output_cv={cv}")
    lengths = [offered.output_tokens for offered in found]
    assert min(lengths) >= 1
    assert fmean(lengths) == pytest.approx(mean, rel=0.25 * cv + 0.25)


def test_groups_share_their_prefix_and_nothing_else() -> None:
    found = offers("shared_prefix:rate=10,duration=200,groups=4,prefix=64,input=100,block=16,zipf=1")
    groups: dict[tuple[int, ...], list[list[int]]] = {}
    for offered in found:
        ids = list(offered.text.ids)
        groups.setdefault(tuple(ids[:4]), []).append(ids[4:])
    suffixes = [piece for members in groups.values() for ids in members for piece in ids]
    assert len(suffixes) == len(set(suffixes)) == 3 * len(found)
    assert len({piece for prefix in groups for piece in prefix}) == 4 * 4
    sizes = sorted((len(members) for members in groups.values()), reverse=True)
    for rank, size in enumerate(sizes, 1):
        assert size / len(found) == pytest.approx(1 / rank / (1 + 1 / 2 + 1 / 3 + 1 / 4), rel=0.2)


def test_limit_ends_what_has_no_duration() -> None:
    options = WorkloadOptions(limit=7)
    assert load("poisson:rate=5", options, 0).total == 7
    assert len(offers("poisson:rate=5", options=options)) == 7
    assert load("poisson:rate=5,duration=9", AS_IT_IS, 0).total is None


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("poisson:rate=5", "would never end: give duration=SECONDS"),
        ("poison:rate=5,duration=9", "no such file and no such generator; did you mean 'poisson'"),
        ("poisson:rat=5,duration=9", "poisson: unknown key 'rat'; did you mean 'rate'"),
        ("poisson:rate=fast,duration=9", "$.rate"),
        ("poisson:rate=-5,duration=9", "$.rate"),
        ("poisson:rate=inf,duration=9", "rate is inf"),
        ("poisson:rate=nan,duration=9", "rate"),
        ("poisson:duration=9", "rate"),
        ("poisson:rate,duration=9", "'rate' is not key=value"),
        ("poisson:rate=5,duration=9,input=0", "$.input"),
        ("sinusoid:min=9,max=1,duration=9", "min 9.0 is above max 1.0"),
        ("sinusoid:rate=5,amplitude=6,duration=9", "rate 5.0 - amplitude 6.0 is the least"),
        ("sinusoid:rate=5,max=6,duration=9", "give either rate"),
        ("sinusoid:duration=9", "give either rate"),
        ("shared_prefix:rate=1,prefix=100,duration=9", "prefix 100 is not a multiple of block 16"),
        ("shared_prefix:rate=1,prefix=1600,input=1600,duration=9", "leaves nothing of input 1600"),
        ("multi_turn:duration=9", "either rate"),
        ("multi_turn:rate=1,concurrency=2,duration=9", "either rate"),
        ("multi_turn:rate=1", "would never end"),
    ],
)
def test_what_cannot_be_is_named(spec: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(spec, AS_IT_IS, 0)
    assert told in str(caught.value)


@given(st.sampled_from(sorted(KNOWN)), st.text("ratedurion=,.:0123456789-", max_size=30))
def test_any_spec_is_read_or_refused(name: str, rest: str) -> None:
    try:
        made = parse(f"{name}:{rest}", KNOWN)
    except ConfigError as error:
        refused = str(error)
        made = None
    assert made is not None or refused.startswith(f"{name}: ")


@pytest.mark.parametrize(
    "options", [{"concurrency": 3}, {"start_s": 1.0}, {"spread_batches": True}, {"trace_block": 16}]
)
def test_options_without_meaning_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="has no meaning here"):
        load("poisson:rate=1,duration=9", WorkloadOptions(**options), 0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "law", [gaps(0.5), gaps(1.0), gaps(2.5), gaps(0.5, "Weibull"), gaps(2.5, "Weibull"), gaps(0.0)]
)
def test_gaps_have_mean_one_from_any_moment_on(law: Gaps) -> None:
    """Counts over windows that begin anywhere show the rate: the first gap is no ordinary one."""
    chance = Random(5)
    assert fmean(law.draw(chance) for _ in range(40_000)) == pytest.approx(1.0, rel=0.06)
    counts = [sum(1 for _ in law.arrivals(chance, 2.0, 3.0)) for _ in range(8_000)]
    assert fmean(counts) == pytest.approx(6.0, rel=0.06)


@pytest.mark.parametrize("cv", [0.2, 1.0, 3.0, 8.0])
def test_weibull_gaps_have_the_variation_asked_for(cv: float) -> None:
    law = gaps(cv, "Weibull")
    chance = Random(1)
    drawn = [law.draw(chance) for _ in range(50_000)]
    assert pstdev(drawn) / fmean(drawn) == pytest.approx(cv, rel=0.25)


def test_a_file_named_like_a_generator_is_reached_by_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "poisson").write_text("timestamp_ms,input_length,output_length\n0,5,5\n")
    monkeypatch.chdir(tmp_path)
    assert len(offers("./poisson")) == 1
