"""The processes of one server: how each is configured and started, and what is written down of it.

What the server itself is made of is written into the run directory (it holds the cluster key and API keys, readable by
this user only), so that a new supervisor can go on with the processes of a killed one.
"""

import os
import secrets
import sys
from collections.abc import Mapping
from typing import Any

import msgspec

from jedlik.core.config import Role, ServeConfig
from jedlik.core.errors import Bug
from jedlik.core.ids import WorkerId
from jedlik.live.adopt import ChildProcess, save_process
from jedlik.live.launch import StartedWorker
from jedlik.live.rundir import RunDir
from jedlik.live.running import Running, start
from jedlik.net.discovery.local import start_ticks
from jedlik.serve.places import WorkerPlace
from jedlik.serve.process import ProcessConfig

FILE = "server.json"


class ServedPool(msgspec.Struct, frozen=True, kw_only=True):
    """One pool of a server: its workers have one model and one configuration."""

    name: str
    config: ServeConfig
    """The configuration of its workers' processes."""
    model_path: str
    model_name: str
    """The name by which clients ask for the model."""


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """The things that all processes of a server have in common."""

    config: ServeConfig
    cluster_key: bytes
    pools: tuple[ServedPool, ...]

    @property
    def models(self) -> dict[str, str]:
        """The folders of the models, by the names that clients use."""
        return {pool.model_name: pool.model_path for pool in self.pools}


class Children:
    """Starts processes of a server. `places` are by their name."""

    def __init__(self, run: RunDir, server: Server, places: Mapping[str, WorkerPlace], listener_fd: int) -> None:
        self._run = run
        self._server = server
        self._places = places
        self._listener_fd = listener_fd

    def gateway(self) -> Running:
        """Start the gateway's process."""
        pool = self._server.pools[0]
        process = self._configured("gateway", pool, self._server.config, socket_fd=self._listener_fd)
        return self._start(process, "gateway_process")

    def worker(self, name: str, number: int, role: Role) -> StartedWorker:
        """Start a worker at its place, for the `number`th time."""
        place = self._places[name]
        pool = self._server.pools[place.pool]
        process = self._configured(name, pool, pool.config, role=role, cpus=place.cpus, device=place.device)
        return StartedWorker(self._start(process, "worker_process", number), WorkerId(process.id))

    def _configured(self, name: str, pool: ServedPool, config: ServeConfig, **own: Any) -> ProcessConfig:
        return ProcessConfig(
            name=name,
            incarnation=secrets.token_hex(4),
            run_dir=str(self._run.path),
            parent_pid=os.getpid(),
            cluster_key=self._server.cluster_key,
            config=config,
            pool=pool.name,
            model_path=pool.model_path,
            model_name=pool.model_name,
            models=self._server.models,
            **own,
        )

    def _start(self, process: ProcessConfig, module: str, number: int = 0) -> Running:
        self._run.forget(process.name)
        path = self._run.config(process.name)
        self._run.write_private(path, msgspec.json.encode(process))
        pass_fds = () if process.socket_fd is None else (process.socket_fd,)
        running = start([sys.executable, "-m", f"jedlik.serve.{module}", str(path)], pass_fds)
        child = ChildProcess(
            name=process.name,
            id=process.id,
            pid=running.pid,
            started=start_ticks(running.pid) or 0,  # 0: it has ended already
            start=number,
            role=process.role,
        )
        save_process(self._run, child)
        return running


def write(run: RunDir, server: Server) -> None:
    """Write down what a server is made of."""
    run.write_private(run.path / FILE, msgspec.json.encode(server))


def read(run: RunDir) -> Server:
    """Return what a server was made of. Raises Bug: whoever asks has seen processes that this server started."""
    try:
        return msgspec.json.decode((run.path / FILE).read_bytes(), type=Server)
    except (OSError, msgspec.MsgspecError) as error:
        raise Bug(f"{run.path / FILE} can't be read: {error}") from error
