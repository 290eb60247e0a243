"""One look at a server for `jedlik top`: /health, /metrics, /plan and /v1/models; and the looks of the last minute.

Only /health must answer. A part that does not answer is None, and a note says why.
"""

import time
from collections import deque
from typing import NamedTuple

import msgspec

from jedlik.console.plan_seen import NO_PLANNER, PlanAnswer, fetch_plan
from jedlik.console.series import Series, read
from jedlik.core.errors import ConfigError
from jedlik.net.http_client import Reply, get, message

TIMEOUT_S = 3.0
RATES_S, WINDOW_S = 10.0, 60.0
"""Rates are taken over the first span; shares and quantiles are taken over the second."""
SHORT_S = 5.0
"""A shorter history says less than all that was counted since the server began."""


class WorkerHealth(msgspec.Struct, frozen=True, kw_only=True):
    """A worker as the gateway sees it, as `nodes.gateway.workers` reports it. None means unknown."""

    worker: str
    model: str | None = None
    health: str | None = None
    reason: str | None = None
    role: str | None = None
    draining: bool | None = None
    running: int | None = None
    waiting: int | None = None
    kv_blocks: int | None = None
    held_blocks: int | None = None
    cached_blocks: int | None = None


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of GET /health."""

    status: str | None = None
    draining: bool | None = None
    in_flight: int | None = None
    waiting: int | None = None
    parked: int | None = None
    workers: tuple[WorkerHealth, ...] = ()


class ServerLook(NamedTuple):
    """One look at a server."""

    at: float
    """The time in seconds, on this terminal's clock."""
    health: Health
    series: Series | None = None
    plan: PlanAnswer | None = None
    uptime_s: float | None = None
    model: str | None = None
    """The model's name, as clients call it."""
    notes: tuple[str, ...] = ()
    """The parts that could not be read, each with the reason."""


class History:
    """The looks of the last minute, oldest first."""

    def __init__(self) -> None:
        self._samples: deque[ServerLook] = deque()

    def add(self, sample: ServerLook) -> None:
        self._samples.append(sample)
        while len(self._samples) > 2 and sample.at - self._samples[1].at >= WINDOW_S:
            self._samples.popleft()

    def last(self) -> ServerLook | None:
        return self._samples[-1] if self._samples else None

    def before(self, within_s: float, at_least_s: float = 0.0) -> ServerLook | None:
        """Return the oldest look within `within_s`, if it is at least `at_least_s` old; else None."""
        if not self._samples:
            return None
        now = self._samples[-1].at
        found = next(sample for sample in self._samples if now - sample.at <= within_s + 1.0)
        return found if found is not self._samples[-1] and now - found.at >= at_least_s else None


class ModelList(msgspec.Struct, frozen=True):
    """The answer of GET /v1/models. A model's `created` is the time when the gateway started."""

    data: tuple["Model", ...] = ()


class Model(msgspec.Struct, frozen=True):
    id: str | None = None
    created: float | None = None


def look(url: str, api_key: str | None) -> ServerLook:
    """Ask a server for all four answers. Raises ConfigError where nobody answers."""
    reply = get(url, "/health", api_key, TIMEOUT_S)
    health = _health(url, reply)
    at, notes = time.monotonic(), []
    series: Series | None = None
    plan: PlanAnswer | None = None
    try:
        metrics = get(url, "/metrics", api_key, TIMEOUT_S)
        if metrics.status == 200:
            series = read(metrics.body)
        else:
            notes.append(f"/metrics: {message(metrics.body)}")
    except ConfigError as error:
        notes.append(str(error))
    try:
        plan = fetch_plan(url, api_key, TIMEOUT_S)
        if plan is None:
            notes.append(NO_PLANNER)
    except ConfigError as error:
        notes.append(str(error))
    model = _model(url, api_key, notes)
    uptime_s = None if model.created is None else max(0.0, time.time() - model.created)
    return ServerLook(
        at=at, health=health, series=series, plan=plan, uptime_s=uptime_s, model=model.id, notes=tuple(notes)
    )


def _health(url: str, reply: Reply) -> Health:
    """Decode an answer of GET /health. A server that is not ready answers 503 with the same body."""
    if reply.status not in (200, 503):
        raise ConfigError(f"{url}/health answers {reply.status}: {message(reply.body)}; is it a jedlik server?")
    try:
        return msgspec.json.decode(reply.body, type=Health)
    except msgspec.MsgspecError as error:
        raise ConfigError(f"{url} does not answer as this release of jedlik does: {error}") from error


def _model(url: str, api_key: str | None, notes: list[str]) -> Model:
    """Return the first model that is served. Where none can be read, its fields are None and a note says why."""
    try:
        reply = get(url, "/v1/models", api_key, TIMEOUT_S)
        if reply.status != 200:
            key = "" if api_key else " (--api-key gives it one)"
            notes.append(f"model and uptime: {message(reply.body)}{key if reply.status == 401 else ''}")
            return Model()
        models = msgspec.json.decode(reply.body, type=ModelList)
    except ConfigError as error:
        notes.append(str(error))
        return Model()
    except msgspec.MsgspecError as error:
        notes.append(f"model and uptime: {url} does not answer as this release of jedlik does: {error}")
        return Model()
    return models.data[0] if models.data else Model()
