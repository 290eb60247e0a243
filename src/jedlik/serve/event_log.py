"""The event log of a process, where the configuration asks for one: FOLDER/NAME@INCARNATION.log.

With token ids kept, a header NAME@INCARNATION.json beside it says how the node was made (readable by this user only: it
holds the cluster key), and `serve/replay` can put the very same node through the log again. A planner's log has no
token ids and always has its header.
"""

import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from jedlik import __version__
from jedlik.core.config import Role, ServeConfig
from jedlik.core.effects import GatewayEffect, PlannerEffect, WorkerEffect
from jedlik.core.errors import ConfigError
from jedlik.core.events import GatewayEvent, PlannerEvent, WorkerEvent
from jedlik.core.plans import Counts, Place
from jedlik.core.protocol import Card, StepCosts
from jedlik.live.recorder import EventLog, is_log
from jedlik.live.redact import Redactor
from jedlik.serve.process import ProcessConfig
from jedlik.transfer.private import close_folder, write_private

T = TypeVar("T")
PLANNER = "planner"
"""The name of a planner's log, which is no process of its own."""
GatewayLog = EventLog[GatewayEvent, GatewayEffect]
WorkerLog = EventLog[WorkerEvent, WorkerEffect]
PlannerLog = EventLog[PlannerEvent, PlannerEffect]


class Made(msgspec.Struct, frozen=True, tag="process"):
    """The header of a gateway's or a worker's log: what its node was made of."""

    process: ProcessConfig
    card: Card | None = None
    """The card of a worker; None: a gateway."""
    costs: StepCosts | None = None
    """The step costs that a worker was given; None: it learnt them."""
    version: str = __version__
    """The version of jedlik."""


class PlannerMade(msgspec.Struct, frozen=True, tag="planner"):
    """The header of a planner's log: what its node was made of."""

    config: ServeConfig
    places: Sequence[Place]
    initial: dict[Role, int]
    version: str = __version__


def prepare(config: ServeConfig) -> None:
    """Check that event logs can be written, before anything starts. Raises ConfigError."""
    if config.event_log is None:
        return
    folder = Path(config.event_log).absolute()
    try:
        close_folder(folder, is_log)
        probe = folder / f"{secrets.token_hex(4)}@.log"
        write_private(probe, b"")
        probe.unlink()
    except OSError as error:
        why = f"no event log can be kept in {folder}: {error.strerror}"
        raise ConfigError(f"{why}; choose another folder with --event-log") from error


def gateway_log(process: ProcessConfig) -> GatewayLog | None:
    """Return the log to record into; None: nothing is to be recorded."""
    return _log(process, Made(process))


def worker_log(process: ProcessConfig, card: Card, costs: StepCosts | None = None) -> WorkerLog | None:
    """Return the log to record into; None: nothing is to be recorded."""
    return _log(process, Made(process, card, costs))


def planner_log(config: ServeConfig, places: Sequence[Place], initial: Counts) -> PlannerLog | None:
    """Return the log to record into; None: nothing is to be recorded."""
    if config.event_log is None:
        return None
    path = _path(config.event_log, f"{PLANNER}@{secrets.token_hex(4)}")
    _write_header(path, PlannerMade(_without_keys(config), places, dict(initial)))
    return EventLog(path, _same, _same)


def _log(process: ProcessConfig, made: Made) -> EventLog[Any, Any] | None:
    config = process.config
    if config.event_log is None:
        return None
    path = _path(config.event_log, process.id)
    if not config.event_log_tokens:
        redactor = Redactor(process.cluster_key, config.worker.block_size)
        return EventLog(path, redactor, redactor)
    shown = msgspec.structs.replace(process, config=_without_keys(config))
    _write_header(path, msgspec.structs.replace(made, process=shown))
    return EventLog(path, _same, _same)


def _path(folder: str, name: str) -> Path:
    path = Path(folder).absolute() / f"{name}.log"
    close_folder(path.parent, is_log)
    return path


def _without_keys(config: ServeConfig) -> ServeConfig:
    return msgspec.structs.replace(config, api_keys={})


def _write_header(path: Path, made: Made | PlannerMade) -> None:
    write_private(path.with_suffix(".json"), msgspec.json.encode(made))


def _same(what: T) -> T:
    return what
