"""What the gateway adds to a request: end-to-end time over HTTP less the worker's own span, one connection, 16 tokens.

Serves a simulated engine that takes no time, then asks in turn over HTTP (streamed, to the last byte)
and straight at the worker's socket in the worker protocol (from Submit to Finished). Both use raw sockets.

    python bench/latency.py MODEL_DIR
"""

import argparse
import asyncio
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from jedlik.core.ids import GatewayId, Handle, RequestId
from jedlik.core.protocol import SCHEMA_VERSION, Ack, Hello, Submit, Tokens
from jedlik.core.requests import Sampling, Stopping
from jedlik.core.tokens import pack
from jedlik.core.wire import decode_to_gateway, encode
from jedlik.net.discovery.local import living
from jedlik.net.streams import Connection, connect

TOKENS = 16
WORDS = "the quick brown fox jumps over the lazy dog and then sleeps for a long while"


class Direct:
    """A gateway's end of the worker protocol, bare (a `net.streams.Listener`)."""

    def __init__(self) -> None:
        self.number = 0
        self.ended: asyncio.Future[None] | None = None

    def opened(self, connection: Connection) -> None:
        connection.send(encode(Hello(SCHEMA_VERSION, GatewayId("bench@1"))))

    def received(self, connection: Connection, bodies: list[memoryview]) -> None:
        for body in bodies:
            message = decode_to_gateway(body)
            if isinstance(message, Tokens) and message.finished and self.ended is not None:
                self.ended.set_result(None)

    def lost(self, connection: Connection, reason: str) -> None:
        raise SystemExit(f"worker lost: {reason}")

    async def ask(self, connection: Connection) -> float:
        """One request; its seconds."""
        self.number += 1
        self.ended = asyncio.get_running_loop().create_future()
        submit = Submit(
            handle=Handle(self.number),
            request_id=RequestId(f"b{self.number}"),
            choice=0,
            attempt=1,
            prompt=pack([self.number, *range(10, 46)]),
            output=b"",
            sampling=Sampling(seed=self.number),
            stopping=Stopping(max_tokens=TOKENS, ignore_eos=True),
            tenant="",
            salt="",
            priority=0,
            budget_s=None,
            output_hint=None,
            number=self.number,
        )
        began = time.perf_counter()
        connection.send(encode(submit))
        await self.ended
        seconds = time.perf_counter() - began
        connection.send(encode(Ack([Handle(self.number)], [TOKENS])))
        return seconds


async def over_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> float:
    """One streamed chat request; its seconds."""
    content = f"{number} {WORDS}"
    body = json.dumps(
        {"model": "m", "messages": [{"role": "user", "content": content}], "max_tokens": TOKENS, "stream": True}
    ).encode()
    head = (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    )
    began = time.perf_counter()
    writer.write(head % len(body) + body)
    await reader.readuntil(b"0\r\n\r\n")
    return time.perf_counter() - began


async def measure(port: int, run_dir: str, rounds: int) -> tuple[list[float], list[float]]:
    """Seconds over HTTP and straight at the worker, taken in turn."""
    records = living(Path(run_dir) / "records")
    direct = Direct()
    connection = await connect(records[0].addresses[0], direct, b"")
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    http, straight = [], []
    for number in range(rounds):
        http.append(await over_http(reader, writer, number))
        straight.append(await direct.ask(connection))
    writer.close()
    return http[20:], straight[20:]


def wait_ready(port: int, server: "subprocess.Popen[bytes]") -> None:
    for _ in range(300):
        with contextlib.suppress(OSError):
            if urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=1).status == 200:
                return
        if server.poll() is not None:
            break
        time.sleep(0.1)
    raise SystemExit("the server did not become ready")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model_dir")
    parser.add_argument("--port", type=int, default=18460)
    parser.add_argument("--rounds", type=int, default=520)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run_dir = f"{folder}/run"
        command = [sys.executable, "-m", "jedlik", "serve", args.model_dir, "--engine", "simulated", "--workers", "1"]
        command += ["--speedup", "1e6", "--port", str(args.port), "--served-model-name", "m", "--run-dir", run_dir]
        server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            wait_ready(args.port, server)
            http, straight = asyncio.run(measure(args.port, run_dir, args.rounds))
        finally:
            server.terminate()
            server.wait()
    for name, seconds in (("over HTTP", http), ("worker's own span", straight)):
        quartiles = [q * 1e3 for q in statistics.quantiles(seconds, n=4)]
        print(f"{name:18} median {quartiles[1]:.2f} ms (quartiles {quartiles[0]:.2f} to {quartiles[2]:.2f})")
    added = [(a - b) * 1e3 for a, b in zip(http, straight, strict=True)]
    print(f"{'gateway adds':18} median {statistics.median(added):.2f} ms, paired, {len(added)} rounds")


if __name__ == "__main__":
    main()
