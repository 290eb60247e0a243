"""`jedlik profile`: measures an engine here or an endpoint elsewhere, writes the profile, lists and shows profiles."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from jedlik.console.show import say
from jedlik.core.config import Device, Dtype, ServeConfig, WorkerConfig
from jedlik.core.errors import ConfigError
from jedlik.core.units import size_bytes
from jedlik.models.files import ModelFiles
from jedlik.perf.linear import PhaseCosts, PhaseModel, Point, mean_error, phases
from jedlik.perf.model import StepModel
from jedlik.perf.profile import Profile, model, to_json
from jedlik.perf.step import StepShape
from jedlik.perf.table import table_of
from jedlik.profiles import catalogue
from jedlik.profiling import endpoint as endpoints
from jedlik.profiling.engine import engines
from jedlik.profiling.grid import CPU, ENDPOINT, GPU, PASSES, Grid, GridTask, Room, fitting, lane_tokens, plan
from jedlik.profiling.steps import MeasureRequest
from jedlik.serve.model_check import examine_apart
from jedlik.serve.sizing import threads
from jedlik.serve.values import ascending

QUIET = 0.9
"""Share of the processors below which something else must have been running."""
DISTURBED = "other programs were running: measure again when the machine is quiet"
Advance = Callable[[GridTask], None]


class ProfileOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options of `jedlik profile`; None where one was not given."""

    name: str | None = None
    out: Path | None = None
    lengths: str | None = None
    contexts: str | None = None
    batches: str | None = None
    busy: int | None = None
    device: str | None = None
    dtype: str | None = None
    threads: int | None = None
    kv_cache_bytes: str | None = None


def of_engine(fetch: Callable[[], ModelFiles], wanted: ProfileOptions) -> None:
    """Measure our engine on this machine and write its profile."""
    busy = 1 if wanted.busy is None else wanted.busy
    if busy < 1:
        raise ConfigError(f"--busy is {busy}: at least 1 process measures")
    config = settings(wanted, busy)
    files = fetch()
    examine_apart(files.path, config)
    say(f"loading {files.name} in {busy} process{'es' * (busy > 1)}")
    with engines(config, files) as loaded:
        hello = loaded.hello
        asked = chosen(CPU if hello.device == "cpu" else GPU, wanted)
        room = Room(hello.max_model_len, hello.kv_tokens)
        grid = cut(asked, room)
        own = cores_each(config, hello.device)
        loaded.prepare(MeasureRequest(lanes=lane_tokens(grid, room), chunk=grid.lengths[-1], alone=own == 1))
        tasks = plan(grid, room) * PASSES
        with bar(tasks, f"measuring {hello.engine}") as advance:
            points = loaded.measure(tasks, advance)
        if own and loaded.cpu_share < QUIET * own:
            say(f"engines had {loaded.cpu_share / own:.0%} of their processors; {DISTURBED}")
    profile = made(points, wanted.name or f"{files.name}/{hello.device}/busy{busy}")
    profile = msgspec.structs.replace(
        profile,
        model=files.name,
        device=hello.device,
        backend=config.engine,
        gpus=int(hello.device != "cpu"),
        kv_bytes_per_token=hello.kv_bytes_per_token,
        kv_tokens=hello.kv_tokens,
        source=f"jedlik profile, {busy} busy, {hello.engine}, {len(points)} steps",
    )
    finish(profile, points, wanted.out)


def of_endpoint(url: str, served: str | None, api_key: str | None, wanted: ProfileOptions) -> None:
    """Measure an endpoint from outside and write its profile."""
    for option in ("busy", "device", "dtype", "threads", "kv_cache_bytes"):
        if getattr(wanted, option) is not None:
            raise ConfigError(f"--{option.replace('_', '-')} is about engines started here; leave it out with --url")
    endpoint = endpoints.Endpoint(url, served, api_key)
    asked = chosen(ENDPOINT, wanted)
    room = endpoints.room(endpoint, asked)
    grid = cut(asked, room)
    tasks = endpoints.tasks(grid, room)
    with bar(tasks, f"measuring {endpoint.model} at {url}") as advance:
        points = endpoints.measure(endpoint, grid, tasks, advance)
    profile = made(points, wanted.name or f"{endpoint.model}/endpoint")
    profile = msgspec.structs.replace(
        profile, model=endpoint.model, source=f"jedlik profile --url, from outside, {len(points)} points"
    )
    finish(profile, points, wanted.out)


