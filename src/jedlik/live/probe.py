"""One HTTP GET to our own gateway: how the supervisor learns that it answers."""

import asyncio

TIMEOUT_S = 2.0


async def get(host: str, port: int, path: str) -> tuple[int, bytes]:
    """Status and body; status 0 if nobody answers."""
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        async with asyncio.timeout(TIMEOUT_S):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(f"GET {path} HTTP/1.1\r\nHost: {where}\r\nConnection: close\r\n\r\n".encode())
                head, _, body = (await reader.read()).partition(b"\r\n\r\n")
            finally:
                writer.close()
        return int(head.split(b" ", 2)[1]), body
    except (OSError, TimeoutError, IndexError, ValueError):
        return 0, b""
