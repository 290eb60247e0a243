"""Heads: what is read, what is refused, and with which status (RFC 9110, RFC 9112)."""

import pytest

from jedlik.core.errors import RequestError
from jedlik.frontend.server.head import MAX_FIELDS, Head, read_head

HOST = b"Host: here\r\n"


def read(*lines: bytes, first: bytes = b"POST /v1/x HTTP/1.1", host: bytes = HOST) -> Head:
    return read_head(first + b"\r\n" + host + b"".join(line + b"\r\n" for line in lines) + b"\r\n")


def refused(*lines: bytes, first: bytes = b"POST /v1/x HTTP/1.1", host: bytes = HOST) -> int:
    with pytest.raises(RequestError) as caught:
        read(*lines, first=first, host=host)
    return caught.value.status


def test_a_plain_head() -> None:
    head = read(b"Content-Type:  application/json \t", b"content-length: 12", first=b"POST /a%20b//c?d=%20&e HTTP/1.1")
    assert (head.method, head.path, head.raw_path, head.query) == ("POST", "/a b//c", b"/a%20b//c", b"d=%20&e")
    assert head.headers == [(b"host", b"here"), (b"content-type", b"application/json"), (b"content-length", b"12")]
    assert (head.version, head.length, head.keep_alive, head.expects) == ("1.1", 12, True, False)


@pytest.mark.parametrize(
    ("first", "path"),
    [
        (b"GET http://other:80/a?b HTTP/1.1", "/a"),
        (b"GET HTTP://other:80 HTTP/1.1", "/"),
        (b"GET https://other:80?b HTTP/1.1", "/"),
    ],
)
def test_a_host_in_the_target_counts_instead_of_the_field(first: bytes, path: str) -> None:
    head = read(first=first)
    assert head.path == path
    assert head.headers == [(b"host", b"other:80")]


def test_options_of_the_server_as_a_whole() -> None:
    assert read(first=b"OPTIONS * HTTP/1.1").path == "*"


@pytest.mark.parametrize(
    ("first", "status"),
    [
        (b"GET / HTTP/2.0", 400),
        (b"PRI * HTTP/2.0", 400),
        (b"GET / HTTP/0.9", 400),
        (b"GET / HTTP/11.1", 400),
        (b"GET /", 400),
        (b"GET  / HTTP/1.1", 400),
        (b"GET /a b HTTP/1.1", 400),
        (b"GET / RTSP/1.0", 400),
        (b"GET / http/1.1", 400),
        (b"GET x HTTP/1.1", 400),
        (b"GET * HTTP/1.1", 400),
        (b"GET ftp://h/ HTTP/1.1", 400),
        (b"GET http://u@h/ HTTP/1.1", 400),
        (b"GET http:///x HTTP/1.1", 400),
        (b"GET /a#b HTTP/1.1", 400),
        (b"GET /\xc3\xa9 HTTP/1.1", 400),
        (b"GET /\x00 HTTP/1.1", 400),
        (b"G(T / HTTP/1.1", 400),
        (b"G" * 40 + b" / HTTP/1.1", 400),
        (b"CONNECT here:80 HTTP/1.1", 405),
    ],
)
def test_request_lines_that_are_refused(first: bytes, status: int) -> None:
    assert refused(first=first) == status


@pytest.mark.parametrize("method", ["get", "BREW", "M-SEARCH"])
def test_methods_that_nobody_knows_are_read_as_any_other(method: str) -> None:
    assert read(first=method.encode() + b" / HTTP/1.1").method == method


def test_a_later_version_of_http_1_is_read_as_1_1() -> None:
    assert read(first=b"GET / HTTP/1.2").version == "1.1"


@pytest.mark.parametrize("host", [b"", HOST + HOST, HOST + b"Host: other\r\n", b"Host:\r\n", b"Host: a b\r\n"])
def test_a_request_has_one_valid_host(host: bytes) -> None:
    assert refused(host=host) == 400


@pytest.mark.parametrize("host", [b"a/b", b"u@h", b"h:port", b"h:1:2", b"[::1", b"h,h", b"\xff", b"http://h", b"a\\b"])
def test_hosts_that_are_none(host: bytes) -> None:
    assert refused(host=b"Host: " + host + b"\r\n") == 400


def test_http_1_0_needs_no_host_and_closes() -> None:
    head = read(b"Connection: keep-alive", b"Expect: 100-continue", first=b"POST / HTTP/1.0", host=b"")
    assert (head.version, head.keep_alive, head.expects) == ("1.0", False, False)


