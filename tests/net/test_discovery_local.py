"""What the local directory adds to the contract of discovery: process ids are never mistaken, clocks do not matter."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jedlik.core.errors import ConfigError
from jedlik.net.addresses import Address, TcpAddress, UnixAddress, parse
from jedlik.net.discovery.contract import Joined, Record
from jedlik.net.discovery.local import LocalDiscovery, LocalFencer, fence_of, living, process_of


def record(fence: str, lease_s: float = 60.0) -> Record:
    return Record(id="w@x", name="w", host="here", addresses=(), lease_s=lease_s, fence=fence)


def waiting() -> "subprocess.Popen[bytes]":
    """A process that waits for its input to end."""
    return subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)


def test_records_of_dead_processes_and_reused_pids_are_removed(tmp_path: Path) -> None:
    async def scenario() -> None:
        await LocalDiscovery(tmp_path).announce(record(f"{os.getpid()}:1"))
        assert living(tmp_path) == []
        assert LocalDiscovery(tmp_path).watch().take() == []
        assert os.listdir(tmp_path) == []

    asyncio.run(scenario())


def test_a_process_that_has_the_pid_of_a_dead_one_is_not_killed() -> None:
    async def scenario() -> None:
        with waiting() as other:
            pid, started = process_of(record(fence_of(other.pid)))
            assert pid == other.pid
            assert await LocalFencer("here").end(record(f"{pid}:{started + 1}")) == "dead"
            assert other.poll() is None
            other.communicate()

    asyncio.run(scenario())


def test_a_clock_that_is_set_anew_ends_no_lease(tmp_path: Path) -> None:
    async def scenario() -> None:
        own = record(fence_of(os.getpid()))
        await LocalDiscovery(tmp_path).announce(own)
        watch = LocalDiscovery(tmp_path).watch()
        for wall_s in (0, 1 << 33, 1):
            os.utime(tmp_path / "w.json", (wall_s, wall_s))
            watch.refresh()
            assert watch.take() == ([Joined(own)] if wall_s == 0 else [])

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("unix:/run/w.sock", UnixAddress("/run/w.sock")),
        ("tcp:10.0.0.2:7000", TcpAddress("10.0.0.2", 7000)),
        ("tcp:[::1]:7000", TcpAddress("::1", 7000)),
        ("tcp:gpu-1.example:0", TcpAddress("gpu-1.example", 0)),
    ],
)
def test_addresses_are_parsed_and_written_alike(text: str, address: Address) -> None:
    assert parse(text) == address
    assert str(address) == text


@pytest.mark.parametrize("text", ["", "unix:", "tcp:7000", "tcp:host:", "tcp:host:port", "tcp:host:70000", "http://h"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="no address"):
        parse(text)


def test_a_unix_socket_is_reached_from_its_own_host_only() -> None:
    tcp, unix = TcpAddress("10.0.0.2", 7000), UnixAddress("/run/w.sock")
    one = Record(id="w@1", name="w", host="here", addresses=(unix, tcp), lease_s=1.0)
    assert one.address_from("here") == unix
    assert one.address_from("there") == tcp
