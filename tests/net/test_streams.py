"""Connections: unix sockets as they are, TCP only for who knows the key, a peer that doesn't read is cut."""

import asyncio
import contextlib
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jedlik.core.authenticate import AuthenticationError, Handshake
from jedlik.core.errors import PeerError
from jedlik.core.ids import Handle
from jedlik.core.protocol import Cancel
from jedlik.core.wire import decode_to_worker, encode
from jedlik.net.addresses import UnixAddress, parse
from jedlik.net.streams import Connection, connect, serve


class End:
    """Remembers what happened to one end of a connection."""

    def __init__(self) -> None:
        self.connection: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()
        self.got: asyncio.Queue[object] = asyncio.Queue()
        self.reason: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def opened(self, connection: Connection) -> None:
        self.connection.set_result(connection)

    def received(self, connection: Connection, bodies: list[memoryview]) -> None:
        for body in bodies:
            self.got.put_nowait(decode_to_worker(body))

    def lost(self, connection: Connection, reason: str) -> None:
        self.reason.set_result(reason)


async def talk(address: str, server_key: bytes, client_key: bytes) -> tuple[End, End]:
    server_end, client_end = End(), End()
    server, where = await serve(parse(address), lambda: server_end, server_key)
    async with server:
        connection = await connect(where, client_end, client_key)
        try:
            async with asyncio.timeout(60):
                await asyncio.wait((client_end.connection, client_end.reason), return_when=asyncio.FIRST_COMPLETED)
                connection.send(encode(Cancel([Handle(7)])))
                assert await server_end.got.get() == Cancel([Handle(7)])
        finally:
            connection.close("enough")
            ends = [end.reason for end in (server_end, client_end) if end.connection.done()]
            async with asyncio.timeout(60):
                await asyncio.gather(*ends)
    return server_end, client_end


def test_a_unix_socket_carries_frames(tmp_path: Path) -> None:
    server_end, client_end = asyncio.run(talk(f"unix:{tmp_path}/s", b"", b""))
    assert client_end.reason.result() == "enough"
    assert server_end.reason.result() == "connection closed"


def test_tcp_carries_frames_between_peers_with_one_key() -> None:
    server_end, _ = asyncio.run(talk("tcp:127.0.0.1:0", b"key", b"key"))
    assert server_end.connection.done()


def test_tcp_with_another_key_is_never_opened() -> None:
    async def scenario() -> None:
        server_end, client_end = End(), End()
        server, where = await serve(parse("tcp:127.0.0.1:0"), lambda: server_end, b"key")
        async with server:
            await connect(where, client_end, b"other")
            await asyncio.sleep(0.1)
            assert not server_end.connection.done()
            assert not client_end.connection.done()

    asyncio.run(scenario())


def test_nobody_there_is_a_peer_error(tmp_path: Path) -> None:
    async def scenario() -> None:
        with pytest.raises(PeerError, match="cannot connect"):
            await connect(UnixAddress(f"{tmp_path}/nothing"), End(), b"")

    asyncio.run(scenario())


def test_a_peer_that_does_not_read_is_cut(tmp_path: Path) -> None:
    async def scenario() -> str:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(f"{tmp_path}/s")
        listener.listen()
        end = End()
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_unix_connection(lambda: Connection(end, None, 1 << 20), f"{tmp_path}/s")
        mute, _ = listener.accept()
        for _ in range(40):
            connection.send(bytes(1 << 16))
        with contextlib.closing(mute), contextlib.closing(listener):
            return await asyncio.wait_for(end.reason, 60)

    assert "does not read" in asyncio.run(scenario())


def test_a_handshake_proves_both_sides_whatever_the_split() -> None:
    client, server = Handshake(b"k", b"c" * 32, client=True), Handshake(b"k", b"s" * 32, client=False)
    to_server, to_client = client.greeting(), server.greeting()
    for byte in to_client:
        to_server += client.feed(bytes((byte,)))
    to_client = b"".join(server.feed(bytes((byte,))) for byte in to_server)
    client.feed(to_client + b"frames")
    assert client.done
    assert server.done
    assert client.rest() == b"frames"


def test_a_reflected_greeting_and_proof_are_refused() -> None:
    client = Handshake(b"k", b"c" * 32, client=True)
    with pytest.raises(AuthenticationError, match="echoed"):
        client.feed(client.greeting())


@given(st.binary(min_size=104, max_size=200))
def test_any_bytes_never_pass_a_handshake(data: bytes) -> None:
    server = Handshake(b"k", b"s" * 32, client=False)
    with contextlib.suppress(AuthenticationError):
        server.feed(data)
    assert not server.done


# --- leaving ---


@pytest.mark.parametrize("address", ["unix:{folder}/s", "tcp:127.0.0.1:0"])
@pytest.mark.parametrize("answers", [True, False], ids=["own frames under way", "silent"])
def test_whoever_leaves_loses_nothing_that_the_peer_has_not_read(address: str, answers: bool, tmp_path: Path) -> None:
    """The last tokens of a worker reach a client whose acknowledgements cross them."""

    async def last_frames() -> tuple[int, str]:
        worker_end, client_end = End(), End()
        server, where = await serve(parse(address.format(folder=tmp_path)), lambda: worker_end, b"k")
        async with server:
            client = await connect(where, client_end, b"k")
            async with asyncio.timeout(60):
                worker = await worker_end.connection
                await client_end.connection
                assert client._transport is not None
                client._transport.pause_reading()  # a client that is busy: it writes before it reads
                for number in range(200):
                    worker.send(encode(Cancel([Handle(number)])))
                worker.close("this worker leaves")
                await asyncio.sleep(0.01)
                for _ in range(2 if answers else 0):
                    client.send(encode(Cancel([Handle(1)])))
                    await asyncio.sleep(0.01)
                client._transport.resume_reading()
                await worker.closed()
                reason = await client_end.reason
        return client_end.got.qsize(), reason

    assert asyncio.run(last_frames()) == (200, "connection closed")


def test_whoever_leaves_waits_for_a_peer_that_stays_only_so_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jedlik.net.streams.CLOSE_S", 0.05)

    async def leave() -> str:
        end = End()
        server, _ = await serve(UnixAddress(f"{tmp_path}/s"), lambda: end, b"")
        async with server:
            _, writer = await asyncio.open_unix_connection(f"{tmp_path}/s")
            async with asyncio.timeout(60):
                connection = await end.connection
                connection.close("enough")
                connection.send(encode(Cancel([Handle(1)])))  # is dropped
                await connection.closed()
            writer.close()
        return end.reason.result()

    assert asyncio.run(leave()) == "enough"
