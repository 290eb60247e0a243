"""The file that `jedlik plan` writes: `jedlik simulate` runs it as it stands, `jedlik serve` takes the same settings.

Holds what was said in file, flags and environment, and what was found; never API keys. Comments say why.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec
import yaml

from jedlik.core.config import ServeConfig, SimulationConfig
from jedlik.serve.fields import Field, fields
from jedlik.serve.settings import Settings, plant, value_of
from jedlik.sim.report.words import number, share
from jedlik.sim.sizing import SizedFleet
from jedlik.sim.sizing_points import FleetPoint

if TYPE_CHECKING:
    from jedlik.sizing.found import Found

ALWAYS = {
    "worker.block_size",
    "worker.max_sequences",
    "worker.max_step_tokens",
    "planner.mode",
    "planner.budget",
    "planner.attainment",
}
NEVER = {"api_keys", "workers", "prefill", "decode", "profile", "model"}
"""Secrets; and what the pools that were found say."""
WIDE = 10_000
"""Lines are not folded."""


def said_model(found: Settings) -> bool:
    """Somebody named a model to serve."""
    return bool(found.config.model) and found.sources["model"] != "default"


def text(found: Settings, config: ServeConfig, simulation: SimulationConfig, result: "Found", trace: str) -> str:
    """The file, of a fleet that holds. `config` and `simulation` are what was simulated."""
    best = result.best
    assert best is not None
    assert best.holds
    tree = _settings(found, config)
    planner = tree.setdefault("planner", {})
    assert isinstance(planner, dict)
    planner |= minimums(best.fleet)
    if config.planner.gpu_hour_cost is None:
        planner["gpu_hour_cost"] = best.fleet.shape.engine.gpu_hour_usd
    parts = [_head(result, best, trace), _model(found)]
    rest = {name: value for name, value in tree.items() if name not in ("worker", "gateway", "planner")}
    parts += [_yaml(rest)] if rest else []
    parts += ["worker:\n" + _indented(tree["worker"]), "gateway:\n" + _indented(tree["gateway"])]
    parts.append(
        "planner:\n"
        "  # off: these very workers. on: as many as the load needs, between the minimums and the budget (in GPUs).\n"
        "  # The minimums are what was found for this trace; lower them, and quiet hours cost less.\n"
        + _indented(planner)
    )
    parts.append(_yaml({"pools": [_changed(pool) for pool in config.pools]}))
    if around := _changed(simulation):
        parts.append("# For `jedlik simulate`; `jedlik serve` reads over it.\n" + _yaml({"simulation": around}))
    return "\n".join(parts)


def minimums(fleet: SizedFleet) -> dict[str, object]:
    """Return the settings of the planner."""
    if not fleet.prefill:
        return {"min_workers": fleet.workers}
    decode = fleet.workers - fleet.prefill
    return {"min_workers": fleet.workers, "min_prefill": fleet.prefill, "min_decode": decode}


def _head(result: "Found", best: FleetPoint, trace: str) -> str:
    figures = best.figures
    lines = [
        f"Written by `jedlik plan` for {trace}: {best.name}.",
        f"Predicted: attainment {share(best.attainment)}, goodput {share(best.goodput)}, "
        f"{number(best.fleet.gpus)} GPUs, {best.fleet.hour_usd:.2f} USD per hour.",
    ]
    if figures.slo_attainment is not None and best.part == "trace" and "trace" not in result.pieces:
        lines.append(f"`jedlik simulate` on the same trace and seed says slo_attainment {figures.slo_attainment:.4f}.")
    return "".join(f"# {line}\n" for line in lines)


def _model(found: Settings) -> str:
    """The model that `jedlik serve` loads."""
    if said_model(found):
        return _yaml({"model": found.config.model})
    return "# model: DIRECTORY   # what `jedlik serve` loads; or say it there: jedlik serve DIRECTORY --config ...\n"


def _settings(found: Settings, config: ServeConfig) -> dict[str, object]:
    """What was said, and what must be."""
    tree: dict[str, object] = {"worker": {}, "gateway": {}, "planner": {}}
    for field in fields():
        if field.key in NEVER:
            continue
        if field.key in ALWAYS or found.sources[field.key] != "default":
            plant(tree, field.path, _plain(field, config))
    return tree


def _plain(field: Field, config: ServeConfig) -> object:
    value = value_of(config, field)
    if value is None:
        return "none"
    if isinstance(value, float) and value.is_integer() and field.key == "planner.budget":
        return int(value)
    return value


def _changed(value: msgspec.Struct) -> dict[str, object]:
    found: dict[str, object] = {}
    for info in msgspec.structs.fields(type(value)):
        now = getattr(value, info.name)
        default = info.default_factory() if info.default_factory is not msgspec.NODEFAULT else info.default
        if now == default:
            continue
        found[info.name] = _changed(now) if isinstance(now, msgspec.Struct) else now
    return found


def _yaml(tree: Mapping[str, object]) -> str:
    return str(yaml.safe_dump(dict(tree), sort_keys=False, width=WIDE))


def _indented(tree: object) -> str:
    assert isinstance(tree, dict)
    return "".join(f"  {line}\n" for line in _yaml(tree).splitlines()) if tree else "  {}\n"
