"""Logs of workers that handed prompts over while one was killed: decisions come out the same, nothing is kept."""

import os
import signal
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest
from cluster_server import PATIENT, Server, gone

from jedlik.core.effects import ToWorkerEffect, WorkerEffect
from jedlik.core.events import FromWorker, WorkerLost
from jedlik.core.moves import Move, Moved, Revoke, Revoked
from jedlik.core.protocol import Pushed
from jedlik.live.recorder import WorkerTurn, read
from jedlik.serve.event_log import Made
from jedlik.serve.nodes import make_worker
from jedlik.serve.replay import differences


@pytest.fixture(scope="module")
def logs() -> Iterator[Path]:
    """Two dozen requests at one worker that prefills and one that decodes; the former is killed among them."""
    with tempfile.TemporaryDirectory(prefix="jt-", dir="/tmp") as folder:
        log = Path(folder) / "log"
        extra = ("--event-log", str(log), "--event-log-tokens", "--worker.handoff-patience-s", "60", *PATIENT)
        server = Server("--prefill", "1", "--decode", "1", "--speedup", "5", "--kv-cache-bytes", "2MiB", *extra)
        try:
            server.wait_for(lambda: server.ready_workers() == 2)
            with ThreadPoolExecutor(8) as threads:
                answers = [threads.submit(ask, server, number) for number in range(24)]
                server.wait_for(lambda: completed(server) > 0 and arriving(server) > 2)
                pid = server.pid_of("worker-0")
                os.kill(pid, signal.SIGKILL)
                assert [answer.result() for answer in answers] == [200] * 24
            server.wait_for(lambda: gone([pid]) and server.ready_workers() == 2)
            assert ask(server, 24) == 200
        finally:
            server.clean()
        yield log


def ask(server: Server, number: int) -> int:
    prompt = f"{number} " * 200
    body = {"model": "tiny-random", "prompt": prompt, "max_tokens": 30, "ignore_eos": True}
    return server.client.post("/v1/completions", json=body).status_code


def arriving(server: Server) -> float:
    return total(server, "jedlik_requests_arriving")


def completed(server: Server) -> float:
    return total(server, "jedlik_handoff_completed_total")


def total(server: Server, name: str) -> float:
    return sum(value for key, value in server.metrics().items() if key.startswith(name))


def performed(log: Path) -> list[WorkerEffect]:
    return [effect for turn in read(log, WorkerTurn) for effect in turn.effects]


def test_every_decision_comes_out_the_same(logs: Path) -> None:
    recorded = sorted(logs.glob("*.log"))
    assert [path.name.partition("@")[0] for path in recorded] == [
        "gateway",
        "planner",
        "worker-0",
        "worker-0",
        "worker-1",
    ]
    for path in recorded:
        assert list(differences(path)) == []


def test_the_logs_hold_hand_offs_and_the_death(logs: Path) -> None:
    (decoding,) = logs.glob("worker-1@*.log")
    events = [turn.event for turn in read(decoding, WorkerTurn)]
    assert any(isinstance(event, FromWorker) and isinstance(event.message, Pushed) for event in events)
    assert any(isinstance(event, WorkerLost) for event in events)
    assert any(isinstance(event, Revoked) for event in events)
    assert any(isinstance(effect, ToWorkerEffect) for effect in performed(decoding))
    assert any(isinstance(effect, Revoke) for effect in performed(decoding))
    for prefilling in logs.glob("worker-0@*.log"):
        assert any(isinstance(effect, Move) for effect in performed(prefilling))
        assert any(isinstance(turn.event, Moved) for turn in read(prefilling, WorkerTurn))


def test_nothing_is_held_in_the_end(logs: Path) -> None:
    (decoding,) = logs.glob("worker-1@*.log")
    made = msgspec.json.decode(decoding.with_suffix(".json").read_bytes(), type=Made)
    assert made.card is not None
    assert made.process.role == "decode"
    node, now = make_worker(made.process, made.card, made.costs), 0.0
    for turn in read(decoding, WorkerTurn):
        node.handle(turn.event, turn.now)
        now = turn.now
    node.check()
    load = node.load(now)
    assert (load.held_blocks, load.reserved_blocks, load.arriving, load.running, load.waiting) == (0, 0, 0, 0, 0)
