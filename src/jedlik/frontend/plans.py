"""What is planned, and counts set by hand: `GET /plan`, `POST /scale`.

The supervisor decides; this surface reads bodies strictly and says what came of it. While the supervisor can't be
reached both are 503, and requests for answers are served all the same.
"""

from typing import Annotated, Protocol

import msgspec

from jedlik.core.config import Role
from jedlik.core.errors import PeerError, RequestError
from jedlik.core.events import Hold, Scale
from jedlik.frontend.http import Web
from jedlik.frontend.json_body import Reader

MAX_BODY_BYTES = 1 << 16
MAX_REASON_CHARS = 1000
Count = Annotated[int, msgspec.Meta(ge=0, le=100_000)]
COUNTS: dict[str, Role] = {"prefill": "prefill", "decode": "decode", "workers": "both"}
"""Keys of a body, and the roles they count."""


class PlansPort(Protocol):
    """The supervisor, as far as a gateway can reach it."""

    async def plan(self) -> bytes:
        """JSON. Raises PeerError where it can't be reached."""

    async def scale(self, wanted: Scale | Hold) -> bytes | str:
        """JSON of what was set, or why that may not be. Raises PeerError as `plan`."""


class Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of a change: counts, or `auto`, or one place."""

    workers: Count | None = None
    """That prefill and decode."""
    prefill: Count | None = None
    decode: Count | None = None
    auto: bool | None = None
    """True: the planner decides again."""
    hold: str | None = None
    """A worker's name: drain it, start none there."""
    release: str | None = None


_read = Reader(Body).read


class PlanPages:
    """Both answers."""

    def __init__(self, port: PlansPort) -> None:
        self._port = port

    async def show(self, web: Web) -> None:
        """What runs, what is wanted, and why."""
        try:
            await web.reply(200, await self._port.plan())
        except PeerError as error:
            raise unreachable(error) from error

    async def scale(self, web: Web) -> None:
        """202 with what was set; 409 with the reason where that may not be."""
        body = _read(await web.json_body(MAX_BODY_BYTES))
        try:
            set_now = await self._port.scale(wanted(body))
        except PeerError as error:
            raise unreachable(error) from error
        if isinstance(set_now, str):
            raise RequestError(f"{set_now[:MAX_REASON_CHARS]}.", code="scale_refused", status=409)
        await web.reply(202, set_now)


def wanted(body: Body) -> Scale | Hold:
    """The one thing that a body asks for. Raises RequestError."""
    counts = {role: count for key, role in COUNTS.items() if (count := getattr(body, key)) is not None}
    if body.auto is False:
        raise RequestError('To set counts by hand say them; {"auto": true} gives them back.', param="auto")
    asked: list[Scale | Hold] = [Scale(counts)] if counts else []
    if body.auto:
        asked.append(Scale(None))
    if body.hold is not None:
        asked.append(Hold(body.hold, active=True))
    if body.release is not None:
        asked.append(Hold(body.release, active=False))
    if len(asked) != 1:
        how = 'one of {"workers": 3}, {"prefill": 2, "decode": 1}, {"auto": true}, {"hold": NAME}, {"release": NAME}'
        raise RequestError(f"The body must ask for one thing: {how}.", code="invalid_value")
    return asked[0]


def unreachable(error: PeerError) -> RequestError:
    return RequestError(f"{error}.", code="supervisor_unreachable", status=503)
