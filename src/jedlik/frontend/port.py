"""What the HTTP surface needs from the gateway below it, and nothing more.

`live/driver` fulfils it around `nodes/gateway`. Calls are synchronous and run on the event loop's thread; effects are
performed before `send` returns, so a refusal may be delivered *inside* `send`: register streams first.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from jedlik.core.effects import Deliver
from jedlik.core.events import Abandoned, Arrived, Consumed, Cut
from jedlik.core.facts import Routed
from jedlik.core.ids import RequestId
from jedlik.core.protocol import Card

DeliverTo = Callable[[Deliver], None]


class GatewayPort(Protocol):
    """One gateway node, running."""

    def send(self, event: Arrived | Abandoned | Cut | Consumed) -> None:
        """Tell the node. What it delivers goes to the callback given to `listen`."""

    def listen(self, deliver: DeliverTo) -> None:
        """Set the one receiver of `Deliver` effects."""

    def cards(self) -> Sequence[Card]:
        """Cards of the workers a request could be sent to now (ready, not draining, not suspect)."""

    def explain(self, request_id: RequestId) -> Sequence[Routed]:
        """Every routing decision of a request, oldest first; empty if unknown or forgotten."""

    def health(self) -> dict[str, object]:
        """JSON-able: {"draining": bool, "workers": [{worker, health, reason, running, waiting, ...}]}."""