@pytest.mark.parametrize(
    ("lines", "length"),
    [((), 0), ((b"Content-Length: 0",), 0), ((b"Content-Length: 007",), 7), ((b"Transfer-Encoding: Chunked",), None)],
)
def test_framing(lines: tuple[bytes, ...], length: int | None) -> None:
    assert read(*lines).length == length


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ((b"Content-Length: 5", b"Content-Length: 5"), 400),
        ((b"Content-Length: 5", b"Content-Length: 6"), 400),
        ((b"Content-Length: 5, 5",), 400),
        ((b"Content-Length: +5",), 400),
        ((b"Content-Length: -1",), 400),
        ((b"Content-Length: 0x5",), 400),
        ((b"Content-Length: 5 5",), 400),
        ((b"Content-Length:",), 400),
        ((b"Content-Length: " + b"9" * 30,), 400),
        ((b"Content-Length: 5", b"Transfer-Encoding: chunked"), 400),
        ((b"Transfer-Encoding: chunked", b"Content-Length: 5"), 400),
        ((b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"), 400),
        ((b"Transfer-Encoding: chunked, chunked",), 400),
        ((b"Transfer-Encoding: chunked, gzip",), 400),
        ((b"Transfer-Encoding: gzip",), 400),
        ((b"Transfer-Encoding: identity",), 400),
        ((b"Transfer-Encoding: xchunked",), 400),
        ((b"Transfer-Encoding:",), 400),
        ((b"Transfer-Encoding: \x0bchunked",), 400),
        ((b"Transfer-Encoding : chunked",), 400),
        ((b"Transfer-Encoding: gzip, chunked",), 400),
    ],
)
def test_framing_that_leaves_the_end_open_is_refused(lines: tuple[bytes, ...], status: int) -> None:
    assert refused(*lines) == status


def test_http_1_0_knows_no_transfer_encoding() -> None:
    assert refused(b"Transfer-Encoding: chunked", first=b"POST / HTTP/1.0") == 400


@pytest.mark.parametrize(
    "line",
    [
        b"No colon",
        b"A : b",
        b": b",
        b" A: b",
        b"A: b\r\n c",
        b"A: b\r\n\tc",
        b"A: \x00",
        b"A: b\rC: d",
        b"A(: b",
        b"\xe9: b",
    ],
)
def test_fields_that_are_none(line: bytes) -> None:
    assert refused(line) == 400


def test_bare_line_feeds_are_refused() -> None:
    for raw in (b"GET / HTTP/1.1\nHost: x\n\n", b"GET / HTTP/1.1\r\nHost: x\n\r\n", b"GET / HTTP/1.1\r\nHost: x\r\n\n"):
        with pytest.raises(RequestError):
            read_head(raw)


@pytest.mark.parametrize("name", [b"Authorization", b"content-type", b"Origin", b"X-Request-Id"])
def test_what_can_be_there_once_is_not_taken_twice(name: bytes) -> None:
    assert refused(name + b": a", name + b": b") == 400
    assert refused(name + b": a", name + b": a") == 400


def test_lists_may_have_several_lines() -> None:
    head = read(b"Accept: a", b"content-encoding: gzip", b"accept: b", b"Content-Encoding: identity")
    assert dict(head.headers) == {b"host": b"here", b"accept": b"a, b", b"content-encoding": b"gzip, identity"}


@pytest.mark.parametrize("value", [b"close", b"Close", b"keep-alive, CLOSE", b"close ,x"])
def test_a_client_that_wants_to_close(value: bytes) -> None:
    assert not read(b"Connection: " + value).keep_alive


def test_expectations() -> None:
    assert read(b"Expect: 100-Continue", b"Content-Length: 1").expects
    assert not read(b"Expect: 100-continue").expects  # there is no body to wait for
    assert refused(b"Expect: 200-ok", b"Content-Length: 1") == 417
    assert refused(b"Expect: 100-continue, something", b"Content-Length: 1") == 417


def test_an_upgrade_that_is_offered_is_not_taken() -> None:
    offer = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAEAAEAAAAIAAAAB")
    assert read(*offer, b"Content-Length: 3").length == 3
    assert read(*offer, b"Transfer-Encoding: chunked").length is None


def test_fields_are_counted() -> None:
    read(*[b"x-%d: y" % number for number in range(MAX_FIELDS - 1)])
    assert refused(*[b"x-%d: y" % number for number in range(MAX_FIELDS)]) == 431
