"""CPU of the HTTP surface alone: per request with one token, and per streamed token at 128 streams.

In one process, by raw ASGI calls and a port that answers at once: no server, no sockets, no gateway node. Figures are
process CPU, median of repetitions with the range.

    OMP_NUM_THREADS=1 python bench/frontend_requests.py MODEL_DIR
"""

import argparse
import asyncio
import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from jedlik.core.config import FrontendConfig, Role
from jedlik.core.effects import Deliver, StreamEnded, StreamStarted
from jedlik.core.events import Abandoned, Arrived, Consumed, Cut, Hold, Scale
from jedlik.core.facts import Routed
from jedlik.core.ids import RequestId, StreamId, WorkerId
from jedlik.core.protocol import Capabilities, Card, Layout
from jedlik.core.requests import Sampling, Stopping
from jedlik.frontend.app import Application, FrontendParts, ServedModel, build_app
from jedlik.frontend.port import DeliverTo

WORKER = WorkerId("w0@1")
ABLE = Capabilities(sampling=frozenset(Sampling.__struct_fields__ + Stopping.__struct_fields__), max_logprobs=20)
CARD = Card(
    schema=1,
    worker=WORKER,
    name="w0",
    model="m",
    revision="r",
    layout=Layout(dtype="f", layers=1, kv_heads=1, head_dim=8, block_size=16),
    total_blocks=9,
    max_model_len=1 << 17,
    max_sequences=64,
    max_step_tokens=512,
    vocab_size=1 << 20,
    eos_token_ids=(2,),
    hash_check="h",
    capabilities=ABLE,
)


class NoRoles:
    """Nothing to change here."""

    def roles(self) -> list[dict[str, object]]:
        return []

    def flip(self, worker: WorkerId, role: Role) -> str | None:
        return "there are no workers"


class NoPlans:
    """Nobody plans here."""

    async def plan(self) -> bytes:
        return b"{}"

    async def scale(self, wanted: Scale | Hold) -> bytes | str:
        return "there are no workers"


class InstantPort:
    """Gives every open stream its next token, all in one delivery, each turn of the loop."""

    def __init__(self, script: Sequence[int]) -> None:
        self.script = script
        self.open: dict[int, tuple[int, int]] = {}
        self.deliver: DeliverTo = lambda deliver: None
        self.running = False

    def send(self, event: Arrived | Abandoned | Cut | Consumed) -> None:
        if isinstance(event, Arrived):
            self.open[event.request.first_stream] = (0, event.request.stopping.max_tokens)
            if not self.running:
                self.running = True
                asyncio.get_running_loop().call_soon(self.turn)

    def turn(self) -> None:
        started, ended = [], []
        streams = [StreamId(stream) for stream in self.open]
        tokens = [self.script[at % len(self.script)] for at, _ in self.open.values()]
        for stream in streams:
            at, most = self.open[stream]
            if at == 0:
                started.append(StreamStarted(stream, WORKER, 0))
            self.open[stream] = (at + 1, most)
            if at + 1 == most:
                ended.append(StreamEnded(stream, "length"))
                del self.open[stream]
        self.deliver(Deliver(streams=streams, tokens=tokens, started=started, ended=ended))
        self.running = bool(self.open)
        if self.running:
            asyncio.get_running_loop().call_soon(self.turn)

    def listen(self, deliver: DeliverTo) -> None:
        self.deliver = deliver

    def cards(self) -> Sequence[Card]:
        return (CARD,)

    def explain(self, request_id: RequestId) -> Sequence[Routed]:
        return ()

    def health(self) -> dict[str, object]:
        return {"draining": False}


def build(directory: Path, script: Sequence[int]) -> Application:
    ids = iter(range(1 << 30))
    return build_app(
        FrontendParts(
            port=InstantPort(script),
            roles=NoRoles(),
            plans=NoPlans(),
            models={"m": ServedModel(directory=directory)},
            config=FrontendConfig(),
            api_keys={},
            metrics=bytes,
            rng=random.Random(1),
            fresh_id=lambda: f"{next(ids):x}",
            now=time.monotonic,
            wall=time.time,
        )
    )


async def call(app: Application, body: bytes) -> int:
    """One request; how many bytes came."""
    parts: list[Any] = [{"type": "http.request", "body": body, "more_body": False}]
    size = 0
    gone = asyncio.get_running_loop().create_future()

    async def receive() -> Any:
        return parts.pop() if parts else await gone

    async def send(message: Any) -> None:
        nonlocal size
        size += len(message.get("body", b""))

    headers = [(b"content-type", b"application/json"), (b"host", b"x"), (b"user-agent", b"bench")]
    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": headers, "client": ("x", 1)}
    await app(scope, receive, send)
    return size


def body(words: int, tokens: int, stream: bool) -> Callable[[int], bytes]:
    text = " ".join(random.Random(3).choices(["alpha", "river", "stone", "window", "music", "under"], k=words))
    ask = {"model": "m", "max_tokens": tokens, "stream": stream, "temperature": 0}
    return lambda n: msgspec.json.encode({**ask, "messages": [{"role": "user", "content": f"{n} {text}"}]})


async def measure(app: Application, make: Callable[[int], bytes], rounds: int, at_once: int) -> float:
    """CPU seconds per request."""
    bodies = [[make(r * at_once + c) for c in range(at_once)] for r in range(rounds)]
    began = time.process_time()
    for each in bodies:
        await asyncio.gather(*(call(app, one) for one in each))
    return (time.process_time() - began) / (rounds * at_once)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model_dir", type=Path)
    parser.add_argument("--repetitions", type=int, default=5)
    told = parser.parse_args()
    app = build(told.model_dir, list(range(500, 900)))

    async def repeat(name: str, unit: str, make: Callable[[int], bytes], rounds: int, at_once: int, per: int) -> None:
        runs = [1e6 * await measure(app, make, rounds, at_once) / per for _ in range(told.repetitions)]
        print(f"{name:44s} {statistics.median(runs):8.2f} us/{unit} ({min(runs):.2f} to {max(runs):.2f})")

    await repeat("1 token, whole, 20 words, 32 at once", "request", body(20, 1, False), 20, 32, 1)
    await repeat("1 token, streamed, 20 words, 32 at once", "request", body(20, 1, True), 20, 32, 1)
    await repeat("256 tokens streamed, 128 at once", "token", body(20, 256, True), 1, 128, 256)
    await repeat("256 tokens whole, 128 at once", "token", body(20, 256, False), 1, 128, 256)


if __name__ == "__main__":
    try:
        import uvloop

        uvloop.run(main())
    except ImportError:
        asyncio.run(main())
