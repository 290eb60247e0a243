"""The contract of launchers: who starts and ends workers where a planner says so. Local processes, or a cluster's pods.

A worker is named by its place and the number of its start there, as in the planner's effects.
"""

from collections.abc import Callable
from typing import Protocol

from jedlik.core.config import Role
from jedlik.core.events import MemberEnded, MemberReady

Tell = Callable[[MemberReady | MemberEnded, str], None]
"""(event, words): what became of a worker, and how it ended in words."""


class Launcher(Protocol):
    """Calls return at once, and what becomes of a worker is told: every start ends with one `MemberEnded`."""

    def listen(self, tell: Tell) -> None:
        """Who is told; before anything is started."""

    def start(self, name: str, start: int, role: Role) -> None:
        """`MemberReady` follows when it serves."""

    def stop(self, name: str, start: int) -> None:
        """It finishes what it has, however long that takes, and leaves. Nothing happens where it has ended."""

    def kill(self, name: str, start: int) -> None:
        """At once."""

    async def close(self, budget_s: float) -> None:
        """Stop all, kill what has not ended then. Nothing is told of that."""
