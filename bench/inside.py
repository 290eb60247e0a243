"""How many files a streamed request, a plain decode step and a plain `Tokens` enter.

    .venv/bin/python bench/inside.py

One gateway node and one worker node (aggregated) or two (disaggregated) exchange their effects directly; the engine and
the carrier of blocks are free. The HTTP surface answers the same request by itself, from body to last event, with a
port that plays tokens; sockets and frames are not entered. Counted are calls into files of the package's source
(`sys.setprofile`), the files entered, and the switches: how often a call goes to another file than the call before it.
Figures: docs/inside.md.
"""

import asyncio
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import frontend_requests
import jedlik
from jedlik.core.config import GatewayConfig, Role, WorkerConfig
from jedlik.core.effects import Deliver, RunStep, ToClient, ToWorkerEffect
from jedlik.core.events import Arrived, ClientJoined, FromClient, FromWorker, StepEnded, WorkerJoined
from jedlik.core.ids import GatewayId, RequestId, StreamId, WorkerId
from jedlik.core.moves import Move, Moved, PathCosts, PathsMeasured
from jedlik.core.protocol import SCHEMA_VERSION, Capabilities, Card, Layout, StepCosts, Tokens
from jedlik.core.requests import Request, Sampling, Stopping
from jedlik.core.step import Step, StepDone
from jedlik.core.tokens import pack
from jedlik.kv.hashing import BlockHasher, hash_check
from jedlik.kv.prefix_chains import Naming
from jedlik.models.files import resolve
from jedlik.nodes.gateway.node import GatewayNode
from jedlik.nodes.worker.node import WorkerNode

KEY = b"bench" * 4
GATEWAY = GatewayId("g@1")
SOURCE = str(Path(jedlik.__file__).parent) + "/"
COSTS = StepCosts(
    base_s=0.005, prefill_token_s=0.0001, prefill_pair_s=1e-9, decode_sequence_s=0.0002, context_token_s=1e-8
)
PROMPT_TOKENS, ANSWER_TOKENS = 512, 24


