"""The protocols that the frontend needs from below: the gateway's node, changing roles, and the supervisor's plans.

`live` fulfils them. Calls of `GatewayPort` are synchronous and run on the event loop's thread; effects are performed
before `send` returns, so a refusal may be delivered *inside* `send`: register streams first.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from jedlik.core.config import Role
from jedlik.core.effects import Deliver
from jedlik.core.events import Abandoned, Arrived, Consumed, Cut, Hold, Scale
from jedlik.core.facts import Routed
from jedlik.core.ids import RequestId, WorkerId
from jedlik.core.protocol import Card

DeliverTo = Callable[[Deliver], None]


class GatewayPort(Protocol):
    """One gateway node, running."""

    def send(self, event: Arrived | Abandoned | Cut | Consumed) -> None:
        """Send an event to the node. What it delivers goes to the callback given to `listen`."""

    def listen(self, deliver: DeliverTo) -> None:
        """Set the one receiver of `Deliver` effects."""

    def cards(self) -> Sequence[Card]:
        """Return the cards of workers a request could be sent to now (ready, not draining, not suspect)."""

    def explain(self, request_id: RequestId) -> Sequence[Routed]:
        """Return every routing decision of a request, oldest first; empty if unknown or forgotten."""

    def health(self) -> dict[str, object]:
        """Return JSON-able {"draining": bool, "workers": [{worker, health, reason, running, waiting, ...}]}."""


class RolesPort(Protocol):
    """The gateway, as far as roles are concerned."""

    def roles(self) -> list[dict[str, object]]:
        """Return JSON-able {worker, name, role, epoch} of every worker; `told`: the role that is asked of it."""

    def flip(self, worker: WorkerId, role: Role) -> str | None:
        """Ask a worker to take another role. Returns why that may not be; None: it has been asked."""


class PlansPort(Protocol):
    """The supervisor, as far as a gateway can reach it."""

    async def plan(self) -> bytes:
        """Return the plan as JSON. Raises PeerError where the supervisor can't be reached."""

    async def scale(self, wanted: Scale | Hold) -> bytes | str:
        """Return JSON of what was set, or why that may not be. Raises PeerError as `plan`."""
