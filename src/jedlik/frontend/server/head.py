"""The head of one HTTP/1 request: httptools reads its fields, then it is held to what RFC 9110 and 9112 ask.

`read_head` takes a whole head, with the empty line, and raises RequestError. The status is 4xx whatever a client sends:
where the RFCs suggest 501 or 505 it is 400 or 405, so that a 5xx always is a fault of the server's. A method that
nobody knows is like any other here: what is at its path says which methods it has.
An offer of another protocol (`Upgrade`) is not taken up, as RFC 9110, 7.8 allows: the request is served as it is.
"""

import re
from typing import NamedTuple
from urllib.parse import unquote

import httptools

from jedlik.core.errors import RequestError
from jedlik.frontend.errors import HttpRefusal

MAX_FIELDS = 128
END = re.compile(rb"\n\r?\n")
"""The end of a head, also of one with bare line feeds: that one is refused, not waited for."""
SINGLE = frozenset(
    b"host authorization content-type content-length origin x-request-id x-session-id sec-fetch-site "
    b"access-control-request-method access-control-request-headers".split()
)
"""Fields of which two would leave open which one counts."""
_HOST = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~-]+)(:[0-9]{0,5})?")
_VERSION = re.compile(rb"HTTP/[0-9]\.[0-9]")
_METHOD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}")
_TARGET = re.compile(rb"[!-~]+")
_SERVED = b"GET, HEAD, OPTIONS, POST"
_DIGITS = re.compile(rb"[0-9]{1,18}")


Fields = dict[bytes, bytes]
"""Names in small letters to values without white space around them."""


class Head(NamedTuple):
    """The head of one request, read and checked."""

    method: str
    path: str
    """Percent-decoded; `*` for the server as a whole."""
    raw_path: bytes
    query: bytes
    version: str
    """The version of HTTP that is spoken: 1.1 or 1.0."""
    headers: list[tuple[bytes, bytes]]
    """Each name once, in small letters."""
    length: int | None
    """Bytes of the body; None: it comes in chunks."""
    keep_alive: bool
    expects: bool
    """The client waits for 100 Continue before it sends the body."""


