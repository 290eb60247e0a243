"""A gateway's end of the control link: reports go up, what clients ask of the planner is answered, roles come down.

The gateway serves whether the supervisor is there or not: the link is opened again and again, a report that can't be
sent is dropped (the next one is newer), a question that can't be answered raises PeerError.
"""

import asyncio
from collections.abc import Callable
from itertools import count
from pathlib import Path

from jedlik.core.effects import ChangeRole
from jedlik.core.errors import PeerError
from jedlik.core.events import Hold, Reported, Scale
from jedlik.core.ids import GatewayId
from jedlik.core.plans import Report
from jedlik.live.control import Answer, Ask, Greeting, Plan, decode_downward, encode
from jedlik.net.addresses import UnixAddress
from jedlik.net.streams import Connection, connect

RETRY_S = 0.25
ANSWER_S = 5.0
Change = Callable[[ChangeRole], None]


class ControlLink:
    """Fulfils `frontend/plans.PlansPort`. A `net.streams.Listener`. Made inside a running loop."""

    def __init__(self, gateway: GatewayId, path: Path, change: Change) -> None:
        self._gateway = gateway
        self._path = path
        self._change = change
        self._numbers = count(1)
        self._connection: Connection | None = None
        self._lost = asyncio.Event()
        self._asked: dict[int, asyncio.Future[Answer]] = {}

    async def run(self) -> None:
        """Keep the link up until cancelled."""
        try:
            while True:
                self._lost.clear()
                try:
                    await connect(UnixAddress(str(self._path)), self, b"")
                except PeerError:
                    await asyncio.sleep(RETRY_S)
                else:
                    await self._lost.wait()
        finally:
            if self._connection is not None:
                self._connection.close("this gateway leaves")

    def report(self, report: Report) -> None:
        if self._connection is not None:
            self._connection.send(encode(Reported(report)))

    async def plan(self) -> bytes:
        """JSON. Raises PeerError where the supervisor can't be reached."""
        return (await self._ask(Plan())).value

    async def scale(self, wanted: Scale | Hold) -> bytes | str:
        """JSON of what was set, or why that may not be. Raises PeerError as `plan`."""
        answer = await self._ask(wanted)
        return answer.value if answer.refusal is None else answer.refusal

    async def _ask(self, question: Plan | Scale | Hold) -> Answer:
        if self._connection is None:
            raise PeerError("the supervisor can't be reached: it has ended, or is being started again")
        number = next(self._numbers)
        answered = self._asked[number] = asyncio.get_running_loop().create_future()
        self._connection.send(encode(Ask(number, question)))
        try:
            return await asyncio.wait_for(answered, ANSWER_S)
        except TimeoutError:
            raise PeerError(f"the supervisor did not answer within {ANSWER_S:g} s") from None
        finally:
            del self._asked[number]

    def opened(self, connection: Connection) -> None:
        self._connection = connection
        connection.send(encode(Greeting(self._gateway)))

    def received(self, connection: Connection, bodies: list[memoryview]) -> None:
        for body in bodies:
            message = decode_downward(body)
            if isinstance(message, ChangeRole):
                self._change(message)
            elif (waiting := self._asked.get(message.number)) is not None and not waiting.done():
                waiting.set_result(message)

    def lost(self, connection: Connection, reason: str) -> None:
        self._connection = None
        self._lost.set()
        for waiting in self._asked.values():
            if not waiting.done():
                waiting.set_exception(PeerError(f"the supervisor went away before it answered: {reason}"))
