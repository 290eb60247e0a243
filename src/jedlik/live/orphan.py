"""A child whose parent dies: it ends with it, whatever kills the parent, or serves on for a while, to be taken over.

The second needs a run directory that a new supervisor can find; whoever owns that directory is the parent.
"""

import asyncio
import ctypes
import os
import signal
from collections.abc import Callable

from jedlik.live.rundir import Owner, RunDir
from jedlik.live.running import Running, find
from jedlik.net.discovery.local import start_ticks

PR_SET_PDEATHSIG = 1
LOOK_S = 0.25


def die_with_parent(parent_pid: int) -> None:
    """Have the kernel kill this process when the parent ends; ends it at once if that has happened already."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent_pid:
        os.kill(os.getpid(), signal.SIGKILL)


class Orphanhood:
    """Watches the owner of the run directory, one after the other. Made inside a running loop."""

    def __init__(self, run: RunDir, parent_pid: int, grace_s: float, tell: Callable[[str], None]) -> None:
        self._run = run
        self._grace_s = grace_s
        self._tell = tell
        self._loop = asyncio.get_running_loop()
        self._parent = self._watched(Owner(parent_pid, start_ticks(parent_pid) or 0))

    async def over(self) -> None:
        """Returns when the owner has died and nobody has taken over in time."""
        while True:
            if self._parent is not None:
                await self._parent.wait()
                self._tell(f"the supervisor has died; serving on for {self._grace_s:g} s, to be taken over")
            self._parent = await self._next()
            if self._parent is None:
                self._tell("nobody has taken over; leaving")
                return
            self._tell("taken over by a new supervisor")

    async def _next(self) -> Running | None:
        """The next owner, if one comes in time."""
        end = self._loop.time() + self._grace_s
        while True:
            owner = self._run.owner()
            parent = None if owner is None else self._watched(owner)
            if parent is not None or self._loop.time() >= end:
                return parent
            await asyncio.sleep(LOOK_S)

    def _watched(self, owner: Owner) -> Running | None:
        return find(owner.pid, owner.started)
