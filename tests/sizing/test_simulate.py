"""`jedlik simulate` as a user meets it: a small run, its files, and what stops it before it starts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jedlik.core.errors import ConfigError
from jedlik.serve.settings import settle
from jedlik.sim.workload.options import WorkloadOptions
from jedlik.sizing.simulate import SimulateOptions, prepare, shown

EXAMPLES = Path(__file__).parents[2] / "examples"
EIGHT = EXAMPLES / "sim-8xh200.yaml"
WANTED = SimulateOptions(trace="t", options=WorkloadOptions())


def jedlik(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "jedlik", *arguments]
    environ = {
        "PATH": "/usr/bin:/bin",
        "HOME": "/nonexistent",
        "COLUMNS": "200",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    return subprocess.run(command, capture_output=True, text=True, env=environ, timeout=60, check=False)


def trace(folder: Path, requests: int = 40) -> str:
    """Mooncake's format: every other request repeats the block before."""
    rows = (
        {"timestamp": number * 200, "input_length": 900, "output_length": 8, "hash_ids": [number // 2, 1000 + number]}
        for number in range(requests)
    )
    file = folder / "trace.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def test_a_small_run_writes_what_it_found(tmp_path: Path) -> None:
    out, html = tmp_path / "out.json", tmp_path / "out.html"
    files = ("--json", str(out), "--html", str(html))
    ended = jedlik("simulate", "--config", str(EIGHT), "--trace", trace(tmp_path), "--policy", "round_robin", *files)
    assert ended.returncode == 0, ended.stderr
    assert "40 offered, 40 answered" in ended.stdout
    told = json.loads(out.read_text())
    assert (told["requests"], told["policy"], told["seed"], told["goodput"]) == (40, "round_robin", 0, 1.0)
    assert len(told["workers"]) == 8
    assert "sim-8xh200 on trace.jsonl" in html.read_text()


def test_a_run_repeats_itself_and_json_may_be_the_output(tmp_path: Path) -> None:
    faults = EXAMPLES / "sim-faults.yaml"
    given = ("simulate", "--config", str(faults), "--trace", trace(tmp_path, 400), "--seed", "4", "--json", "-")
    first, second = (json.loads(jedlik(*given).stdout) for _ in range(2))
    measured = ("cpu_s", "wall_s", "times_real_time", "simulated_requests_per_cpu_s")
    assert first["action_list"]
    assert {k: v for k, v in first.items() if k not in measured} == {
        k: v for k, v in second.items() if k not in measured
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--trace", "t.jsonl"], "no model"),
        (["--config", str(EIGHT)], "no workload"),
        (["--config", str(EIGHT), "--trace", "t.jsonl"], "t.jsonl"),
        (["--config", str(EIGHT), "--trace", "t.jsonl", "--policy", "dinamo"], "did you mean dynamo"),
        (["--config", str(EIGHT), "--trace", "t.jsonl", "--shadow", "dinamo"], "did you mean dynamo"),
        (
            ["--config", str(EIGHT), "--trace", "t.jsonl", "--slo-ttft", "-1"],
            "gateway.slo_ttft_s = '-1': -1 is out of range",
        ),
        (["--config", str(EIGHT), "--trace", "t.jsonl", "--slo-itl", "soon"], "gateway.slo_itl_s = 'soon'"),
        (["--config", str(EIGHT), "--trace", "t.jsonl", "--speed", "0"], "speed is 0"),
        (["--config", str(EIGHT), "--trace", "t.jsonl", "--until", "0"], "--until 0"),
        (["--config", str(EIGHT), "--trace", "t.jsonl", "--json", "no/such/folder/x"], "there is no folder"),
    ],
)
def test_what_is_wrong_stops_it_with_a_remedy(arguments: list[str], message: str) -> None:
    ended = jedlik("simulate", *arguments)
    assert ended.returncode == 2
    assert message in " ".join(ended.stderr.split())
    assert "Traceback" not in ended.stderr


def test_a_file_without_a_fleet_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text("model: m\n")
    with pytest.raises(ConfigError, match=r"serve\.yaml has no `pools:`"):
        prepare(settle({}, {}, file, simulated=True), file, WANTED)


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("sim-*.yaml")), ids=lambda file: file.stem)
def test_examples_can_be_run_and_say_everything_in_their_report(file: Path) -> None:
    settings = settle({}, {}, file, simulated=True)
    setup = prepare(settings, file, WANTED)
    rows = shown(settings, setup, WANTED)
    names = [name for name, _ in rows]
    assert names.count("fault") == len(setup.faults)
    assert {"trace", "seed", "worker.block_size", "gateway.policy", "network: latency_s"} <= set(names)


def test_the_example_is_the_setting_of_the_comparisons() -> None:
    setup = prepare(settle({}, {}, EIGHT, simulated=True), EIGHT, WANTED)
    assert len(setup.workers) == 8
    assert {pool.kv_tokens // setup.worker.block_size for pool in setup.pools} == {2400}
    assert (setup.gateway.slo_ttft_s, setup.gateway.slo_itl_s) == (2.0, 0.025)


def test_flags_that_are_short_for_settings_mean_the_same(tmp_path: Path) -> None:
    given = ("simulate", "--config", str(EIGHT), "--trace", trace(tmp_path, 10), "--json", "-")
    short = json.loads(jedlik(*given, "--slo-ttft", "0.001").stdout)
    long = json.loads(jedlik(*given, "--gateway.slo-ttft-s", "0.001").stdout)
    assert short["slo_ttft_s"] == long["slo_ttft_s"] == 0.001
    assert short["goodput"] == long["goodput"] == 0.0


POLICY = """
from jedlik.routing.policy import Scored

class Failing(Scored):
    name = "failing"
    def score(self, offers, ask):
        if int(ask.request_id) % {often} == 0:
            raise {what}
        return [{{"none": 0.0}} for offer in offers]
"""


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("KeyError('[bold]k')", "KeyError: '[bold]k'"),
        ("SystemExit(3)", "SystemExit: 3"),
        ("RecursionError", "RecursionError"),
        ("BaseException('b')", "BaseException: b"),
    ],
)
@pytest.mark.parametrize("which", ["policy", "shadow"])
@pytest.mark.parametrize("often", [1, 4])
def test_a_policy_that_fails_is_told_of_everywhere_and_ends_the_command_if_it_never_chose(
    tmp_path: Path, what: str, told: str, which: str, often: int
) -> None:
    policy, out, html = tmp_path / "failing.py", tmp_path / "out.json", tmp_path / "out.html"
    policy.write_text(POLICY.format(what=what, often=often))
    given = ("--config", str(EIGHT), "--trace", trace(tmp_path, 40), f"--{which}", str(policy))
    ended = jedlik("simulate", *given, "--json", str(out), "--html", str(html))
    count = 40 // often
    assert ended.returncode == (2 if often == 1 else 0)
    assert f"in {count} of 40 choices; {count} × policy failing failed:" in ended.stdout
    assert told in ended.stdout
    assert f"in {count} of 40 choices" in html.read_text()
    figures = json.loads(out.read_text())
    failures = {"policy": figures["policy_failures"], "shadow": figures["shadow_failures"]}
    assert failures.pop(which)["failures"] == count
    assert list(failures.values()) == [None]
    last = ended.stderr.splitlines()[-1] if ended.stderr else ""
    assert ("failed in all of its 40 choices" in last) == (often == 1)
