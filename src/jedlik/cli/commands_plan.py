"""The `jedlik plan` command: offline with --trace, else what a running server's planner says. Parses and hands over."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jedlik.cli.flags import with_flags
from jedlik.cli.help import command
from jedlik.cli.workload_flags import with_workload
from jedlik.core.errors import ConfigError

if TYPE_CHECKING:
    from jedlik.sim.workload.options import WorkloadOptions

SHORT = {
    "budget": "planner.budget",
    "attainment": "planner.attainment",
    "slo_ttft": "gateway.slo_ttft_s",
    "slo_itl": "gateway.slo_itl_s",
}


def plan(
    config: Annotated[
        Path | None, typer.Option("--config", envvar="JEDLIK_CONFIG", help="YAML file with settings and `pools:`.")
    ] = None,
    trace: Annotated[str, typer.Option(help="A trace file, or a generator: docs/simulator.md.")] = "",
    budget: Annotated[str | None, typer.Option(help="GPUs there are; short for --planner.budget.")] = None,
    model: Annotated[str | None, typer.Option(help="Choose from all profiles of this model.")] = None,
    profiles: Annotated[str | None, typer.Option(help="Choose from these: names, * and ?, with commas.")] = None,
    slo_ttft: Annotated[str | None, typer.Option(help="Seconds; short for --gateway.slo-ttft-s.")] = None,
    slo_itl: Annotated[str | None, typer.Option(help="Seconds; short for --gateway.slo-itl-s.")] = None,
    attainment: Annotated[
        str | None, typer.Option(help="Share of requests within the SLOs; short for --planner.attainment.")
    ] = None,
    cost: Annotated[list[str] | None, typer.Option(help="DEVICE=USD per GPU and hour; may be repeated.")] = None,
    chunks: Annotated[str | None, typer.Option(help="Step sizes to try, tokens: as in 2048,8192.")] = None,
    out: Annotated[str, typer.Option(help="The config to serve it is written there, if one holds.")] = "plan.yaml",
    force: Annotated[bool, typer.Option("--force", help="Overwrite it.")] = False,
    html: Annotated[str | None, typer.Option(help="Write a report with the plot to this file.")] = None,
    json: Annotated[str | None, typer.Option(help="Write all figures to this file; - is the output.")] = None,
    time_budget: Annotated[float, typer.Option(help="Seconds, at most, until it answers.")] = 50.0,
    seed: Annotated[int, typer.Option(help="Same seed, same answer.")] = 0,
    advise: Annotated[bool, typer.Option("--advise", help="Ask a running server what its planner would do.")] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Ask it for its last decisions and why.")] = False,
    port: Annotated[int, typer.Option(help="Of the server on this machine.", envvar="JEDLIK_PORT")] = 8000,
    url: Annotated[str | None, typer.Option(help="Of a server elsewhere; overrides --port.")] = None,
    api_key: Annotated[str | None, typer.Option(envvar="JEDLIK_API_KEY", help="If the server wants one.")] = None,
    *,
    options: "WorkloadOptions",
    flags: dict[str, object],
) -> None:
    """Find the cheapest fleet that serves this workload within its SLOs, or ask a running server's planner.

    With --trace: candidates (GPUs, TP degrees, prefill apart or not, chunk sizes) are estimated, then simulated. Prints
    the best, the front of tokens/s per GPU against tokens/s per user and why others lost; writes the config for it.

    Exit codes: 0 found and simulated, 1 nothing within the budget holds, 2 wrong input, 3 time was up and a fleet is
    only estimated to hold, 4 time was up and none is. The config is written with 0 only.

    Examples: `jedlik plan --trace trace.jsonl.gz --model qwen3-32b-fp8 --slo-ttft 2 --slo-itl 0.025 --budget 64` ·
    `jedlik plan --trace poisson:rate=5,duration=300 --config examples/sim-8xh200.yaml --budget 16 --html plan.html` ·
    `jedlik plan --advise --port 8000`
    """
    if advise or explain:
        _live(trace, url or f"http://127.0.0.1:{port}", api_key, explain)
    short = {"budget": budget, "attainment": attainment, "slo_ttft": slo_ttft, "slo_itl": slo_itl}
    options_given: dict[str, object] = {"trace": trace, "model": model, "profiles": profiles, "chunks": chunks}
    options_given |= {"costs": tuple(cost or ()), "out": out, "force": force, "html": html, "json": json}
    options_given |= {"seed": seed, "time_budget_s": time_budget}
    _offline(
        flags | {SHORT[name]: value for name, value in short.items() if value is not None},
        config,
        options_given,
        options,
    )


def _offline(
    flags: dict[str, object], config: Path | None, options_given: dict[str, object], options: "WorkloadOptions"
) -> None:
    import msgspec

    from jedlik.sizing.found import EXITS
    from jedlik.sizing.plan import PlanOptions, run, settled

    result = run(
        settled(flags, os.environ, config), config, msgspec.convert(options_given | {"options": options}, PlanOptions)
    )
    raise typer.Exit(EXITS[result.status])


def _live(trace: str, url: str, api_key: str | None, explain: bool) -> None:
    """Ends the command."""
    from jedlik.console.plan_live import show_plan

    if trace:
        raise ConfigError("--trace is planned offline, --advise and --explain ask a running server: say one of the two")
    raise typer.Exit(show_plan(url, api_key, explain))


def register(app: typer.Typer) -> None:
    """Add the `plan` command to the application."""
    command(app, "plan")(with_flags(with_workload(plan), ("worker", "gateway", "planner")))
