"""The processes of one server: what each is told, how it starts, and what is written down of it.

What the server itself is made of is kept in the run directory (it holds the cluster key and API keys, readable by this
user only), so that a new supervisor can go on with what a killed one left.
"""

import os
import secrets
import sys
from collections.abc import Mapping

import msgspec

from jedlik.core.config import Role, ServeConfig
from jedlik.core.errors import Bug
from jedlik.core.ids import WorkerId
from jedlik.live.adopt import Kept, keep
from jedlik.live.launch_local import Started
from jedlik.live.rundir import RunDir
from jedlik.live.running import Running, start
from jedlik.net.discovery.local import start_ticks
from jedlik.serve.places import Spot
from jedlik.serve.process import ProcessConfig

FILE = "server.json"


class Server(msgspec.Struct, frozen=True):
    """What all processes of a server have in common."""

    config: ServeConfig
    cluster_key: bytes
    model_path: str
    model_name: str
    kv_cache_bytes: int | None = None
    """The size of each worker's KV cache where no setting names one. It is computed for the most workers allowed."""

    @property
    def told(self) -> ServeConfig:
        """What its processes are told."""
        return msgspec.structs.replace(self.config, kv_cache_bytes=self.config.kv_cache_bytes or self.kv_cache_bytes)


class Children:
    """Starts them. `spots` by the name of their place."""

    def __init__(self, run: RunDir, server: Server, spots: Mapping[str, Spot], listener_fd: int) -> None:
        self._run = run
        self._server = server
        self._spots = spots
        self._listener_fd = listener_fd

    def gateway(self) -> Running:
        told = self._told("gateway", socket_fd=self._listener_fd)
        return self._start(told, "gateway_process", Kept(told.name, told.id, 0, 0), (self._listener_fd,))

    def worker(self, name: str, number: int, role: Role) -> Started:
        spot = self._spots[name]
        told = self._told(name, role=role, cpus=spot.cpus, device=spot.device)
        kept = Kept(name, told.id, 0, 0, number, role)
        return Started(self._start(told, "worker_process", kept), WorkerId(told.id))

    def _told(
        self,
        name: str,
        role: Role = "both",
        cpus: tuple[int, ...] = (),
        device: str | None = None,
        socket_fd: int | None = None,
    ) -> ProcessConfig:
        return ProcessConfig(
            name=name,
            incarnation=secrets.token_hex(4),
            run_dir=str(self._run.path),
            parent_pid=os.getpid(),
            cluster_key=self._server.cluster_key,
            role=role,
            config=self._server.told,
            model_path=self._server.model_path,
            model_name=self._server.model_name,
            socket_fd=socket_fd,
            cpus=cpus,
            device=device,
        )

    def _start(self, told: ProcessConfig, module: str, kept: Kept, pass_fds: tuple[int, ...] = ()) -> Running:
        self._run.began(told.name)
        path = self._run.config(told.name)
        self._run.write_private(path, msgspec.json.encode(told))
        process = start([sys.executable, "-m", f"jedlik.serve.{module}", str(path)], pass_fds)
        keep(self._run, msgspec.structs.replace(kept, pid=process.pid, started=_ticks(process.pid)))
        return process


def _ticks(pid: int) -> int:
    """0: it has ended already."""
    return start_ticks(pid) or 0


def write(run: RunDir, server: Server) -> None:
    run.write_private(run.path / FILE, msgspec.json.encode(server))


def read(run: RunDir) -> Server:
    """Raises Bug: whoever asks has seen processes that this server started."""
    try:
        return msgspec.json.decode((run.path / FILE).read_bytes(), type=Server)
    except (OSError, msgspec.MsgspecError) as error:
        raise Bug(f"{run.path / FILE} can't be read: {error}") from error