def cores_each(config: ServeConfig, device: str) -> int:
    """Processors that each engine could have for itself; 0 where there are too few, or a GPU computes."""
    cores = os.cpu_count() or 1
    count = threads(config, cores)
    return count if device == "cpu" and len(config.roles) * count <= cores else 0


def listing() -> Iterator[str]:
    """Names, one a line, then what rooflines can be computed of."""
    for name in catalogue.names():
        found = catalogue.lookup(name)
        kind = "measured" if found.measured else "table" if found.table else "fit"
        yield f"{name:46} {found.gpus} GPU  {kind:8} error {found.error or 0:.1%}  KV {found.kv_tokens or 0:,} tokens"
    yield "roofline:MODEL[-bf16|-fp8|-fp4]/GPU/tpN[epN]   computed, for any of"
    yield f"  models  {', '.join(catalogue.models())}, or the path of a config.json"
    yield f"  GPUs    {', '.join(catalogue.gpus())}"


def shown(name: str) -> Iterator[str]:
    """A profile for people, and what it predicts."""
    profile = catalogue.lookup(name)
    how = "measured" if profile.measured else "computed"
    known = f"{profile.kv_tokens:,} tokens" if profile.kv_tokens else "not known"
    yield f"{profile.name}: {profile.model} on {profile.gpus} x {profile.device} by {profile.backend}, {how}"
    yield f"  source    {profile.source}"
    yield f"  KV cache  {known}, {profile.kv_bytes_per_token or '?'} bytes a token"
    yield from costs_lines(profile.costs)
    steps = model(profile)
    for length in (128, 512, 2048, 8192):
        shape = StepShape(length, length * (length + 1) // 2, 0, 0)
        yield f"  {step_name(shape):34}{steps.step_s(shape) * 1e3:12.3f} ms"
    for batch in (1, 8, 32, 128):
        shape = StepShape(0, 0, batch, batch * 2048)
        yield f"  {step_name(shape):34}{steps.step_s(shape) * 1e3:12.3f} ms"


def named(engine_model: str | None) -> str:
    """The model to measure. Raises ConfigError if there is none."""
    if engine_model is None:
        raise ConfigError(
            "nothing to measure: say which model, as in `jedlik profile smollm2-135m`, or which endpoint, as in "
            "`jedlik profile --url http://127.0.0.1:8000`; --list shows the profiles that exist"
        )
    return engine_model


def settings(wanted: ProfileOptions, busy: int) -> ServeConfig:
    """Return a configuration as `jedlik serve --workers busy` has it."""
    grid = chosen(CPU if wanted.device == "cpu" else GPU, wanted)
    for option, value, legal in (("device", wanted.device, Device), ("dtype", wanted.dtype, Dtype)):
        if value is not None and value not in get_args(legal):
            raise ConfigError(f"--{option} {value}: expected one of {', '.join(get_args(legal))}")
    try:
        cache_bytes = size_bytes(wanted.kv_cache_bytes) if wanted.kv_cache_bytes else None
    except ValueError as error:
        raise ConfigError(f"--kv-cache-bytes {wanted.kv_cache_bytes}: {error}") from None
    return ServeConfig(
        model="",
        workers=busy,
        device=wanted.device or "auto",  # type: ignore[arg-type]  # checked above
        dtype=wanted.dtype or "auto",  # type: ignore[arg-type]
        threads=wanted.threads,
        kv_cache_bytes=cache_bytes,
        worker=WorkerConfig(max_sequences=grid.batches[-1] + 1, max_step_tokens=grid.lengths[-1]),
    )


def chosen(usual: Grid, wanted: ProfileOptions) -> Grid:
    """The usual grid with what was asked for in its place. Raises ConfigError."""
    chosen_values = {
        field: ascending(field, text)
        for field in ("lengths", "contexts", "batches")
        if (text := getattr(wanted, field))
    }
    fill = max(chosen_values.get("contexts", (0,))) * max(chosen_values.get("batches", (0,)))
    return msgspec.structs.replace(usual, **chosen_values, fill_tokens=max(usual.fill_tokens, fill))


def cut(grid: Grid, room: Room) -> Grid:
    """Return the part of a grid that fits. A line on stderr says what does not."""
    fits = fitting(grid, room)
    for field in ("lengths", "contexts"):
        if getattr(fits, field) != getattr(grid, field):
            cut_values = ",".join(map(str, getattr(fits, field)))
            say(
                f"{field} cut to {cut_values}: room for {room.max_model_len} tokens a sequence, {room.kv_tokens} in all"
            )
    return fits


@contextmanager
def bar(tasks: list[GridTask], title: str) -> Iterator[Advance]:
    """A bar on a terminal, two lines elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        say(title)
        yield lambda _: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:.0f} %"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(title, total=sum(t.work_tokens for t in tasks))
        yield lambda done: progress.advance(task, done.work_tokens)


def made(points: list[Point], name: str) -> Profile:
    """The profile behind points. Raises ConfigError if a phase is missing."""
    if not any(p.shape.prefill_tokens for p in points) or not any(p.shape.decode_sequences for p in points):
        raise ConfigError("nothing was measured of one phase: give longer --contexts or smaller --batches")
    table = table_of(points)
    profile = Profile(
        name=name, model="", device="endpoint", backend="openai", costs=phases(points), table=table, measured=True
    )
    return msgspec.structs.replace(profile, error=mean_error(model(profile).step_s, points))


def finish(profile: Profile, points: list[Point], out: Path | None) -> None:
    """Say what came out, and write it."""
    linear = PhaseModel(profile.costs)
    for line in report(points, model(profile), linear):
        print(line)
    for line in costs_lines(profile.costs):
        print(line)
    print(f"mean error {profile.error:.1%} (table), {mean_error(linear.step_s, points):.1%} (linear)")
    path = out or Path(re.sub(r"[^\w.]+", "-", profile.name).strip("-") + ".json")
    try:
        path.write_bytes(to_json(profile))
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}; name another place with --out") from error
    print(f"wrote {path}: use it as `--profile {path}` or as a pool's `profile:`")


def report(points: list[Point], table: StepModel, linear: StepModel) -> Iterator[str]:
    """Every point against both models."""
    yield f"{'step':34}{'measured':>12}{'table':>9}{'linear':>9}"
    for shape, elapsed_s in points:
        off = (steps.step_s(shape) / elapsed_s - 1 for steps in (table, linear))
        yield f"{step_name(shape):34}{elapsed_s * 1e3:9.2f} ms" + "".join(f"{error:+9.1%}" for error in off)


def step_name(shape: StepShape) -> str:
    """prefill 128 after 1024, decode 8 x 256"""
    parts = []
    if length := shape.prefill_tokens:
        start = (shape.prefill_pairs - length * (length + 1) // 2) // length
        parts.append(f"prefill {length}" + (f" after {start}" if start else ""))
    if batch := shape.decode_sequences:
        parts.append(f"decode {batch} x {shape.context_tokens // batch}")
    return " + ".join(parts)


def costs_lines(costs: PhaseCosts) -> Iterator[str]:
    """The linear fit, as in the field's tables."""
    base, token, pair, other, sequence, context = (
        getattr(costs, field) * 1e3 for field in PhaseCosts.__struct_fields__
    )
    yield f"  prefill   {base:.4g} + {token:.4g} a token + {pair:.3g} a pair, ms"
    yield f"  decode    {other:.4g} + {sequence:.4g} a sequence + {context:.3g} a token held, ms"
