"""The control link: a socket of the private run directory between gateways and their supervisor, and both its ends.

Up go a gateway's name, its reports of demand and workers, and what its clients ask of the planner. Down come changes of
roles and answers. Frames are those of `core/wire`; a message that does not fit raises WireError. A gateway serves
whether the supervisor is there or not: the link is opened again and again, a report that can't be sent is dropped (the
next one is newer), and a question that can't be answered raises PeerError.
"""

import asyncio
from collections.abc import Callable
from itertools import count
from pathlib import Path

import msgspec

from jedlik.core.config import Role
from jedlik.core.effects import ChangeRole
from jedlik.core.errors import PeerError
from jedlik.core.events import GatewayGone, Hold, Reported, Scale
from jedlik.core.ids import GatewayId, WorkerId
from jedlik.core.plans import Report
from jedlik.core.wire import decoded, frame
from jedlik.net.addresses import UnixAddress
from jedlik.net.streams import Connection, connect, serve

SOCKET = "control"
"""The socket's name in the run directory."""
RETRY_S = 0.25
ANSWER_S = 5.0
COUNT_KEYS: dict[Role, str] = {"prefill": "prefill", "decode": "decode", "both": "workers"}


class Greeting(msgspec.Struct, frozen=True, tag="greeting"):
    """The first message of a gateway."""

    gateway: GatewayId


class PlanQuery(msgspec.Struct, frozen=True, tag="plan"):
    """A question for what is planned, and why."""


class ControlQuery(msgspec.Struct, frozen=True, tag="query"):
    """A question, which is answered with the same number."""

    number: int
    question: PlanQuery | Scale | Hold


class ControlAnswer(msgspec.Struct, frozen=True, tag="answer"):
    """Either what was asked for, or why not."""

    number: int
    value: bytes = b""
    """The answer as JSON."""
    refusal: str | None = None


Upward = Greeting | Reported | ControlQuery
Downward = ChangeRole | ControlAnswer
Tell = Callable[[Reported | GatewayGone], None]
Reply = Callable[[ControlQuery], ControlAnswer]
Change = Callable[[ChangeRole], None]
_encoder = msgspec.msgpack.Encoder()
_upward: msgspec.msgpack.Decoder[Upward] = msgspec.msgpack.Decoder(Upward)
_downward: msgspec.msgpack.Decoder[Downward] = msgspec.msgpack.Decoder(Downward)


def encode(message: Upward | Downward) -> bytes:
    """Return the whole frame."""
    return frame(_encoder.encode(message))


def decode_upward(body: bytes | memoryview) -> Upward:
    """Return a gateway's message. Raises WireError."""
    return decoded(_upward, body, "a gateway")


def decode_downward(body: bytes | memoryview) -> Downward:
    """Return the supervisor's message. Raises WireError."""
    return decoded(_downward, body, "the supervisor")


class ControlLink:
    """A gateway's end: fulfils `frontend/port.PlansPort`, and is a `net.streams.Listener`.

    Made inside a running loop.
    """

    def __init__(self, gateway: GatewayId, path: Path, change: Change) -> None:
        self._gateway = gateway
        self._address = UnixAddress(str(path))
        self._change = change
        self._numbers = count(1)
        self._connection: Connection | None = None
        self._lost = asyncio.Event()
        self._answers: dict[int, asyncio.Future[ControlAnswer]] = {}

    async def run(self) -> None:
        """Keep the link up until cancelled."""
        try:
            while True:
                self._lost.clear()
                try:
                    await connect(self._address, self, b"")
                except PeerError:
                    await asyncio.sleep(RETRY_S)
                else:
                    await self._lost.wait()
        finally:
            if self._connection is not None:
                self._connection.close("this gateway leaves")
                await self._connection.closed()

    def report(self, report: Report) -> None:
        """Send a report, if the link is up."""
        if self._connection is not None:
            self._connection.send(encode(Reported(report)))

    async def plan(self) -> bytes:
        """Return the plan as JSON. Raises PeerError where the supervisor can't be reached."""
        return (await self._ask(PlanQuery())).value

    async def scale(self, wanted: Scale | Hold) -> bytes | str:
        """Return JSON of what was set, or why that may not be. Raises PeerError as `plan` does."""
        answer = await self._ask(wanted)
        return answer.value if answer.refusal is None else answer.refusal

    async def _ask(self, question: PlanQuery | Scale | Hold) -> ControlAnswer:
        if self._connection is None:
            raise PeerError("the supervisor can't be reached: it has ended, or is being started again")
        number = next(self._numbers)
        answered = self._answers[number] = asyncio.get_running_loop().create_future()
        self._connection.send(encode(ControlQuery(number, question)))
        try:
            return await asyncio.wait_for(answered, ANSWER_S)
        except TimeoutError:
            raise PeerError(f"the supervisor did not answer within {ANSWER_S:g} s") from None
        finally:
            del self._answers[number]

    def opened(self, connection: Connection) -> None:
        self._connection = connection
        connection.send(encode(Greeting(self._gateway)))

    def received(self, connection: Connection, bodies: list[memoryview]) -> None:
        for body in bodies:
            message = decode_downward(body)
            if isinstance(message, ChangeRole):
                self._change(message)
            elif (waiting := self._answers.get(message.number)) is not None and not waiting.done():
                waiting.set_result(message)

    def lost(self, connection: Connection, reason: str) -> None:
        self._connection = None
        self._lost.set()
        for waiting in self._answers.values():
            if not waiting.done():
                waiting.set_exception(PeerError(f"the supervisor went away before it answered: {reason}"))