class _Parsed:
    """Receives what the parser finds."""

    def __init__(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        self.complete = True


def read_head(raw: bytes) -> Head:
    """Return the head that these bytes are. Raises RequestError."""
    method, target, version = _request_line(raw)
    fields = _fields(raw)
    path, query, host = _target(method, target)
    _check_host(fields, host, version)
    length = _length(fields, version)
    expects = _expects(fields, version) and length != 0
    keep_alive = version == "1.1" and b"close" not in _members(fields, b"connection")
    decoded = unquote(path.decode()) if b"%" in path else path.decode()
    return Head(
        method=method.decode(),
        path=decoded,
        raw_path=path,
        query=query,
        version=version,
        headers=list(fields.items()),
        length=length,
        keep_alive=keep_alive,
        expects=expects,
    )


def bad(message: str, status: int = 400, code: str = "bad_request") -> RequestError:
    return RequestError(message, code=code, status=status)


def too_long(raw: bytes | bytearray, limit_bytes: int) -> RequestError:
    """The error for a head that has not ended within the limit. It tells a long request line from large fields."""
    if raw.find(b"\n", 0, limit_bytes) < 0:
        return bad(f"The request line is longer than {limit_bytes} bytes.", 414, "uri_too_long")
    return bad(f"The head of the request is larger than {limit_bytes} bytes.", 431, "head_too_large")


def _request_line(raw: bytes) -> tuple[bytes, bytes, str]:
    """Method, target, and the version that is spoken: a later one of HTTP/1 is read as 1.1 (RFC 9110, 2.5)."""
    parts = raw[: raw.find(b"\n")].removesuffix(b"\r").split(b" ")
    if len(parts) != 3 or not _VERSION.fullmatch(parts[2]):
        raise bad("The request line must be a method, a target and HTTP/1.1, with one space between them.")
    method, target, version = parts
    if not version.startswith(b"HTTP/1."):
        raise bad(f"{version.decode()} is not spoken here; use HTTP/1.1.", code="http_version_not_supported")
    if not _METHOD.fullmatch(method):
        raise bad(f"{method[:20].decode('latin-1')!r} is no method; methods are words such as GET.")
    if not _TARGET.fullmatch(target):
        raise bad("The request target has characters that a URL must escape (%C3%A9 for an é).")
    return method, target, "1.0" if version == b"HTTP/1.0" else "1.1"


def _fields(raw: bytes) -> Fields:
    """The fields below the request line, which the parser gets a plain one for."""
    if raw.count(b"\n") > MAX_FIELDS + 2:
        raise bad(f"The request has more than {MAX_FIELDS} header fields.", 431, "head_too_large")
    end = raw.find(b"\n")
    line_end = b"\r\n" if raw[end - 1 : end] == b"\r" else b"\n"
    found = _Parsed()
    try:
        httptools.HttpRequestParser(found).feed_data(b"POST / HTTP/1.1" + line_end + raw[end + 1 :])
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserError as error:
        if not found.complete:  # what it has against a body's framing is said by `_length`
            raise bad(f"The request is not HTTP/1.1 as RFC 9112 has it: {error}.") from None
    if not found.complete:
        raise bad("The request is not HTTP/1.1 as RFC 9112 has it: its head does not end.")
    fields = dict(found.headers)
    return fields if len(fields) == len(found.headers) else _joined(found.headers)


def _joined(headers: list[tuple[bytes, bytes]]) -> Fields:
    """Fields that are given several times are lists (RFC 9110, 5.3), but for those that can't be."""
    fields: Fields = {}
    for name, value in headers:
        if name in fields and name in SINGLE:
            raise bad(f"The header {name.decode()} is given more than once.")
        fields[name] = fields[name] + b", " + value if name in fields else value
    return fields


def _target(method: bytes, target: bytes) -> tuple[bytes, bytes, bytes | None]:
    """Path, query, and the host where the target names one. The four forms of RFC 9112, 3.2."""
    if method == b"CONNECT":
        raise HttpRefusal(
            "This server is no proxy: CONNECT is not served.",
            code="method_not_allowed", status=405, headers=((b"allow", _SERVED),),
        )  # fmt: skip
    if b"#" in target:
        raise bad("The request target has a fragment (#...); leave it out.")
    if target == b"*" and method == b"OPTIONS":
        return b"*", b"", None
    host = None
    if not target.startswith(b"/"):
        scheme, found, rest = target.partition(b"://")
        if not found or scheme.lower() not in (b"http", b"https"):
            raise bad("The request target must be a path that begins with /, or an http URL.")
        host = re.split(rb"[/?]", rest, maxsplit=1)[0]
        target = rest[len(host) :]
        target = target if target.startswith(b"/") else b"/" + target
    path, _, query = target.partition(b"?")
    return path, query, host


def _check_host(fields: Fields, named: bytes | None, version: str) -> None:
    """A host in the target counts instead of the field (RFC 9112, 3.2.2)."""
    host_field = fields.get(b"host")
    if host_field is None and version == "1.1":
        raise bad("An HTTP/1.1 request needs a Host header.")
    for host in (host_field, named):
        if host is not None and not _HOST.fullmatch(host):
            raise bad(f"{host[:100].decode('latin-1')!r} is no valid host.")
    if named is not None:
        fields[b"host"] = named


def _length(fields: Fields, version: str) -> int | None:
    """How the body is framed; a request that leaves this open could smuggle another one (RFC 9112, 6.1 and 6.3)."""
    length = fields.get(b"content-length")
    if b"transfer-encoding" not in fields:
        if length is not None and not _DIGITS.fullmatch(length):
            raise bad("Content-Length must be a number of bytes, in digits.")
        return int(length or 0)
    codings = _members(fields, b"transfer-encoding")
    if version == "1.0":
        raise bad("HTTP/1.0 has no Transfer-Encoding; send a Content-Length.")
    if length is not None:
        raise bad("The request has both Content-Length and Transfer-Encoding; send one of them.")
    if codings[-1:] != [b"chunked"] or b"chunked" in codings[:-1]:
        raise bad("Transfer-Encoding must be chunked, once and last: else the end of the body can't be known.")
    if len(codings) > 1:
        coding = codings[0][:40].decode("latin-1")
        raise bad(f"The transfer coding {coding!r} is not understood here; use chunked alone.", code="unknown_coding")
    return None


def _expects(fields: Fields, version: str) -> bool:
    """HTTP/1.0 knows no expectations (RFC 9110, 10.1.1)."""
    wanted = _members(fields, b"expect") if version == "1.1" else []
    if any(one != b"100-continue" for one in wanted):
        raise bad("The only expectation that is met here is 100-continue.", 417, "expectation_failed")
    return bool(wanted)


def _members(fields: Fields, name: bytes) -> list[bytes]:
    """The members of a comma-separated header field, in small letters."""
    value = fields.get(name)
    return [] if value is None else [member for part in value.split(b",") if (member := part.strip(b" \t").lower())]
