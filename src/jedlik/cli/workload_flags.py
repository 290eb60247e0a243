"""The flags that say which part of a workload is used and how: `WorkloadOptions` as typer options."""

import inspect
from collections.abc import Callable
from typing import Annotated

import typer

from jedlik.sim.workload.options import WorkloadOptions

NAME = "options"


def options(
    speed: Annotated[float, typer.Option(help="Arrivals come so many times faster than recorded.")] = 1.0,
    start: Annotated[float, typer.Option(help="Seconds of the trace to leave out at its beginning.")] = 0.0,
    duration: Annotated[float | None, typer.Option(help="Seconds of the trace to use.")] = None,
    limit: Annotated[int | None, typer.Option(help="Requests, at most.")] = None,
    copies: Annotated[int, typer.Option(help="Copies of the trace at once; they share no text.")] = 1,
    concurrency: Annotated[int | None, typer.Option(help="Conversations at once, for conversation traces.")] = None,
    begin_midway: Annotated[bool, typer.Option("--begin-midway", help="Conversations begin at a random turn.")] = False,
    spread_batches: Annotated[
        bool, typer.Option("--spread-batches", help="Spread arrivals that were recorded in batches.")
    ] = False,
    trace_block: Annotated[int | None, typer.Option(help="Tokens per block id of the trace.")] = None,
) -> WorkloadOptions:
    """Return the options of a workload, as the flags gave them."""
    return WorkloadOptions(
        speed=speed,
        limit=limit,
        start_s=start,
        duration_s=duration,
        copies=copies,
        concurrency=concurrency,
        begin_midway=begin_midway,
        spread_batches=spread_batches,
        trace_block=trace_block,
    )


def with_workload(command: Callable[..., None]) -> Callable[..., None]:
    """Give `command(..., options)` these flags in place of its `options`."""
    mine = inspect.signature(options).parameters
    keyword_only = inspect.Parameter.KEYWORD_ONLY
    own = [p.replace(kind=keyword_only) for p in inspect.signature(command).parameters.values() if p.name != NAME]
    added = [p.replace(kind=keyword_only) for p in mine.values()]

    def run(**values: object) -> None:
        chosen = {name: values.pop(name) for name in mine}
        command(**values, **{NAME: options(**chosen)})  # type: ignore[arg-type]

    run.__doc__ = command.__doc__
    run.__name__ = command.__name__
    run.__annotations__ = {p.name: p.annotation for p in [*own, *added]}
    vars(run)["__signature__"] = inspect.Signature([*own, *added])
    return run
