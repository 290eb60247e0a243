"""How the supervisor asks its own gateway."""

import asyncio

import pytest

from jedlik.live.supervise import get


@pytest.mark.parametrize(("host", "name"), [("127.0.0.1", b"127.0.0.1"), ("::1", b"[::1]")])
def test_the_host_is_written_as_http_has_it(host: str, name: bytes) -> None:
    heads: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nready")
        writer.close()

    async def scenario() -> tuple[int, bytes, int]:
        try:
            server = await asyncio.start_server(answer, host, 0)
        except OSError:
            pytest.skip("no IPv6 here")
        async with server:
            port = server.sockets[0].getsockname()[1]
            return *await get(host, port, "/ready"), port

    status, body, port = asyncio.run(scenario())
    assert (status, body) == (200, b"ready")
    assert b"\r\nHost: %b:%d\r\n" % (name, port) in heads[0]
