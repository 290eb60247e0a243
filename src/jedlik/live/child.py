"""One process kept running: started, watched, started again when it ends by itself, stopped when asked."""

import asyncio
import contextlib
import signal
from collections.abc import Callable

from jedlik.core.errors import ConfigError
from jedlik.fleet.backoff import Backoff, Restart
from jedlik.live.running import Running

EXIT_CONFIG = 78
"""EX_CONFIG: the child says that starting it again can't help; its last words are the reason."""
KILL_AFTER_S = 2.0

Spawn = Callable[[], Running]
Say = Callable[[str], None]
LastWords = Callable[[], str]
Served = Callable[[], float]
"""A call that returns for how many seconds the process has been ready to serve; 0 before."""


class Child:
    """A process that is kept running until `stop`."""

    def __init__(
        self,
        name: str,
        spawn: Spawn,
        say: Say,
        served: Served = lambda: 0.0,
        last_words: LastWords = lambda: "",
        found: Running | None = None,
    ) -> None:
        """`last_words`: why it ended, in its own words; `found`: a process that runs already."""
        self.name = name
        self._spawn = spawn
        self._say = say
        self._served = served
        self._last_words = last_words
        self._process = found
        self._stopping = asyncio.Event()

    async def keep(self) -> None:
        """Run the process again and again. Raises ConfigError if it says that this is pointless."""
        loop = asyncio.get_running_loop()
        backoff = Backoff()
        while not self._stopping.is_set():
            started = loop.time()
            if self._process is None:
                self._process = self._spawn()
            code = await self._process.wait()
            self._process = None
            if self._stopping.is_set():
                return
            if code == EXIT_CONFIG:
                raise ConfigError(f"{self.name} cannot start: {self._last_words()}")
            restart = backoff.ended(loop.time() - started, self._served(), code == -signal.SIGKILL)
            self._say(describe(self.name, ending(code, self._last_words()), restart))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), restart.delay_s)

    async def stop(self, budget_s: float) -> None:
        """Send SIGTERM, and SIGKILL after the budget. Return when the process has ended."""
        self._stopping.set()
        if self._process is not None:
            await stopped(self.name, self._process, budget_s, self._say)

    def kill(self) -> None:
        """Kill the process at once."""
        self._stopping.set()
        if self._process is not None:
            self._process.signal(signal.SIGKILL)


async def stopped(name: str, process: Running, budget_s: float, say: Say) -> None:
    """Send SIGTERM, and SIGKILL after the budget and a moment. Return when the process has ended."""
    process.signal(signal.SIGTERM)
    done, _ = await asyncio.wait((process.ended,), timeout=budget_s + KILL_AFTER_S)
    if not done:
        say(f"{name} does not stop: killing it")
        process.signal(signal.SIGKILL)
        await process.wait()


def ending(code: int | None, words: str = "") -> str:
    """Return in words for people how a process ended. `words`: why, in its own words."""
    if code is None:
        return "has ended"
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    return f"{how}: {words}" if words else how


def describe(name: str, how: str, restart: Restart) -> str:
    """Return what to tell people about an end."""
    when = f"in {restart.delay_s:g} s" if restart.delay_s else "now"
    if restart.crash_loop:
        quick = f"crash loop, {restart.quick_ends} quick ends in a row"
        return f"{name} {how}; {quick}. Next try {when}."
    return f"{name} {how}; starting it again {when}"
