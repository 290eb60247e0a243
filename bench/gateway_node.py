"""Gateway node: CPU time per token at several batch sizes, and per request.

    .venv/bin/python bench/gateway_node.py

Tokens are counted from `handle(FromWorker(Tokens))` in to its effects out, acknowledgements included. Target: at most
2 us per token. A request is arrival, first token, last token; its prompt has the length given.
"""

import os
import random
import statistics
import time

from jedlik.core.config import GatewayConfig
from jedlik.core.effects import GatewayEffect, ToWorkerEffect
from jedlik.core.events import Arrived, Consumed, FromWorker, WorkerJoined
from jedlik.core.ids import GatewayId, Handle, RequestId, StreamId, WorkerId
from jedlik.core.protocol import (
    SCHEMA_VERSION,
    Capabilities,
    Card,
    Facts,
    Finished,
    Layout,
    Load,
    Snapshot,
    Started,
    StepCosts,
    Stored,
    Submit,
    Tokens,
)
from jedlik.core.requests import Request, Sampling, Stopping
from jedlik.core.tokens import pack
from jedlik.kv.hashing import BlockHasher, hash_check
from jedlik.kv.prefix_chains import ChainCache, Naming
from jedlik.nodes.gateway.node import GatewayNode

KEY = b"bench"
ROUNDS, STEPS = 15, 64
COSTS = StepCosts(
    base_s=0.005, prefill_token_s=0.0001, prefill_pair_s=0.0, decode_sequence_s=0.0005, context_token_s=0.0
)


def card(worker: WorkerId) -> Card:
    layout = Layout(dtype="bfloat16", layers=30, kv_heads=3, head_dim=64, block_size=16)
    eos, can = (2,), Capabilities()
    return Card(
        schema=SCHEMA_VERSION,
        worker=worker,
        name=worker,
        model="m",
        revision="r",
        layout=layout,
        total_blocks=10_000,
        max_model_len=16_384,
        max_sequences=64,
        max_step_tokens=512,
        vocab_size=49_152,
        eos_token_ids=eos,
        hash_check=hash_check(KEY),
        capabilities=can,
    )


def gateway(workers: int) -> GatewayNode:
    node = GatewayNode(GatewayConfig(), GatewayId("g@1"), Naming(KEY))
    for number in range(workers):
        worker = WorkerId(f"w{number}@1")
        node.handle(WorkerJoined(card(worker)), 0.0)
        node.handle(FromWorker(worker, Snapshot(number=0, chunk=0, last=True, runs=[], digest=0)), 0.0)
        node.handle(
            FromWorker(
                worker,
                Load(
                    steps=1,
                    step_age_s=0.0,
                    step_predicted_s=None,
                    running=0,
                    waiting=0,
                    waiting_tokens=0,
                    context_tokens=0,
                    held_blocks=0,
                    cached_blocks=0,
                    last_submit=0,
                    costs=COSTS,
                ),
            ),
            0.0,
        )
    return node


def request(number: int, prompt: bytes, max_tokens: int) -> Request:
    sampling, stopping = Sampling(temperature=0.0), Stopping(max_tokens=max_tokens)
    return Request(
        request_id=RequestId(f"req-{number}"),
        first_stream=StreamId(number),
        model="m",
        prompt=prompt,
        sampling=sampling,
        stopping=stopping,
        tenant="t",
    )


def submitted(effects: list[GatewayEffect]) -> tuple[WorkerId, Handle]:
    for effect in effects:
        if isinstance(effect, ToWorkerEffect) and isinstance(effect.message, Submit):
            return effect.worker, effect.message.handle
    raise SystemExit("the gateway did not dispatch")


def per_token(batch: int) -> list[float]:
    """Microseconds per token over rounds of 64 steps; the client consumes as it goes."""
    node = gateway(1)
    handles = [submitted(node.handle(Arrived(request(i, pack(range(64)), 10**6)), 0.0))[1] for i in range(batch)]
    streams = [StreamId(number) for number in range(batch)]
    worker, samples, at = WorkerId("w0@1"), [], 0
    node.handle(
        FromWorker(
            worker, Tokens(step=0, handles=handles, tokens=list(handles), started=[Started(h, 0, 0.0) for h in handles])
        ),
        0.0,
    )
    for _ in range(ROUNDS):
        events = [FromWorker(worker, Tokens(step=i, handles=handles[:], tokens=list(handles))) for i in range(STEPS)]
        start = time.process_time_ns()
        for event in events:
            at += 1
            node.handle(event, 0.001 * at)
            if at % 8 == 0:
                for stream in streams:
                    node.handle(Consumed(stream, at), 0.001 * at)
        samples.append((time.process_time_ns() - start) / 1000 / STEPS / batch)
    return samples


def per_request(tokens: int, workers: int, shared: int) -> list[float]:
    """Microseconds per request of `tokens` prompt tokens, of which `shared` are cached at one worker."""
    node, rng, samples = gateway(workers), random.Random(1), []
    stem = [rng.randrange(49_000) for _ in range(shared)]
    if shared:
        keys = ChainCache(BlockHasher(KEY, "r", 16), 0).keys(pack(stem), "t")
        node.handle(FromWorker(WorkerId("w0@1"), Facts(1, [Stored(None, keys)], sum(keys) & (2**64 - 1))), 0.0)
    for number in range(200):
        ask = request(number, pack([*stem, *(rng.randrange(49_000) for _ in range(tokens - shared))]), 1)
        start = time.process_time_ns()
        worker, handle = submitted(node.handle(Arrived(ask), 0.001 * number))
        message = Tokens(
            step=1,
            handles=[handle],
            tokens=[5],
            started=[Started(handle, 0, 0.0)],
            finished=[Finished(handle, "length")],
        )
        node.handle(FromWorker(worker, message), 0.001 * number)
        samples.append((time.process_time_ns() - start) / 1000)
    return samples


def show(name: str, samples: list[float]) -> None:
    middle, cuts = statistics.median(samples), statistics.quantiles(samples, n=20)
    low, high = cuts[0], cuts[-1]
    print(f"{name:51s} min {min(samples):7.2f} us   median {middle:7.2f}   p5 {low:7.2f}   p95 {high:7.2f}")


def main() -> None:
    print("load average", *(f"{load:.2f}" for load in os.getloadavg()))
    for batch in (1, 2, 4, 8, 32, 128, 256):
        show(f"per token, batch {batch}", per_token(batch))
    for tokens, workers, shared in ((32, 2, 0), (512, 2, 0), (8000, 2, 0), (8000, 2, 7000), (512, 64, 0), (32, 512, 0)):
        show(f"per request, {tokens} tokens ({shared} cached), {workers} workers", per_request(tokens, workers, shared))


if __name__ == "__main__":
    main()
