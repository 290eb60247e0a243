"""Routes for whoever operates the fleet: roles (`GET /roles`, `POST /roles`) and counts (`GET /plan`, `POST /scale`).

The gateway and the supervisor decide; these routes read bodies strictly and answer with what came of it. While the
supervisor can't be reached its routes are 503, and requests for answers are served all the same.
"""

from typing import Annotated

import msgspec

from jedlik.core.config import Role
from jedlik.core.errors import PeerError, RequestError
from jedlik.core.events import Hold, Scale
from jedlik.core.ids import WorkerId
from jedlik.frontend.http import Web
from jedlik.frontend.json_body import Reader
from jedlik.frontend.port import PlansPort, RolesPort

MAX_BODY_BYTES = 1 << 16
MAX_ROLE_REASON_CHARS, MAX_SCALE_REASON_CHARS = 500, 1000
Count = Annotated[int, msgspec.Meta(ge=0, le=100_000)]
COUNTS: dict[str, Role] = {"prefill": "prefill", "decode": "decode", "workers": "both"}
"""Keys of a body, and the roles they count."""


class RoleBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a change of role. `worker` is an id or a name."""

    worker: str
    role: Role


class ScaleBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of a change of counts: counts, `auto`, or one worker to hold or release."""

    workers: Count | None = None
    """Workers that prefill and decode."""
    prefill: Count | None = None
    decode: Count | None = None
    auto: bool | None = None
    """True: the planner decides again."""
    hold: str | None = None
    """The name of a worker to drain; none is started in its place."""
    release: str | None = None


_read_role, _read_scale = Reader(RoleBody).read, Reader(ScaleBody).read


class RolePages:
    """The two routes of roles."""

    def __init__(self, port: RolesPort) -> None:
        self._port = port

    async def show(self, web: Web) -> None:
        """Answer with what each worker admits."""
        await web.reply_json(200, {"workers": self._port.roles()})

    async def change(self, web: Web) -> None:
        """Answer 202 when the worker was asked to take the role; 409 with the reason where it may not; 404."""
        body = _read_role(await web.json_body(MAX_BODY_BYTES))
        worker = self._named(body.worker)
        reason = self._port.flip(worker, body.role)
        if reason is not None:
            raise RequestError(f"{reason[:MAX_ROLE_REASON_CHARS]}.", param="role", code="role_refused", status=409)
        await web.reply_json(202, {"worker": worker, "told": body.role})

    def _named(self, name: str) -> WorkerId:
        """The only worker with this id or name."""
        known = [str(one["worker"]) for one in self._port.roles() if name in (one["worker"], one["name"])]
        if len(known) == 1:
            return WorkerId(known[0])
        if known:
            message = f"{len(known)} workers have the name {name[:200]!r}: {', '.join(known[:8])}. Give an id."
            raise RequestError(message, param="worker", code="ambiguous", status=409)
        raise RequestError(f"No worker {name[:200]!r} is connected.", param="worker", code="not_found", status=404)


class PlanPages:
    """The two routes of plans."""

    def __init__(self, port: PlansPort) -> None:
        self._port = port

    async def show(self, web: Web) -> None:
        """Answer with what runs, what is wanted, and why."""
        try:
            await web.reply(200, await self._port.plan())
        except PeerError as error:
            raise _unreachable(error) from error

    async def scale(self, web: Web) -> None:
        """Answer 202 with what was set; 409 with the reason where that may not be."""
        body = _read_scale(await web.json_body(MAX_BODY_BYTES))
        try:
            set_now = await self._port.scale(wanted(body))
        except PeerError as error:
            raise _unreachable(error) from error
        if isinstance(set_now, str):
            raise RequestError(f"{set_now[:MAX_SCALE_REASON_CHARS]}.", code="scale_refused", status=409)
        await web.reply(202, set_now)


def wanted(body: ScaleBody) -> Scale | Hold:
    """Return the one thing that a body asks for. Raises RequestError."""
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


def _unreachable(error: PeerError) -> RequestError:
    return RequestError(f"{error}.", code="supervisor_unreachable", status=503)
