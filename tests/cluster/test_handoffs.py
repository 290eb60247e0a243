"""Real processes that hand prompts over: the same tokens as without, whoever is killed in the middle; nothing leaks."""

import os
import signal
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from cluster_server import PATIENT, Server, gone

pytestmark = pytest.mark.cluster
TORCH = (
    "--dtype", "float32", "--deterministic", "--threads", "1", "--kv-cache-bytes", "24MiB",
    "--worker.max-step-tokens", "64", "--worker.handoff-patience-s", "60", *PATIENT,
)  # fmt: skip
PROMPT_CHARACTERS, TOKENS = 1200, 8
STREAMS = 6


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="jt-home-", dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def expected(home: Path) -> dict[int, str]:
    """What one worker that does everything itself says."""
    server = Server("--workers", "1", *TORCH, engine="torch", home=home)
    try:
        return answers(server, range(7 * STREAMS))
    finally:
        server.clean()


@pytest.fixture(scope="module")
def pair(home: Path) -> Iterator[Server]:
    server = Server("--prefill", "1", "--decode", "1", *TORCH, engine="torch", home=home)
    server.wait_for(lambda: server.ready_workers() == 2)
    yield server
    server.clean()


def body(number: int) -> dict[str, object]:
    """Prompts that share no block."""
    words = " ".join(f"{number} {(number * 37 + i * i) % 911}" for i in range(PROMPT_CHARACTERS // 4))
    prompt = words[:PROMPT_CHARACTERS]
    return {"model": "tiny-random", "prompt": prompt, "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True}


def answers(server: Server, numbers: range) -> dict[int, str]:
    with ThreadPoolExecutor(STREAMS) as threads:
        return dict(zip(numbers, threads.map(lambda n: answer(server, n), numbers), strict=True))


def answer(server: Server, number: int) -> str:
    reply = httpx.post(f"{server.client.base_url}/v1/completions", json=body(number), timeout=60)
    assert reply.status_code == 200, reply.text
    return str(reply.json()["choices"][0]["text"])


def total(server: Server, name: str) -> float:
    return sum(value for key, value in server.metrics().items() if key.startswith(name + "{"))


def idle(server: Server) -> bool:
    """Nothing runs, waits, is on its way or reserved, as the workers tell themselves."""
    names = ("jedlik_requests_running", "jedlik_requests_waiting", "jedlik_kv_cache_usage_ratio",
             "jedlik_kv_cache_reserved_blocks", "jedlik_handoff_in_flight")  # fmt: skip
    found = server.metrics()
    return not any(value for key, value in found.items() if key.startswith(names))


def test_answers_are_those_of_one_worker(pair: Server, expected: dict[int, str]) -> None:
    numbers, before = range(STREAMS), total(pair, "jedlik_handoff_completed_total")
    assert answers(pair, numbers) == {n: expected[n] for n in numbers}
    pair.wait_for(lambda: idle(pair))
    found = pair.metrics()
    assert found["jedlik_handoff_completed_total{kind=prefill,worker=worker-1}"] > before
    assert total(pair, "jedlik_handoff_fallbacks_total") == 0
    assert found["jedlik_transfer_bytes_total{path=shm,worker=worker-0}"] > 0
    assert "1 prefill, 1 decode" in "\n".join(pair.lines)


@pytest.mark.parametrize(("victim", "at"), [("worker-0", 1), ("worker-1", 3)], ids=["prefill", "decode"])
def test_a_worker_killed_in_the_middle_of_hand_offs(
    pair: Server, expected: dict[int, str], victim: str, at: int
) -> None:
    first, second = range(at * STREAMS, (at + 1) * STREAMS), range((at + 1) * STREAMS, (at + 2) * STREAMS)
    with ThreadPoolExecutor(STREAMS) as threads:
        running = [threads.submit(answer, pair, number) for number in first]
        pair.wait_for(lambda: total(pair, "jedlik_requests_arriving") > 2)
        pid = pair.pid_of(victim)
        os.kill(pid, signal.SIGKILL)
        assert [r.result() for r in running] == [expected[n] for n in first]
    pair.wait_for(lambda: gone([pid]) and pair.ready_workers() == 2)
    pair.wait_for(lambda: idle(pair))
    if victim == "worker-0":
        assert pair.metrics()["jedlik_handoff_fallbacks_total{cause=gone,worker=worker-1}"] > 0
    before = total(pair, "jedlik_handoff_completed_total")
    assert answers(pair, second) == {n: expected[n] for n in second}
    pair.wait_for(lambda: idle(pair))
    assert total(pair, "jedlik_handoff_completed_total") > before


def role(server: Server, worker: str) -> object:
    return next(w["role"] for w in server.client.get("/roles").json()["workers"] if w["name"] == worker)


def flip(server: Server, worker: str, to: str) -> None:
    reply = server.client.post("/roles", json={"worker": worker, "role": to})
    assert reply.status_code == 202, reply.text
    server.wait_for(lambda: role(server, worker) == to)


def test_workers_change_places_under_load(pair: Server, expected: dict[int, str]) -> None:
    first, second = range(5 * STREAMS, 6 * STREAMS), range(6 * STREAMS, 7 * STREAMS)
    assert pair.client.post("/roles", json={"worker": "worker-1", "role": "prefill"}).status_code == 409
    with ThreadPoolExecutor(STREAMS) as threads:
        running = [threads.submit(answer, pair, number) for number in first]
        pair.wait_for(lambda: total(pair, "jedlik_requests_arriving") > 2)
        flip(pair, "worker-0", "both")
        flip(pair, "worker-1", "prefill")
        flip(pair, "worker-0", "decode")
        assert [r.result() for r in running] == [expected[n] for n in first]
    pair.wait_for(lambda: idle(pair))
    assert answers(pair, second) == {n: expected[n] for n in second}
    pair.wait_for(lambda: idle(pair))
    assert pair.metrics()["jedlik_handoff_completed_total{kind=prefill,worker=worker-0}"] > 0
