"""`jedlik serve`: the supervisor's side. Checks what can be checked, makes the run directory, starts the children.

Imports neither torch nor anything of the gateway: it must be up at once and stay small.
"""

import asyncio
import contextlib
import os
import secrets
from collections.abc import Callable, Mapping

import msgspec
import setproctitle

from jedlik.core.config import ServeConfig
from jedlik.live.rundir import make
from jedlik.live.running import raise_file_limit
from jedlik.models.files import ModelFiles
from jedlik.serve import children, event_log, memory, orphans, tiers
from jedlik.serve.children import ServedPool, Server
from jedlik.serve.engines import check_installed, profiled_costs
from jedlik.serve.listening import bind, refused
from jedlik.serve.model_check import examine_apart
from jedlik.serve.places import worker_places
from jedlik.serve.plugins import policies_of
from jedlik.serve.pools import pool_configs
from jedlik.serve.supervisor import Startup, supervise

Say = Callable[[str], None]
BACKLOG = 2048


def serve(config: ServeConfig, resolve: Callable[[str], ModelFiles], say: Say) -> bool:
    """Serve until a signal. Return whether that was Ctrl-C before anything was served.

    Raises ConfigError with a remedy when it cannot: where possible before a download.
    """
    setproctitle.setproctitle("jedlik: supervisor")
    raise_file_limit()
    pools = pool_configs(config)
    policies_of(config.gateway)  # the processes make their own: a wrong name must not wait for them
    event_log.prepare(config)
    for pool in pools.values():
        check_installed(pool)
        profiled_costs(pool)  # a wrong name must not wait for the workers
        tiers.check(pool)
    for line in dict.fromkeys(line for pool in pools.values() for line in tiers.prepare(pool)):
        say(line)
    places = worker_places(config)
    found = orphans.find(config, {one.place.name for one in places})
    listener = (orphans.listener(found) if found is not None else None) or bind(config.host, config.port)
    with contextlib.closing(listener):
        run_dir = found.run if found is not None else make(config.run_dir, os.getpid())
        try:
            models = {name: resolve(name) for name in dict.fromkeys(pool.model for pool in pools.values())}
            if found is None:
                for name, pool in {pool.model: pool for pool in pools.values()}.items():
                    examine_apart(models[name].path, pool)
            os.umask(0o077)  # what this server writes from here on is its user's alone
            try:
                listener.listen(BACKLOG)
            except OSError as error:  # somebody else bound the port too and was quicker
                raise refused(config.host, config.port, error) from error
            server = _prepared(config, pools, models, found, say)
            if found is not None:
                run_dir.own(os.getpid(), named=True)
            children.write(run_dir, server)
            startup = Startup(run=run_dir, server=server, listener=listener, places=places, found=found)
            return asyncio.run(supervise(startup, say))
        finally:
            if run_dir.owned_by(os.getpid()):  # not, where what runs in it was not taken over
                run_dir.remove()


def _prepared(
    config: ServeConfig,
    pools: Mapping[str, ServeConfig],
    models: Mapping[str, ModelFiles],
    found: orphans.Orphans | None,
    say: Say,
) -> Server:
    """Return what all processes have in common. Raises ConfigError where the server does not fit this host."""
    key = next(filter(None, map(_cluster_key, pools.values())), None)
    alone = config.served_model_name if len(models) == 1 else None
    names = {model: alone or files.name for model, files in models.items()}
    if found is not None:
        orphans.check_models(found, {names[model]: str(files.path) for model, files in models.items()}, key)
        sizes = {pool.name: pool.config.kv_cache_bytes for pool in found.server.pools}
        caches = [sizes.get(name, next(iter(sizes.values()))) for name in pools]
        key = found.server.cluster_key
    else:
        counts = [pool.replicas for pool in config.worker_pools]
        if config.planner.budget is not None:  # all pools are alike, and any of them may have the room
            counts = [config.most_workers, *(0 for _ in counts[1:])]
        needs = [
            memory.PoolNeeds(pool, count, models[pool.model].path)
            for pool, count in zip(pools.values(), counts, strict=True)
        ]
        caches, text = memory.prepare(needs)
        say(text)
    served = [
        ServedPool(
            name=name,
            config=msgspec.structs.replace(pool, kv_cache_bytes=pool.kv_cache_bytes or cache),
            model_path=str(models[pool.model].path),
            model_name=names[pool.model],
        )
        for (name, pool), cache in zip(pools.items(), caches, strict=True)
    ]
    return Server(config=config, cluster_key=key or secrets.token_bytes(32), pools=tuple(served))


def _cluster_key(config: ServeConfig) -> bytes | None:
    """Return the key that names blocks which outlive this run; None: there are none."""
    folder = tiers.key_folder(config)
    if folder is None:
        return None
    from jedlik.transfer.private import cluster_key

    return cluster_key(folder)
