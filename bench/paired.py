"""A bench of today against the same bench of another checkout, run in turn: ratios of its figures, row by row.

    git worktree add ../before COMMIT
    .venv/bin/python bench/paired.py ../before bench/worker_node.py --column 1 [--rounds 10] [-- ARGUMENTS]

A row is a line of output that has a figure in that column (0 is the first); its first word names it. Printed for each
row: both medians, and the median and range of the ratio today / before over the rounds. Below 1 is better.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def figures(checkout: Path, bench: str, arguments: list[str], column: int) -> dict[str, float]:
    """Return the figures of one run by the first word of their rows."""
    environment = os.environ | {"PYTHONPATH": str(checkout / "src")}
    command = [sys.executable, str(checkout / bench), *arguments]
    output = subprocess.run(command, cwd=checkout, env=environment, check=True, capture_output=True, text=True).stdout
    found: dict[str, float] = {}
    for line in output.splitlines():
        words = line.split()
        if len(words) > column and NUMBER.fullmatch(words[column]):
            found[words[0]] = float(words[column])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="another checkout")
    parser.add_argument("bench", help="path of the bench in both")
    parser.add_argument("--column", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("arguments", nargs="*", help="for the bench")
    args = parser.parse_args()
    today, before = Path(__file__).parents[1], args.before.resolve()
    seen: dict[Path, dict[str, list[float]]] = {today: defaultdict(list), before: defaultdict(list)}
    for turn in range(args.rounds):
        for checkout in (today, before) if turn % 2 else (before, today):
            for row, figure in figures(checkout, args.bench, args.arguments, args.column).items():
                seen[checkout][row].append(figure)
    print(f"{'row':>12} {'before':>10} {'today':>10}  ratio (range)")
    for row, ours in seen[today].items():
        theirs = seen[before].get(row)
        if theirs:
            ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
            spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
            print(f"{row:>12} {statistics.median(theirs):>10.3g} {statistics.median(ours):>10.3g}  {spread}")


if __name__ == "__main__":
    main()