class ControlServer:
    """The supervisor's end: all gateways of one supervisor connect here, report and ask.

    A gateway that can't be reached any more is reported as gone; when it connects again, its next report says that it
    is back.
    """

    def __init__(self) -> None:
        self._gateways: dict[GatewayId, Connection] = {}
        self._server: asyncio.Server | None = None

    async def listen(self, path: Path, tell: Tell, reply: Reply) -> None:
        """Accept gateways until closed."""
        self.tell, self.reply = tell, reply
        self._server, _ = await serve(UnixAddress(str(path)), lambda: _GatewayEnd(self), b"")

    def change(self, worker: WorkerId, role: Role) -> None:
        """Have any gateway tell a worker. None is connected: nothing happens, and the planner sees that."""
        for _, connection in sorted(self._gateways.items())[:1]:
            connection.send(encode(ChangeRole(worker, role)))

    def close(self) -> None:
        """Stop listening and close all connections."""
        if self._server is not None:
            self._server.close()
        for connection in list(self._gateways.values()):
            connection.close("the supervisor leaves")

    def gateway_joined(self, gateway: GatewayId, connection: Connection) -> None:
        """A gateway has said its name."""
        self._gateways[gateway] = connection

    def gateway_lost(self, gateway: GatewayId, connection: Connection) -> None:
        """A gateway's connection has ended (ignored for one that was replaced)."""
        if self._gateways.get(gateway) is connection:
            del self._gateways[gateway]
            self.tell(GatewayGone(gateway))


class _GatewayEnd:
    """One gateway's connection at the supervisor (a `net.streams.Listener`)."""

    def __init__(self, server: ControlServer) -> None:
        self._server = server
        self._gateway: GatewayId | None = None

    def opened(self, connection: Connection) -> None:
        """The gateway speaks first."""

    def received(self, connection: Connection, bodies: list[memoryview]) -> None:
        for body in bodies:
            message = decode_upward(body)
            if isinstance(message, Greeting):
                self._gateway = message.gateway
                self._server.gateway_joined(message.gateway, connection)
            elif self._gateway is None:
                raise PeerError(f"{type(message).__name__} before a greeting")
            elif isinstance(message, Reported):
                self._server.tell(message)
            else:
                connection.send(encode(self._server.reply(message)))

    def lost(self, connection: Connection, reason: str) -> None:
        if self._gateway is not None:
            self._server.gateway_lost(self._gateway, connection)


class PlannerService:
    """Answers what clients of a gateway ask of the planner: the plan, counts by hand, places that are held.

    Refused, with the remedy, are more workers than there is room for, workers that could serve nobody, and places that
    do not exist. Fewer workers than the floor are raised to it. The answer says what holds now; what was asked for is
    begun when it is given.
    """

    def __init__(
        self, plan: Callable[[], dict[str, object]], send: Callable[[Scale | Hold], None], max_workers: int
    ) -> None:
        self._plan = plan
        self._send = send
        self._max_workers = max_workers

    def reply(self, query: ControlQuery) -> ControlAnswer:
        """Return the answer at once."""
        question = query.question
        if isinstance(question, PlanQuery):
            return ControlAnswer(query.number, msgspec.json.encode(self._plan()))
        refusal = self._refused(question)
        if refusal is not None:
            return ControlAnswer(query.number, refusal=refusal)
        self._send(question)
        return ControlAnswer(query.number, msgspec.json.encode(self._now(question)))

    def _refused(self, question: Scale | Hold) -> str | None:
        """Why something can't be set; None: it can."""
        if isinstance(question, Hold):
            names = list(self._members())
            there = question.name in names
            return None if there else f"there is no place {question.name[:100]!r}; there are {', '.join(names[:16])}"
        wanted = {role: number for role, number in (question.counts or {}).items() if number}
        total = sum(wanted.values())
        if total > self._max_workers:
            return (
                f"{total} workers are asked for and there is room for {self._max_workers} on this server: start it "
                f"with --planner.budget {total} (and --planner.mode off, for it to scale by hand only)"
            )
        if set(wanted) == {"prefill"}:
            return "prefill workers alone answer nothing: ask for decode workers, too"
        if set(wanted) == {"decode"}:
            return "decode workers alone have nobody who prefills: ask for prefill workers, too"
        return None

    def _now(self, question: Scale | Hold) -> dict[str, object]:
        plan = self._plan()
        if isinstance(question, Hold):
            return {"hold" if question.active else "release": question.name, "state": self._members()[question.name]}
        wanted = plan["wanted"]
        assert isinstance(wanted, dict)
        counts = {COUNT_KEYS[role]: number for role, number in wanted.items() if number}
        return {"auto": question.counts is None, "mode": plan["mode"], "wanted": counts}

    def _members(self) -> dict[str, object]:
        members = self._plan()["members"]
        assert isinstance(members, list)
        return {str(member["name"]): member["state"] for member in members}