class Trace:
    """The calls into the package's files, in order."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def of(self, call: Callable[[], Any]) -> Any:
        """Make a call and add what it enters to the trace."""
        sys.setprofile(self.seen)
        try:
            return call()
        finally:
            sys.setprofile(None)

    def seen(self, frame: FrameType, event: str, _: object) -> None:
        name = frame.f_code.co_filename
        if event == "call" and name.startswith(SOURCE):
            self.calls.append(name[len(SOURCE) :])

    def row(self, what: str) -> str:
        """Return the line of a table: files, calls, switches."""
        pairs = zip(self.calls, self.calls[1:], strict=False)
        switches = sum(before != after for before, after in pairs)
        return f"| {what} | {len(set(self.calls))} | {len(self.calls)} | {switches} |"


def make_card(worker: WorkerId) -> Card:
    """Return the card of a worker that takes part in hand-offs, on the one host."""
    return Card(
        schema=SCHEMA_VERSION,
        worker=worker,
        name=worker,
        model="m",
        revision="r",
        layout=Layout(dtype="bfloat16", layers=30, kv_heads=3, head_dim=64, block_size=16),
        total_blocks=10_000,
        max_model_len=16_384,
        max_sequences=64,
        max_step_tokens=8192,
        vocab_size=49_152,
        eos_token_ids=(2,),
        hash_check=hash_check(KEY),
        capabilities=Capabilities(),
        handoffs=("slots",),
        host="h",
    )


class Lan:
    """Nodes that exchange messages at once, in order; everything that they enter is traced."""

    def __init__(self, roles: dict[WorkerId, Role]) -> None:
        self.now = 0.0
        self.gateway = GatewayNode(GatewayConfig(), GATEWAY, Naming(KEY))
        self.workers: dict[WorkerId, WorkerNode] = {}
        self.steps: deque[tuple[WorkerId, Step]] = deque()
        self.at_gateway, self.at_workers = Trace(), Trace()
        self.plain_step: Trace | None = None
        self.plain_tokens: Trace | None = None
        self.delivered = 0
        self._known: set[tuple[WorkerId, WorkerId]] = set()
        self._queue: deque[tuple[str, Any]] = deque()
        for worker, role in roles.items():
            config = WorkerConfig(max_sequences=64, max_step_tokens=8192)
            hasher = BlockHasher(KEY, "r", 16)
            self.workers[worker] = WorkerNode(make_card(worker), config, hasher, profile=COSTS, role=role)
            self.put(GATEWAY, WorkerJoined(make_card(worker)))
            self.put(worker, ClientJoined(GATEWAY))
            self.put(worker, PathsMeasured([PathCosts("shm", 1e-5, 1e-11)]))
        self.rest()

    def put(self, name: str, event: object) -> None:
        """Have a node take an event, after all before it."""
        self._queue.append((name, event))

    def rest(self) -> None:
        """Go on until nothing is left to do."""
        while self._queue or self.steps:
            if self._queue:
                self._take(*self._queue.popleft())
                continue
            worker, step = self.steps.popleft()
            lanes = [chunk.lane for chunk in step.prefills if chunk.sample] + step.decodes
            self.now += 0.01
            self.put(
                worker, StepEnded(StepDone(step_id=step.step_id, lanes=lanes, tokens=[7] * len(lanes), elapsed_s=0.01))
            )

    def _take(self, name: str, event: Any) -> None:
        if name == GATEWAY:
            trace = Trace()
            effects = trace.of(lambda: self.gateway.handle(event, self.now))
            self.at_gateway.calls += trace.calls
            if isinstance(event, FromWorker) and isinstance(event.message, Tokens):
                self.plain_tokens = _least(self.plain_tokens, trace)
        else:
            trace, worker = Trace(), WorkerId(name)
            effects = trace.of(lambda: self.workers[worker].handle(event, self.now))
            self.at_workers.calls += trace.calls
            if isinstance(event, StepEnded) and any(isinstance(effect, RunStep) for effect in effects):
                self.plain_step = _least(self.plain_step, trace)
        for effect in effects:
            self._perform(name, effect)

    def _perform(self, name: str, effect: Any) -> None:
        worker = WorkerId(name)
        if isinstance(effect, ToWorkerEffect):
            if name != GATEWAY and (worker, effect.worker) not in self._known:
                self._known.add((worker, effect.worker))
                self.put(effect.worker, ClientJoined(worker, follows=False))
            client = GATEWAY if name == GATEWAY else worker
            self.put(effect.worker, FromClient(client, effect.message))
        elif isinstance(effect, ToClient):
            self.put(effect.client, FromWorker(worker, effect.message))
        elif isinstance(effect, RunStep):
            self.steps.append((worker, effect.step))
        elif isinstance(effect, Move):
            self.put(
                worker,
                Moved(
                    number=effect.number,
                    blocks=effect.blocks,
                    cause="",
                    path="shm",
                    size_bytes=1000,
                    queued_s=0.0,
                    elapsed_s=0.001,
                ),
            )
        elif isinstance(effect, Deliver):
            self.delivered += len(effect.tokens)

    def forget(self) -> None:
        """Begin to trace anew."""
        self.at_gateway, self.at_workers, self.plain_step, self.plain_tokens = Trace(), Trace(), None, None

    def ask(self, number: int) -> None:
        """Have one request answered."""
        self.delivered = 0
        prompt = pack([(number * 977 + i * 31) % 40_000 + 3 for i in range(PROMPT_TOKENS)])
        request = Request(
            request_id=RequestId(f"r{number}"),
            first_stream=StreamId(number),
            model="m",
            prompt=prompt,
            sampling=Sampling(temperature=0.0),
            stopping=Stopping(max_tokens=ANSWER_TOKENS, ignore_eos=True),
        )
        self.put(GATEWAY, Arrived(request))
        self.rest()
        if self.delivered != ANSWER_TOKENS:
            raise SystemExit(f"{self.delivered} of {ANSWER_TOKENS} tokens were delivered")


def _least(best: Trace | None, trace: Trace) -> Trace:
    return trace if best is None or len(trace.calls) < len(best.calls) else best


def at_frontend() -> Trace:
    """Return what one streamed chat request enters of the HTTP surface; the second of two alike."""
    app = frontend_requests.build(resolve("tiny-random").path, list(range(500, 900)))
    body = frontend_requests.body(200, ANSWER_TOKENS, stream=True)

    async def twice() -> Trace:
        await frontend_requests.call(app, body(1))
        trace = Trace()
        sys.setprofile(trace.seen)
        await frontend_requests.call(app, body(2))
        sys.setprofile(None)
        return trace

    return asyncio.run(twice())


def main() -> None:
    """Print the table."""
    surface = at_frontend()
    print("| event | files | calls | switches |\n|---|---|---|---|")
    settings: dict[str, dict[WorkerId, Role]] = {
        "aggregated": {WorkerId("w@1"): "both"},
        "disaggregated": {WorkerId("p@1"): "prefill", WorkerId("d@1"): "decode"},
    }
    for name, roles in settings.items():
        lan = Lan(roles)
        lan.ask(1)
        lan.forget()
        lan.ask(2)
        both = Trace()
        both.calls = lan.at_gateway.calls + lan.at_workers.calls
        whole = Trace()
        whole.calls = surface.calls + both.calls
        print(whole.row(f"a streamed chat request of {ANSWER_TOKENS} tokens, {name}"))
        print(surface.row("... at the HTTP surface"))
        print(both.row("... at the nodes"))
        print(lan.at_gateway.row("...... its gateway half"))
        print(lan.at_workers.row("...... its worker half"))
        if name == "disaggregated" and not any("moving/outgoing" in call for call in lan.at_workers.calls):
            raise SystemExit("nothing was handed off")
        if name == "aggregated" and lan.plain_step is not None and lan.plain_tokens is not None:
            print(lan.plain_step.row("a plain decode step at the worker"))
            print(lan.plain_tokens.row("a plain `Tokens` at the gateway"))


if __name__ == "__main__":
    main()
