"""Addresses as people can use them, and who has a port that is taken."""

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from jedlik.core.errors import ConfigError
from jedlik.serve.listening import bind, reachable, remedy, url

JEDLIK = {"/health": {"status": "ok", "workers": []}, "/v1/models": {"data": [{"id": "tiny-random"}]}}
LOCKED = {"/health": {"status": "ok", "workers": []}}
OTHER = {"/health": {"status": "ok"}, "/v1/models": {"data": [{"id": "tiny-random"}]}}


@pytest.fixture
def answering(request: pytest.FixtureRequest) -> Iterator[int]:
    """The port of a server that answers so."""
    answers: dict[str, object] = request.param

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path in answers else 401)
            self.end_headers()
            self.wfile.write(json.dumps(answers.get(self.path, {})).encode())

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("answering", "said"),
    [(JEDLIK, "jedlik serves tiny-random there"), (LOCKED, "jedlik serves"), (OTHER, "ss -ltnp")],
    indirect=["answering"],
)
def test_a_taken_port_is_refused_with_who_has_it(answering: int, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        bind("127.0.0.1", answering)
    assert said in str(caught.value)
    assert "--port" in str(caught.value)


def test_a_port_that_nobody_answers_on_has_the_other_remedy() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        assert "ss -ltnp" in remedy("127.0.0.1", taken.getsockname()[1])


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", "http://127.0.0.1:80"), ("::1", "http://[::1]:80"), ("fe80::1", "http://[fe80::1]:80")],
)
def test_an_address_is_one_that_clients_take(host: str, expected: str) -> None:
    assert url(host, 80) == expected


def test_a_socket_bound_to_every_address_is_asked_on_loopback() -> None:
    assert [reachable(host) for host in ("0.0.0.0", "::", "::1", "h")] == ["127.0.0.1", "::1", "::1", "h"]


def test_a_host_that_is_none_is_refused() -> None:
    for host in ("no such host", "x" * 300):
        with pytest.raises(ConfigError, match="--host"):
            bind(host, 0)
