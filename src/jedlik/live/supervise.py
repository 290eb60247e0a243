"""The supervisor: one gateway kept running, workers as the planner says, reported on, stopped in order.

Stopping: the gateway admits no more, finishes what runs within the budget and leaves, then the workers leave. A second
signal kills at once. It reads status files and asks the gateway's `/ready`; it serves nothing itself.
"""

import asyncio
import signal
from collections.abc import Callable
from typing import NamedTuple

from jedlik.core.errors import ConfigError
from jedlik.core.events import Woken
from jedlik.live.child import Child, Say
from jedlik.live.control import SOCKET, ControlServer, Reply
from jedlik.live.launch import LocalLauncher
from jedlik.live.planner import PlannerDriver
from jedlik.live.rundir import RunDir

PROBE_S = 0.1
GET_TIMEOUT_S = 2.0
MOST_FAILURES, FAILURES_S = 3, 60.0
"""More failures of planner nodes in so many seconds end the server."""
Ready = Callable[[float, int], None]
"""A call with the seconds since the start and the number of workers that serve: when the first does, and with more."""


class Parts(NamedTuple):
    """The parts that a supervisor runs; `reply` answers what gateways ask."""

    gateway: Child
    planner: PlannerDriver
    launcher: LocalLauncher
    control: ControlServer
    reply: Reply


class Supervisor:
    """Runs its parts until a signal or until one cannot start. Made inside a running loop."""

    def __init__(self, parts: Parts, run: RunDir, say: Say, drain_s: float, workers: int) -> None:
        """`workers`: as many as there are at start."""
        self._workers = workers
        self._parts = parts
        self._run = run
        self._say = say
        self._drain_s = drain_s
        self._signals = 0
        self.interrupted = False
        """Whether Ctrl-C stopped the server before it was ready."""
        self._served = False
        self._stop = asyncio.Event()

    async def run(self, address: tuple[str, int], ready: Ready, closing: Callable[[], None]) -> None:
        """Run until stopped: `ready` is called until all workers serve, `closing` when no new connection is wanted.

        Raises ConfigError if a child can't start, and what the planner raised.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._signalled, number)
        planner, reply = self._parts.planner, self._parts.reply
        await self._parts.control.listen(self._run.socket(SOCKET), planner.send, reply)
        planner.send(Woken())
        planning = asyncio.create_task(self._keep_planner(), name="keep planner")
        keeper = asyncio.create_task(self._parts.gateway.keep(), name="keep gateway")
        watch = asyncio.create_task(self._watch(address, ready), name="watch")
        stop = asyncio.create_task(self._stop.wait(), name="stop")
        try:
            done, _ = await asyncio.wait((keeper, planning, watch, stop), return_when=asyncio.FIRST_COMPLETED)
            while watch in done and not watch.exception() and not self._stop.is_set():
                done, _ = await asyncio.wait((keeper, planning, stop), return_when=asyncio.FIRST_COMPLETED)
        finally:
            watch.cancel()
            closing()
            await self._stop_all()
            planning.cancel()
            stop.cancel()
            results = await asyncio.gather(keeper, planning, watch, stop, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result

    async def _keep_planner(self) -> None:
        """A node that fails is replaced and nobody is started or ended for it; one that fails again and again is told.

        Raises what it failed with.
        """
        loop = asyncio.get_running_loop()
        failures: list[float] = []
        while True:
            try:
                await asyncio.shield(self._parts.planner.failed)
            except ConfigError:
                raise
            except Exception as error:
                failures = [at for at in failures if at > loop.time() - FAILURES_S] + [loop.time()]
                if len(failures) > MOST_FAILURES:
                    raise
                self._say(f"the planner failed ({type(error).__name__}: {error}); another one goes on with what runs")
                self._parts.planner.renew()

    async def _stop_all(self) -> None:
        await self._parts.gateway.stop(self._drain_s)  # a worker that ends meanwhile is still started again
        self._parts.planner.stop()
        self._parts.control.close()
        await self._parts.launcher.close(self._drain_s)

    def _signalled(self, number: signal.Signals) -> None:
        self._signals += 1
        if self._signals == 1:
            self.interrupted = number == signal.SIGINT and not self._served
            self._say(f"{number.name}: finishing what runs, at most {self._drain_s:g} s; once more stops at once")
            self._stop.set()
            return
        self._parts.gateway.kill()
        self._parts.launcher.kill_all()

    async def _watch(self, address: tuple[str, int], ready: Ready) -> None:
        """Tell what workers report while loading, when a request could be answered, and until all of them serve."""
        loop = asyncio.get_running_loop()
        started, shown, most = loop.time(), dict[str, str](), 0
        while most < max(self._workers, 1):
            serving = max(self._parts.launcher.serving, 1)
            if serving > most and (most or (await get(*address, "/ready"))[0] == 200):
                most, self._served = serving, True
                ready(loop.time() - started, serving)
            for path in sorted(self._run.status.iterdir()):
                text = path.read_text()
                if text and shown.get(path.name) != text:
                    shown[path.name] = text
                    self._say(f"{path.name}: {text}")
            await asyncio.sleep(PROBE_S)


async def get(host: str, port: int, path: str) -> tuple[int, bytes]:
    """Return status and body of a GET to our own gateway; status 0 if nobody answers."""
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        async with asyncio.timeout(GET_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(f"GET {path} HTTP/1.1\r\nHost: {where}\r\nConnection: close\r\n\r\n".encode())
                head, _, body = (await reader.read()).partition(b"\r\n\r\n")
            finally:
                writer.close()
        return int(head.split(b" ", 2)[1]), body
    except (OSError, TimeoutError, IndexError, ValueError):
        return 0, b""
