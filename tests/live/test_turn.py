"""One door: order, no event inside another's effects, and a broken node is never called again."""

import asyncio

import pytest

from jedlik.core.errors import Bug
from jedlik.live.turn import Turn, WakeTimer


def test_an_event_sent_from_inside_an_effect_waits_for_the_other_effects() -> None:
    async def scenario() -> list[str]:
        done: list[str] = []

        def perform(effect: str, now: float) -> None:
            done.append(effect)
            if effect == "a1":
                turn.send("b")

        turn: Turn[str, str] = Turn(lambda event, now: [f"{event}1", f"{event}2"], perform)
        turn.send("a")
        return done

    assert asyncio.run(scenario()) == ["a1", "a2", "b1", "b2"]


def test_effects_are_performed_before_send_returns() -> None:
    async def scenario() -> None:
        done: list[int] = []
        turn: Turn[int, int] = Turn(lambda event, now: [event], lambda effect, now: done.append(effect))
        turn.send(1)
        assert done == [1]

    asyncio.run(scenario())


def test_a_node_that_raised_is_never_called_again() -> None:
    async def scenario() -> None:
        calls = 0

        def handle(event: int, now: float) -> list[int]:
            nonlocal calls
            calls += 1
            raise Bug("broken")

        turn: Turn[int, int] = Turn(handle, lambda effect, now: None)
        turn.send(1)
        turn.send(2)
        assert calls == 1
        with pytest.raises(Bug, match="broken"):
            await turn.failed

    asyncio.run(scenario())


def test_a_later_wake_replaces_the_earlier() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        woken: list[float] = []
        timer = WakeTimer(lambda: woken.append(loop.time()))
        start = loop.time()
        timer.set(start + 60)
        timer.set(start + 0.02)
        while not woken:  # noqa: ASYNC110 - a timer's own
            await asyncio.sleep(0.005)
        assert woken[0] - start >= 0.019
        timer.set(loop.time())
        timer.cancel()
        await asyncio.sleep(0.01)
        assert len(woken) == 1

    asyncio.run(scenario())
