"""A supervisor that is killed: what it started serves on, is taken over by the next one, or ends after a while."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import httpx
import pytest
from cluster_load import load
from cluster_server import PATIENT, START_S, Server, gone, path

pytestmark = pytest.mark.cluster
FLAGS = ("--workers", "2", "--planner.budget", "3", "--planner.mode", "off", *PATIENT, "--speedup", "4")
TOKENS = 400


@pytest.fixture
def killed() -> Iterator[tuple[Server, list[int]]]:
    """A server whose supervisor is about to be killed, and its children."""
    server = Server(*FLAGS, "--orphan-s", "90")
    children: list[int] = []
    try:
        server.wait_for(lambda: server.ready_workers() == 2)
        children = server.children()
        yield server, children
    finally:
        for pid in children:
            if not gone([pid]):
                os.kill(pid, signal.SIGKILL)
        server.clean()


def again(server: Server, *flags: str) -> Server:
    return Server(*(flags or (*FLAGS, "--orphan-s", "90")), run_dir=server.run_dir)


def test_a_new_supervisor_takes_over_and_no_request_notices(killed: tuple[Server, list[int]]) -> None:
    server, children = killed
    with httpx.Client(base_url=server.client.base_url, timeout=60) as client, load(server, clients=3) as clients:
        streams = [server.opened(client, seed, TOKENS) for seed in range(6)]
        server.kill_supervisor()
        reply = server.client.get("/plan")
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "supervisor_unreachable")
        second = again(server)
        try:
            texts = [stream.rest() for stream in streams]
            assert [(s.done, s.finish, s.error) for s in streams] == [(True, "length", None)] * 6
            assert second.client.base_url == server.client.base_url
            assert [pid for pid in children if gone([pid])] == []
            assert second.children() == []  # nothing was started
            assert texts == [second.answer(seed, TOKENS) for seed in range(6)]
            second.wait_for(lambda: second.client.get("/plan").status_code == 200)
            assert second.client.post("/scale", json={"workers": 3}).status_code == 202
            second.wait_for(lambda: second.ready_workers() == 3)
            assert second.client.post("/scale", json={"workers": 1}).status_code == 202
            second.wait_for(lambda: second.ready_workers() == 1)
            assert clients.bad == []
            clients.end()
            restarted(second, children)
            left = [pid for pid in (*children, *second.children()) if not gone([pid])]
            assert second.stop() == 0
            assert gone(left)
            assert not second.run_dir.exists()
        finally:
            second.clean()


def restarted(server: Server, children: list[int]) -> None:
    """A gateway that was taken over and ends comes back on the same port."""
    gateway = next(pid for pid in children if not gone([pid]) and named(pid, "gateway"))
    os.kill(gateway, signal.SIGKILL)

    def back() -> bool:
        try:
            return server.ready_workers() == 1
        except httpx.TransportError:
            return False

    server.wait_for(back)
    assert server.answer(1, 5) != ""


def named(pid: int, name: str) -> bool:
    with open(f"/proc/{pid}/cmdline") as file:
        return file.read().rstrip("\0 ") == f"jedlik: {name}"


def test_a_worker_killed_meanwhile_is_started_again_by_the_next_one(killed: tuple[Server, list[int]]) -> None:
    server, children = killed
    victim = server.pid_of("worker-0")
    server.kill_supervisor()
    os.kill(victim, signal.SIGKILL)
    second = again(server)
    try:
        second.wait_for(lambda: second.ready_workers() == 2)
        assert len(second.children()) == 1
        assert [gone([pid]) for pid in children] == [pid == victim for pid in children]
    finally:
        second.stop()
        second.clean()


def test_other_settings_are_refused_with_the_remedy(killed: tuple[Server, list[int]]) -> None:
    server, children = killed
    server.kill_supervisor()
    ended = serve(server, *FLAGS[:-1], "2")
    assert (ended.returncode, "started otherwise (speedup)" in ended.stderr) == (2, True), ended.stderr
    assert all(str(pid) in ended.stderr for pid in children)
    ended = serve(server, "--workers", "1", *PATIENT, "--speedup", "4")
    assert (ended.returncode, "there is room for 1 workers" in ended.stderr) == (2, True), ended.stderr
    assert not gone(children)
    assert server.answer(1, 5) != ""


def serve(server: Server, *flags: str) -> "subprocess.CompletedProcess[str]":
    home = {"JEDLIK_HOME": str(server.run_dir.parent / "home"), "PYTHONPATH": path()}
    command = [sys.executable, "-m", "jedlik", "serve", "tiny-random", "--engine", "simulated", "--port", "0"]
    named_dir = ("--run-dir", str(server.run_dir))
    return subprocess.run(
        [*command, *named_dir, *flags], capture_output=True, text=True, timeout=60, check=False, env=os.environ | home
    )


def test_orphans_that_nobody_takes_over_finish_what_they_have_and_leave() -> None:
    server = Server("--workers", "1", "--speedup", "4", "--orphan-s", "1")
    try:
        with httpx.Client(base_url=server.client.base_url, timeout=60) as client:
            stream = server.opened(client, 1, 1500)
            children = server.kill_supervisor()
            stream.rest()
            assert (stream.done, stream.error) == (True, None)
        end = time.monotonic() + START_S
        while not gone(children):
            assert time.monotonic() < end
            time.sleep(0.05)
    finally:
        server.clean()
