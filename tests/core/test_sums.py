"""Sums of floats are added from left to right on every Python, and mypy refuses the built-in `sum` for them in src/."""

import math
import subprocess
import sys
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from jedlik.core.sums import float_sum

PLUGIN = Path(__file__).parents[2] / "tools/float_sums.py"
CODE = """
def floats(values: list[float], more: dict[str, float]) -> float:
    one = sum(values)
    two = sum(value * 2 for value in values)
    three = sum(more.values(), 0.0)
    return one + two + three

def whole(values: list[int]) -> int:
    return sum(values) + sum(len(str(value)) for value in values) + sum(value > 3 for value in values)
"""


@given(st.lists(st.floats(-1e12, 1e12)))
def test_each_step_is_rounded(values: list[float]) -> None:
    expected = 0.0
    for value in values:
        expected = expected + value
    assert math.copysign(1, float_sum(values)) == math.copysign(1, expected)
    assert float_sum(iter(values)) == expected


def test_small_parts_are_lost_as_they_were_before_compensation() -> None:
    assert float_sum([1e16, 1.0, 1.0, -1e16]) == 0.0
    assert float_sum([0.1] * 10) == 0.9999999999999999
    assert float_sum([]) == 0.0


def test_mypy_refuses_the_built_in_sum_of_floats_and_takes_that_of_whole_numbers(tmp_path: Path) -> None:
    (tmp_path / "src/jedlik").mkdir(parents=True)
    (tmp_path / "src/jedlik/summing.py").write_text(CODE)
    (tmp_path / "mypy.ini").write_text(f"[mypy]\nplugins = {PLUGIN}\ncache_dir = {tmp_path}/cache\n")
    command = [sys.executable, "-m", "mypy", "src/jedlik/summing.py"]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    lines = {int(line.split(":")[1]) for line in ended.stdout.splitlines() if ": error:" in line}
    assert lines == {3, 4, 5}, ended.stdout + ended.stderr
