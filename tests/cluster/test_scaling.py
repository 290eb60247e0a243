"""A server that scales: by hand, by itself, only in words. No request fails, whatever is started and drained."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from cluster_load import load
from cluster_server import PATIENT, Server, gone

from jedlik.serve.replay import differences

pytestmark = pytest.mark.cluster
ROOM = ("--workers", "1", "--planner.budget", "3", "--speedup", "4", *PATIENT)


def states(server: Server) -> dict[str, str]:
    """Members by name, as /plan has them."""
    return {member["name"]: member["state"] for member in server.client.get("/plan").json()["members"]}


def serving(server: Server, count: int) -> bool:
    """So many serve, at a gateway as well as for the planner, and nobody is on the way out."""
    found = list(states(server).values())
    return found.count("serving") == count == server.ready_workers() and not {"draining", "ending"} & set(found)


def scale(server: Server, **body: object) -> dict[str, object]:
    reply = server.client.post("/scale", json=body)
    assert reply.status_code == 202, reply.text
    return dict(reply.json())


def refusal(server: Server, **body: object) -> tuple[int, str]:
    reply = server.client.post("/scale", json=body)
    return reply.status_code, reply.json()["error"]["message"]


@pytest.fixture(scope="module")
def by_hand() -> Iterator[Server]:
    """Nobody scales but us."""
    server = Server(*ROOM, "--planner.mode", "off")
    yield server
    server.clean()


def test_counts_by_hand_go_up_and_down_under_load_and_no_request_fails(by_hand: Server) -> None:
    with load(by_hand, clients=6) as clients:
        for count in (3, 1, 2, 1):
            assert scale(by_hand, workers=count) == {"auto": False, "mode": "off", "wanted": {"workers": count}}
            by_hand.wait_for(lambda count=count: serving(by_hand, count))  # type: ignore[misc]
            answered = clients.whole
            by_hand.wait_for(lambda answered=answered: clients.whole > answered + 6)  # type: ignore[misc]
    assert clients.bad == []
    assert by_hand.moved() == []  # who leaves has finished what it had
    assert scale(by_hand, auto=True)["wanted"] == {"workers": 1}


def test_a_place_that_is_held_stays_empty_until_it_is_released(by_hand: Server) -> None:
    scale(by_hand, workers=2)
    by_hand.wait_for(lambda: serving(by_hand, 2))
    with load(by_hand, clients=4) as clients:
        scale(by_hand, hold="worker-0")
        by_hand.wait_for(lambda: states(by_hand)["worker-0"] == "held" and serving(by_hand, 2))
        scale(by_hand, release="worker-0")
        by_hand.wait_for(lambda: states(by_hand)["worker-0"] != "held" and serving(by_hand, 2))
    assert clients.bad == []
    scale(by_hand, auto=True)
    by_hand.wait_for(lambda: serving(by_hand, 1))


def roles(server: Server) -> list[str]:
    return sorted(worker["role"] for worker in server.client.get("/roles").json()["workers"])


def test_workers_change_their_roles_without_a_restart(by_hand: Server) -> None:
    scale(by_hand, workers=2)
    by_hand.wait_for(lambda: serving(by_hand, 2))
    pids = sorted(by_hand.children())
    with load(by_hand, clients=4) as clients:
        assert scale(by_hand, prefill=1, decode=1)["wanted"] == {"prefill": 1, "decode": 1}
        by_hand.wait_for(lambda: roles(by_hand) == ["decode", "prefill"])
        scale(by_hand, workers=2)
        by_hand.wait_for(lambda: roles(by_hand) == ["both", "both"])
    assert clients.bad == []
    assert sorted(by_hand.children()) == pids
    scale(by_hand, auto=True)
    by_hand.wait_for(lambda: serving(by_hand, 1))


def test_what_a_worker_has_not_finished_in_time_goes_on_elsewhere() -> None:
    server = Server(*ROOM, "--planner.mode", "off", "--planner.drain-s", "0.1")
    try:
        scale(server, workers=2)
        server.wait_for(lambda: serving(server, 2))
        with httpx.Client(base_url=server.client.base_url, timeout=60) as client:
            streams = [server.opened(client, seed, 1500) for seed in range(6)]
            scale(server, workers=1)
            server.wait_for(lambda: serving(server, 1))
            texts = [stream.rest() for stream in streams]
        assert [(s.done, s.finish, s.error) for s in streams] == [(True, "length", None)] * 6
        assert len({stream.worker for stream in streams}) == 2
        assert any("its time to finish is over" in line for line in server.lines)
        assert texts[:2] == [server.answer(seed, 1500) for seed in range(2)]
    finally:
        server.clean()


def test_what_there_is_no_room_for_is_refused_with_the_remedy(by_hand: Server) -> None:
    code, said = refusal(by_hand, workers=4)
    assert (code, "--planner.budget 4" in said) == (409, True)
    code, said = refusal(by_hand, prefill=1)
    assert (code, "decode workers" in said) == (409, True)
    code, said = refusal(by_hand, hold="worker-7")
    assert (code, "worker-0, worker-1, worker-2" in said) == (409, True)
    assert by_hand.client.get("/plan").json()["wanted"] == {"prefill": 0, "decode": 0, "both": 1}


def test_a_gateway_that_is_started_again_reports_and_asks_again(by_hand: Server) -> None:
    os.kill(by_hand.pid_of("gateway"), signal.SIGKILL)

    def back() -> bool:
        try:
            plan = by_hand.client.get("/plan")
        except httpx.TransportError:
            return False
        return plan.status_code == 200 and not plan.json()["stale"] and serving(by_hand, 1)

    by_hand.wait_for(back)


def test_a_worker_in_a_crash_loop_is_told_of(by_hand: Server) -> None:
    scale(by_hand, workers=3)
    by_hand.wait_for(lambda: serving(by_hand, 3))
    killed: set[int] = set()

    def kill_again() -> bool:
        try:
            pid = by_hand.pid_of("worker-1")
        except StopIteration:
            pid = 0
        if pid and pid not in killed:
            killed.add(pid)
            os.kill(pid, signal.SIGKILL)
        return any("crash loop" in line for line in by_hand.lines)

    by_hand.wait_for(kill_again)
    assert any("worker-1 was killed by SIGKILL; starting it again" in line for line in by_hand.lines)
    scale(by_hand, auto=True)
    by_hand.wait_for(lambda: serving(by_hand, 1))


@pytest.mark.timeout(240)
def test_a_load_step_adds_workers_that_leave_when_it_is_over(tmp_path: Path) -> None:
    promise = ("--gateway.slo-ttft-s", "2", "--gateway.slo-itl-s", "0.03", "--no-gateway.shed")
    quick = ("--planner.tick-s", "0.5", "--planner.start-s", "2", "--gateway.report-s", "0.25")
    flags = (*promise, *quick, *PATIENT, "--event-log", str(tmp_path))
    server = Server("--workers", "1", "--planner.budget", "3", *flags)
    try:
        server.wait_for(lambda: serving(server, 1))
        with load(server, clients=30, tokens=60) as clients:
            server.wait_for(lambda: server.ready_workers() > 1)
        assert clients.bad == []
        with load(server, clients=1, tokens=60) as clients:
            server.wait_for(lambda: serving(server, 1), 100)
        assert clients.bad == []
        assert any("start worker-1" in line for line in server.lines)
        assert any("drain worker-" in line for line in server.lines)
        children = server.children()
    finally:
        assert server.stop() == 0
        server.clean()
    assert gone(children)
    (log,) = tmp_path.glob("planner@*.log")
    assert list(differences(log)) == []  # a fresh node decides the same


def test_advice_changes_nothing() -> None:
    policy = ("--planner.policy", str(Path(__file__).parents[2] / "bench" / "planners" / "hpa.py"))
    server = Server(*ROOM, "--planner.mode", "advise", *policy, "--gateway.report-s", "0.25")
    try:
        worker = server.pid_of("worker-0")
        with load(server, clients=100, tokens=60):
            server.wait_for(lambda: any("hpa would" in line for line in server.lines))
        assert states(server) == {"worker-0": "serving", "worker-1": "free", "worker-2": "free"}
        assert server.pid_of("worker-0") == worker
    finally:
        server.clean()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--planner.budget", "0"), "planner.budget = '0'"),
        (("--planner.budget", "2", "--workers", "3"), "workers at start: 3; planner.budget has room for 2"),
        (("--planner.mode", "on"), "set --planner.budget"),
        (("--planner.attainment", "95"), "planner.attainment = '95'"),
    ],
)
def test_what_can_not_be_planned_is_refused_at_once(flags: tuple[str, ...], said: str) -> None:
    command = [sys.executable, "-m", "jedlik", "serve", "tiny-random", "--engine", "simulated", "--port", "0", *flags]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, said in ended.stderr) == (2, True), ended.stderr
