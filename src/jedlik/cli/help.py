"""Help of a command in panels, at any width: an option's name is never cut, a long one has a line of its own."""

import textwrap
import typing
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

from msgspec import Meta
from rich.console import Console
from rich.panel import Panel
from rich.text import Text
from typer import BadParameter, Typer
from typer.core import TyperArgument, TyperCommand
from typer.models import OptionInfo

from jedlik.serve.values import WrongValue, read, taken_apart

NAMES = 27
"""Columns of names that stand beside their help."""
WIDEST = 100
FIRST = ("Arguments", "Options")


class Command(TyperCommand):
    """A command that shows its help so."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        console = Console(highlight=False)
        width = console.width = min(console.width, WIDEST)
        paragraphs = [textwrap.fill(" ".join(text.split()), width) for text in (self.help or "").split("\n\n")]
        console.print(Text("\n\n".join(["\n" + self.get_usage(ctx), *paragraphs])), soft_wrap=True)
        for title, rows in panels(self, ctx).items():
            text = "\n".join(line for name, record in rows for line in lines(name, record, width - 4))
            console.print(Panel(Text(text), title=title, title_align="left", border_style="dim"))


def command(app: Typer, name: str | None = None) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function as a command of ours. Its numbers are read strictly: Python's own `int` takes more."""

    def register(run: Callable[..., None]) -> Callable[..., None]:
        for annotation in run.__annotations__.values():
            kind, *notes = typing.get_args(annotation) or (None,)
            bare = taken_apart(kind)[0]
            for option in notes:
                if bare in (int, float) and isinstance(option, OptionInfo):
                    option.parser = partial(_number, bare, option.min)
                    option.metavar = option.metavar or typing.cast(type, bare).__name__
        app.command(name, cls=Command)(run)
        return run

    return register


def _number(kind: type, least: float | None, raw: object) -> object:
    if not isinstance(raw, str):
        return raw  # a default
    try:
        value = read(Annotated[kind, Meta(ge=least)] if least is not None else kind, raw)
    except WrongValue as error:
        raise BadParameter(error.text) from None
    return value


def panels(command: TyperCommand, ctx: Any) -> dict[str, list[tuple[str, str]]]:
    """Names and help of what may be given, by panel; what is hidden is counted."""
    found: dict[str, list[tuple[str, str]]] = {title: [] for title in FIRST}
    hidden = 0
    for parameter in command.get_params(ctx):
        record = parameter.get_help_record(ctx)
        hidden += record is None
        title = getattr(parameter, "rich_help_panel", None) or FIRST[not isinstance(parameter, TyperArgument)]
        if record is not None:
            found.setdefault(title, []).append(record)
    if hidden:
        found["Options"].append(("", f"{hidden} more flags: --help-all shows them."))
    return {title: rows for title, rows in found.items() if rows}


def lines(name: str, record: str, width: int) -> list[str]:
    """One option, in as many lines as it takes."""
    wrapped = textwrap.wrap(record, max(width - NAMES - 2, 20)) or [""]
    beside = f"{name:{NAMES}}  {wrapped.pop(0)}" if len(name) <= NAMES else name
    return [beside, *(" " * (NAMES + 2) + line for line in wrapped)]
