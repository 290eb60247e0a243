"""The `jedlik` command. Each subcommand parses, hands over and turns expected errors into a message and an exit code.

Heavy imports happen in the subcommand that needs them, so that `jedlik --help` is quick.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from jedlik import __version__
from jedlik.cli import commands_plan
from jedlik.cli.flags import with_flags
from jedlik.cli.help import command
from jedlik.cli.workload_flags import with_workload
from jedlik.console.show import Fetching, say
from jedlik.core.errors import ConfigError, JedlikError

if TYPE_CHECKING:
    from jedlik.models.files import ModelFiles
    from jedlik.sim.workload.options import WorkloadOptions

EXIT_WRONG, EXIT_STOPPED = 2, 130
app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
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
    from jedlik.serve.server import serve as run
    from jedlik.serve.settings import settle
    from jedlik.telemetry.log import Log

    settings = settle(_with_model(flags, model), os.environ, config)
    log = Log("supervisor", settings.config.log_format, sys.stderr).line  # in one stream with the other processes'
    try:
        interrupted = run(settings.config, lambda name: _fetched(name, log), log)
    except JedlikError as error:
        if settings.config.log_format != "json":
            raise
        log("cannot serve", error=str(error))
        raise typer.Exit(EXIT_WRONG) from None
    if interrupted:
        raise typer.Exit(EXIT_STOPPED)


def explain(model: ModelArgument = None, config: ConfigFile = None, *, flags: dict[str, object]) -> None:
    """Print every setting, its value and where it came from."""
    from jedlik.serve.settings import explained, settle

    for line in explained(settle(_with_model(flags, model), os.environ, config, unnamed="")):
        print(line)


def simulate(
    config: ConfigFile = None,
    trace: Annotated[str, typer.Option(help="A trace file, or a generator: docs/simulator.md.")] = "",
    policy: Annotated[str | None, typer.Option(help="Short for --gateway.policy.")] = None,
    shadow: Annotated[str | None, typer.Option(help="Short for --gateway.shadow-policy.")] = None,
    slo_ttft: Annotated[str | None, typer.Option(help="Seconds; short for --gateway.slo-ttft-s.")] = None,
    slo_itl: Annotated[str | None, typer.Option(help="Seconds; short for --gateway.slo-itl-s.")] = None,
    planner: Annotated[str | None, typer.Option(help="Short for --planner.policy, in mode on.")] = None,
    startup_s: Annotated[float | None, typer.Option(help="From order to serving, of every pool's workers.")] = None,
    workers: Annotated[int | None, typer.Option(help="Of the first pool, at the beginning.")] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same run, bit by bit.")] = 0,
    until: Annotated[float | None, typer.Option(help="Cut the run at this simulated second.")] = None,
    step_by_step: Annotated[
        bool, typer.Option("--step-by-step", help="Never take decode steps together: slower, same result.")
    ] = False,
    json: Annotated[str | None, typer.Option(help="Write all figures to this file; - is the output.")] = None,
    html: Annotated[str | None, typer.Option(help="Write a report with plots to this file.")] = None,
    *,
    options: "WorkloadOptions",
    flags: dict[str, object],
) -> None:
    """Run a trace against a fleet of simulated workers: production's own decisions, on a clock of their own.

    The file of --config has the settings of `jedlik serve` and `pools:`; examples/ has some.

    Example: `jedlik simulate --config examples/sim-8xh200.yaml --trace conversation.jsonl.gz --html report.html`
    """
    short = {"policy": policy, "shadow_policy": shadow, "slo_ttft_s": slo_ttft, "slo_itl_s": slo_itl}
    values = flags | {f"gateway.{name}": value for name, value in short.items() if value is not None}
    wanted = {"trace": trace, "seed": seed, "until_s": until, "step_by_step": step_by_step, "json": json, "html": html}
    wanted |= {"planner": planner, "startup_s": startup_s, "workers": workers}
    _simulated(values, config, options, wanted)


def _simulated(
    flags: dict[str, object], config: Path | None, options: "WorkloadOptions", values: dict[str, object]
) -> None:
    from jedlik.serve.settings import settle
    from jedlik.sizing.simulate import SimulateOptions, Stopped, run

    planner = values["planner"]
    if planner is not None:
        flags = flags | {"planner.mode": "on", "planner.policy": planner}
    settings = settle(flags, os.environ, config, simulated=True)
    try:
        run(settings, config, msgspec.convert(values | {"options": options}, SimulateOptions))
    except Stopped as stopped:
        say(f"jedlik: {stopped}")
        raise typer.Exit(EXIT_STOPPED) from None


command(app, "serve")(with_flags(serve))
command(app, "simulate")(with_flags(with_workload(simulate), ("worker", "gateway", "planner")))
command(config_app, "explain")(with_flags(explain))
commands_plan.register(app)


@command(app)
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
    from jedlik.console.chat import ChatServer, ChatSession, converse

    options = {"max_tokens": max_tokens} | ({} if temperature is None else {"temperature": temperature})
    server = ChatServer(host, port, api_key)
    converse(ChatSession(server, model or server.first_model(), system, options))


@command(app, "explain")
def explain_request(
    request_id: Annotated[str, typer.Argument(help="The x-request-id header of the answer.")],
    port: Annotated[int, typer.Option(help="Of the server on this machine.", envvar="JEDLIK_PORT")] = 8000,
    url: Annotated[str | None, typer.Option(help="Of a server elsewhere; overrides --port.")] = None,
    api_key: Annotated[str | None, typer.Option(envvar="JEDLIK_API_KEY", help="If the server wants one.")] = None,
) -> None:
    """Show why a request went where it went: candidates, what each would have cost, predicted and observed TTFT."""
    from jedlik.console.explain import explain as show

    show(request_id, url or f"http://127.0.0.1:{port}", api_key)


@command(app)
def top(
    port: Annotated[int, typer.Option(help="Of the server on this machine.", envvar="JEDLIK_PORT")] = 8000,
    url: Annotated[str | None, typer.Option(help="Of a server elsewhere; overrides --port.")] = None,
    api_key: Annotated[str | None, typer.Option(envvar="JEDLIK_API_KEY", help="If the server wants one.")] = None,
    once: Annotated[bool, typer.Option("--once", help="Print one page and end.")] = False,
    interval: Annotated[float, typer.Option(help="Seconds between looks.", min=0.1)] = 1.0,
) -> None:
    """Watch a server: load, workers and their KV, promises kept, what the planner does and why. q quits."""
    from jedlik.console.top import top as show

    show(url or f"http://127.0.0.1:{port}", api_key, once, interval)


@command(app)
def profile(
    model: ModelArgument = None,
    out: Annotated[Path | None, typer.Option(help="File to write. Default: the profile's name and .json.")] = None,
    busy: Annotated[int | None, typer.Option(help="Engines that work at the same time, as workers would.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.")] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, bfloat16 or float32.")] = None,
    threads: Annotated[int | None, typer.Option(help="Per engine on CPU. Default: cores / busy.")] = None,
    kv_cache_bytes: Annotated[str | None, typer.Option(help="Per engine, as for `serve`.", metavar="SIZE")] = None,
    url: Annotated[str | None, typer.Option(help="Measure this OpenAI endpoint from outside instead.")] = None,
    served: Annotated[str | None, typer.Option("--model", help="Of the endpoint; default: its first.")] = None,
    api_key: Annotated[str | None, typer.Option(envvar="JEDLIK_API_KEY", help="If the endpoint wants one.")] = None,
    lengths: Annotated[str | None, typer.Option(help="Tokens of prefills, as in 64,256,512.")] = None,
    contexts: Annotated[str | None, typer.Option(help="Tokens of sequences that decode.")] = None,
    batches: Annotated[str | None, typer.Option(help="Sequences that decode together.")] = None,
    name: Annotated[str | None, typer.Option(help="Of the profile.")] = None,
    listing: Annotated[bool, typer.Option("--list", help="List the profiles that come with jedlik.")] = False,
    show: Annotated[str | None, typer.Option(help="Show a profile: a name or a file.")] = None,
) -> None:
    """Measure how long steps take: of our engine on this machine, or of any OpenAI endpoint from outside.

    What comes out is a file that simulator, router and planner read. Measure with as many engines busy as will serve
    (`--busy`), for they share the machine's memory; put one worker behind an endpoint. Takes a minute or two.

    Examples: `jedlik profile smollm2-135m --busy 2` · `jedlik profile --url http://127.0.0.1:8000` ·
    `jedlik profile --show qwen3-32b-fp8/h200/tp2` · `jedlik profile --show roofline:deepseek-r1/h200/tp8`
    """
    from jedlik.profiling import profile as profiling

    wanted = profiling.ProfileOptions(
        name=name,
        out=out,
        lengths=lengths,
        contexts=contexts,
        batches=batches,
        busy=busy,
        device=device,
        dtype=dtype,
        threads=threads,
        kv_cache_bytes=kv_cache_bytes,
    )
    if listing or show:
        for line in profiling.shown(show) if show else profiling.listing():
            print(line)
    elif url:
        profiling.of_endpoint(url, served or model, api_key, wanted)
    else:
        profiling.of_engine(lambda: _fetched(profiling.named(model)), wanted)


@command(model_app, "list")
def model_list() -> None:
    """Models known by name, and whether they are on this machine."""
    from jedlik.models.files import list_models

    for known in list_models():
        size = f"{known.download_bytes >> 20} MiB to download" if known.download_bytes else "made at first use"
        print(f"{known.name:24} {'here' if known.cached else size:24} {known.about}")


@command(model_app, "add")
def model_add(model: Annotated[str, typer.Argument(help="An alias, or a GGUF file to convert.")]) -> None:
    """Fetch and convert a model now, so that `jedlik serve` starts at once later."""
    files = _fetched(model)
    print(f"{files.name} is in {files.path}")


@command(app)
def doctor(
    model: ModelArgument = None,
    port: Annotated[int, typer.Option(help="That you want to serve on.", envvar="JEDLIK_PORT")] = 8000,
    links: Annotated[
        bool, typer.Option("--links", help="Only show what moving KV blocks costs between workers.")
    ] = False,
    run_dir: Annotated[
        str | None, typer.Option(help="With --links: the server's, where it isn't found by port.")
    ] = None,
) -> None:
    """Check this machine: versions, memory, disk, port, compiler, GPU, model. Says what to do about each failure."""
    from jedlik.serve.doctor import examine
    from jedlik.serve.links import show_links

    if links:
        raise typer.Exit(0 if show_links(run_dir, port) else 1)
    if not examine(model, port, print):
        raise typer.Exit(1)


@command(app)
def replay(log: Annotated[Path, typer.Argument(help="A .log file of --event-log with --event-log-tokens.")]) -> None:
    """Put this release's code through a recorded log: every decision that comes out otherwise is printed.

    Exit codes: 0 all are the same, 1 some are not, 2 the log can't be replayed.
    """
    from jedlik.serve.replay import replay as run

    raise typer.Exit(run(log, print))


def _fetched(model: str, say: Callable[[str], None] = say) -> "ModelFiles":
    """The model's directory; what has to be fetched for it is shown."""
    from jedlik.models.cache import home
    from jedlik.models.files import resolve

    fetching = Fetching(say)
    try:
        return resolve(model, fetching)
    except OSError as error:
        why = f"{error.filename or home()} can't be used: {error.strerror}"
        raise ConfigError(f"models are kept in {home()}, and {why}; set JEDLIK_HOME to a folder of yours") from error
    finally:
        fetching.close()


def _with_model(flags: dict[str, object], model: str | None) -> dict[str, object]:
    return flags if model is None else flags | {"model": model}


def main() -> None:
    """Expected errors, and files and folders that can't be used, end with one line and code 2; Ctrl-C with 130."""
    importing = signal.getsignal(signal.SIGINT)
    if importing is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # from here on, what has begun is tidied up
    try:
        app()
    except JedlikError as error:
        say(f"jedlik: {error}")
        sys.exit(EXIT_WRONG)
    except OSError as error:
        if error.filename is None or isinstance(error, ConnectionError):
            raise
        say(f"jedlik: {error.filename} can't be used: {error.strerror}")
        sys.exit(EXIT_WRONG)
    except KeyboardInterrupt:
        sys.exit(EXIT_STOPPED)
    finally:
        signal.signal(signal.SIGINT, importing)  # while the interpreter ends


if __name__ == "__main__":
    main()
