"""`jedlik simulate` with a planner: flags, what they need, and what is refused with a remedy."""

import json
from pathlib import Path

import pytest
from test_simulate import EIGHT, EXAMPLES, jedlik

from jedlik.core.errors import ConfigError
from jedlik.serve.settings import Settings, settle
from jedlik.sim.workload.options import WorkloadOptions
from jedlik.sizing.simulate import SimulateOptions, prepare, shown

PLANNED = EXAMPLES / "sim-planner.yaml"
SPLIT = EXAMPLES / "sim-planner-split.yaml"
SHORT = "sinusoid:rate=6,amplitude=4,period=60,duration=90,input=500,output=20"


def wanted(**given: object) -> SimulateOptions:
    return SimulateOptions(trace="t", options=WorkloadOptions(), **given)  # type: ignore[arg-type]


def settled(file: Path, **flags: object) -> Settings:
    return settle({key.replace("__", "."): value for key, value in flags.items()}, {}, file, simulated=True)


@pytest.mark.parametrize("file", [PLANNED, SPLIT])
@pytest.mark.parametrize("planner", ["jedlik", "static"])
def test_examples_run_and_say_what_was_kept(file: Path, planner: str, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    given = ("--planner", planner, "--startup-s", "5", "--json", str(out))
    ended = jedlik("simulate", "--config", str(file), "--trace", SHORT, *given)
    assert ended.returncode == 0, ended.stderr
    assert "attainment" in ended.stdout
    told = json.loads(out.read_text())
    assert (told["planner"], told["gpus"]) == (planner, 16.0)
    assert 0.0 <= told["worst_minute_attainment"] <= told["slo_attainment"] <= 1.0
    assert told["attainable_share"] == 1.0
    assert told["cost"] == pytest.approx(3.0 * told["gpu_hours"])
    assert told["goodput_per_gpu_s"] > 0
    assert len(told["planner_action_list"]) == told["planner_actions"]
    assert {"at_s", "wanted", "serving", "why", "reasons"} <= set(told["decisions"][0])


def test_without_a_planner_its_figures_say_nothing(tmp_path: Path) -> None:
    ended = jedlik("simulate", "--config", str(EIGHT), "--trace", SHORT, "--json", "-")
    told = json.loads(ended.stdout)
    assert (told["planner"], told["planner_actions"], told["decisions"], told["cost"]) == (None, 0, [], None)
    assert told["slo_attainment"] == told["goodput"]


def test_a_planner_needs_a_budget() -> None:
    with pytest.raises(ConfigError, match=r"--planner hpa needs .* --planner\.budget 16"):
        prepare(settled(EIGHT, planner__policy="hpa", planner__mode="on"), EIGHT, wanted(planner="hpa"))


def test_a_budget_alone_has_the_planner_of_the_file_act() -> None:
    setup = prepare(settled(EIGHT, planner__budget="32"), EIGHT, wanted())
    assert (setup.planner.acts, setup.planner.policy) == ("on", "jedlik")
    assert [pool.rooms for pool in setup.pools] == [16]
    assert len(setup.workers) == 16
    assert sum(setup.begins) == 8


@pytest.mark.parametrize(
    ("budget", "text"), [("1", "too few for a worker of pool h200"), ("14", "the fleet begins with 16")]
)
def test_a_budget_that_is_too_small_is_refused(budget: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        prepare(settled(EIGHT, planner__budget=budget), EIGHT, wanted())


def test_start_up_times_and_counts_of_the_command_line() -> None:
    setup = prepare(settled(SPLIT), SPLIT, wanted(startup_s=7.0, workers=3))
    assert [(pool.count, pool.start_s, pool.rooms) for pool in setup.pools] == [(3, 7.0, 16), (1, 7.0, 16)]
    assert setup.planner.start_s == 7.0
    said = prepare(settled(SPLIT, planner__start_s="20"), SPLIT, wanted(startup_s=7.0))
    assert (said.pools[0].start_s, said.planner.start_s) == (7.0, 20.0)
    assert prepare(settled(SPLIT), SPLIT, wanted()).planner.start_s is None


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"workers": 0}, "--workers 0"),
        ({"workers": 17}, "begins with 17"),
        ({"startup_s": -1.0}, "--startup-s -1"),
        ({"startup_s": float("nan")}, "--startup-s nan"),
    ],
)
def test_what_cannot_be_is_refused(given: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        prepare(settled(PLANNED), PLANNED, wanted(**given))


def test_a_report_shows_what_the_planner_was_told() -> None:
    settings = settled(PLANNED)
    rows = dict(shown(settings, prepare(settings, PLANNED, wanted(startup_s=9.0)), wanted(startup_s=9.0)))
    assert rows["planner.start_s"] == "9.0"
    assert rows["planner.budget"] == "16.0"
    assert rows["pool h200"].startswith("2 of 16")


def test_planners_that_are_not_known_are_named() -> None:
    ended = jedlik("simulate", "--config", str(PLANNED), "--trace", SHORT, "--planner", "magic")
    assert ended.returncode == 2
    assert "no planner is called 'magic'" in ended.stderr
