"""`jedlik plan --trace`: which fleet serves this workload within its SLOs at the least cost, found by simulating.

The search runs against a clock; what was found is told and written.
"""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from shlex import quote

from rich.console import Console
from rich.status import Status

from jedlik.console.show import say
from jedlik.core.config import ServeConfig
from jedlik.core.errors import ConfigError
from jedlik.serve.settings import Settings, settle
from jedlik.sim.sizing import Trial, settings
from jedlik.sim.sizing_points import best, front
from jedlik.sim.sizing_search import Results, Rounds, search
from jedlik.sizing import as_json, as_text, config_file
from jedlik.sizing.found import Found, flags
from jedlik.sizing.runs import Runs, processes
from jedlik.sizing.simulate import STDOUT, writable, write
from jedlik.sizing.task import PlanOptions, Prepared, needs, prepare

__all__ = ["PlanOptions", "run", "settled"]


def settled(flags: Mapping[str, object], environ: Mapping[str, str], file: Path | None) -> Settings:
    """Return settings as `jedlik simulate` has them; without a model, where neither it nor a fleet is named. Raises
    ConfigError."""
    return settle(flags, environ, file, simulated=True, unnamed="")


def run(found: Settings, file: Path | None, wanted: PlanOptions) -> Found:
    """Search, tell, write. Raises ConfigError with a remedy."""
    begun_s = time.monotonic()
    check(found.config, wanted)
    prepared = prepare(found, file, wanted)
    runs = _searched(prepared, begun_s + wanted.time_budget_s)
    points = prepared.judge.points(runs.results)
    result = Found(
        points=points,
        front=front(points),
        best=best(points),
        budget=prepared.plan.budget,
        attainment=prepared.plan.attainment,
        slo=prepared.slo,
        load=prepared.load,
        attainable_share=prepared.judge.attainable_share["trace"],
        pieces={part: sum(b - a for a, b in cut) for part, cut in prepared.task.stretches.items()},
        choices=prepared.plan.choices,
        needs=needs(prepared),
        left_out=list(dict.fromkeys(runs.left_out)),
        broken={f"{trial.fleet.name} ({trial.part})": why for trial, why in runs.broken.items()},
        took_s=time.monotonic() - begun_s,
    )
    _show(result, found, wanted, prepared)
    return result


def check(config: ServeConfig, wanted: PlanOptions) -> None:
    """Check what can be checked before anything is read. Raises ConfigError."""
    if not wanted.trace:
        raise ConfigError("no workload: name a trace file or a generator with --trace (docs/simulator.md lists them)")
    gateway, planner = config.gateway, config.planner
    if gateway.slo_ttft_s is None and gateway.slo_itl_s is None:
        raise ConfigError(
            "no SLO: say what is good enough with --slo-ttft and --slo-itl (seconds), or gateway.slo_ttft_s and "
            "gateway.slo_itl_s in the file"
        )
    if planner.budget is None:
        raise ConfigError("how many GPUs are there? Say --budget N, or planner.budget in the file")
    if not planner.budget > 0:
        raise ConfigError(f"--budget {planner.budget:g}: at least one GPU is needed")
    if not 0 < planner.attainment <= 1:
        raise ConfigError(f"planner.attainment is {planner.attainment:g}; it is a share, as in --attainment 0.95")
    if not wanted.time_budget_s > 0:
        raise ConfigError(f"--time-budget {wanted.time_budget_s:g}: more than 0 s is needed")
    for target in (wanted.json, wanted.html, wanted.out):
        writable(target)
        if target and target != STDOUT and not os.access(Path(target).absolute().parent, os.W_OK):
            raise ConfigError(f"{target} cannot be written: its folder is read-only for us; name another file")
    if wanted.out != STDOUT and Path(wanted.out).exists() and not wanted.force:
        raise ConfigError(f"{wanted.out} exists: say --force to overwrite it, or --out FILE")
    if STDOUT in (wanted.out, wanted.html):
        raise ConfigError("only --json can be written to the output: name a file")


def _searched(prepared: Prepared, deadline_s: float) -> Runs:
    """Run the search against the clock."""
    console = Console(stderr=True)
    status = Status("planning", console=console)
    shown = console.is_terminal

    def tell(done: int) -> None:
        left_s = max(deadline_s - time.monotonic(), 0.0)
        text = f"planning: {done} fleets simulated, at most {left_s:.0f} s more"
        if shown:
            status.update(text)
        elif done % 10 == 0:
            say(text)

    with Runs(prepared.task, deadline_s, processes(), tell) as runs:
        if shown:
            status.start()
        try:
            rounds = search(prepared.plan)
            trials = next(rounds, None)
            while trials is not None:
                trials = _next(rounds, runs.run(trials))
        except KeyboardInterrupt:
            say(f"stopped after {len(runs.results)} simulations; nothing was written")
            raise
        finally:
            status.stop()
    return runs


def _next(rounds: Rounds, results: Results) -> list[Trial] | None:
    try:
        return rounds.send(results)
    except StopIteration:
        return None


def _show(result: Found, found: Settings, wanted: PlanOptions, prepared: Prepared) -> None:
    """Print the result, and write it to files. The config is written only for a fleet that holds."""
    Console(stderr=wanted.json == STDOUT).print(as_text.rendered(result))
    if result.best is not None and result.status == "found":
        config, simulation = settings(prepared.task.base, result.best.fleet)
        write(wanted.out, config_file.text(found, config, simulation, result, wanted.trace).encode())
        again = f"jedlik simulate --config {quote(wanted.out)} --trace {quote(wanted.trace)}"
        say(f"written to {wanted.out}; {again} {flags(wanted.options, wanted.seed)}".rstrip())
    else:
        say(f"{wanted.out} is not written: no fleet was simulated to hold")
    if wanted.html:
        write(wanted.html, as_text.page(result, f"Fleets for {Path(wanted.trace).name}").encode())
    if wanted.json:
        write(wanted.json, as_json.to_json(result))
