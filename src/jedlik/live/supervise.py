"""The supervisor: one gateway, N workers, kept running, reported on, stopped in order.

Stopping: the gateway admits no more, finishes what runs within the budget and leaves, then the workers leave. A second
signal kills at once. It reads status files and asks the gateway's `/ready`; it serves nothing itself and keeps no state
that a restart of a child would need.
"""

import asyncio
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

from jedlik.live.child import Child, Say
from jedlik.live.probe import get

PROBE_S = 0.1
Ready = Callable[[float], None]


class Supervisor:
    """Runs children until a signal or until one cannot start. Made inside a running loop."""

    def __init__(self, gateway: Child, workers: Sequence[Child], status: Path, say: Say, drain_s: float) -> None:
        self._gateway = gateway
        self._workers = list(workers)
        self._status = status
        self._say = say
        self._drain_s = drain_s
        self._signals = 0
        self._stop = asyncio.Event()

    async def run(self, address: tuple[str, int], ready: Ready, closing: Callable[[], None]) -> None:
        """Until stopped: `ready(seconds)` is called once, `closing` when no new connection is wanted.

        Raises ConfigError if a child can't start.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._signalled, number)
        children = [self._gateway, *self._workers]
        keepers = [asyncio.create_task(child.keep(), name=f"keep {child.name}") for child in children]
        watch = asyncio.create_task(self._watch(address, ready), name="watch")
        stop = asyncio.create_task(self._stop.wait(), name="stop")
        try:
            done, _ = await asyncio.wait((*keepers, watch, stop), return_when=asyncio.FIRST_COMPLETED)
            while watch in done and not watch.exception() and not self._stop.is_set():
                done, _ = await asyncio.wait((*keepers, stop), return_when=asyncio.FIRST_COMPLETED)
        finally:
            watch.cancel()
            closing()
            await self._stop_all()
            stop.cancel()
            results = await asyncio.gather(*keepers, watch, stop, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result

    async def _stop_all(self) -> None:
        await self._gateway.stop(self._drain_s)
        await asyncio.gather(*(worker.stop(self._drain_s) for worker in self._workers))

    def _signalled(self, number: signal.Signals) -> None:
        self._signals += 1
        if self._signals == 1:
            self._say(f"{number.name}: finishing what runs, at most {self._drain_s:g} s; once more stops at once")
            self._stop.set()
            return
        for child in (self._gateway, *self._workers):
            child.kill()

    async def _watch(self, address: tuple[str, int], ready: Ready) -> None:
        """Tell what workers report while loading, until a request could be answered."""
        loop = asyncio.get_running_loop()
        started, told = loop.time(), dict[str, str]()
        while (await get(*address, "/ready"))[0] != 200:
            for path in sorted(self._status.iterdir()):
                text = path.read_text()
                if text and told.get(path.name) != text:
                    told[path.name] = text
                    self._say(f"{path.name}: {text}")
            await asyncio.sleep(PROBE_S)
        ready(loop.time() - started)
