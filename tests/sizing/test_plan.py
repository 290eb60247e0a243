"""`jedlik plan --trace` as a user meets it: a small workload planned, its file run again, and what stops it before."""

import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from jedlik.core.config import ServeConfig
from jedlik.core.errors import ConfigError
from jedlik.serve.settings import Settings, settle
from jedlik.sim.sizing import Figures, Shape, SizedFleet, Trial, settings
from jedlik.sim.sizing_points import best, front
from jedlik.sim.workload.options import WorkloadOptions
from jedlik.sizing import as_json, as_text, candidates, config_file
from jedlik.sizing.found import EXITS, Found, flags
from jedlik.sizing.plan import check, settled
from jedlik.sizing.runs import Runs, SizingTask, prepared
from jedlik.sizing.simulate import SimulateOptions
from jedlik.sizing.simulate import prepare as prepare_simulation
from jedlik.sizing.task import PlanOptions, Prepared, needs, prepare

EXAMPLES = Path(__file__).parents[2] / "examples"
EIGHT = EXAMPLES / "sim-8xh200.yaml"
DISAGG = EXAMPLES / "sim-disagg.yaml"
H100 = "qwen3-32b-fp8/h100/tp1"
SMALL = "poisson:rate=4,input=2000,output=60,duration=20"
SAID = {"gateway.slo_ttft_s": "2", "gateway.slo_itl_s": "0.03", "planner.budget": "8"}


def jedlik(*arguments: str, folder: Path | None = None) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "jedlik", *arguments]
    environ = {
        "PATH": "/usr/bin:/bin",
        "HOME": "/nonexistent",
        "COLUMNS": "100",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        env=environ,
        timeout=110,
        check=False,
        cwd=folder,
        stdin=subprocess.DEVNULL,
    )


def wanted(**said: object) -> PlanOptions:
    given = {"trace": SMALL, "options": WorkloadOptions(), "profiles": H100} | said
    return PlanOptions(**given)  # type: ignore[arg-type]


def task(found: Settings | None = None, **said: object) -> Prepared:
    return prepare(found or settled(SAID, {}, None), None, wanted(**said))


def figures(good: int = 80, requests: int = 80) -> Figures:
    return Figures(
        requests=requests,
        good=good,
        slo_attainment=good / requests,
        ttft_p50_s=0.2,
        ttft_p99_s=0.9,
        itl_p50_s=0.018,
        itl_p99_s=0.025,
        hit_rate=0.0,
        output_tokens=60.0 * requests,
        duration_s=20.0,
    )


def made_found(made: Prepared, results: dict[Trial, Figures], left_out: list[Trial] | None = None) -> Found:
    points = made.judge.points(results)
    return Found(
        points=points,
        front=front(points),
        best=best(points),
        budget=made.plan.budget,
        attainment=made.plan.attainment,
        slo=made.slo,
        load=made.load,
        attainable_share=1.0,
        pieces={},
        choices=made.plan.choices,
        needs=needs(made),
        left_out=left_out or [],
        broken={},
        took_s=1.0,
    )


