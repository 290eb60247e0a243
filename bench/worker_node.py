"""CPU of the worker node per step and per sequence: decodes only, run-ahead on, facts, tokens and loads included.

    .venv/bin/python bench/worker_node.py

The engine is free: its answers are made outside the measured time. Budget: 50 us a step and 5 us per sequence and step.
Encoding for the wire is shown apart; it is the driver's.
"""

import gc
import statistics
import time
from collections import deque

from jedlik.core.config import WorkerConfig
from jedlik.core.effects import RunStep, ToClient
from jedlik.core.events import ClientJoined, FromClient, StepEnded
from jedlik.core.ids import GatewayId, Handle, RequestId, WorkerId
from jedlik.core.protocol import SCHEMA_VERSION, Ack, Capabilities, Card, Layout, Submit
from jedlik.core.requests import Sampling, Stopping
from jedlik.core.step import Step, StepDone
from jedlik.core.tokens import pack
from jedlik.core.wire import encode
from jedlik.kv.hashing import BlockHasher, hash_check
from jedlik.nodes.worker.node import WorkerNode

KEY = b"bench" * 4
GATEWAY = GatewayId("g@1")
STEPS, ROUNDS, ACK_EVERY, PROMPT_TOKENS = 400, 7, 16, 256


def make_node(batch: int) -> WorkerNode:
    layout = Layout(dtype="bfloat16", layers=30, kv_heads=3, head_dim=64, block_size=16)
    card = Card(
        schema=SCHEMA_VERSION,
        worker=WorkerId("w@1"),
        name="w",
        model="m",
        revision="r",
        layout=layout,
        total_blocks=1 << 16,
        max_model_len=1 << 20,
        max_sequences=batch,
        max_step_tokens=8192,
        vocab_size=50_000,
        eos_token_ids=(2,),
        hash_check=hash_check(KEY),
        capabilities=Capabilities(),
    )
    config = WorkerConfig(max_sequences=batch, max_step_tokens=1 << 20)
    return WorkerNode(card, config, BlockHasher(KEY, "r", 16))


class Loop:
    """Node and free engine; `cpu_s` counts the node alone."""

    def __init__(self, batch: int) -> None:
        self.node = make_node(batch)
        self.queue: deque[Step] = deque()
        self.cpu_s = self.wire_s = self.now = 0.0
        self.token = 3
        self.send(ClientJoined(GATEWAY))
        for handle in range(1, batch + 1):
            prompt = pack([handle * 7 % 50_000] + [(handle * 31 + i) % 50_000 for i in range(PROMPT_TOKENS - 1)])
            stopping = Stopping(max_tokens=1 << 19, ignore_eos=False)
            submit = Submit(
                handle=Handle(handle),
                request_id=RequestId(str(handle)),
                choice=0,
                attempt=1,
                prompt=prompt,
                output=b"",
                sampling=Sampling(),
                stopping=stopping,
                tenant="",
                salt="",
                priority=0,
                budget_s=None,
                output_hint=None,
                number=handle,
            )
            self.send(FromClient(GATEWAY, submit))
        self.handles = [Handle(h) for h in range(1, batch + 1)]

    def send(self, event: ClientJoined | FromClient | StepEnded) -> None:
        began = time.process_time()
        effects = self.node.handle(event, self.now)
        ended = time.process_time()
        self.cpu_s += ended - began
        for effect in effects:
            if isinstance(effect, RunStep):
                self.queue.append(effect.step)
            elif isinstance(effect, ToClient):
                encode(effect.message)
        self.wire_s += time.process_time() - ended

    def step(self, number: int) -> None:
        step = self.queue.popleft()
        lanes = [chunk.lane for chunk in step.prefills if chunk.sample] + step.decodes
        self.token = (self.token + 1) % 40_000 + 3
        self.now += 0.02
        self.send(
            StepEnded(StepDone(step_id=step.step_id, lanes=lanes, tokens=[self.token] * len(lanes), elapsed_s=0.02))
        )
        if number % ACK_EVERY == 0:
            self.send(FromClient(GATEWAY, Ack(self.handles, [number] * len(self.handles))))


def measure(batch: int) -> tuple[list[float], float]:
    """Node CPU per step in us, one figure a round, and the wire's median."""
    loop = Loop(batch)
    number = 0
    for _ in range(40):
        number += 1
        loop.step(number)
    node_us, wire_us = [], []
    for _ in range(ROUNDS):
        gc.collect()
        loop.cpu_s = loop.wire_s = 0.0
        for _ in range(STEPS):
            number += 1
            loop.step(number)
        node_us.append(loop.cpu_s / STEPS * 1e6)
        wire_us.append(loop.wire_s / STEPS * 1e6)
    loop.node.check()
    return node_us, statistics.median(wire_us)


def main() -> None:
    print(f"{'batch':>6} {'us/step':>9} {'min':>8} {'max':>8} {'us/seq':>7} {'budget':>7} {'used':>5} {'wire us':>8}")
    for batch in (1, 8, 32, 128, 256):
        rounds, wire = measure(batch)
        median, budget = statistics.median(rounds), 50 + 5 * batch
        print(
            f"{batch:>6} {median:>9.1f} {min(rounds):>8.1f} {max(rounds):>8.1f} {median / batch:>7.2f} {budget:>7}"
            f" {median / budget:>5.0%} {wire:>8.1f}"
        )


if __name__ == "__main__":
    main()
