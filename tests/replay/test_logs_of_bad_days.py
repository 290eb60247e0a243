"""Logs of real processes that were killed, frozen and overloaded: gateway and workers decide the same again."""

import os
import signal
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import httpx
import pytest
from cluster_server import Server, gone

from jedlik.core.effects import Deliver, GatewayEffect, Kick, Note
from jedlik.core.events import WorkerLost
from jedlik.core.facts import Answered, FirstToken, Migrated, Routed
from jedlik.live.recorder import GatewayTurn, WorkerTurn, read
from jedlik.routing.estimates import ENOUGH_REQUESTS
from jedlik.serve.replay import differences

pytestmark = pytest.mark.cluster
STREAMS, TOKENS = 6, 120
QUICK = ("--gateway.silent-suspect-s", "0.6", "--gateway.silent-fence-s", "5", "--speedup", "4")
PROMISES = ("--gateway.slo-ttft-s", "0.4", "--gateway.slo-itl-s", "0.1", "--gateway.shadow-policy", "least_loaded")


@pytest.fixture(scope="module")
def logs() -> Iterator[Path]:
    """One worker killed and one frozen in mid-stream, then more asked at once than can be served in time."""
    with tempfile.TemporaryDirectory(prefix="jt-", dir="/tmp") as folder:
        recorded = ("--event-log", f"{folder}/log", "--event-log-tokens")
        server = Server("--workers", "2", *recorded, *QUICK, *PROMISES)
        try:
            for blow in (signal.SIGKILL, signal.SIGSTOP):
                server.wait_for(lambda: server.ready_workers() == 2)
                hurt(server, blow)
            server.wait_for(lambda: server.ready_workers() == 2)
            flood(server)
        finally:
            server.stop()
            server.clean()
        yield Path(folder) / "log"


def hurt(server: Server, blow: signal.Signals) -> None:
    with httpx.Client(base_url=server.client.base_url, timeout=30) as client:
        streams = [server.opened(client, seed, TOKENS) for seed in range(STREAMS)]
        pid = server.pid_of(streams[0].worker.partition("@")[0])
        os.kill(pid, blow)
        for stream in streams:
            stream.rest()
    assert [(s.done, s.finish) for s in streams] == [(True, "length")] * STREAMS
    server.wait_for(lambda: gone([pid]))


def flood(server: Server) -> None:
    """Short prompts until the gateway knows what requests are like; then long ones, more than can be served in time."""
    url = server.client.base_url

    def one(number: int, tokens: int) -> int:
        body = {"model": "tiny-random", "prompt": [number % 400 + 20] * tokens, "max_tokens": 2}
        return httpx.post(f"{url}/v1/completions", json=body, timeout=60).status_code

    with ThreadPoolExecutor(24) as threads:
        assert set(threads.map(partial(one, tokens=3), range(ENOUGH_REQUESTS))) <= {200, 429}
        assert set(threads.map(partial(one, tokens=700), range(48))) <= {200, 429}


def noted(effects: list[GatewayEffect]) -> set[type]:
    return {type(effect.fact) for effect in effects if isinstance(effect, Note)}


def test_the_gateway_decides_the_same_again(logs: Path) -> None:
    (log,) = logs.glob("gateway@*.log")
    turns = list(read(log, GatewayTurn))
    effects = [effect for turn in turns for effect in turn.effects]
    assert noted(effects) >= {Routed, FirstToken, Migrated, Answered}
    assert {type(effect) for effect in effects} >= {Kick, Deliver}
    lost = [turn.event for turn in turns if isinstance(turn.event, WorkerLost)]
    assert len(lost) >= 2
    shadows = [e.fact.shadow for e in effects if isinstance(e, Note) and isinstance(e.fact, Routed)]
    assert any(shadow is not None and shadow.policy == "least_loaded" for shadow in shadows)
    outcomes = {e.fact.outcome for e in effects if isinstance(e, Note) and isinstance(e.fact, Answered)}
    assert outcomes == {"length", "overloaded"}
    assert list(differences(log)) == []


def test_workers_decide_the_same_again_whatever_ended_them(logs: Path) -> None:
    recorded = sorted(logs.glob("worker-*.log"))
    assert len(recorded) >= 4  # two began, two were started again
    for log in recorded:
        assert sum(1 for _ in read(log, WorkerTurn)) > 10
        assert list(differences(log)) == []
