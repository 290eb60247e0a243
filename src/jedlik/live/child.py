"""One process kept running: started, watched, started again when it ends by itself, stopped when asked.

Children get a session of their own, so that Ctrl-C in a terminal reaches the supervisor alone; it stops them in order.
"""

import asyncio
import contextlib
import os
import signal
from asyncio.subprocess import Process
from collections.abc import Callable

from jedlik.core.errors import ConfigError
from jedlik.fleet.backoff import Backoff, Restart

EXIT_CONFIG = 78
"""EX_CONFIG: the child says that starting it again can't help; its last words are the reason."""
KILL_AFTER_S = 2.0

Command = Callable[[], list[str]]
Say = Callable[[str], None]
Served = Callable[[], float]
"""For how many seconds the process has been ready to serve; 0 before."""


class Child:
    """`keep` runs until `stop`."""

    def __init__(
        self, name: str, command: Command, say: Say, served: Served = lambda: 0.0, pass_fds: tuple[int, ...] = ()
    ) -> None:
        self.name = name
        self._command = command
        self._say = say
        self._served = served
        self._pass_fds = pass_fds
        self._process: Process | None = None
        self._stopping = asyncio.Event()

    async def keep(self) -> None:
        """Run the process again and again. Raises ConfigError if it says that this is pointless."""
        loop = asyncio.get_running_loop()
        backoff = Backoff()
        while not self._stopping.is_set():
            started = loop.time()
            self._process = await self._start()
            if self._stopping.is_set():  # asked to stop while it was being started
                self.signal(signal.SIGKILL)
            code = await self._process.wait()
            self._process = None
            if self._stopping.is_set():
                return
            if code == EXIT_CONFIG:
                raise ConfigError(f"{self.name} cannot start (see its message above)")
            restart = backoff.ended(loop.time() - started, self._served(), code == -signal.SIGKILL)
            self._say(describe(self.name, code, restart))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), restart.delay_s)

    def signal(self, number: signal.Signals) -> None:
        """To the process, if it runs."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def stop(self, budget_s: float) -> None:
        """SIGTERM, and SIGKILL after the budget. Returns when the process has ended."""
        self._stopping.set()
        process = self._process
        if process is None:
            return
        self.signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), budget_s + KILL_AFTER_S)
        except TimeoutError:
            self._say(f"{self.name} does not stop: killing it")
            self.kill()
            await process.wait()

    def kill(self) -> None:
        """At once."""
        self._stopping.set()
        self.signal(signal.SIGKILL)

    async def _start(self) -> Process:
        return await asyncio.create_subprocess_exec(
            *self._command(),
            stdin=asyncio.subprocess.DEVNULL,
            pass_fds=self._pass_fds,
            start_new_session=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )


def describe(name: str, code: int, restart: Restart) -> str:
    """What to tell people about an end."""
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    when = f"in {restart.delay_s:g} s" if restart.delay_s else "now"
    if restart.crash_loop:
        return (
            f"{name} {how}: crash loop, {restart.quick_ends} quick ends in a row; its output says why. Next try {when}."
        )
    return f"{name} {how}; starting it again {when}"
