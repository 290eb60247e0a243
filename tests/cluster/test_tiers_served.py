"""Blocks that left the device's cache: found again in host memory, on disk after a crash or a restart, in a bucket."""

import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cluster_server import PATIENT, Server

from jedlik.net.discovery.local import process_of

pytestmark = pytest.mark.cluster
BLOCK_BYTES = 8192
"""Of tiny-random in float32."""
DEVICE_BLOCKS = 100
TORCH = (
    "--dtype", "float32", "--deterministic", "--threads", "1", "--kv-cache-bytes", str(DEVICE_BLOCKS * BLOCK_BYTES),
    "--worker.disk-admission", "all", "--worker.load-deadline-s", "60", *PATIENT,
)  # fmt: skip
PROMPTS = range(5)
"""Of 40 blocks each: two fit on the device."""


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="jt-tiers-", dir="/tmp") as name:
        yield Path(name)


@contextmanager
def serving(folder: Path, *arguments: str, workers: int = 1) -> Iterator[Server]:
    server = Server("--workers", str(workers), *TORCH, *arguments, engine="torch", home=folder / "home")
    try:
        server.wait_for(lambda: server.ready_workers() == workers)
        yield server
    finally:
        server.clean()


def answer(server: Server, number: int) -> str:
    words = " ".join(f"{number} {(number * 37 + i * i) % 911}" for i in range(200))
    body = {"model": "tiny-random", "prompt": words[:640], "max_tokens": 6, "temperature": 0, "ignore_eos": True}
    reply = server.client.post("/v1/completions", json=body)
    assert reply.status_code == 200, reply.text
    return str(reply.json()["choices"][0]["text"])


def total(server: Server, name: str, label: str) -> float:
    found = server.metrics().items()
    return sum(value for key, value in found if key.startswith(name + "_total{") and label in key)


def settled(server: Server, tier: str) -> bool:
    """Everything that was to be kept is."""
    return total(server, "jedlik_tier_stored", f"tier={tier}") >= len(PROMPTS) * 40


def warm(server: Server, tier: str, fresh: int) -> None:
    """Let the worker learn what its steps and its tier take, by prompts from `fresh` on: before, it computes."""
    for _ in range(2):
        for number in range(fresh, fresh + len(PROMPTS)):
            answer(server, number)
    server.wait_for(lambda: settled(server, tier))


@pytest.fixture(scope="module")
def expected(folder: Path) -> list[str]:
    """What a worker without tiers says, when asked twice."""
    with serving(folder) as server:
        first = [answer(server, number) for number in PROMPTS]
        assert [answer(server, number) for number in PROMPTS] == first
        return first


def test_what_left_the_device_comes_back_from_host_memory(folder: Path, expected: list[str]) -> None:
    with serving(folder, "--kv-host-bytes", str(500 * BLOCK_BYTES)) as server:
        assert [answer(server, number) for number in PROMPTS] == expected
        server.wait_for(lambda: settled(server, "host"))
        assert [answer(server, number) for number in PROMPTS] == expected
        server.wait_for(lambda: total(server, "jedlik_tier_hits", "tier=host") >= 100)
        assert total(server, "jedlik_tier_misses", "tier=host") == 0


def test_blocks_on_disk_are_found_after_a_kill_and_after_a_restart(folder: Path, expected: list[str]) -> None:
    disk = ("--kv-disk", f"{folder}/kv:64MiB")
    with serving(folder, *disk) as server:
        assert [answer(server, number) for number in PROMPTS] == expected
        server.wait_for(lambda: settled(server, "disk"))
        pid = server.pid_of("worker-0")
        os.kill(pid, signal.SIGKILL)
        server.wait_for(lambda: any(process_of(record)[0] != pid for record in server.records().values()))
        server.wait_for(lambda: server.ready_workers() == 1)
        warm(server, "disk", 10)
        assert [answer(server, number) for number in PROMPTS] == expected
        server.wait_for(lambda: total(server, "jedlik_tier_hits", "tier=disk") >= 150)
    with serving(folder, *disk) as server:
        warm(server, "disk", 20)
        assert [answer(server, number) for number in PROMPTS] == expected
        server.wait_for(lambda: total(server, "jedlik_tier_hits", "tier=disk") >= 150)
        assert total(server, "jedlik_tier_misses", "tier=disk") == 0


def test_what_one_worker_put_into_a_bucket_another_finds(folder: Path, expected: list[str]) -> None:
    bucket = folder / "bucket"
    bucket.mkdir()
    stored = ("--kv-object", f"file://{bucket}")
    with serving(folder, *stored) as server:
        for _ in range(2):  # what is asked for again is worth keeping
            assert [answer(server, number) for number in PROMPTS] == expected
        server.wait_for(lambda: settled(server, "object"))
    with serving(folder, *stored) as server:
        warm(server, "object", 10)
        assert [answer(server, number) for number in PROMPTS] == expected
        server.wait_for(lambda: total(server, "jedlik_tier_hits", "tier=object") >= 150)
