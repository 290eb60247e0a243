"""One GET to a server of ours, wherever it is: what `explain`, `plan` and `top` ask with. Standard library only."""

import http.client
import ssl
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec

from jedlik.core.errors import ConfigError

TIMEOUT_S = 10.0


class Reply(NamedTuple):
    """Whatever the status is."""

    status: int
    body: bytes


class _Reason(msgspec.Struct, frozen=True):
    message: str


class _Refusal(msgspec.Struct, frozen=True):
    error: _Reason


def get(url: str, path: str, api_key: str | None, timeout_s: float = TIMEOUT_S) -> Reply:
    """Ask the server at `url`. Raises ConfigError, with a remedy, where nobody answers."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"{url!r} is no address of a server: write it as http://127.0.0.1:8000")
    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        connection = _connection(parts.scheme, parts.hostname, parts.port, timeout_s)
        try:
            connection.request("GET", parts.path.rstrip("/") + path, headers=headers)
            reply = connection.getresponse()
            return Reply(reply.status, reply.read())
        finally:
            connection.close()
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise ConfigError(f"no server answers on {url} ({error}): name it with --url or --port") from error


def message(body: bytes) -> str:
    """Why a server refused, in its words."""
    try:
        return msgspec.json.decode(body, type=_Refusal).error.message
    except msgspec.MsgspecError:
        return body.decode(errors="replace")[:200]


def _connection(scheme: str, host: str, port: int | None, timeout_s: float) -> http.client.HTTPConnection:
    if scheme == "https":
        return http.client.HTTPSConnection(host, port, timeout=timeout_s, context=ssl.create_default_context())
    return http.client.HTTPConnection(host, port, timeout=timeout_s)
