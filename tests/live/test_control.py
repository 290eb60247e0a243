"""The control link: reports go up, questions are answered, roles come down, and a gateway outlives its supervisor."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from jedlik.core.effects import ChangeRole
from jedlik.core.errors import PeerError
from jedlik.core.events import GatewayGone, Hold, Reported, Scale
from jedlik.core.ids import GatewayId, WorkerId
from jedlik.core.plans import Demand, Report
from jedlik.live.control import (
    ControlAnswer,
    ControlLink,
    ControlQuery,
    ControlServer,
    PlannerService,
    PlanQuery,
    decode_downward,
    decode_upward,
    encode,
)
from jedlik.net.frames import FrameParser

GATEWAY = GatewayId("gateway@1")
REPORT = Report(
    gateway=GATEWAY,
    at=1.0,
    period_s=1.0,
    demand=Demand(
        arrived=0,
        prompt_tokens=0,
        prompts={},
        answered=0,
        answered_prompt_tokens=0,
        cached_tokens=0,
        output_tokens=0,
        outputs={},
        refused=0,
        failed=0,
        met=0,
        missed_alone=0,
        ttft_sum_s=0.0,
        itl_sum_s=0.0,
        itl_count=0,
    ),
    waiting=0,
    waiting_tokens=0,
    in_flight=0,
    workers=[],
)


class Supervisor:
    """What its end of the link is told; refuses to hold anything."""

    def __init__(self) -> None:
        self.told: list[Reported | GatewayGone] = []
        self.server = ControlServer()

    def reply(self, ask: ControlQuery) -> ControlAnswer:
        if isinstance(ask.question, Hold):
            return ControlAnswer(ask.number, refusal="there is no place")
        return ControlAnswer(ask.number, msgspec.json.encode(type(ask.question).__name__))

    async def listen(self, path: Path) -> None:
        await self.server.listen(path, self.told.append, self.reply)


async def until(found: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not found():  # noqa: ASYNC110 - sockets take what they take
            await asyncio.sleep(0.005)


@asynccontextmanager
async def linked(path: Path, supervisor: Supervisor) -> AsyncIterator[tuple[ControlLink, list[ChangeRole]]]:
    changes: list[ChangeRole] = []
    await supervisor.listen(path)
    link = ControlLink(GATEWAY, path, changes.append)
    running = asyncio.create_task(link.run())
    await until(lambda: supervisor.server._gateways)
    yield link, changes
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await until(lambda: not supervisor.server._gateways)


def test_reports_questions_and_roles_pass(tmp_path: Path) -> None:
    async def run() -> None:
        supervisor = Supervisor()
        async with linked(tmp_path / "c", supervisor) as (link, changes):
            link.report(REPORT)
            assert await link.plan() == b'"PlanQuery"'
            assert await link.scale(Scale({"both": 2})) == b'"Scale"'
            assert await link.scale(Hold("worker-9", active=True)) == "there is no place"
            supervisor.server.change(WorkerId("w@1"), "decode")
            await until(lambda: changes)
            assert changes == [ChangeRole(WorkerId("w@1"), "decode")]
        assert supervisor.told == [Reported(REPORT), GatewayGone(GATEWAY)]
        supervisor.server.close()

    asyncio.run(run())


def test_a_gateway_finds_the_next_supervisor(tmp_path: Path) -> None:
    async def run() -> None:
        first, second = Supervisor(), Supervisor()
        async with linked(tmp_path / "c", first) as (link, _):
            first.server.close()
            await until(lambda: first.told)
            link.report(REPORT)  # nobody hears it
            with pytest.raises(PeerError, match="can't be reached"):
                await link.plan()
            await second.listen(tmp_path / "c")
            await until(lambda: second.server._gateways)
            link.report(REPORT)
            await until(lambda: second.told)
        await until(lambda: len(second.told) == 2)
        assert second.told == [Reported(REPORT), GatewayGone(GATEWAY)]
        second.server.close()

    asyncio.run(run())


@pytest.mark.parametrize("decode", [decode_upward, decode_downward])
def test_what_does_not_fit_is_refused(decode: Callable[[bytes], object]) -> None:
    with pytest.raises(PeerError, match="bad message"):
        decode(b"\x93\x01\x02\x03")


def test_messages_come_out_as_they_went_in() -> None:
    for up in (
        Reported(REPORT),
        ControlQuery(7, PlanQuery()),
        ControlQuery(8, Scale({"prefill": 1})),
        ControlQuery(9, Scale(None)),
    ):
        (body,) = FrameParser().feed(encode(up))
        assert decode_upward(body) == up
    for down in (ControlAnswer(7, b"{}"), ControlAnswer(8, refusal="no"), ChangeRole(WorkerId("w@1"), "both")):
        (body,) = FrameParser().feed(encode(down))
        assert decode_downward(body) == down


def service(sent: list[Scale | Hold]) -> PlannerService:
    plan: dict[str, object] = {
        "mode": "on",
        "wanted": {"prefill": 1, "decode": 2, "both": 0},
        "members": [{"name": "worker-0", "state": "serving"}, {"name": "worker-1", "state": "draining"}],
    }
    return PlannerService(lambda: plan, sent.append, 4)


@pytest.mark.parametrize(
    ("question", "value"),
    [
        (Scale({"prefill": 1, "decode": 3}), {"auto": False, "mode": "on", "wanted": {"prefill": 1, "decode": 2}}),
        (Scale({}), {"auto": False, "mode": "on", "wanted": {"prefill": 1, "decode": 2}}),
        (Scale(None), {"auto": True, "mode": "on", "wanted": {"prefill": 1, "decode": 2}}),
        (Hold("worker-1", active=True), {"hold": "worker-1", "state": "draining"}),
        (Hold("worker-0", active=False), {"release": "worker-0", "state": "serving"}),
    ],
)
def test_what_is_set_is_said(question: Scale | Hold, value: dict[str, object]) -> None:
    sent: list[Scale | Hold] = []
    answer = service(sent).reply(ControlQuery(5, question))
    assert (answer.number, answer.refusal, msgspec.json.decode(answer.value)) == (5, None, value)
    assert sent == [question]


@pytest.mark.parametrize(
    ("question", "said"),
    [
        (Scale({"both": 5}), "--planner.budget 5"),
        (Scale({"prefill": 1, "both": 0}), "answer nothing"),
        (Scale({"decode": 2}), "nobody who prefills"),
        (Hold("worker-2", active=True), "there are worker-0, worker-1"),
    ],
)
def test_what_may_not_be_is_refused(question: Scale | Hold, said: str) -> None:
    sent: list[Scale | Hold] = []
    answer = service(sent).reply(ControlQuery(5, question))
    assert said in (answer.refusal or "")
    assert sent == []


def test_the_plan_is_said_as_it_is() -> None:
    answer = service([]).reply(ControlQuery(5, PlanQuery()))
    assert msgspec.json.decode(answer.value)["mode"] == "on"
