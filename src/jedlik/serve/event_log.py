"""The event log of a process, where the configuration asks for one: FOLDER/NAME@INCARNATION.log.

With token ids kept, a file NAME@INCARNATION.json beside it says how the node was made (readable by this user only: it
holds the cluster key), and `jedlik replay` can put the very same node through the log again. A planner's log has no
token ids and always has its file.
"""

import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import msgspec

from jedlik import __version__
from jedlik.core.config import Role, ServeConfig
from jedlik.core.effects import GatewayEffect, PlannerEffect, WorkerEffect
from jedlik.core.errors import ConfigError
from jedlik.core.events import GatewayEvent, PlannerEvent, WorkerEvent
from jedlik.core.ids import GatewayId
from jedlik.core.plans import Counts, Place
from jedlik.core.protocol import Card, StepCosts
from jedlik.kv.hashing import BlockHasher
from jedlik.kv.prefix_chains import Naming
from jedlik.live.recorder import EventLog, GatewayTurn, PlannerTurn, Recording, Replay, WorkerTurn, is_log, read
from jedlik.live.redact import Redactor
from jedlik.nodes.gateway.node import GatewayNode
from jedlik.serve.policies import policies_of
from jedlik.serve.process import ProcessConfig
from jedlik.transfer.private import close_folder, write_private

if TYPE_CHECKING:
    from jedlik.nodes.worker.node import WorkerNode

T = TypeVar("T")
PLANNER = "planner"
"""Its logs' name: it is no process of its own."""


Log = EventLog[PlannerEvent, PlannerEffect]


class Made(msgspec.Struct, frozen=True, tag="process"):
    """What a node was made of."""

    process: ProcessConfig
    card: Card | None = None
    """A worker's."""
    costs: StepCosts | None = None
    """What a worker took steps to take; None: it learnt."""
    version: str = __version__
    """The version of jedlik."""


class PlannerMade(msgspec.Struct, frozen=True, tag="planner"):
    """What a planner node was made of."""

    config: ServeConfig
    places: Sequence[Place]
    initial: dict[Role, int]
    version: str = __version__


class Replayed(NamedTuple):
    """A replay that can be run, once."""

    turns: Recording[Any, Any]
    differences: Replay[Any, Any]
    version: str
    """The version of jedlik that recorded it."""


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


def make_gateway(process: ProcessConfig) -> GatewayNode:
    config = process.config
    policy, shadow = policies_of(config.gateway)
    return GatewayNode(
        config.gateway, GatewayId(process.id), Naming(process.cluster_key), config.worker, policy, shadow
    )


def make_worker(process: ProcessConfig, card: Card, costs: StepCosts | None = None) -> "WorkerNode":
    """`costs`: of a profile, where there is one."""
    from jedlik.nodes.worker.node import WorkerNode  # brings numpy, which a gateway does without

    hasher = BlockHasher(process.cluster_key, card.revision, card.layout.block_size)
    return WorkerNode(card, process.config.worker, hasher, profile=costs, role=process.role)


def gateway_log(process: ProcessConfig) -> EventLog[GatewayEvent, GatewayEffect] | None:
    """To record into, None if nothing is to be recorded."""
    path = _start(process, None)
    if path is None or process.config.event_log_tokens:
        return EventLog(path, _same, _same) if path else None
    redactor = Redactor(process.cluster_key, process.config.worker.block_size)
    return EventLog(path, redactor, redactor)


def worker_log(
    process: ProcessConfig, card: Card, costs: StepCosts | None = None
) -> EventLog[WorkerEvent, WorkerEffect] | None:
    """The same for a worker."""
    path = _start(process, card, costs)
    if path is None or process.config.event_log_tokens:
        return EventLog(path, _same, _same) if path else None
    redactor = Redactor(process.cluster_key, process.config.worker.block_size)
    return EventLog(path, redactor, redactor)


def planner_log(config: ServeConfig, places: Sequence[Place], initial: Counts) -> Log | None:
    """The same for a planner."""
    if config.event_log is None:
        return None
    path = Path(config.event_log).absolute() / f"{PLANNER}@{secrets.token_hex(4)}.log"
    close_folder(path.parent, is_log)
    config = msgspec.structs.replace(config, api_keys={})
    _write_header(path, PlannerMade(config, places, dict(initial)))
    return EventLog(path, _same, _same)


def replayed(log: Path) -> Replayed:
    """A log and a fresh node, made as the one that wrote it. Raises ConfigError if the log was not made for that."""
    made = _header(log)
    if isinstance(made, PlannerMade):
        from jedlik.serve.fleet_planner import make_planner  # brings numpy, which a gateway does without

        planner = make_planner(made.config, made.places, made.initial)
        planned = read(log, PlannerTurn)
        return Replayed(planned, Replay(planned, planner.handle), made.version)
    if made.card is None:
        routed = read(log, GatewayTurn)
        return Replayed(routed, Replay(routed, make_gateway(made.process).handle), made.version)
    worked = read(log, WorkerTurn)
    return Replayed(worked, Replay(worked, make_worker(made.process, made.card, made.costs).handle), made.version)


def differences(log: Path) -> Replay[Any, Any]:
    """Every decision that comes out otherwise. Raises ConfigError as `replayed` does."""
    return replayed(log).differences


def _header(log: Path) -> Made | PlannerMade:
    """How the node was made. Raises ConfigError."""
    beside = log.with_suffix(".log")
    if log.is_dir():
        logs = ", ".join(sorted(path.name for path in log.glob("*.log"))) or "none"
        raise ConfigError(f"{log} is a folder: name one of the logs in it ({logs})")
    if not log.exists():
        raise ConfigError(f"{log} is not there: name a .log file that --event-log wrote")
    if log.suffix != ".log":
        hint = f"; did you mean {beside}?" if beside.exists() else ""
        raise ConfigError(f"{log} is not a .log file that --event-log wrote{hint}")
    header = log.with_suffix(".json")
    if not header.exists():
        raise ConfigError(f"{header} is not there: only logs kept with --event-log-tokens can be replayed")
    try:
        return msgspec.json.decode(header.read_bytes(), type=Made | PlannerMade)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{header} does not say how the node was made ({error}): it is damaged, or another release wrote it, "
            f"which can replay {log.name}"
        ) from None


def _start(process: ProcessConfig, card: Card | None, costs: StepCosts | None = None) -> Path | None:
    if process.config.event_log is None:
        return None
    path = Path(process.config.event_log).absolute() / f"{process.id}.log"
    close_folder(path.parent, is_log)
    if process.config.event_log_tokens:
        config = msgspec.structs.replace(process.config, api_keys={})
        made = Made(msgspec.structs.replace(process, config=config), card, costs)
        _write_header(path, made)
    return path


def _write_header(path: Path, made: Made | PlannerMade) -> None:
    write_private(path.with_suffix(".json"), msgspec.json.encode(made))


def _same(what: T) -> T:
    return what
