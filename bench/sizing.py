"""How long `jedlik plan` takes, and what it finds: 10,000 requests, 64 GPUs, nine candidates.

    .venv/bin/python bench/sizing.py --trace conversation.jsonl.gz [--limit 10000] [--budget 64] [--repeat 2] [--check]

The wall time is that of the command, start-up included. `--check` runs `jedlik simulate` on the file it wrote.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROFILES = ",".join(f"qwen3-32b-fp8/{gpu}/*" for gpu in ("h100", "h200", "b200"))


def jedlik(*arguments: str) -> float:
    begun_s = time.perf_counter()
    subprocess.run([sys.executable, "-m", "jedlik", *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begun_s


def planned(args: argparse.Namespace, folder: Path) -> tuple[float, dict[str, object]]:
    told = folder / "plan.json"
    took_s = jedlik(
        "plan",
        *("--trace", args.trace, "--limit", str(args.limit), "--profiles", args.profiles),
        *("--slo-ttft", str(args.slo_ttft), "--slo-itl", str(args.slo_itl), "--budget", str(args.budget)),
        *("--out", str(folder / "plan.yaml"), "--force", "--json", str(told), "--time-budget", str(args.time_budget)),
    )
    found: dict[str, object] = json.loads(told.read_text())
    return took_s, found


def shown(took_s: float, found: dict[str, object]) -> str:
    best, fleets, left_out = found["best"], found["fleets"], found["left_out"]
    assert isinstance(best, dict)
    assert isinstance(fleets, list)
    assert isinstance(left_out, list)
    whole = sum(fleet["simulated"] == "trace" for fleet in fleets)
    return (
        f"{took_s:.1f} s: {best['fleet']}, {best['hour_usd']:.2f} USD/h, attainment {best['attainment']:.4f} "
        f"(on the {best['simulated']}); {len(fleets)} fleets simulated, {whole} of them on all of the trace, "
        f"{len(left_out)} left out"
    )


def checked(args: argparse.Namespace, folder: Path, found: dict[str, object]) -> str:
    out = folder / "simulated.json"
    jedlik(
        "simulate",
        *("--config", str(folder / "plan.yaml"), "--trace", args.trace, "--limit", str(args.limit), "--json", str(out)),
    )
    best, figures = found["best"], json.loads(out.read_text())
    assert isinstance(best, dict)
    return f"`jedlik simulate`: slo_attainment {figures['slo_attainment']}, predicted {best['slo_attainment']}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trace", required=True)
    parser.add_argument("--limit", type=int, default=10_000)
    parser.add_argument("--budget", type=int, default=64)
    parser.add_argument("--profiles", default=PROFILES)
    parser.add_argument("--slo-ttft", type=float, default=2.0)
    parser.add_argument("--slo-itl", type=float, default=0.025)
    parser.add_argument("--time-budget", type=float, default=50.0)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        for _ in range(args.repeat):
            took_s, found = planned(args, Path(name))
            print(shown(took_s, found), flush=True)
        if args.check:
            print(checked(args, Path(name), found))


if __name__ == "__main__":
    main()
