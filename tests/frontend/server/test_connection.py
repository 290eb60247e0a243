"""Connections on real sockets: what arrives in which pieces, who leaves, who is late, and how a connection ends."""

import asyncio
import socket
import time
from collections.abc import Iterator

import pytest
import uvicorn
from uvicorn.server import ServerState
from wire_world import LIMITS, WAIT_S, Echo, Served, json_of, rest, serving, status

from jedlik.frontend.server.connection import HttpConnection

GET = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"
CHUNKED = b"POST /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


def post(path: bytes = b"/b", body: bytes = b"body", more: bytes = b"", version: bytes = b"1.1") -> bytes:
    return b"POST %s HTTP/%s\r\nHost: x\r\n%sContent-Length: %d\r\n\r\n%s" % (path, version, more, len(body), body)


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving() as found:
        yield found


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_pipelined_requests_are_answered_in_turn_in_any_pieces(served: Served, size: int) -> None:
    raw = (
        GET
        + post()
        + CHUNKED
        + b"4\r\nmore\r\n0\r\nHost: evil\r\n\r\n\r\n"
        + post(b"/d", b"last", b"Connection: close\r\n")
    )
    with served.connect() as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(0, len(raw), size):
            client.sendall(raw[at : at + size])
        answer = rest(client)
    bodies = [part.partition(b"\r\n\r\n")[2] for part in answer.split(b"HTTP/1.1 200 OK\r\n")[1:]]
    assert [b'"path": "/%s"' % name in body for name, body in zip(b"a b c d".split(), bodies, strict=True)] == [
        True
    ] * 4
    assert b"evil" not in answer
    assert b'"more"' in bodies[2]


def test_an_upgrade_that_is_offered_costs_no_body(served: Served) -> None:
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEA\r\n"
    for raw in (post(more=offer), CHUNKED.replace(b"\r\n\r\n", b"\r\n" + offer + b"\r\n") + b"4\r\nbody\r\n0\r\n\r\n"):
        answer = served.ask(raw)
        assert status(answer) == 200
        assert json_of(answer)["body"] == "body"
    websocket = b"GET /a HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    assert status(served.ask(websocket)) == 200


def test_http_1_0_has_no_chunks_and_ends_with_the_connection(served: Served) -> None:
    for head in (b"Connection: keep-alive\r\n", b""):
        answer = served.ask(b"GET /stream HTTP/1.0\r\n" + head + b"\r\n", whole=False)
        assert b"transfer-encoding" not in answer
        assert answer.endswith(b"\r\n\r\none,two,")
    answer = served.ask(post(version=b"1.0"), whole=False)
    assert json_of(answer)["body"] == "body"
    assert b"2\r\n" not in served.ask(b"HEAD /stream HTTP/1.0\r\n\r\n", whole=False).partition(b"\r\n\r\n")[2]


def test_http_1_1_streams_in_chunks(served: Served) -> None:
    answer = served.ask(GET.replace(b"/a", b"/stream"))
    assert answer.endswith(b"\r\n\r\n4\r\none,\r\n4\r\ntwo,\r\n0\r\n\r\n")


def test_answers_to_head_have_no_body(served: Served) -> None:
    assert served.ask(GET.replace(b"GET", b"HEAD")).endswith(b"\r\n\r\n")
    assert served.ask(b"HEAD / HTTP/1.1\r\n\r\n").endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\nHost: x\n\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nBad Header\r\n\r\n", 400),
        (b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 9000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 9000, 431),
        (b"GET / HTTP/1.1\r\n" + b"A" * 90_000, 431),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        (b"G" * 90_000, 414),
        (CHUNKED + b"x\r\n", 400),
        (CHUNKED + b"4\r\nlonger\r\n", 400),
        (post(more=b"Expect: miracles\r\n"), 417),
    ],
)
def test_refusals_are_json_and_close(served: Served, raw: bytes, expected: int) -> None:
    answer = served.ask(raw, whole=False)
    assert status(answer) == expected
    last = answer[answer.rindex(b"HTTP/1.1 %d" % status(answer)) :]
    assert b"\r\nconnection: close\r\n" in last
    assert b"\r\ncontent-type: application/json\r\n" in last
    assert set(json_of(last)["error"]) == {"message", "type", "param", "code"}


