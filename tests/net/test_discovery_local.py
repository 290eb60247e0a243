"""A directory of records: whole, of living processes only, and never somebody else's pid."""

import os
import subprocess
import sys
from pathlib import Path

from jedlik.net.discovery.local import Announcement, Joined, Left, LocalDiscovery, Record, alive, kill, start_ticks


def own_record(name: str = "worker-0", incarnation: str = "a") -> Record:
    started = start_ticks(os.getpid())
    assert started is not None
    return Record(f"{name}@{incarnation}", name, os.getpid(), started, "unix:/nowhere")


def test_a_worker_joins_once_and_leaves_once(tmp_path: Path) -> None:
    discovery, record = LocalDiscovery(tmp_path), own_record()
    assert discovery.poll() == []
    announcement = Announcement(tmp_path, record)
    announcement.publish()
    assert discovery.poll() == [Joined(record)]
    assert discovery.poll() == []
    announcement.withdraw()
    assert discovery.poll() == [Left(record)]


def test_a_new_incarnation_replaces_the_old_and_is_not_withdrawn_by_it(tmp_path: Path) -> None:
    old, new = own_record(), own_record(incarnation="b")
    discovery = LocalDiscovery(tmp_path)
    Announcement(tmp_path, old).publish()
    discovery.poll()
    Announcement(tmp_path, new).publish()
    Announcement(tmp_path, old).withdraw()
    assert discovery.poll() == [Left(old), Joined(new)]


def test_records_of_dead_processes_and_reused_pids_are_removed(tmp_path: Path) -> None:
    stale = Record("w@x", "w", os.getpid(), 1, "unix:/nowhere")
    Announcement(tmp_path, stale).publish()
    assert LocalDiscovery(tmp_path).poll() == []
    assert list(tmp_path.iterdir()) == []


def test_half_a_record_is_no_record(tmp_path: Path) -> None:
    (tmp_path / "w.json").write_bytes(b'{"worker": "w')
    assert LocalDiscovery(tmp_path).poll() == []


def test_kill_ends_the_recorded_process_only() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        started = start_ticks(child.pid)
        assert started is not None
        assert not kill(Record("w@x", "w", child.pid, started + 1, ""))
        record = Record("w@x", "w", child.pid, started, "")
        assert alive(record)
        assert kill(record)
        assert child.wait(5) == -9
    finally:
        child.kill()
        child.communicate()
