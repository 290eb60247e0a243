"""The `jedlik` command. Each subcommand parses, hands over and turns expected errors into a message and an exit code.

Heavy imports happen in the subcommand that needs them, so that `jedlik --help` is quick.
"""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jedlik import __version__
from jedlik.cli.flags import with_flags
from jedlik.cli.show import Fetching, say
from jedlik.core.errors import JedlikError

if TYPE_CHECKING:
    from jedlik.models.files import ModelFiles

EXIT_WRONG = 2
app = typer.Typer(
    no_args_is_help=True, add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False
)
model_app = typer.Typer(no_args_is_help=True, help="Fetch models, and list those known by name.")
config_app = typer.Typer(no_args_is_help=True, help="Look at the configuration.")
app.add_typer(model_app, name="model")
app.add_typer(config_app, name="config")
ConfigFile = Annotated[
    Path | None, typer.Option("--config", envvar="JEDLIK_CONFIG", help="YAML file with the same settings as the flags.")
]
ModelArgument = Annotated[
    str | None, typer.Argument(help="Hugging Face directory, GGUF file, or an alias from `jedlik model list`.")
]


def _version(wanted: bool) -> None:
    if wanted:
        print(f"jedlik {__version__}")
        raise typer.Exit


@app.callback()
def root(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False) -> None:
    """Serve large language models across many engines as if they were one.

    Start with `jedlik serve smollm2-135m`, then `jedlik chat` in another terminal.
    """


def serve(model: ModelArgument = None, config: ConfigFile = None, *, flags: dict[str, object]) -> None:
    """Serve a model: one OpenAI-compatible gateway and its workers on this machine.

    Every setting may come from a flag, from the environment (JEDLIK_PORT, JEDLIK_WORKER__BLOCK_SIZE) or from the file
    given by --config; in this order. `jedlik config explain` shows what holds, and why.

    Examples: `jedlik serve smollm2-135m --workers 2` · `jedlik serve ./my-model --port 8123` ·
    `jedlik serve tiny-random --engine simulated --speedup 1000`
    """
    from jedlik.cli.serve import serve as run
    from jedlik.cli.settings import settle

    settings = settle(_with_model(flags, model), os.environ, config)
    run(settings.config, lambda: _fetched(settings.config.model), say)


def explain(model: ModelArgument = None, config: ConfigFile = None, *, flags: dict[str, object]) -> None:
    """Print every setting, its value and where it came from."""
    from jedlik.cli.fields import fields
    from jedlik.cli.settings import settle, value_of

    settings = settle(_with_model(flags, model), os.environ, config)
    for field in fields():
        value = "***" if field.key == "api_keys" and settings.config.api_keys else value_of(settings.config, field)
        print(f"{field.key:32} {value!s:24} {settings.sources[field.key]}")


app.command("serve")(with_flags(serve))
config_app.command("explain")(with_flags(explain))


@app.command()
def chat(
    port: Annotated[int, typer.Option(help="Of the server.", envvar="JEDLIK_PORT")] = 8000,
    host: Annotated[str, typer.Option(help="Of the server.")] = "127.0.0.1",
    model: Annotated[str | None, typer.Option(help="Default: the first that the server names.")] = None,
    api_key: Annotated[str | None, typer.Option(envvar="JEDLIK_API_KEY", help="If the server wants one.")] = None,
    system: Annotated[str | None, typer.Option(help="System prompt.")] = None,
    max_tokens: Annotated[int, typer.Option(help="Of one answer, at most.")] = 512,
    temperature: Annotated[float | None, typer.Option(help="0: always the likeliest token.")] = None,
) -> None:
    """Talk to a server in the terminal. Ctrl-C stops an answer, /reset forgets, /quit (or Ctrl-D) leaves."""
    from jedlik.cli.chat import Conversation, Server, converse

    options = {"max_tokens": max_tokens} | ({} if temperature is None else {"temperature": temperature})
    server = Server(host, port, api_key)
    converse(Conversation(server, model or server.first_model(), system, options))


@model_app.command("list")
def model_list() -> None:
    """Models known by name, and whether they are on this machine."""
    from jedlik.models.files import list_models

    for known in list_models():
        size = f"{known.download_bytes >> 20} MiB to download" if known.download_bytes else "made at first use"
        print(f"{known.name:24} {'here' if known.cached else size:24} {known.about}")


@model_app.command("add")
def model_add(model: Annotated[str, typer.Argument(help="An alias, or a GGUF file to convert.")]) -> None:
    """Fetch and convert a model now, so that `jedlik serve` starts at once later."""
    files = _fetched(model)
    print(f"{files.name} is in {files.path}")


@app.command()
def doctor(
    model: ModelArgument = None,
    port: Annotated[int, typer.Option(help="That you want to serve on.", envvar="JEDLIK_PORT")] = 8000,
) -> None:
    """Check this machine: versions, memory, disk, port, compiler, GPU, model. Says what to do about each failure."""
    from jedlik.cli.doctor import examine

    if not examine(model, port, print):
        raise typer.Exit(1)


@app.command()
def replay(log: Annotated[Path, typer.Argument(help="A .log file of --event-log with --event-log-tokens.")]) -> None:
    """Put this release's code through a recorded log: every decision that comes out otherwise is printed."""
    from jedlik.cli.event_log import differences

    found = 0
    for difference in differences(log):
        found += 1
        print(f"turn {difference.turn} at {difference.now:.6f} s: {difference.event}")
        print(f"  recorded {difference.recorded}\n  now      {difference.replayed}")
    print(f"{found} decisions differ" if found else "every decision is the same")
    if found:
        raise typer.Exit(1)


def _fetched(model: str) -> "ModelFiles":
    """The model's directory; what has to be fetched for it is shown."""
    from jedlik.models.files import resolve

    fetching = Fetching()
    try:
        return resolve(model, fetching)
    finally:
        fetching.close()


def _with_model(flags: dict[str, object], model: str | None) -> dict[str, object]:
    return flags if model is None else flags | {"model": model}


def main() -> None:
    """Entry point: expected errors end with their message and code 2."""
    try:
        app()
    except JedlikError as error:
        say(f"jedlik: {error}")
        sys.exit(EXIT_WRONG)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
