"""Long work is done in short turns: whatever one body holds, other streams have their turns in between.

Work is written as a generator that yields wherever it may be interrupted, and returns its result. What it yields may
be a function that computes for long without the interpreter's lock: a thread runs that, and its result is sent back.
Whoever is not in a hurry drives the same generator to its end with `finish`.
"""

import asyncio
import time
from collections.abc import Callable, Generator
from typing import Any, TypeVar

T = TypeVar("T")
Away = Callable[[], Any]
"""Runs in a thread: touches nothing that anybody else changes, and releases the interpreter's lock."""
Steps = Generator[Away | None, Any, T]
TURN_S = 0.002
"""A turn's length, below any engine's step; a step that is longer than a turn makes the turn longer."""


def finish(steps: Steps[T]) -> T:
    """Run to the end at once."""
    step: Callable[[Any], Away | None] = steps.send
    value: object = None
    try:
        while True:
            away = step(value)
            step, value = steps.send, None
            if away is not None:
                try:
                    value = away()
                except Exception as error:  # the steps know what it means
                    step, value = steps.throw, error
    except StopIteration as end:
        result: T = end.value
        return result


class Turns:
    """The turns of one event loop. All bodies that are worked on together take one turn of each round of the loop."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    async def run(self, steps: Steps[T]) -> T:
        """Run to the end. Work that is shorter than a turn never waits. Raises what the steps raise."""
        step: Callable[[Any], Away | None] = steps.send
        value: object = None
        now = time.monotonic
        end_s = now() + TURN_S
        try:
            while True:
                away = step(value)
                step, value = steps.send, None
                if away is not None:
                    try:
                        value = await asyncio.to_thread(away)
                    except Exception as error:  # the steps know what it means
                        step, value = steps.throw, error
                    end_s = now() + TURN_S
                elif now() > end_s:
                    await self._let_others()
                    end_s = now() + TURN_S
        except StopIteration as end:
            result: T = end.value
            return result
        finally:
            steps.close()

    async def _let_others(self) -> None:
        """Wait for the next turn: whoever has waited longest gets it."""
        async with self._turn:
            await asyncio.sleep(0)
