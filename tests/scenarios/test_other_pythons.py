"""The same seed is the same run on every version of Python: simulations here against simulations under another one.

The other one is made by `bash tools/other_python.sh` in .venv/other, or named in JEDLIK_OTHER_PYTHON (the path of an
interpreter that has jedlik's libraries).
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
OTHER = Path(os.environ.get("JEDLIK_OTHER_PYTHON") or Path(sys.prefix) / "other/bin/python")
PLANNERS = f"{ROOT}/bench/planners/"
MEASURED = ("cpu_s", "wall_s", "times_real_time", "simulated_requests_per_cpu_s")
SWELL = "sinusoid:min=1,max=12,input=2000,output=200,period=30,duration=30"
BURSTS = "gamma:rate=8,cv=3,input=2500,input_cv=1,output=100,output_cv=1,duration=10"
RUNS = {
    "jedlik": ("sim-8xh200.yaml", BURSTS, "--policy", "jedlik", "--shadow", "dynamo"),
    "aibrix": ("sim-8xh200.yaml", "shared_prefix:rate=8,input=2000,duration=10", "--policy", "aibrix"),
    "session": ("sim-8xh200.yaml", "multi_turn:rate=1,duration=20", "--policy", "session"),
    "prefill apart": ("sim-disagg.yaml", BURSTS),
    "faults": ("sim-faults.yaml", BURSTS, "--policy", "power_of_two"),
    "planned": ("sim-planner.yaml", SWELL, "--planner", "jedlik"),
    "planned by dynamo": ("sim-planner-split.yaml", SWELL, "--planner", PLANNERS + "dynamo.py"),
    "oracle": ("sim-planner.yaml", SWELL, "--planner", PLANNERS + "oracle.py", "--until", "15"),
}


def figures(python: Path | str, config: str, trace: str, *more: str) -> dict[str, object]:
    """All that a run says of itself, but what is measured."""
    command = [str(python), "-m", "jedlik", "simulate", "--config", str(EXAMPLES / config), "--trace", trace, *more]
    environment = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "PYTHONPATH": str(ROOT / "src")}
    ended = subprocess.run([*command, "--json", "-"], capture_output=True, text=True, env=environment, check=False)
    assert ended.returncode == 0, ended.stderr
    found: dict[str, object] = json.loads(ended.stdout)
    return {name: value for name, value in found.items() if name not in MEASURED}


@pytest.mark.skipif(not OTHER.exists(), reason=f"no second Python at {OTHER}: `bash tools/other_python.sh` makes it")
@pytest.mark.parametrize("name", RUNS)
def test_another_version_of_python_gives_the_same_run(name: str) -> None:
    version = "import sys; print(sys.version_info[:2])"
    other = subprocess.run([str(OTHER), "-c", version], capture_output=True, text=True, check=True).stdout.strip()
    assert other != str(sys.version_info[:2]), f"{OTHER} is the version that runs the tests: name another one"
    here, there = figures(sys.executable, *RUNS[name]), figures(OTHER, *RUNS[name])
    assert here["answered"]
    assert there == here
