"""The schema's fields as typer options: a flag per field, taken as text and converted in one place (`settings`).

Help is in panels. `--help` shows the flags that most people need, `--help-all` every one.
"""

import inspect
from collections.abc import Callable, Collection
from typing import Annotated

import msgspec
import typer

from jedlik.serve.fields import Field, fields, type_name

SHOWN = {
    "Workers": ("workers", "prefill", "decode", "engine", "device", "dtype", "threads", "deterministic"),
    "Model": ("served_model_name", "max_model_len", "generation_config"),
    "Memory": ("kv_cache_bytes", "kv_host_bytes", "kv_disk", "kv_object"),
    "Network": ("port", "host", "api_keys", "allow_open", "allowed_hosts", "cors_origins"),
    "Load": ("worker.max_sequences", "worker.max_step_tokens", "gateway.policy", "drain_s"),
    "Promises and planning": ("gateway.slo_ttft_s", "gateway.slo_itl_s", "planner.mode", "planner.budget"),
    "Logs": ("log_format", "event_log", "event_log_tokens"),
}
"""The panels of `--help` and their flags, in this order."""
MORE = {"worker": "Worker", "gateway": "Gateway", "planner": "Planner", "frontend": "HTTP"}
"""Panels of what only `--help-all` has."""


def with_flags(command: Callable[..., None], slices: Collection[str] | None = None) -> Callable[..., None]:
    """Give `command(..., **flags)` an option for every field but `model`; it gets those that were said, by key.

    `slices`: only for fields of these (worker, gateway).
    """
    own = [p for p in inspect.signature(command).parameters.values() if p.kind is not p.VAR_KEYWORD]
    named = {field.key.replace(".", "__"): field for field in _ordered() if slices is None or field.path[0] in slices}
    added = [_parameter(name, field) for name, field in named.items()]
    added.append(inspect.Parameter("help_all", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=HelpAll))

    def run(**values: object) -> None:
        values.pop("help_all")
        settings = {named[n].key: v for n, v in values.items() if n in named and v is not None}
        command(**{n: v for n, v in values.items() if n not in named}, flags=settings)

    run.__doc__ = command.__doc__
    run.__name__ = command.__name__
    run.__annotations__ = {p.name: p.annotation for p in [*own, *added]}
    vars(run)["__signature__"] = inspect.Signature([p for p in own if p.name != "flags"] + added)
    return run


def _show_all(context: typer.Context, wanted: bool) -> None:
    if wanted:
        for parameter in context.command.params:
            vars(parameter)["hidden"] = False
        print(context.get_help())
        raise typer.Exit


HelpAll = Annotated[
    bool, typer.Option("--help-all", is_eager=True, callback=_show_all, help="Show every flag, then exit.")
]


def _ordered() -> list[Field]:
    order = {key: number for number, key in enumerate(key for keys in SHOWN.values() for key in keys)}
    every = [field for field in fields() if field.key != "model"]
    return sorted(every, key=lambda field: order.get(field.key, len(order)))


def _parameter(name: str, field: Field) -> inspect.Parameter:
    shown = next((panel for panel, keys in SHOWN.items() if field.key in keys), None)
    more = MORE.get(field.path[0], "Serving") if len(field.path) > 1 else "Serving"
    kind = type_name(field)
    switch = kind == "bool"
    option = typer.Option(
        f"{field.flag}/--no-{field.flag[2:]}" if switch else field.flag,
        help=f"{field.help} {_default(field)}".strip(),
        rich_help_panel=shown or f"{more}, the rest",
        metavar=None if switch else kind,
        show_default=False,
        hidden=shown is None,
    )
    values = Annotated[bool | None, option] if switch else Annotated[str | None, option]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=values)


def _default(field: Field) -> str:
    if field.default in (None, msgspec.NODEFAULT, ()) or field.default == {}:
        return ""
    if isinstance(field.default, tuple):
        return f"[default: {','.join(field.default)}]"
    value = ("yes" if field.default else "no") if isinstance(field.default, bool) else field.default
    if field.path[-1].endswith("_bytes") and isinstance(value, int):
        value = f"{value >> 20}MiB"
    return f"[default: {value}]"
