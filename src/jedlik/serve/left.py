"""What a killed supervisor left running in a named run directory: taken over as it is, or refused with a remedy.

Taken over are processes, the gateway's listening socket, the cluster key. Nothing is restarted, so every setting that a
running process was started with must be the same; what the supervisor alone reads may change.
"""

import socket
from collections.abc import Collection
from typing import NamedTuple

import msgspec

from jedlik.core.config import ServeConfig
from jedlik.core.errors import ConfigError, PeerError
from jedlik.live.adopt import Kept, offer_path, running, take
from jedlik.live.rundir import RunDir, left
from jedlik.serve.children import Server, read

MAY_CHANGE = frozenset({"planner", "workers", "prefill", "decode", "drain_s", "orphan_s", "run_dir"})


class Left(NamedTuple):
    """Processes without a supervisor."""

    run: RunDir
    server: Server
    gateway: Kept | None
    workers: list[Kept]

    @property
    def pids(self) -> list[int]:
        return [kept.pid for kept in (*([self.gateway] if self.gateway else []), *self.workers)]


def find(config: ServeConfig, places: Collection[str]) -> Left | None:
    """`places`: names of workers that there is room for. Raises ConfigError where what runs can't be taken over."""
    run = left(config.run_dir)
    kept = running(run) if run is not None else []
    if run is None or not kept:
        return None
    gateway = next((one for one in kept if one.name == "gateway"), None)
    found = Left(run, read(run), gateway, [one for one in kept if one is not gateway])
    other = differences(found.server.config, config)
    if other:
        raise ConfigError(
            f"run directory {run.path} has processes of a killed server that were started otherwise "
            f"({', '.join(other)}): give the same settings to take them over, or end them first: "
            f"kill {' '.join(map(str, found.pids))}"
        )
    homeless = [kept for kept in found.workers if kept.name not in places]
    if homeless:
        raise ConfigError(
            f"{', '.join(kept.name for kept in homeless)} of a killed server still run in {run.path} and there is room "
            f"for {len(places)} workers: ask for as many as before, or end them first: "
            f"kill {' '.join(str(kept.pid) for kept in homeless)}"
        )
    return found


def differences(was: ServeConfig, now: ServeConfig) -> list[str]:
    """Settings that running processes have and that are not what is asked for now."""
    old, new = (msgspec.to_builtins(config) for config in (was, now))
    return [name for name in ServeConfig.__struct_fields__ if name not in MAY_CHANGE and old[name] != new[name]]


def same_model(found: Left, path: str, key: bytes | None) -> None:
    """Raises ConfigError where the model, or the key that blocks on disk are named by, is another one."""
    what = "model files" if path != found.server.model_path else ""
    if key is not None and key != found.server.cluster_key:
        what = "the cluster key of the KV folder"
    if what:
        raise ConfigError(
            f"{what} changed while processes of a killed server run in {found.run.path}; end them first: "
            f"kill {' '.join(map(str, found.pids))}"
        )


def listener(found: Left) -> socket.socket | None:
    """The gateway's; None: no gateway runs. Raises ConfigError where it does not hand it over."""
    if found.gateway is None:
        return None
    try:
        return take(offer_path(found.run, found.gateway.id))
    except PeerError as error:
        raise ConfigError(f"{error}; end it, and start again: kill -9 {found.gateway.pid}") from error
