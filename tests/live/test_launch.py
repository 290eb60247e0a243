"""Workers as processes: started, ready, stopped, killed, found running; and what is told of them."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from jedlik.core.config import Role
from jedlik.core.events import MemberEnded, MemberReady
from jedlik.core.ids import WorkerId
from jedlik.live.child import EXIT_CONFIG
from jedlik.live.launch import LocalLauncher, StartedWorker, cause_of
from jedlik.live.running import find, start
from jedlik.net.discovery.local import start_ticks

SLEEP = "import time; time.sleep(60)"
Said = list[tuple[MemberReady | MemberEnded, str]]


def scenario(
    code: str, act: Callable[[LocalLauncher, Said], None], until: int, ready: bool = True, said: str = ""
) -> Said:
    """Start worker-0 with this code, act once it is told to be ready (or at once), and wait for so many tellings."""

    async def run() -> Said:
        told: Said = []
        more = asyncio.Event()

        def tell(event: MemberReady | MemberEnded, words: str) -> None:
            told.append((event, words))
            if isinstance(event, MemberReady):
                act(launcher, told)
            if len(told) >= until:
                more.set()

        def spawn(name: str, number: int, role: Role) -> StartedWorker:
            return StartedWorker(start([sys.executable, "-c", code]), WorkerId(f"{name}@{number}"))

        launcher = LocalLauncher(spawn, lambda name: ready, lambda text: None, lambda name: said)
        launcher.listen(tell)
        launcher.start("worker-0", 3, "both")
        if not ready:
            act(launcher, told)
        await asyncio.wait_for(more.wait(), 30)
        await launcher.close(1.0)
        return told

    return asyncio.run(run())


READY = (MemberReady("worker-0", 3, WorkerId("worker-0@3")), "")


def ended(cause: str, words: str) -> tuple[MemberEnded, str]:
    return MemberEnded("worker-0", 3, cause), words  # type: ignore[arg-type]


def test_a_worker_that_is_asked_to_leave_leaves() -> None:
    told = scenario(SLEEP, lambda launcher, _: launcher.stop("worker-0", 3), 2)
    assert told == [READY, ended("asked", "was killed by SIGTERM")]


def test_a_worker_is_ended_at_once() -> None:
    told = scenario(SLEEP, lambda launcher, _: launcher.kill("worker-0", 3), 1, ready=False)
    assert told == [ended("asked", "was killed by SIGKILL")]


def test_what_is_said_of_another_start_is_ignored() -> None:
    def act(launcher: LocalLauncher, told: Said) -> None:
        launcher.kill("worker-0", 2)
        launcher.stop("worker-1", 3)

    assert scenario(SLEEP, act, 1) == [READY]


def test_a_worker_that_ends_by_itself_is_told_with_its_code() -> None:
    assert scenario("import sys; sys.exit(3)", lambda *_: None, 1, ready=False) == [
        ended("crashed", "ended with code 3")
    ]


@pytest.mark.parametrize(
    ("code", "words"), [(EXIT_CONFIG, "no weights in x"), (70, "ended with code 70: no weights in x")]
)
def test_why_a_worker_ended_is_told_in_its_own_words(code: int, words: str) -> None:
    told = scenario(f"import sys; sys.exit({code})", lambda *_: None, 1, ready=False, said="no weights in x")
    assert told == [ended("hopeless" if code == EXIT_CONFIG else "crashed", words)]


def test_a_worker_that_can_not_be_started_has_crashed() -> None:
    async def run() -> Said:
        told: Said = []

        def spawn(name: str, number: int, role: Role) -> StartedWorker:
            raise OSError("no memory")

        launcher = LocalLauncher(spawn, lambda name: False, lambda text: None)
        launcher.listen(lambda event, words: told.append((event, words)))
        launcher.start("worker-0", 3, "both")
        assert told == []  # never inside the call
        await asyncio.sleep(0)
        return told

    assert asyncio.run(run()) == [ended("crashed", "could not be started (no memory)")]


@pytest.fixture
def stranger() -> Iterator[int]:
    """A process that no launcher has started."""
    with subprocess.Popen([sys.executable, "-c", SLEEP]) as process:
        yield process.pid
        process.kill()


def test_a_process_that_was_found_is_watched_like_a_child(stranger: int) -> None:
    async def run() -> Said:
        told: Said = []
        over = asyncio.Event()

        def tell(event: MemberReady | MemberEnded, words: str) -> None:
            told.append((event, words))
            over.set()

        process = find(stranger, start_ticks(stranger) or 0)
        assert process is not None
        launcher = LocalLauncher(_no_spawn, lambda name: False, lambda text: None)
        launcher.listen(tell)
        launcher.keep("worker-0", 3, StartedWorker(process, WorkerId("worker-0@x")))
        process.signal(signal.SIGKILL)
        await asyncio.wait_for(over.wait(), 30)
        await launcher.close(1.0)
        return told

    assert asyncio.run(run()) == [ended("killed", "has ended")]


def _no_spawn(name: str, number: int, role: Role) -> StartedWorker:
    raise AssertionError("nothing is to be started")


def test_another_process_with_the_same_pid_is_not_the_one(stranger: int) -> None:
    async def run() -> None:
        assert find(stranger, (start_ticks(stranger) or 0) - 1) is None

    asyncio.run(run())


@pytest.mark.parametrize(
    ("code", "asked", "cause"),
    [
        (0, True, "asked"),
        (-9, True, "asked"),
        (EXIT_CONFIG, False, "hopeless"),
        (-9, False, "killed"),
        (None, False, "killed"),
        (-11, False, "crashed"),
        (0, False, "killed"),
    ],
)
def test_causes(code: int | None, asked: bool, cause: str) -> None:
    assert cause_of(code, asked=asked) == cause
