"""The gateway process: `python -m jedlik.serve.gateway_process CONFIG`. HTTP, the gateway node, links to workers.

Imports no torch. Takes over the supervisor's listening socket, so that no connection is refused while it restarts.
"""

import asyncio
import gc
import logging
import os
import random
import secrets
import socket
import sys
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

from jedlik.core.config import ServeConfig
from jedlik.core.effects import ChangeRole
from jedlik.core.errors import Bug, ConfigError
from jedlik.core.plans import Promise
from jedlik.core.requests import OPENAI
from jedlik.frontend.app import Application, FrontendParts, ServedModel, build_app
from jedlik.frontend.server.connection import ConnectionLimits
from jedlik.frontend.server.serving import HttpServer
from jedlik.live import adopt
from jedlik.live.control import SOCKET, ControlLink
from jedlik.live.gateway import GatewayDriver
from jedlik.live.running import MAX_FILES, max_connections
from jedlik.models import generation
from jedlik.serve import access
from jedlik.serve.event_log import gateway_log
from jedlik.serve.nodes import make_gateway
from jedlik.serve.process import ProcessConfig, run, trace_of
from jedlik.telemetry.gateway import GatewayMonitor
from jedlik.telemetry.log import Log
from jedlik.telemetry.metrics import GatewayMetrics
from jedlik.transfer.processes import host_name

YOUNG_OBJECTS = 20_000


async def serve(process: ProcessConfig, log: Log, stop: asyncio.Event) -> None:
    """Serve until a signal, drain, flush."""
    config = process.config
    one_thread()
    node = make_gateway(process)
    promise = Promise(config.gateway.slo_ttft_s, config.gateway.slo_itl_s, config.planner.attainment)
    metrics = GatewayMetrics(
        lambda: {card.name: card.total_blocks for card in node.cards()}, node.waiting_choices, promise
    )
    telemetry = GatewayMonitor(metrics, log, log_requests=config.frontend.log_requests)
    driver = GatewayDriver(node.gateway, node, process.cluster(host_name()), telemetry, gateway_log(process))
    link = ControlLink(node.gateway, process.run.socket(SOCKET), _changing(driver, log))
    driver.reports_to(link.report)
    application = _application(process, driver, link, metrics)
    metrics.caches += [node.caches, application.caches]
    server = _server(application, process, log)
    listener = _listener(process)
    listeners = [listener, *_metrics_listener(config)]
    door = _offering(process, listener)
    calm_collector()
    process.run.set_status(process.name, "")
    running = asyncio.create_task(driver.run(), name="driver")
    linked = asyncio.create_task(link.run(), name="control link")
    serving = asyncio.create_task(server.serve(listeners), name="http")
    stopping = asyncio.create_task(stop.wait(), name="stop")
    try:
        await asyncio.wait((running, serving, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not running.done() and not serving.done():
            log.line("draining", budget_s=config.drain_s)
            finished = await driver.drain(config.drain_s)
            log.line("drained" if finished else "drain budget spent: what runs is cut")
        server.should_exit = True
        await serving
    finally:
        asyncio.get_running_loop().remove_reader(door)
        door.close()
        for task in (running, linked, stopping):
            task.cancel()
        results = await asyncio.gather(running, linked, stopping, return_exceptions=True)
    if isinstance(results[0], Exception):
        raise results[0]


def one_thread() -> None:
    """Prompts are tokenised in pieces too small to be worth waking a pool of threads for."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def calm_collector() -> None:
    """Models, routes and modules live as long as the process: looking through them again and again is wasted time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, 20, 50)


def _offering(process: ProcessConfig, listener: socket.socket) -> socket.socket:
    """A new supervisor gets our listening socket here, so that it outlives this process then as now."""
    door = adopt.offer_listener(adopt.offer_path(process.run, process.id))
    asyncio.get_running_loop().add_reader(door, adopt.give_listener, door, listener)
    return door


def _changing(driver: GatewayDriver, log: Log) -> Callable[[ChangeRole], None]:
    """The planner has a worker take another role."""

    def change(wanted: ChangeRole) -> None:
        refusal = driver.flip(wanted.worker, wanted.role)
        if refusal is not None:
            log.line("role not changed", worker=wanted.worker, role=wanted.role, reason=refusal)

    return change


def _application(
    process: ProcessConfig, driver: GatewayDriver, link: ControlLink, metrics: GatewayMetrics
) -> Application:
    prefix, numbers = secrets.token_hex(6), count(1)
    vendor = process.config.generation_config == "vendor"
    folders = {name: Path(path) for name, path in process.models.items()}
    parts = FrontendParts(
        port=driver,
        roles=driver,
        plans=link,
        models={
            name: ServedModel(directory=folder, defaults=generation.read(folder) if vendor else OPENAI)
            for name, folder in folders.items()
        },
        special_in_text=process.config.allow_special_in_text,
        config=process.config.frontend,
        gateway=process.config.gateway,
        api_keys=process.config.api_keys,
        site=access.site(process.config),
        other_sites=access.other_sites(process.config),
        metrics=metrics.scrape,
        rng=random.Random(secrets.randbits(64)),
        fresh_id=lambda: f"{prefix}{next(numbers):x}",
        now=asyncio.get_running_loop().time,
        wall=time.time,
    )
    return build_app(parts)


def _server(application: Application, process: ProcessConfig, log: Log) -> HttpServer:
    """What uvicorn has to say goes into our log."""
    logger = logging.getLogger("uvicorn")
    logger.addHandler(ToLog(log))
    logger.propagate = False
    frontend = process.config.frontend
    limits = ConnectionLimits(frontend.max_head_bytes, frontend.receive_s, frontend.idle_s, frontend.stalled_client_s)
    most = min(frontend.max_connections or MAX_FILES, max_connections())
    return HttpServer(application, limits, most, lambda what, count: log.line(what, count=count, most=most))


class ToLog(logging.Handler):
    """Warnings of a library, as lines like all others."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        failed = None if error is None else f"{type(error).__name__}: {error}"
        self._log.line(record.getMessage().strip(), error=failed, trace=error and trace_of(error))


def _listener(process: ProcessConfig) -> socket.socket:
    if process.socket_fd is None:
        raise Bug("the gateway was given no socket")
    return socket.socket(fileno=process.socket_fd)


def _metrics_listener(config: ServeConfig) -> list[socket.socket]:
    if config.metrics_port is None:
        return []
    where = (config.metrics_host, config.metrics_port)
    family = socket.AF_INET6 if ":" in config.metrics_host else socket.AF_INET
    try:
        return [socket.create_server(where, family=family)]
    except OSError as error:
        why = f"{error.strerror}; choose another with --metrics-port or --metrics-host"
        raise ConfigError(f"cannot listen on {where[0]}:{where[1]} for metrics: {why}") from error


if __name__ == "__main__":
    sys.exit(run(serve, sys.argv))
