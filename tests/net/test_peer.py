"""Who has closed its side, and who has left."""

import socket
import time
from collections.abc import Iterator

import pytest

from jedlik.net.peer import is_gone


@pytest.fixture(params=["127.0.0.1", "::1", "::ffff:127.0.0.1"])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, socket.socket]]:
    family = socket.AF_INET if request.param == "127.0.0.1" else socket.AF_INET6
    host = "127.0.0.1" if request.param.endswith("127.0.0.1") else "::1"
    try:
        listener = socket.create_server(
            ("::" if request.param.startswith("::f") else host, 0),
            family=family,
            dualstack_ipv6=request.param.startswith("::f"),
        )
    except OSError:
        pytest.skip("no IPv6 here")
    with listener:
        client = socket.create_connection((host, listener.getsockname()[1]))
        accepted, _ = listener.accept()
        with client, accepted:
            yield client, accepted


def test_a_client_that_is_there(pair: tuple[socket.socket, socket.socket]) -> None:
    client, accepted = pair
    assert is_gone(accepted) is False
    client.shutdown(socket.SHUT_WR)
    assert accepted.recv(1) == b""
    assert is_gone(accepted) is False


def test_a_client_that_left(pair: tuple[socket.socket, socket.socket]) -> None:
    client, accepted = pair
    client.close()
    assert accepted.recv(1) == b""
    until = time.monotonic() + 10
    while not is_gone(accepted) and time.monotonic() < until:
        time.sleep(0.001)
    assert is_gone(accepted) is True


def test_a_client_that_answered_with_a_reset(pair: tuple[socket.socket, socket.socket]) -> None:
    client, accepted = pair
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()
    with pytest.raises(ConnectionResetError):
        accepted.recv(1)
    assert is_gone(accepted) is True


def test_what_can_not_be_known() -> None:
    left, right = socket.socketpair()
    with left, right:
        assert is_gone(left) is None
