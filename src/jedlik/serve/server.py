"""`jedlik serve`: the supervisor's side. Checks what can be checked, makes the run directory, starts the children.

Imports neither torch nor anything of the gateway: it must be up at once and stay small.
"""

import asyncio
import contextlib
import os
import secrets
from collections.abc import Callable

import msgspec
import setproctitle

from jedlik.core.config import ServeConfig
from jedlik.live.rundir import RunDir, make
from jedlik.live.running import raise_file_limit
from jedlik.models.files import ModelFiles
from jedlik.serve import children, event_log, memory, orphans, tiers
from jedlik.serve.children import Server
from jedlik.serve.engines import check_installed, profiled_costs
from jedlik.serve.listening import bind, refused
from jedlik.serve.model_check import examine_apart
from jedlik.serve.places import worker_places
from jedlik.serve.policies import policies_of
from jedlik.serve.supervisor import Startup, supervise

Say = Callable[[str], None]
BACKLOG = 2048


def serve(config: ServeConfig, resolve: Callable[[], ModelFiles], say: Say) -> bool:
    """Serve until a signal. Return whether that was Ctrl-C before anything was served.

    Raises ConfigError with a remedy when it cannot: where possible before a download.
    """
    setproctitle.setproctitle("jedlik: supervisor")
    raise_file_limit()
    check_installed(config)
    policies_of(config.gateway)  # the processes make their own: a wrong name must not wait for them
    if config.profile is not None:
        profiled_costs(config)  # a wrong name must not wait for the workers
    event_log.prepare(config)
    for line in tiers.prepare(config):
        say(line)
    places = worker_places(config)
    found = orphans.find(config, {one.place.name for one in places})
    listener = (orphans.listener(found) if found is not None else None) or bind(config.host, config.port)
    with contextlib.closing(listener):
        run_dir = found.run if found is not None else make(config.run_dir, os.getpid())
        try:
            model = resolve()
            if found is None:
                examine_apart(model.path, config)
            os.umask(0o077)  # what this server writes from here on is its user's alone
            try:
                listener.listen(BACKLOG)
            except OSError as error:  # somebody else bound the port too and was quicker
                raise refused(config.host, config.port, error) from error
            server = _prepared(config, model, found, run_dir, say)
            startup = Startup(run=run_dir, server=server, listener=listener, places=places, found=found)
            return asyncio.run(supervise(startup, say))
        finally:
            if run_dir.owned_by(os.getpid()):  # not, where what runs in it was not taken over
                run_dir.remove()


def _prepared(
    config: ServeConfig, model: ModelFiles, found: orphans.Orphans | None, run_dir: RunDir, say: Say
) -> Server:
    """Write down what all processes have in common, and return it."""
    key = _cluster_key(config)
    if found is not None:
        orphans.check_model(found, str(model.path), key)
        server = msgspec.structs.replace(found.server, config=config)
        run_dir.own(os.getpid(), named=True)
    else:
        name = config.served_model_name or model.name
        size, text = memory.prepare(config, model.path)
        say(text)
        server = Server(
            config=config,
            cluster_key=key or secrets.token_bytes(32),
            model_path=str(model.path),
            model_name=name,
            kv_cache_bytes=size,
        )
    children.write(run_dir, server)
    return server


def _cluster_key(config: ServeConfig) -> bytes | None:
    """Return the key that names blocks which outlive this run; None: there are none."""
    folder = tiers.key_folder(config)
    if folder is None:
        return None
    from jedlik.transfer.private import cluster_key

    return cluster_key(folder)
