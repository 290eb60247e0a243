"""`jedlik serve`: the supervisor's side. Checks what can be checked, makes the run directory, starts the children.

Imports neither torch nor anything of the gateway: it must be up at once and stay small.
"""

import asyncio
import importlib.util
import os
import secrets
import socket
import sys
from collections.abc import Callable, Sequence

import msgspec
import setproctitle

from jedlik.cli import tiers
from jedlik.cli.policies import policies_of
from jedlik.cli.process import ProcessConfig
from jedlik.cli.settings import loopback
from jedlik.core.config import Role, ServeConfig
from jedlik.core.errors import ConfigError
from jedlik.live.child import Child
from jedlik.live.rundir import RunDir, make
from jedlik.live.supervise import Supervisor
from jedlik.models.files import ModelFiles
from jedlik.models.info import knows_chat

Say = Callable[[str], None]
BACKLOG = 2048


def serve(config: ServeConfig, resolve: Callable[[], ModelFiles], say: Say) -> None:
    """Serve until a signal. Raises ConfigError with a remedy when it cannot: where possible before a download."""
    setproctitle.setproctitle("jedlik: supervisor")
    if config.engine == "torch" and importlib.util.find_spec("torch") is None:
        raise ConfigError("torch is not installed: pip install 'jedlik[torch]', or try --engine simulated")
    policies_of(config.gateway)  # the processes make their own: a wrong name must not wait for them
    if config.profile is not None:
        from jedlik.cli.engines import profiled_costs  # brings numpy

        profiled_costs(config)
    for line in tiers.prepare(config):
        say(line)
    listener = bind(config.host, config.port)
    try:
        model = resolve()
        try:
            listener.listen(BACKLOG)
        except OSError as error:  # somebody else bound the port too and was quicker
            raise port_in_use(config.host, config.port, error) from error
        run_dir = make(config.run_dir, os.getpid())
        try:
            asyncio.run(_supervise(config, model, listener, run_dir, say))
        finally:
            run_dir.remove()
    finally:
        listener.close()


def bind(host: str, port: int) -> socket.socket:
    """The one socket to listen on: it outlives gateways, so that connections wait while one restarts."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind)
    except OSError as error:
        raise ConfigError(f"cannot listen on host {host}: {error}; --host takes an address of this machine") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise port_in_use(host, port, error) from error
    listener.set_inheritable(False)  # passed on to the gateway by number
    return listener


def port_in_use(host: str, port: int, error: OSError) -> ConfigError:
    remedy = f"choose another with --port, or find who has it: ss -ltnp 'sport = :{port}'"
    return ConfigError(f"cannot listen on {host}:{port}: {error.strerror}; {remedy}")


def curl(config: ServeConfig, model: ModelFiles, name: str, port: int) -> str:
    """A request to paste."""
    host = config.host if loopback(config.host) else socket.gethostname()
    key = " -H 'authorization: Bearer YOUR_KEY'" if config.api_keys else ""
    chat = knows_chat(model.path)
    question = '"messages": [{"role": "user", "content": "Hello!"}]' if chat else '"prompt": "The sky is"'
    body = f'{{"model": "{name}", "stream": true, {question}}}'
    path = "chat/completions" if chat else "completions"
    return f"curl -N http://{host}:{port}/v1/{path} -H 'content-type: application/json'{key} -d '{body}'"


async def _supervise(
    config: ServeConfig, model: ModelFiles, listener: socket.socket, run_dir: RunDir, say: Say
) -> None:
    cluster_key = _cluster_key(config)
    name = config.served_model_name or model.name
    host, port = listener.getsockname()[:2]

    def child(child_name: str, module: str, fd: int | None = None, role: Role = "both") -> Child:
        def command() -> list[str]:
            told = ProcessConfig(
                name=child_name,
                incarnation=secrets.token_hex(4),
                run_dir=str(run_dir.path),
                parent_pid=os.getpid(),
                cluster_key=cluster_key,
                role=role,
                config=config,
                model_path=str(model.path),
                model_name=name,
                socket_fd=fd,
            )
            (run_dir.status / child_name).unlink(missing_ok=True)  # of the incarnation before
            run_dir.write_private(run_dir.config(child_name), msgspec.json.encode(told))
            return [sys.executable, "-m", f"jedlik.cli.{module}", str(run_dir.config(child_name))]

        return Child(child_name, command, say, lambda: run_dir.ready_s(child_name), () if fd is None else (fd,))

    gateway = child("gateway", "gateway_process", listener.fileno())
    workers = [child(f"worker-{n}", "worker_process", role=role) for n, role in enumerate(config.roles)]
    supervisor = Supervisor(gateway, workers, run_dir.status, say, config.drain_s)

    def ready(seconds: float) -> None:
        where = f"{name} on http://{host}:{port}, {staff(config.roles)}"
        say(f"ready after {seconds:.1f} s: {where}. Try:\n{curl(config, model, name, port)}")

    await supervisor.run((_reachable(host), port), ready, listener.close)


def staff(roles: Sequence[Role]) -> str:
    """How many workers do what: 2 workers; 3 workers (1 prefill, 2 decode)."""
    total = f"{len(roles)} worker{'s' * (len(roles) != 1)}"
    kinds = [f"{roles.count(role)} {role}" for role in ("prefill", "decode", "both") if role in roles]
    return total if set(roles) <= {"both"} else f"{total} ({', '.join(kinds)})"


def _cluster_key(config: ServeConfig) -> bytes:
    """Of this run; where blocks outlive it, the one they are named by."""
    folder = tiers.key_folder(config)
    if folder is None:
        return secrets.token_bytes(32)
    from jedlik.transfer.private import cluster_key

    return cluster_key(folder)


def _reachable(host: str) -> str:
    """Where the supervisor itself asks a socket bound to every address."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
