"""Thousands of strange requests to a server of its own, and what another client waits meanwhile.

.venv/bin/python bench/fuzz.py --bodies 50000 --openings 5000 [--seed 1]

Bodies are valid JSON requests, requests with fields replaced by junk, and damaged bytes, on kept connections. Openings
are raw HTTP: odd targets, headers, lengths and chunks, cut or closed half-way. A second process asks `GET /live` all
the time. The exit code is 1 after an answer of 5xx, a request without an answer, a wait over 100 ms, or anything left
in flight.
"""

import argparse
import asyncio
import collections
import contextlib
import http.client
import json
import random
import sys
import time
import urllib.request
from collections.abc import Iterator
from multiprocessing import Event, Pipe, Process
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event as Stop

from served import serving

MODEL, CONNECTIONS, ANSWER_S, MOST_WAIT_S = "tiny-random", 12, 60.0, 0.1
NUMBERS = json.loads(
    "[0, 1, -1, 2, 7, 128, 2047, 2048, 2147483648, -2147483648, 9007199254740992, "
    "9223372036854775807, 9223372036854775808, -9223372036854775808, 1000000000000000000000000000000, "
    "0.0, -0.0, 1e-320, 0.5, 1.0, 2.0, 2.1, -2.1, 1e308, 5.0, true]"
)
PIECES = [*'a \n\0\\"%é字😀\u200d\ud800', "<|im_end|>", "{{7*7}}", "{% for i in x %}", "%s", "x" * 60]
FIELDS = """
    model messages prompt temperature top_p top_k min_p frequency_penalty presence_penalty repetition_penalty logit_bias
    seed n logprobs top_logprobs max_tokens max_completion_tokens min_tokens ignore_eos stop stop_token_ids stream echo
    include_stop_str_in_output stream_options skip_special_tokens add_special_tokens add_generation_prompt priority user
    chat_template_kwargs cache_salt prompt_cache_key kv_hint metadata store service_tier tools tool_choice suffix
    best_of
    response_format chat_template documents reasoning_effort structured_outputs allowed_token_ids bad_words verbosity
    truncate_prompt_tokens safety_identifier
"""
HEADERS = """
    host: x|host: x|host: localhost|host: localhost|host: evil.example|host:|content-type: application/json
    content-type: application/json|content-length: SIZE|content-length: SIZE|content-length: SIZE|content-length: 5
    content-length: -1|content-length: 1_0|content-length: 99999999999999999999999|transfer-encoding: chunked
    transfer-encoding: gzip, chunked|transfer-encoding: x|content-encoding: gzip|content-encoding: br|expect: x
    expect: 100-continue|connection: close|connection: upgrade|upgrade: h2c|upgrade: websocket|authorization: Bearer x
    authorization: Basic ====|origin: null|origin: http://evil.example|x-request-id: \xff\xff\xff|bad header|: empty
    x\0: y|x: LONG
"""
ROUTES = ["/v1/chat/completions", "/v1/completions"] * 8 + ["/tokenize", "/detokenize"] * 2 + ["/roles", "/scale"]


