"""The HTTP client of the commands and the profiler: one GET, or one POST with streamed events, a connection each.

Standard library only, for commands start at once.
"""

import contextlib
import http.client
from collections.abc import Callable, Iterator
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec

from jedlik.core.errors import ConfigError, JedlikError

TIMEOUT_S = 10.0
ERRORS = (OSError, ValueError, http.client.HTTPException)
"""A request raises one of these if nobody answers or the connection breaks."""


class Reply(NamedTuple):
    """A whole reply, whatever its status is."""

    status: int
    reason: str
    body: bytes


class _Reason(msgspec.Struct, frozen=True):
    message: str


class _Refusal(msgspec.Struct, frozen=True):
    error: _Reason


class HttpClient:
    """A client of the server at one URL, with one key."""

    def __init__(self, url: str, api_key: str | None, timeout_s: float = TIMEOUT_S) -> None:
        """Raises ConfigError if the URL is not one of a server."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"{url!r} is no address of a server: write it as http://127.0.0.1:8000")
        self._kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._netloc, self._path, self._timeout_s = parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), timeout_s
        self._headers = {"authorization": f"Bearer {api_key}"} if api_key else {}

    def get(self, path: str) -> Reply:
        """Return the reply, whatever its status is. Raises OSError, ValueError or HTTPException."""
        with self._reply("GET", path) as reply:
            return Reply(reply.status, reply.reason, reply.read())

    def events(self, path: str, body: object, refusal: Callable[[Reply], JedlikError]) -> Iterator[bytes]:
        """Post a request and yield the JSON of each server-sent event as it comes, without the closing `[DONE]`.

        Raises what `refusal` makes of a reply whose status is not 200, and what `get` raises.
        """
        with self._reply("POST", path, msgspec.json.encode(body)) as reply:
            if reply.status != 200:
                raise refusal(Reply(reply.status, reply.reason, reply.read()))
            for line in reply:
                if line.startswith(b"data: {"):
                    yield line[6:]

    @contextlib.contextmanager
    def _reply(self, method: str, path: str, body: bytes | None = None) -> Iterator[http.client.HTTPResponse]:
        headers = self._headers if body is None else self._headers | {"content-type": "application/json"}
        with contextlib.closing(self._kind(self._netloc, timeout=self._timeout_s)) as connection:
            connection.request(method, self._path + path, body, headers)
            yield connection.getresponse()


def get(url: str, path: str, api_key: str | None, timeout_s: float = TIMEOUT_S) -> Reply:
    """Ask the server at `url`. Raises ConfigError, with a remedy, where nobody answers."""
    try:
        return HttpClient(url, api_key, timeout_s).get(path)
    except ERRORS as error:
        raise ConfigError(f"no server answers on {url} ({error}): name it with --url or --port") from error


def message(body: bytes) -> str:
    """Why a server refused, in its words."""
    try:
        return msgspec.json.decode(body, type=_Refusal).error.message
    except msgspec.MsgspecError:
        return body.decode(errors="replace")[:200]
