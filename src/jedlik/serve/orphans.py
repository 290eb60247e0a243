"""Processes of a killed supervisor in a named run directory: taken over as they are, or refused with a remedy.

Taken over are processes, the gateway's listening socket and the cluster key. Nothing is restarted, so every setting
that a running process was started with must be the same; what the supervisor alone reads may change.
"""

import socket
from collections.abc import Collection
from typing import NamedTuple

import msgspec

from jedlik.core.config import ServeConfig
from jedlik.core.errors import ConfigError, PeerError
from jedlik.live.adopt import ChildProcess, offer_path, running_processes, take_listener
from jedlik.live.rundir import RunDir, abandoned
from jedlik.serve.children import Server, read

MAY_CHANGE = frozenset({"planner", "workers", "prefill", "decode", "drain_s", "orphan_s", "run_dir"})


class Orphans(NamedTuple):
    """Processes without a supervisor."""

    run: RunDir
    server: Server
    gateway: ChildProcess | None
    workers: list[ChildProcess]

    @property
    def pids(self) -> list[int]:
        """The ids of all the processes."""
        return [process.pid for process in (*([self.gateway] if self.gateway else []), *self.workers)]


def find(config: ServeConfig, places: Collection[str]) -> Orphans | None:
    """Return what runs without a supervisor. Raises ConfigError where that can't be taken over.

    `places`: the names of workers that there is room for.
    """
    run = abandoned(config.run_dir)
    processes = running_processes(run) if run is not None else []
    if run is None or not processes:
        return None
    gateway = next((one for one in processes if one.name == "gateway"), None)
    found = Orphans(run, read(run), gateway, [one for one in processes if one is not gateway])
    other = differences(found.server.config, config)
    if other:
        raise ConfigError(
            f"run directory {run.path} has processes of a killed server that were started otherwise "
            f"({', '.join(other)}): give the same settings to take them over, or end them first: "
            f"kill {' '.join(map(str, found.pids))}"
        )
    homeless = [worker for worker in found.workers if worker.name not in places]
    if homeless:
        raise ConfigError(
            f"{', '.join(worker.name for worker in homeless)} of a killed server still run in {run.path} and there is "
            f"room for {len(places)} workers: ask for as many as before, or end them first: "
            f"kill {' '.join(str(worker.pid) for worker in homeless)}"
        )
    return found


def differences(was: ServeConfig, now: ServeConfig) -> list[str]:
    """Return the settings that running processes have and that are not what is asked for now."""
    old, new = (msgspec.to_builtins(config) for config in (was, now))
    return [name for name in ServeConfig.__struct_fields__ if name not in MAY_CHANGE and old[name] != new[name]]


def check_models(found: Orphans, models: dict[str, str], key: bytes | None) -> None:
    """Raise ConfigError where the models, or the key that blocks on disk are named by, are others."""
    what = "model files" if models != found.server.models else ""
    if key is not None and key != found.server.cluster_key:
        what = "the cluster key of the KV folder"
    if what:
        raise ConfigError(
            f"{what} changed while processes of a killed server run in {found.run.path}; end them first: "
            f"kill {' '.join(map(str, found.pids))}"
        )


def listener(found: Orphans) -> socket.socket | None:
    """Return the gateway's listening socket; None: no gateway runs. Raises ConfigError if it hands over none."""
    if found.gateway is None:
        return None
    try:
        return take_listener(offer_path(found.run, found.gateway.id))
    except PeerError as error:
        raise ConfigError(f"{error}; end it, and start again: kill -9 {found.gateway.pid}") from error
