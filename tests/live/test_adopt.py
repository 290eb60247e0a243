"""What a killed supervisor leaves: records of processes, the gateway's socket, what was set by hand, a directory."""

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from jedlik.core.errors import PeerError
from jedlik.core.events import Hold, Scale
from jedlik.live import adopt
from jedlik.live.adopt import ChildProcess, Orphanhood
from jedlik.live.rundir import OWNER, Owner, RunDir, abandoned, make, remove_stale
from jedlik.net.discovery.local import start_ticks

NOBODY = b'{"pid": 1, "started": 12345, "named": true}'


@pytest.fixture
def run_dir() -> Iterator[RunDir]:
    """A named one of this process's. Of a short path, whoever runs the tests and how: sockets are in it."""
    with tempfile.TemporaryDirectory(prefix="jt-", dir="/tmp") as folder:
        made = make(f"{folder}/run", os.getpid())
        yield made
        made.remove()


def child(name: str, pid: int, started: int) -> ChildProcess:
    return ChildProcess(name=name, id=f"{name}@a", pid=pid, started=started, start=2, role="decode")


def test_records_of_living_processes_are_found_again(run_dir: RunDir) -> None:
    alive = child("worker-1", os.getpid(), start_ticks(os.getpid()) or 0)
    for one in (alive, child("worker-0", os.getpid(), 1), child("gateway", 2**22 + 1, 1)):
        adopt.save_process(run_dir, one)
    assert adopt.running_processes(run_dir) == [alive]
    adopt.save_role(run_dir, "worker-1@a", "both")
    adopt.save_role(run_dir, "worker-0@a", "both")
    assert adopt.running_processes(run_dir) == [msgspec.structs.replace(alive, role="both")]


def test_what_was_set_by_hand_is_found_again(run_dir: RunDir) -> None:
    assert adopt.by_hand(run_dir) == []
    adopt.save_by_hand(run_dir, [Scale({"both": 2}), Hold("worker-1", active=True)])
    assert adopt.by_hand(run_dir) == [Scale({"both": 2}), Hold("worker-1", active=True)]


def test_a_listening_socket_is_handed_over(run_dir: RunDir) -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        path = adopt.offer_path(run_dir, "gateway@a")
        with socket.create_server(("127.0.0.1", 0)) as listener, adopt.offer_listener(path) as door:
            loop.add_reader(door, adopt.give_listener, door, listener)
            with await asyncio.to_thread(adopt.take_listener, path) as taken:
                assert taken.getsockname() == listener.getsockname()
                assert not taken.get_inheritable()
            loop.remove_reader(door)

    asyncio.run(run())


def test_a_gateway_that_is_gone_hands_nothing_over(run_dir: RunDir) -> None:
    with pytest.raises(PeerError, match="does not hand over"):
        adopt.take_listener(adopt.offer_path(run_dir, "gateway@a"))


def test_only_a_named_directory_without_an_owner_is_left(run_dir: RunDir) -> None:
    assert abandoned(None) is None
    assert abandoned(str(run_dir.path / "other")) is None
    assert abandoned(str(run_dir.path)) is None  # we live
    run_dir.write_private(run_dir.path / OWNER, NOBODY)
    found = abandoned(str(run_dir.path))
    assert found is not None
    assert found.path == run_dir.path
    found.own(os.getpid(), named=True)
    assert found.owner() == Owner(os.getpid(), start_ticks(os.getpid()) or 0, named=True)


def test_a_named_directory_is_not_removed_by_other_servers(tmp_path: Path) -> None:
    named = RunDir(tmp_path / f"jedlik-{os.getuid()}-mine")
    named.path.mkdir()
    named.write_private(named.path / OWNER, NOBODY)
    remove_stale(tmp_path)
    assert named.path.exists()


def orphaned(run_dir: RunDir, grace_s: float, taken_over: bool) -> list[str]:
    """Until the end; a parent that dies, and (`taken_over`) a second owner that dies, too."""
    said: list[str] = []

    async def run() -> None:
        code = "import time; time.sleep(60)"
        processes = [await asyncio.create_subprocess_exec(sys.executable, "-c", code) for _ in range(2)]
        first, second = (process.pid for process in processes)
        run_dir.own(first, named=True)
        watching = Orphanhood(run_dir, first, grace_s, said.append)
        over = asyncio.create_task(watching.over())
        processes[0].kill()
        await processes[0].wait()
        if taken_over:
            run_dir.own(second, named=True)
            async with asyncio.timeout(30):
                while len(said) < 2:  # noqa: ASYNC110 - processes take what they take
                    await asyncio.sleep(0.01)
        processes[1].kill()
        await processes[1].wait()
        await asyncio.wait_for(over, 30)

    asyncio.run(run())
    return said


def test_an_orphan_leaves_when_its_time_is_over(run_dir: RunDir) -> None:
    assert orphaned(run_dir, 0.1, taken_over=False) == [
        "the supervisor has died; serving on for 0.1 s, to be taken over",
        "nobody has taken over; leaving",
    ]


def test_an_orphan_that_is_taken_over_stays_with_its_new_parent(run_dir: RunDir) -> None:
    said = orphaned(run_dir, 2.0, taken_over=True)
    assert said == [
        "the supervisor has died; serving on for 2 s, to be taken over",
        "taken over by a new supervisor",
        "the supervisor has died; serving on for 2 s, to be taken over",
        "nobody has taken over; leaving",
    ]


def test_a_parent_that_died_before_it_was_watched_is_missed_all_the_same(run_dir: RunDir) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as parent:
        pass
    run_dir.write_private(run_dir.path / OWNER, NOBODY)
    said: list[str] = []

    async def run() -> None:
        await asyncio.wait_for(Orphanhood(run_dir, parent.pid, 0.1, said.append).over(), 30)

    asyncio.run(run())
    assert said == ["nobody has taken over; leaving"]
