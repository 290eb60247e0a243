"""The event log of a process, where the configuration asks for one: FOLDER/NAME@INCARNATION.log."""

from pathlib import Path

from jedlik.cli.process import ProcessConfig
from jedlik.core.effects import GatewayEffect, WorkerEffect
from jedlik.core.events import GatewayEvent, WorkerEvent
from jedlik.live.recorder import EventLog
from jedlik.live.redact import Redactor


def gateway_log(told: ProcessConfig) -> EventLog[GatewayEvent, GatewayEffect] | None:
    path = _path(told)
    if path is None:
        return None
    if told.config.event_log_tokens:
        return EventLog(path, lambda event: event, lambda effect: effect)
    redactor = Redactor(told.cluster_key, told.config.worker.block_size)
    return EventLog(path, redactor, redactor)


def worker_log(told: ProcessConfig) -> EventLog[WorkerEvent, WorkerEffect] | None:
    path = _path(told)
    if path is None:
        return None
    if told.config.event_log_tokens:
        return EventLog(path, lambda event: event, lambda effect: effect)
    redactor = Redactor(told.cluster_key, told.config.worker.block_size)
    return EventLog(path, redactor, redactor)


def _path(told: ProcessConfig) -> Path | None:
    return Path(told.config.event_log) / f"{told.id}.log" if told.config.event_log else None
