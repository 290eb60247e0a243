"""What workers admit, and changing it while they run: `GET /roles`, `POST /roles`."""

from typing import Protocol

import msgspec

from jedlik.core.config import Role
from jedlik.core.errors import RequestError
from jedlik.core.ids import WorkerId
from jedlik.frontend.http import Web
from jedlik.frontend.json_body import Reader

MAX_BODY_BYTES = 1 << 16
MAX_REASON_CHARS = 500


class RolesPort(Protocol):
    """The gateway, as far as roles are concerned."""

    def roles(self) -> list[dict[str, object]]:
        """JSON-able: {worker, name, role, epoch} of every worker; `told`: what it has been told to be, until it is."""

    def flip(self, worker: WorkerId, role: Role) -> str | None:
        """Tell a worker to take another role. Returns why that may not be; None: it has been told."""


class Flip(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a change."""

    worker: str
    """Its id, or its name."""
    role: Role


_read = Reader(Flip).read


class RolePages:
    """Both answers."""

    def __init__(self, port: RolesPort) -> None:
        self._port = port

    async def show(self, web: Web) -> None:
        """What each worker admits."""
        await web.reply_json(200, {"workers": self._port.roles()})

    async def change(self, web: Web) -> None:
        """202: it has been told, and takes the role with its answer. 409 with the reason where it may not; 404."""
        body = _read(await web.json_body(MAX_BODY_BYTES))
        worker = self._named(body.worker)
        reason = self._port.flip(worker, body.role)
        if reason is not None:
            raise RequestError(f"{reason[:MAX_REASON_CHARS]}.", param="role", code="role_refused", status=409)
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