class Strange:
    """Draws bodies and openings; the same seed draws the same ones."""

    def __init__(self, seed: int) -> None:
        self._draw = random.Random(seed)

    def text(self, pieces: int) -> str:
        text = "".join(self._draw.choices(PIECES, k=pieces))
        return text if self._draw.random() < 0.1 else text.replace("\ud800", "")

    def junk(self, depth: int = 0) -> object:
        """Any JSON value."""
        kind = self._draw.randrange(7 if depth < 3 else 4)
        if kind == 0:
            return None
        if kind == 1:
            return self._draw.choice(NUMBERS)
        if kind in (2, 3):
            return self.text(self._draw.choice((0, 1, 3, 20)))
        if kind in (4, 5):
            return [self.junk(depth + 1) for _ in range(self._draw.randrange(4))]
        keys = ("a", "type", "text", "role", "content", "", "0", self.text(2))
        return {self._draw.choice(keys): self.junk(depth + 1) for _ in range(self._draw.randrange(4))}

    def message(self) -> dict[str, object]:
        role = self._draw.choice(("user", "user", "user", "assistant", "system", "developer", "tool", self.text(1)))
        content = self._draw.choice(
            (self.text(5), self.text(40), "", [{"type": "text", "text": self.text(3)}], self.junk())
        )
        return {"role": role, "content": content} | ({self.text(1): self.junk()} if self._draw.random() < 0.05 else {})

    def body(self) -> tuple[str, bytes]:
        """A path and a body for it."""
        path = self._draw.choice(ROUTES)
        told = self._of(path)
        if self._draw.random() < 0.3:
            for field in self._draw.sample(FIELDS.split(), self._draw.randrange(1, 3)):
                told[field] = self.junk()
        raw = json.dumps(told, ensure_ascii=self._draw.random() < 0.5).encode("utf-8", "surrogatepass")
        chance = self._draw.random()
        if chance < 0.1:
            raw = self.damaged(raw)
        elif chance < 0.12:
            raw = self._draw.choice(
                (b"", b"null", b"[]", b"{", b"[" * 100_000, b'{"a":' * 50_000, b"\xff\xfe", b"NaN", b'"\\ud800"')
            )
        return path, raw

    def _of(self, path: str) -> dict[str, object]:
        draw = self._draw
        if path == "/tokenize":
            return {"prompt": draw.choice((self.text(20), "a" * 5000, self.junk()))}
        if path == "/detokenize":
            return {"tokens": draw.choice(([1, 2], [draw.choice(NUMBERS) for _ in range(3)], self.junk()))}
        if path == "/scale":
            return {"workers": draw.choice((-1, 0, 10**6, "2", 2.5, None))}
        if path == "/roles":
            return {"worker": draw.choice(("worker-0", self.junk())), "role": self.junk()}
        told: dict[str, object] = {"model": MODEL, "max_tokens": draw.choice((1, 3, 8)), "stream": draw.random() < 0.5}
        if path.endswith("chat/completions"):
            return told | {"messages": [self.message() for _ in range(draw.choice((1, 1, 2, 6)))]}
        ids = [draw.randrange(-2, 600) for _ in range(draw.randrange(1, 60))]
        prompts = (
            self.text(5),
            "",
            [1, 2, 3],
            ids,
            [self.text(2)] * draw.randrange(1, 9),
            ["w " * 2100],
            [5] * 2048,
            self.junk(),
        )
        return told | {"prompt": draw.choice(prompts), "n": draw.choice((1, 1, 2, 5))}

    def damaged(self, raw: bytes) -> bytes:
        """Some bytes replaced; sometimes the end is missing."""
        changed = bytearray(raw)
        for _ in range(self._draw.randrange(1, 5)):
            if changed:
                changed[self._draw.randrange(len(changed))] = self._draw.randrange(256)
        return bytes(changed[: self._draw.randrange(len(changed) + 1)] if self._draw.random() < 0.3 else changed)

    def opening(self) -> tuple[bytes, bool]:
        """The first bytes of a connection, and whether the client then closes its writing side."""
        draw = self._draw
        method = draw.choice(
            (b"GET", b"POST", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"PRI", b"get", b"CONNECT", b"TRACE", b"")
        )
        targets = (
            b"/live",
            b"/v1/models",
            b"/v1/completions",
            b"*",
            b"http://x/live",
            b"//",
            b"/%00",
            b"/../..",
            b"/" + b"a" * 9000,
        )
        version = draw.choice(
            (b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/0.9", b"http/1.1", b"")
        )
        body = json.dumps({"model": MODEL, "prompt": "hi", "max_tokens": 2}).encode()
        lines = [b" ".join((method, draw.choice(targets), version))]
        long = b"a" * draw.choice((10, 1000, 20_000, 200_000))
        headers = [line.strip().encode("latin-1") for line in HEADERS.replace("\n", "|").split("|") if line.strip()]
        for line in draw.choices(headers, k=draw.randrange(1, 9)):
            lines.append(line.replace(b"SIZE", b"%d" % len(body)).replace(b"LONG", long))
        whole = draw.choice((b"\r\n", b"\r\n", b"\r\n", b"\n")).join([*lines, b"", b""]) + draw.choice(
            (b"", body, body * 2, b"5\r\nab", b"0\r\n\r\n")
        )
        if draw.random() < 0.3:
            whole = self.damaged(whole)
        if draw.random() < 0.05:
            whole = draw.choice(
                (
                    b"\x16\x03\x01\x02\x00\x01\x00",
                    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                    b"\r\n" * 2000,
                    draw.randbytes(400),
                )
            )
        return whole, draw.random() < 0.5


class Seen:
    """What came back."""

    def __init__(self) -> None:
        self.statuses: collections.Counter[str] = collections.Counter()
        self.wrong: list[tuple[str, bytes]] = []

    def take(self, status: str, sent: bytes) -> None:
        """An answer's status; "none": no answer in time; "closed": closed without one."""
        self.statuses[status] += 1
        if status == "none" or status.startswith("5"):
            self.wrong.append((status, sent))

    def tell(self, what: str) -> None:
        print(f"{what}: {sum(self.statuses.values())}, {dict(sorted(self.statuses.items()))}; wrong: {len(self.wrong)}")
        for status, sent in self.wrong[:5]:
            print(f"  {status} after {sent[:600]!r}")


async def answer_of(reader: asyncio.StreamReader) -> tuple[str, bool]:
    """The status of one answer, read to its end, and whether the connection stays open."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    if b"transfer-encoding: chunked" in head:
        while size := int(await reader.readline(), 16):
            await reader.readexactly(size + 2)
        await reader.readexactly(2)
    else:
        await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))
    return head.split()[1].decode(), b"connection: close" not in head


async def bodies(port: int, cases: Iterator[tuple[str, bytes]], seen: Seen) -> None:
    """One connection after the other, a request at a time."""
    opened: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
    for path, raw in cases:
        head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        head += f"content-length: {len(raw)}\r\n\r\n"
        status, stays = "none", False
        with contextlib.suppress(OSError, EOFError, TimeoutError):
            async with asyncio.timeout(ANSWER_S):
                reader, writer = opened or await asyncio.open_connection("127.0.0.1", port, limit=1 << 24)
                opened = reader, writer
                writer.write(head.encode() + raw)
                status, stays = await answer_of(reader)
        seen.take(status, raw)
        if not stays and opened is not None:
            opened[1].close()
            opened = None
    if opened is not None:
        opened[1].close()


async def openings(port: int, cases: Iterator[tuple[bytes, bool]], seen: Seen) -> None:
    """One connection for each. A client that has not closed its side leaves after half a second."""
    for raw, closes in cases:
        status = "closed"
        with contextlib.suppress(OSError, EOFError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(raw)
                if closes:
                    writer.write_eof()
                async with asyncio.timeout(ANSWER_S if closes else 0.5):
                    line = await reader.readline()
                    status = line.split()[1].decode() if line.startswith(b"HTTP/") else "closed"
            except TimeoutError:
                status = "none" if closes else "left"
            finally:
                writer.close()
        seen.take(status, raw)


def probe(port: int, stop: Stop, waits: "Connection[list[float], list[float]]") -> None:
    """Another client: how long each of its requests took."""
    took = []
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_S)
    while not stop.wait(0.01):
        began = time.monotonic()
        line.request("GET", "/live")
        line.getresponse().read()
        took.append(time.monotonic() - began)
    line.close()
    waits.send(took)


def left_in_flight(port: int) -> object:
    """What the server still holds when all clients have gone; None: nothing within 30 s."""
    end, told = time.monotonic() + 30, {}
    while time.monotonic() < end:
        told = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=30))
        if not told["in_flight"] and not any(w["running"] or w["waiting"] or w["held_blocks"] for w in told["workers"]):
            return None
        time.sleep(0.2)
    return told


async def fuzz(port: int, strange: Strange, body_count: int, opening_count: int) -> tuple[Seen, Seen]:
    body_cases = (strange.body() for _ in range(body_count))
    opening_cases = (strange.opening() for _ in range(opening_count))
    of_bodies, of_openings = Seen(), Seen()
    await asyncio.gather(*(bodies(port, body_cases, of_bodies) for _ in range(CONNECTIONS)))
    await asyncio.gather(*(openings(port, opening_cases, of_openings) for _ in range(CONNECTIONS)))
    return of_bodies, of_openings


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bodies", type=int, default=50_000)
    parser.add_argument("--openings", type=int, default=5_000)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    with serving(MODEL, "--engine", "simulated", "--speedup", "1000", "--no-frontend.log-requests", workers=2) as port:
        stop, waits = Event(), Pipe(duplex=False)
        other = Process(target=probe, args=(port, stop, waits[1]))
        other.start()
        began = time.monotonic()
        seen = asyncio.run(fuzz(port, Strange(asked.seed), asked.bodies, asked.openings))
        took_s = time.monotonic() - began
        stop.set()
        took = sorted(waits[0].recv())
        other.join()
        left = left_in_flight(port)
    for what, found in zip(("bodies", "openings"), seen, strict=True):
        found.tell(what)
    longest = took[-1]
    print(
        f"{took_s:.0f} s; another client: {len(took)} requests, "
        f"median {1e3 * took[len(took) // 2]:.1f} ms, longest {1e3 * longest:.0f} ms"
    )
    print(f"left in flight: {left or 'nothing'}")
    return 1 if any(found.wrong for found in seen) or longest > MOST_WAIT_S or left else 0


if __name__ == "__main__":
    sys.exit(main())
