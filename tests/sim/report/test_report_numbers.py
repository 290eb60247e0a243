"""The figures of a run made by hand: what counts as good, answered, shed, missed."""

import io
import json

import numpy as np
import pytest
from report_runs import outcome, run, wavy
from rich.console import Console

from jedlik.sim.outcome import Action, FleetSample
from jedlik.sim.report.columns import Slo
from jedlik.sim.report.numbers import Spread, spread, summarise, to_json
from jedlik.sim.report.table import rendered
from jedlik.sim.report.words import moment, number, seconds, share

SLO = Slo(2.0, 0.025)


def test_goodput_is_over_all_that_were_offered() -> None:
    """Seven offered: good, late, slow, shed, failed, one token (no ITL), unfinished."""
    outcomes = [
        outcome(),
        outcome(ttft_s=2.5, ended_s=3.5),
        outcome(ended_s=4.0),
        outcome(ttft_s=None, ended_s=0.0, output_tokens=0, outcome="overloaded", worker=-1),
        outcome(ended_s=1.5, output_tokens=51, outcome="unavailable", attempts=4),
        outcome(ended_s=1.0, output_tokens=1, outcome="stop"),
    ]
    summary = summarise(run(outcomes, offered=7), SLO, "jedlik", 5)
    assert (summary.requests, summary.answered, summary.failed, summary.shed, summary.unfinished) == (7, 4, 1, 1, 1)
    assert summary.goodput == pytest.approx(2 / 7)
    assert summary.migrated == 1
    assert (summary.policy, summary.seed) == ("jedlik", 5)


@pytest.mark.parametrize(
    ("slo", "goodput"),
    [(Slo(), None), (Slo(2.0, None), 1.0), (Slo(None, 0.005), 0.0), (Slo(1.0, 0.01), 1.0), (Slo(0.999, 0.01), 0.0)],
)
def test_a_limit_that_is_not_given_is_kept_and_one_that_is_met_exactly_too(slo: Slo, goodput: float | None) -> None:
    assert summarise(run([outcome()]), slo, "p", 0).goodput == goodput


def test_hit_rate_and_latencies_are_of_answered_requests() -> None:
    outcomes = [
        outcome(prompt_tokens=100, cached_tokens=50),
        outcome(prompt_tokens=300, cached_tokens=250, ttft_s=3.0, ended_s=3.0, output_tokens=1),
        outcome(prompt_tokens=999, cached_tokens=999, ttft_s=9.0, ended_s=9.0, outcome="internal"),
    ]
    summary = summarise(run(outcomes), SLO, "p", 0)
    assert summary.hit_rate == pytest.approx(300 / 400)
    assert summary.ttft_s.mean == pytest.approx(2.0)
    assert summary.ttft_s.p50 == pytest.approx(2.0)
    assert [summary.itl_s.mean, summary.itl_s.p99] == pytest.approx([0.01, 0.01])


def test_rates_are_per_simulated_second_and_gpu_hours_are_hours() -> None:
    summary = summarise(run([outcome(), outcome()], gpu_s=7200.0), SLO, "p", 0)
    assert summary.requests_per_s == pytest.approx(0.2)
    assert summary.output_tokens_per_s == pytest.approx(20.2)
    assert summary.gpu_hours == pytest.approx(2.0)
    assert summary.simulated_requests_per_cpu_s == pytest.approx(4.0)
    assert summary.times_real_time == pytest.approx(10.0)


def test_workers_are_told_apart() -> None:
    outcomes = [outcome(worker=1, cached_tokens=50), outcome(worker=0), outcome(worker=1), outcome(worker=-1)]
    samples = [
        FleetSample(at_s=0.0, running=[0, 2], waiting=[0, 4], context_tokens=[0, 9], cached_blocks=[1, 1]),
        FleetSample(at_s=1.0, running=[0, 4], waiting=[0, 0], context_tokens=[0, 9], cached_blocks=[1, 1]),
    ]
    first, second = summarise(run(outcomes, samples=samples), SLO, "p", 0).workers
    assert (first.answered, second.answered) == (1, 2)
    assert (first.hit_rate, second.hit_rate) == (0.0, 0.25)
    assert (first.busy_share, second.busy_share) == (0.0, 1.0)
    assert (second.running_mean, second.waiting_mean) == (3.0, 2.0)


def test_percentiles_interpolate_and_nothing_is_null() -> None:
    two = spread(np.array([1.0, 2.0, np.nan]))
    assert [two.mean, two.p50, two.p90, two.p99] == pytest.approx([1.5, 1.5, 1.9, 1.99])
    assert spread(np.array([])) == Spread(None, None, None, None)


def test_json_has_the_documented_keys_and_no_nan() -> None:
    actions = [Action(1.0, "crash", "a/0")]
    told = json.loads(to_json(summarise(run([], actions=actions), Slo(), "p", 0)), parse_constant=pytest.fail)
    expected = "requests failed shed goodput ttft_s itl_s hit_rate output_tokens_per_s gpu_hours actions"
    assert set(expected.split()) | {"simulated_requests_per_cpu_s", "seed", "policy", "workers"} <= set(told)
    assert told["goodput"] is None
    assert told["ttft_s"] == {"mean": None, "p50": None, "p90": None, "p99": None}
    assert told["actions"] == 1
    assert told["action_list"] == [{"at_s": 1.0, "kind": "crash", "worker": "a/0", "detail": ""}]


def test_the_table_shows_what_is_in_it_and_takes_no_brackets_for_markup() -> None:
    summary = summarise(wavy(400, 3), SLO, "jedlik", 3)
    strange = Action(1.0, "crash", "a/0", "[red] is not a colour here")
    marked = summarise(run([], actions=[strange]), Slo(), "p", 0)
    console = Console(file=io.StringIO(), width=120)
    console.print(rendered(summary))
    console.print(rendered(marked))
    file = console.file
    assert isinstance(file, io.StringIO)
    text = file.getvalue()
    for part in ("400 offered", "goodput (TTFT ≤ 2 s, ITL ≤ 25 ms)", "a/2", "3 times slower", "[red] is not"):
        assert part in text


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (seconds(0.0123), "12.3 ms"),
        (seconds(1.234), "1.23 s"),
        (seconds(250.0), "4 min 10 s"),
        (seconds(7500.0), "2 h 05 min"),
        (seconds(None), "–"),
        (share(0.1234), "12.3 %"),
        (number(1234567.0), "1,234,567"),
        (number(12.34), "12.3"),
        (moment(4500.04), "1:15:00.0"),
        (moment(59.96), "0:01:00.0"),
    ],
)
def test_words(said: str, text: str) -> None:
    assert said == text
