"""A `jedlik serve` of its own for a bench, and a client so light that two cores do not notice it.

The client keeps what it reads with the time and looks into it after the answer has ended.
"""

import asyncio
import contextlib
import json
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

START_S = 180
READY = re.compile(r"ready after .* on http://127\.0\.0\.1:(\d+)")
TOKEN = re.compile(rb'"(?:text|content)":"[^"]')
"""A piece of text in a chunk."""


class Answer(NamedTuple):
    """A streamed answer as its client saw it."""

    sent_s: float
    """By the event loop's clock."""
    ttft_s: float
    itl_s: float | None
    """(last - first token) / (tokens - 1); None for one token."""
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    text: str


class Exchange(asyncio.Protocol):
    """One request on a connection of its own."""

    def __init__(self, request: bytes) -> None:
        self._loop = asyncio.get_running_loop()
        self._request = request
        self.sent_s = 0.0
        self.reads: list[tuple[float, bytes]] = []
        self.ended: asyncio.Future[None] = self._loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.sent_s = self._loop.time()
        transport.write(self._request)  # type: ignore[attr-defined]  # uvloop's transports have no such base

    def data_received(self, data: bytes) -> None:
        self.reads.append((self._loop.time(), data))

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set_result(None)

    def answer(self) -> Answer:
        """What came. Exits if it was not a whole answer."""
        whole = b"".join(data for _, data in self.reads)
        if not whole.startswith(b"HTTP/1.1 200") or b"data: [DONE]" not in whole:
            raise SystemExit(f"no answer: {whole[-400:]!r}")
        chunks = [json.loads(line[6:]) for line in whole.split(b"\n") if line.startswith(b"data: {")]
        usage = next(chunk["usage"] for chunk in chunks if chunk.get("usage"))
        times = [at_s for at_s, data in self.reads if TOKEN.search(data)]
        tokens = usage["completion_tokens"]
        pieces = [
            choice.get("text") or choice.get("delta", {}).get("content") for c in chunks for choice in c["choices"]
        ]
        return Answer(
            self.sent_s,
            times[0] - self.sent_s,
            (times[-1] - times[0]) / (tokens - 1) if tokens > 1 else None,
            usage["prompt_tokens"],
            (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0),
            tokens,
            "".join(piece for piece in pieces if piece),
        )


def request(path: str, body: dict[str, object]) -> bytes:
    """Of a streamed answer with usage."""
    content = json.dumps(body | {"stream": True, "stream_options": {"include_usage": True}}).encode()
    head = f"POST /v1/{path} HTTP/1.1\r\nhost: bench\r\nconnection: close\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(content)}\r\n\r\n".encode() + content


async def ask(port: int, sent: bytes) -> Exchange:
    """Send a request and wait until its answer has ended."""
    loop = asyncio.get_running_loop()
    _, exchange = await loop.create_connection(lambda: Exchange(sent), "127.0.0.1", port)
    await exchange.ended
    return exchange


@contextlib.contextmanager
def serving(*arguments: str, workers: int) -> Iterator[int]:
    """`jedlik serve ARGUMENTS`, fresh; gives the port when all `workers` serve, those with a role included."""
    split = sum(int(value) for flag, value in pairwise(arguments) if flag in ("--prefill", "--decode"))
    command = [sys.executable, "-m", "jedlik", "serve", *arguments, "--workers", str(workers - split), "--port", "0"]
    with tempfile.NamedTemporaryFile(suffix=".log") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            yield _ready(process, Path(log.name), workers)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def _ready(process: "subprocess.Popen[bytes]", log: Path, workers: int) -> int:
    end = time.monotonic() + START_S
    while time.monotonic() < end and process.poll() is None:
        if said := READY.search(log.read_text()):
            port = int(said[1])
            with contextlib.suppress(OSError):
                health = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5))
                if sum(worker["health"] == "ok" for worker in health["workers"]) == workers:
                    return port
        time.sleep(0.2)
    raise SystemExit(f"jedlik serve is not ready:\n{log.read_text()}")