def test_a_client_that_is_still_sending_can_read_why_it_is_refused(served: Served) -> None:
    with served.connect() as client:
        client.sendall(b"GET / HTTP/1.1\r\nA: " + b"a" * (8 << 20))
        assert status(rest(client)) == 431
    with served.connect() as client:
        client.sendall(post(b"/early", b"x" * (8 << 20)))
        answer = rest(client)
        assert status(answer) == 200
        assert b"connection: close" in answer


def test_empty_lines_before_a_request_are_read_over(served: Served) -> None:
    assert status(served.ask(b"\r\n\r\n" + GET)) == 200


class Nowhere:
    """A transport that keeps nothing."""

    def get_extra_info(self, name: str) -> None:
        return None

    def write(self, data: bytes) -> None:
        pass

    def is_closing(self) -> bool:
        return False

    close = abort = write_eof = pause_reading = resume_reading = lambda self: None


async def cost_s(head: bytes, piece: int) -> float:
    """Of reading a head that comes in such pieces."""
    config = uvicorn.Config(Echo(), http=HttpConnection, lifespan="off", ws="none", log_config=None)
    config.load()
    times = []
    for _ in range(3):
        connection = HttpConnection(config, ServerState(), LIMITS._replace(head_bytes=1 << 30), {}, crowded=False)
        connection.connection_made(Nowhere())  # type: ignore[arg-type]
        began = time.thread_time()
        for at in range(0, len(head), piece):
            connection.data_received(head[at : at + piece])
        times.append(time.thread_time() - began)
        assert connection.cycle is not None
        connection.connection_lost(None)
        await asyncio.gather(*connection.tasks)
    return min(times)


@pytest.mark.parametrize("start", [b"GET /a HTTP/1.1\r\nHost: x\r\nA: ", b"GET /", b"GET /a HTTP/1.1\r\nHost: x\r\n"])
def test_a_head_is_read_in_linear_time(start: bytes) -> None:
    """Four times as much costs about four times as much: sixteen, where each piece is added to all that came before."""
    end = b" HTTP/1.1\r\nHost: x\r\n\r\n" if start == b"GET /" else b": x\r\n\r\n" if start[-1] == 10 else b"\r\n\r\n"

    async def costs() -> list[float]:
        return [await cost_s(start + b"a" * size + end, 16) for size in (1 << 18, 1 << 20)]

    small, large = asyncio.run(costs())
    assert large < 9 * small


def test_100_continue_comes_when_the_body_is_wanted(served: Served) -> None:
    head, body = post(more=b"Expect: 100-continue\r\n")[:-4], b"body"
    with served.connect() as client:
        client.sendall(head)
        assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(body)
        client.shutdown(socket.SHUT_WR)
        assert json_of(rest(client))["body"] == "body"
    with served.connect() as client:  # answered without the body: it is not waited for
        client.sendall(head.replace(b"/b", b"/early"))
        answer = rest(client)
        assert status(answer) == 200
        assert b"connection: close" in answer


# --- who leaves ---


def test_closing_the_writing_side_is_no_leaving() -> None:
    with serving() as served:
        with served.connect() as client:
            client.sendall(post(b"/wait") + GET)
            client.shutdown(socket.SHUT_WR)
            time.sleep(0.1)  # long enough for the server to look whether the client is there
            served.app.go.set()
            assert rest(client).count(b"HTTP/1.1 200 OK") == 2
        assert not served.app.client_left.is_set()


@pytest.mark.parametrize("reset", [False, True])
def test_a_client_that_leaves_is_noticed(reset: bool) -> None:
    with serving() as served:
        client = served.connect()
        client.sendall(post(b"/wait"))
        until = time.monotonic() + WAIT_S
        while served.app.asked != ["/wait"] and time.monotonic() < until:
            time.sleep(0.005)
        if reset:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
        assert served.app.client_left.wait(WAIT_S)


