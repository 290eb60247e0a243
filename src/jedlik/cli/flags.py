"""The schema's fields as typer options: a flag per field, taken as text and converted in one place (`settings`)."""

import inspect
from collections.abc import Callable, Collection
from typing import Annotated

import msgspec
import typer

from jedlik.cli.fields import Field, fields, type_name

PANELS = {"worker": "Worker", "gateway": "Gateway", "planner": "Planner", "frontend": "HTTP"}
FLAGS_FIRST = ("workers", "port", "host", "engine", "device", "dtype", "max_model_len", "kv_cache_bytes")


def with_flags(command: Callable[..., None], slices: Collection[str] | None = None) -> Callable[..., None]:
    """Give `command(..., **flags)` an option for every field but `model`; it gets those that were said, by key.

    `slices`: only for fields of these (worker, gateway).
    """
    own = [p for p in inspect.signature(command).parameters.values() if p.kind is not p.VAR_KEYWORD]
    named = {field.key.replace(".", "__"): field for field in _ordered() if slices is None or field.path[0] in slices}
    added = [_parameter(name, field) for name, field in named.items()]

    def run(**given: object) -> None:
        said = {named[n].key: v for n, v in given.items() if n in named and v is not None}
        command(**{n: v for n, v in given.items() if n not in named}, flags=said)

    run.__doc__ = command.__doc__
    run.__name__ = command.__name__
    run.__annotations__ = {p.name: p.annotation for p in [*own, *added]}
    vars(run)["__signature__"] = inspect.Signature([p for p in own if p.name != "flags"] + added)
    return run


def _ordered() -> list[Field]:
    every = [field for field in fields() if field.key != "model"]
    first = {key: number for number, key in enumerate(FLAGS_FIRST)}
    return sorted(every, key=lambda field: first.get(field.key, len(first)))


def _parameter(name: str, field: Field) -> inspect.Parameter:
    panel = PANELS.get(field.path[0], "Serving") if len(field.path) > 1 else "Serving"
    help_text = f"{field.help} {_default(field)}".strip()
    if field.type is bool:
        declared = f"{field.flag}/--no-{field.flag[2:]}"
        option = typer.Option(declared, help=help_text, rich_help_panel=panel, show_default=False)
        annotation: object = Annotated[bool | None, option]
    else:
        shown = "size" if name.endswith("_bytes") else type_name(field.type)
        option = typer.Option(field.flag, help=help_text, rich_help_panel=panel, metavar=shown, show_default=False)
        annotation = Annotated[str | None, option]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _default(field: Field) -> str:
    if field.default in (None, msgspec.NODEFAULT) or field.default == {}:
        return ""
    value = ("yes" if field.default else "no") if isinstance(field.default, bool) else field.default
    if field.path[-1].endswith("_bytes") and isinstance(value, int):
        value = f"{value >> 20}MiB"
    return f"[default: {value}]"