def test_a_plan_is_found_and_its_file_simulates_to_what_was_predicted(tmp_path: Path) -> None:
    out, told, html = tmp_path / "plan.yaml", tmp_path / "plan.json", tmp_path / "plan.html"
    given = ["--trace", SMALL, "--profiles", H100, "--chunks", "2048", "--slo-ttft", "2", "--slo-itl", "0.03"]
    files = ["--out", str(out), "--json", str(told), "--html", str(html)]
    ended = jedlik("plan", *given, "--budget", "8", "--seed", "3", *files)
    assert ended.returncode == 0, ended.stderr
    assert "Serve it with" in ended.stdout
    found = json.loads(told.read_text())
    assert found["holds"]
    assert found["best"]["attainment"] >= 0.95
    assert found["best"]["fleet"] in ended.stdout
    assert "<svg" in html.read_text()
    again = jedlik("simulate", "--config", str(out), "--trace", SMALL, "--seed", "3", "--json", "-")
    assert again.returncode == 0, again.stderr
    figures = json.loads(again.stdout)
    assert figures["slo_attainment"] == found["best"]["slo_attainment"]
    assert figures["goodput"] == found["best"]["goodput"]
    assert figures["ttft_s"]["p99"] == pytest.approx(found["best"]["ttft_p99_s"])
    assert figures["gpus"] == found["best"]["gpus"]
    refused = jedlik("plan", *given, "--budget", "8", *files)
    assert refused.returncode == 2
    assert "--force" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", str(EIGHT), "--budget", "8"], "no workload"),
        (["--trace", SMALL, "--profiles", H100, "--budget", "8"], "no SLO"),
        (["--trace", SMALL, "--profiles", H100, "--slo-ttft", "1"], "--budget N"),
        (["--trace", SMALL, "--config", str(EIGHT), "--budget", "1"], "not one worker fits"),
        (["--trace", SMALL, "--budget", "8", "--slo-ttft", "1"], "nothing to choose from"),
        (
            ["--trace", SMALL, "--budget", "8", "--slo-ttft", "1", "--profiles", "qwen3-32b-fp8/h100/tp3"],
            "did you mean",
        ),
        (["--trace", SMALL, "--budget", "8", "--slo-ttft", "1", "--profiles", "nothing/*"], "no profile is like"),
        (["--trace", SMALL, "--budget", "8", "--slo-ttft", "1", "--model", "qwen3-32b"], "known are"),
        (["--trace", "no.jsonl", "--config", str(EIGHT), "--budget", "8"], "no.jsonl"),
        (["--trace", "empty.jsonl", "--config", str(EIGHT), "--budget", "8"], "the file is empty"),
        (["--trace", SMALL, "--config", str(EIGHT), "--budget", "8", "--out", "no/folder/x"], "there is no folder"),
        (["--trace", SMALL, "--config", str(EIGHT), "--budget", "8", "--out", "empty.jsonl"], "--force"),
        (["--trace", SMALL, "--config", str(EIGHT), "--budget", "8", "--cost", "h200"], "DEVICE=USD"),
        (["--trace", SMALL, "--config", str(EIGHT), "--budget", "8", "--cost", "h200=1_0"], "DEVICE=USD"),
        (["--trace", SMALL, "--config", str(EIGHT), "--budget", "8", "--chunks", "many"], "--chunks many"),
        (["--trace", SMALL, "--config", str(EIGHT), "--budget", "8", "--attainment", "95"], "95 is out of range"),
        (["--trace", SMALL, "--config", str(EIGHT), "--budget", "8", "--slo-ttft", "0.0001"], "no request can"),
        (["--trace", SMALL, "--advise"], "say one of the two"),
    ],
)
def test_what_is_wrong_stops_it_with_a_remedy(arguments: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    ended = jedlik("plan", *arguments, folder=tmp_path)
    assert ended.returncode == 2
    assert message in " ".join(ended.stderr.split())
    assert "Traceback" not in ended.stderr


# --- candidates ---


def test_pools_that_differ_only_in_name_count_and_role_are_one_candidate() -> None:
    found = settle({}, {}, DISAGG, simulated=True)
    pools = candidates.pools(found.config, DISAGG, None, None)
    assert [(pool.kv_cache_bytes, pool.kv_host_bytes) for pool, _ in pools] == [
        (None, None),
        (12500 << 20, 37500 << 20),
    ]
    engines = candidates.engines(pools, {})
    assert [engine.label for engine in engines] == ["h100 tp1 no. 1", "h100 tp1 no. 2"]


def test_all_profiles_of_a_model_are_candidates_with_prices() -> None:
    engines = candidates.engines(candidates.pools(ServeConfig(model=""), None, None, "qwen3-32b-fp8"), {"gb200": 9.0})
    assert len(engines) == len({engine.label for engine in engines}) == 12
    assert {e.profile.device: e.gpu_hour_usd for e in engines} == {
        "h100": 1.3,
        "h200": 1.41,
        "b200": 1.95,
        "gb200": 9.0,
    }


def test_an_unknown_price_must_be_said() -> None:
    pools = candidates.pools(ServeConfig(model=""), None, "roofline:llama-3.1-8b/l40s/tp1", None)
    with pytest.raises(ConfigError, match="--cost l40s=USD"):
        candidates.engines(pools, {})
    assert candidates.engines(pools, candidates.prices(["L40S=0.8"]))[0].gpu_hour_usd == 0.8


# --- the file ---


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_the_file_is_the_simulation_that_was_judged(share: float, tmp_path: Path) -> None:
    source = tmp_path / "mine.yaml"
    source.write_text(
        "model: ./my-model\napi_keys: {secret: me}\ngateway: {slo_itl_s: 0.03}\nplanner: {gpu_hour_cost: 2}\n"
        f"pools:\n  - {{name: a, count: 1, profile: {H100}, kv_cache_bytes: {150_000 * 131_072}, start_s: 30}}\n"
        "simulation:\n  gateways: 2\n  network: {latency_s: 0.001}\n  faults: [{at_s: 5, kind: crash, worker: a/0}]\n"
    )
    found = settled({"planner.budget": "8"}, {}, source)
    made = prepare(found, source, wanted(profiles=None))
    fleet = SizedFleet(Shape(made.shapes[0].engine, 2048, share), 4)
    trial = Trial(fleet, "trace")
    config, simulation = settings(made.task.base, fleet)
    out = tmp_path / "plan.yaml"
    out.write_text(config_file.text(found, config, simulation, made_found(made, {trial: figures()}), SMALL))
    assert "secret" not in out.read_text()
    read = settle({}, {}, out, simulated=True)
    simulated = prepare_simulation(read, out, SimulateOptions(trace=SMALL, options=WorkloadOptions()))
    judged = prepared(made.task, trial)
    same = ("model", "worker", "gateway", "gateways", "network", "faults", "handoffs", "seed")
    assert [getattr(simulated, name) for name in same] == [getattr(judged, name) for name in same]
    kept = ("name", "count", "profile", "gpus", "kv_tokens", "start_s", "role", "kv_token_bytes")
    assert [[getattr(p, n) for n in kept] for p in simulated.pools] == [
        [getattr(p, n) for n in kept] for p in judged.pools
    ]
    assert (read.config.model, read.config.gateway.slo_itl_s) == ("./my-model", 0.03)
    assert len(read.config.roles) == 4
    planner = read.config.planner
    assert (planner.acts, planner.budget, planner.min_workers, planner.gpu_hour_cost) == ("off", 8, 4, 2)


def test_without_a_model_the_file_says_where_it_goes(tmp_path: Path) -> None:
    found = settled(SAID, {}, None)
    made = task(found)
    fleet = SizedFleet(made.shapes[0], 2)
    config, simulation = settings(made.task.base, fleet)
    text = config_file.text(found, config, simulation, made_found(made, {Trial(fleet, "trace"): figures()}), SMALL)
    assert "# model: DIRECTORY" in text
    out = tmp_path / "plan.yaml"
    out.write_text(text)
    assert settle({}, {}, out, simulated=True).config.model == H100


# --- words ---


def test_a_recommendation_says_its_numbers_and_why_others_lost() -> None:
    made = task(profiles="qwen3-32b-fp8/h[12]00/tp1")
    h100, h200 = (next(s for s in made.shapes if s.engine.profile.device == d) for d in ("h100", "h200"))
    left_out = [Trial(SizedFleet(h200, 3), "trace")]
    results = {Trial(SizedFleet(h100, 3), "trace"): figures(78), Trial(SizedFleet(h200, 2), "trace"): figures(70)}
    found = made_found(made, results, left_out)
    text = as_text.sentence(found)
    assert text.startswith("Serve it with 3 × h100 tp1, chunk 1024: attainment 97.5 % (wanted 95.0 %)")
    assert "3 of 8 GPUs, 3.90 USD per hour" in text
    assert ("2 × h200 tp1, chunk 1024", "attainment 87.5 % at 2.82 USD per hour") in as_text.losers(found)
    assert any("Time was up before 1 simulations" in note for note in as_text.notes(found))
    assert json.loads(as_json.to_json(found))["left_out"] == ["3 × h200 tp1, chunk 1024 (trace)"]
    assert "2 × h200 tp1" in as_text.page(found, "t")


HEAVY = "poisson:rate=20,input=2000,output=60,duration=20"


def tried(made: Prepared, good: int) -> dict[Trial, Figures]:
    """Every shape with as many workers as there is budget for."""
    fleets = [SizedFleet(choice.shape, choice.shape.most(made.plan.budget)) for choice in made.plan.choices]
    return {Trial(fleet, "trace"): figures(good, 400) for fleet in fleets}


def test_where_nothing_holds_it_says_what_would() -> None:
    made = task(settled(SAID | {"planner.budget": "2"}, {}, None), trace=HEAVY)
    found = made_found(made, tried(made, 100))
    assert (found.status, EXITS[found.status]) == ("nothing", 1)
    assert as_text.sentence(found).startswith("Nothing within the budget holds. The closest that was simulated is 2")
    assert any("would do" in note or "no number" in note for note in as_text.notes(found))
    told = json.loads(as_json.to_json(found))
    assert (told["status"], told["holds"], told["estimated"]) == ("nothing", False, None)


@pytest.mark.parametrize("points", [0, 1])
def test_where_time_was_up_it_says_so_and_what_is_estimated_to_hold(points: int) -> None:
    made = task(settled(SAID | {"planner.budget": "64"}, {}, None), trace=HEAVY)
    results = {Trial(SizedFleet(made.shapes[0], 2), "trace"): figures(100, 400)} if points else {}
    found = made_found(made, results)
    assert (found.status, EXITS[found.status]) == ("estimated", 3)
    fleet = found.estimated
    assert fleet is not None
    assert 2 < fleet.gpus <= 64
    text = as_text.sentence(found)
    assert text.startswith(f"Time was up after 1 s: of {points} fleets simulated none holds")
    assert f"Estimated to hold, but not simulated, is {fleet.name}" in text
    assert "Nothing within the budget" not in text
    told = json.loads(as_json.to_json(found))
    assert (told["status"], told["estimated"]["fleet"], told["best"] is None) == ("estimated", fleet.name, not points)
    for shown in (as_text.page(found, "t"), rendered(found)):
        assert "Estimated to hold, but not simulated" in " ".join(shown.split())


def test_where_time_was_up_and_nothing_is_estimated_to_hold_it_says_that() -> None:
    made = task(settled(SAID | {"planner.budget": "2"}, {}, None), trace=HEAVY)
    found = made_found(made, dict(list(tried(made, 100).items())[:1]))
    assert (found.status, EXITS[found.status]) == ("time_up", 4)
    assert "By the estimate no fleet within the budget holds either." in as_text.sentence(found)


def test_what_broke_counts_as_tried() -> None:
    made = task(settled(SAID | {"planner.budget": "2"}, {}, None), trace=HEAVY)
    results = tried(made, 100)
    broken = results.popitem()[0]
    found = msgspec.structs.replace(made_found(made, results), broken={f"{broken.fleet.name} (trace)": "a bug"})
    assert found.status == "nothing"


def test_a_policy_that_failed_now_and_then_is_told_of() -> None:
    made = task()
    failed = msgspec.structs.replace(figures(), choices=80, failures=20, cause="policy p failed: KeyError")
    found = made_found(made, {Trial(SizedFleet(made.shapes[0], 2), "trace"): failed})
    assert any("in up to 25.0 % of the choices" in note for note in as_text.notes(found))


def rendered(found: Found) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(as_text.rendered(found))
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


@pytest.mark.parametrize(
    ("budget", "seconds", "code", "status"), [("1", "50", 1, "nothing"), ("64", "0.01", 3, "estimated")]
)
def test_the_exit_code_says_what_came_of_it_and_no_config_is_written_unless_one_holds(
    tmp_path: Path, budget: str, seconds: str, code: int, status: str
) -> None:
    """In a hundredth of a second no simulation can end."""
    out, told, html = tmp_path / "plan.yaml", tmp_path / "plan.json", tmp_path / "plan.html"
    given = ["--trace", HEAVY, "--profiles", H100, "--chunks", "2048", "--slo-ttft", "2", "--slo-itl", "0.03"]
    files = ["--out", str(out), "--json", str(told), "--html", str(html)]
    ended = jedlik("plan", *given, "--budget", budget, "--time-budget", seconds, *files)
    assert ended.returncode == code, ended.stderr
    assert "is not written: no fleet was simulated to hold" in ended.stderr
    assert not out.exists()
    assert json.loads(told.read_text())["status"] == status
    assert html.exists()


def test_a_policy_that_always_fails_ends_the_search(tmp_path: Path) -> None:
    policy = tmp_path / "failing.py"
    policy.write_text(
        "from jedlik.routing.policy import Scored\nclass Failing(Scored):\n    name = 'failing'\n"
        "    def score(self, offers, ask):\n        raise KeyError\n"
    )
    given = ["--trace", SMALL, "--profiles", H100, "--slo-ttft", "2", "--budget", "2", "--gateway.policy", str(policy)]
    ended = jedlik("plan", *given, folder=tmp_path)
    assert ended.returncode == 2
    assert "failed in all of its" in " ".join(ended.stderr.split())
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "plan.yaml").exists()