def test_a_client_that_half_closes_and_leaves_later_is_noticed() -> None:
    with serving() as served:
        client = served.connect()
        client.sendall(post(b"/wait"))
        client.shutdown(socket.SHUT_WR)
        time.sleep(0.1)
        client.close()
        assert served.app.client_left.wait(WAIT_S)


@pytest.fixture
def afar(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients as if on another host: nobody here knows their sockets. They are asked without a wait."""
    monkeypatch.setattr("jedlik.net.peer._look_up", lambda own, other: None)
    monkeypatch.setattr("jedlik.frontend.server.connection.ASK_S", 0.0)


@pytest.mark.usefixtures("afar")
def test_a_client_on_another_host_is_asked_and_stays() -> None:
    with serving() as served, served.connect() as client:
        client.sendall(post(b"/wait"))
        client.shutdown(socket.SHUT_WR)
        assert client.recv(100).startswith(b"HTTP/1.1 100 Continue\r\n\r\n")
        served.app.go.set()
        answer = rest(client)
        assert b"HTTP/1.1 200 OK" in answer
        assert not served.app.client_left.is_set()


@pytest.mark.usefixtures("afar")
def test_a_client_on_another_host_that_left_is_noticed() -> None:
    with serving() as served:
        client = served.connect()
        client.sendall(post(b"/wait"))
        client.close()
        assert served.app.client_left.wait(WAIT_S)


@pytest.mark.usefixtures("afar")
def test_a_client_of_http_1_0_on_another_host_is_taken_to_have_left() -> None:
    with serving() as served, served.connect() as client:
        client.sendall(post(b"/wait", version=b"1.0"))
        client.shutdown(socket.SHUT_WR)
        assert rest(client) == b""
        assert served.app.client_left.wait(WAIT_S)


@pytest.mark.parametrize("raw", [post()[:-1], GET[:-2], CHUNKED + b"4\r\nbo"])
def test_a_request_that_ends_early_is_a_400(served: Served, raw: bytes) -> None:
    assert status(served.ask(raw)) == 400


def test_a_connection_that_asks_nothing_is_closed_without_a_word(served: Served) -> None:
    assert served.ask(b"") == b""
    assert served.ask(b"\r\n") == b""


# --- who is late ---


@pytest.mark.parametrize("raw", [post()[:-1], GET[:-2], CHUNKED + b"4\r\nbo", b"G"])
def test_who_is_late_is_told_so(raw: bytes) -> None:
    with serving(limits=LIMITS._replace(receive_s=0.2)) as served:
        answer = served.ask(raw, whole=False)
        assert status(answer) == 408
        assert json_of(answer)["error"]["type"] == "timeout_error"


def test_drops_now_and_then_are_no_progress() -> None:
    with serving(limits=LIMITS._replace(receive_s=0.5)) as served, served.connect() as client:
        client.sendall(post(body=b"x" * 1000)[:-1000])
        client.settimeout(0.05)
        answer = b""
        until = time.monotonic() + WAIT_S
        while not answer and time.monotonic() < until:
            client.send(b"x")
            try:
                answer = client.recv(1000)
            except TimeoutError:
                continue
        assert status(answer) == 408


@pytest.mark.parametrize("raw", [b"", b"\r\n", GET])
def test_idle_connections_are_closed(raw: bytes) -> None:
    with serving(limits=LIMITS._replace(idle_s=0.2)) as served:
        answer = served.ask(raw, whole=False)
        assert answer.count(b"HTTP/1.1") == (raw == GET)


def test_empty_lines_do_not_keep_a_connection() -> None:
    with serving(limits=LIMITS._replace(idle_s=0.3)) as served, served.connect() as client:
        client.settimeout(0.05)
        until = time.monotonic() + WAIT_S
        ended = False
        while not ended and time.monotonic() < until:
            try:
                client.send(b"\r\n")
                ended = client.recv(10) == b""
            except TimeoutError:
                continue
            except ConnectionError:
                ended = True
        assert ended
