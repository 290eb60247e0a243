"""The contract of discovery and fencing (docs/contracts/discovery.md), on every implementation."""

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import implementations
import msgspec
import pytest
from implementations import IMPLEMENTATIONS, Implementation, record_of

from jedlik.core.errors import PeerError
from jedlik.net.addresses import TcpAddress
from jedlik.net.discovery.announcing import keep_announced
from jedlik.net.discovery.contract import Away, Back, Change, Changed, Joined, Left, Record, Watch

T = TypeVar("T")
PATIENCE_S = 60.0
LEASE_S = 0.5


@pytest.fixture(params=list(IMPLEMENTATIONS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def directory(name: str, tmp_path: Path) -> Implementation:
    return IMPLEMENTATIONS[name](tmp_path)


def run(scenario: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(scenario, PATIENCE_S))


class Watcher:
    """What one watcher has seen."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self.changes: list[Change] = []
        self.records: dict[str, Record] = {}

    def take(self) -> list[Change]:
        """Take once; the changes that it gave."""
        new = self._watch.take()
        for change in new:
            if isinstance(change, Left):
                assert self.records.pop(change.record.id) == change.record
            elif isinstance(change, Joined):
                assert change.record.id not in self.records
                self.records[change.record.id] = change.record
            elif isinstance(change, Changed):
                assert change.record.id in self.records
                self.records[change.record.id] = change.record
        self.changes += new
        return new

    async def until(self, true: Callable[[], bool]) -> None:
        """Take until something holds."""
        self.take()
        while not true():
            await self._watch.changed()
            self.take()

    async def until_there(self, *records: Record) -> None:
        """Take until just these records are there."""
        await self.until(lambda: self.records == {record.id: record for record in records})


def waiting() -> "subprocess.Popen[bytes]":
    """A process that waits for its input to end."""
    return subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)


async def beside(work: Coroutine[Any, Any, None], scenario: Awaitable[None]) -> None:
    """Run a scenario while something works beside it."""
    task = asyncio.create_task(work)
    try:
        await scenario
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_a_record_joins_once_and_leaves_once(directory: Implementation) -> None:
    async def scenario() -> list[Change]:
        discovery, record = directory.discovery(), record_of(directory, "worker-0")
        watcher = Watcher(directory.discovery().watch())
        await watcher.until_there()
        await discovery.announce(record)
        await watcher.until_there(record)
        await discovery.withdraw(record)
        await watcher.until_there()
        await discovery.withdraw(record)
        return watcher.changes

    record = record_of(directory, "worker-0")
    assert [change for change in run(scenario()) if not isinstance(change, Back)] == [Joined(record), Left(record)]


def test_a_later_watcher_gets_all_there_is_by_id(directory: Implementation) -> None:
    async def scenario() -> None:
        records = [record_of(directory, f"worker-{number}") for number in range(5)]
        for record in reversed(records):
            await directory.discovery().announce(record)
        watcher = Watcher(directory.discovery().watch())
        await watcher.until_there(*records)
        assert [c.record for c in watcher.changes if isinstance(c, Joined)] == records
        assert watcher.take() == []

    run(scenario())


def test_a_new_incarnation_replaces_the_old_one_which_can_do_nothing_about_it(directory: Implementation) -> None:
    async def scenario() -> None:
        old, new = record_of(directory, "worker-0"), record_of(directory, "worker-0", "b")
        discovery, watcher = directory.discovery(), Watcher(directory.discovery().watch())
        await discovery.announce(old)
        await watcher.until_there(old)
        await discovery.announce(new)
        with pytest.raises(PeerError):
            await discovery.renew(old)
        await discovery.withdraw(old)
        await watcher.until_there(new)
        assert watcher.changes[-2:] == [Left(old), Joined(new)]

    run(scenario())


def test_addresses_may_change_under_an_id(directory: Implementation) -> None:
    async def scenario() -> None:
        record = record_of(directory, "worker-0")
        moved = msgspec.structs.replace(record, addresses=(TcpAddress("10.0.0.2", 7000), *record.addresses))
        discovery, watcher = directory.discovery(), Watcher(directory.discovery().watch())
        await discovery.announce(record)
        await watcher.until_there(record)
        await discovery.announce(moved)
        await watcher.until_there(moved)
        assert watcher.changes[-1] == Changed(moved)

    run(scenario())


def test_a_record_that_is_not_renewed_leaves_and_joins_again_when_it_is(directory: Implementation) -> None:
    async def scenario() -> None:
        record = record_of(directory, "worker-0", lease_s=LEASE_S)
        discovery, watcher = directory.discovery(), Watcher(directory.discovery().watch())
        await discovery.announce(record)
        await watcher.until_there(record)
        await watcher.until_there()
        await beside(keep_announced(discovery, record), watcher.until_there(record))

    run(scenario())


def test_a_record_that_is_renewed_stays(directory: Implementation) -> None:
    async def scenario() -> None:
        record = record_of(directory, "worker-0", lease_s=2 * LEASE_S)
        discovery, watcher = directory.discovery(), Watcher(directory.discovery().watch())
        await discovery.announce(record)
        await watcher.until_there(record)
        end = asyncio.get_running_loop().time() + 3 * record.lease_s
        late = watcher.until(lambda: asyncio.get_running_loop().time() > end)
        await beside(keep_announced(discovery, record), late)
        assert [change for change in watcher.changes if isinstance(change, Left)] == []

    run(scenario())


def test_a_record_that_is_lost_is_announced_again(directory: Implementation) -> None:
    async def scenario() -> None:
        record = record_of(directory, "worker-0", lease_s=LEASE_S)
        discovery, watcher = directory.discovery(), Watcher(directory.discovery().watch())
        await discovery.announce(record)
        await watcher.until_there(record)
        directory.drop(record)
        with pytest.raises(PeerError):
            await discovery.renew(record)
        await watcher.until_there()
        await beside(keep_announced(discovery, record), watcher.until_there(record))

    run(scenario())


def test_while_it_is_away_nobody_leaves_and_afterwards_all_differences_are_given(directory: Implementation) -> None:
    async def scenario() -> None:
        stays, new = record_of(directory, "worker-0"), record_of(directory, "worker-1")
        discovery, watcher = directory.discovery(), Watcher(directory.discovery().watch())
        await discovery.announce(stays)
        await watcher.until_there(stays)
        with directory.outage():
            await watcher.until(lambda: isinstance(watcher.changes[-1], Away))
            with pytest.raises(PeerError):
                await discovery.announce(new)
            with pytest.raises(PeerError):
                await discovery.renew(stays)
            assert watcher.take() == []
            assert watcher.records == {stays.id: stays}
        await discovery.announce(new)
        await watcher.until(lambda: isinstance(watcher.changes[-1], Back))
        await watcher.until_there(stays, new)
        assert [change for change in watcher.changes if isinstance(change, Left)] == []

    run(scenario())


def test_two_watchers_agree_whatever_happens(directory: Implementation) -> None:
    async def scenario() -> None:
        random, there = Random(7), dict[str, Record]()
        discovery = directory.discovery()
        first, second = Watcher(directory.discovery().watch()), Watcher(directory.discovery().watch())
        for step in range(200):
            record = record_of(directory, f"worker-{random.randrange(8)}", str(random.randrange(3)))
            if random.random() < 0.6:
                await discovery.announce(record)
                there = {key: one for key, one in there.items() if one.name != record.name} | {record.id: record}
            else:
                await discovery.withdraw(record)
                there.pop(record.id, None)
            if step % 3 == 0:
                first.take()
            if step % 7 == 0:
                second.take()
        await first.until_there(*there.values())
        await second.until_there(*there.values())

    run(scenario())


def test_a_thousand_records(directory: Implementation) -> None:
    async def scenario() -> None:
        records = [record_of(directory, f"worker-{number}") for number in range(1000)]
        discovery, watcher = directory.discovery(), Watcher(directory.discovery().watch())
        for record in records:
            await discovery.announce(record)
        await watcher.until_there(*records)
        for record in records[1:]:
            await discovery.withdraw(record)
        await watcher.until_there(records[0])

    run(scenario())


def test_garbage_disturbs_nobody(directory: Implementation) -> None:
    async def scenario() -> None:
        record = record_of(directory, "worker-0")
        discovery, watcher = directory.discovery(), Watcher(directory.discovery().watch())
        directory.spoil()
        await discovery.announce(record)
        await watcher.until_there(record)
        await discovery.withdraw(record)
        await watcher.until_there()

    run(scenario())


def announcing(name: str, folder: Path) -> "subprocess.Popen[bytes]":
    """A process that announces worker-0 until it is killed."""
    return subprocess.Popen([sys.executable, implementations.__file__, name, str(folder), "worker-0"])


def test_whoever_was_killed_leaves_and_is_certainly_dead(directory: Implementation, name: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        watcher = Watcher(directory.discovery().watch())
        with announcing(name, tmp_path) as announcer:
            await watcher.until(lambda: len(watcher.records) == 1)
            record = watcher.records["worker-0@a"]
            assert await directory.fencer.look(record) == "unknown"
            announcer.kill()
            announcer.wait()
        await watcher.until_there()
        assert await directory.fencer.look(record) == "dead"

    run(scenario())


def test_a_fencer_ends_the_process_that_a_record_names(directory: Implementation) -> None:
    async def scenario() -> None:
        with waiting() as victim:
            record = msgspec.structs.replace(record_of(directory, "w"), fence=directory.fence(victim.pid))
            assert await directory.fencer.look(record) == "unknown"
            assert await directory.fencer.end(record) == "dead"
            assert victim.wait() == -9
        assert await directory.fencer.end(record) == "dead"
        assert await directory.fencer.look(record) == "dead"

    run(scenario())


@pytest.mark.parametrize("change", [{"host": "another host"}, {"fence": "what nobody understands"}])
def test_a_fencer_refuses_processes_of_others(directory: Implementation, change: dict[str, str]) -> None:
    async def scenario() -> None:
        with waiting() as other:
            record = msgspec.structs.replace(record_of(directory, "w"), fence=directory.fence(other.pid))
            record = msgspec.structs.replace(record, **change)
            assert await directory.fencer.end(record) == "refused"
            assert await directory.fencer.look(record) == "unknown"
            assert other.poll() is None
            other.communicate()

    run(scenario())