def test_flags_repeat_the_workload() -> None:
    options = WorkloadOptions(limit=10000, speed=2.0, start_s=60.0, begin_midway=True)
    assert flags(options, 3) == "--speed 2 --limit 10000 --start 60 --begin-midway --seed 3"


# --- what is simulated ---


def test_a_long_trace_is_sampled_and_a_short_one_is_not() -> None:
    assert task().task.stretches == {}
    long = task(trace="poisson:rate=50,input=200,output=10,duration=200")
    assert set(long.task.stretches) == {"sample"}
    assert long.task.requests == {"sample": 1005, "trace": long.load.requests}
    longer = task(trace="poisson:rate=50,input=200,output=10,duration=1000")
    assert set(longer.task.stretches) == {"sample", "trace"}
    assert longer.plan.trace_trials >= 4


def test_what_finds_no_time_is_left_out() -> None:
    made = task()
    with Runs(made.task, time.monotonic() - 1, 1, lambda done: None) as runs:
        trial = Trial(SizedFleet(made.shapes[0], 2), "trace")
        assert runs.run([trial]) == {}
        assert runs.left_out == [trial]


def test_settings_are_checked_before_anything_is_read() -> None:
    for key, value in (("planner.budget", "0"), ("gateway.slo_ttft_s", "-1"), ("planner.attainment", "0")):
        with pytest.raises(ConfigError):
            check(settled(SAID | {key: value}, {}, None).config, wanted(out="never-there.yaml"))
    assert isinstance(task().task, SizingTask)
