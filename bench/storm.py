"""Streams under fire: workers of a running server are killed or frozen at random moments; answers must not change.

    jedlik serve tiny-random --workers 3 --dtype float32 --deterministic --run-dir /tmp/storm --port 8321
    python bench/storm.py --port 8321 --run-dir /tmp/storm --streams 64 --rounds 20 [--freeze 0.9]

Every answer (greedy, sampled, n=2, with logprobs, stop strings, echo) is first taken undisturbed, then again in each
round. Prints failures, differences and the longest gap between two pieces of a stream, per round and over all.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import time
from pathlib import Path

import httpx

Answer = dict[str, object]


def body(model: str, number: int, tokens: int) -> tuple[str, dict[str, object]]:
    """Request `number`: its path and JSON."""
    shared: dict[str, object] = {"model": model, "max_tokens": tokens, "stream": True, "ignore_eos": True}
    shared["stream_options"] = {"include_usage": True}
    chat = shared | {"messages": [{"role": "user", "content": f"Tell me about number {number}."}]}
    text = shared | {"prompt": f"Number {number} is"}
    kinds: list[tuple[str, dict[str, object]]] = [
        ("chat/completions", chat | {"temperature": 0}),
        ("chat/completions", chat | {"temperature": 0.8, "seed": number, "top_p": 0.9}),
        ("chat/completions", chat | {"temperature": 0.7, "seed": number, "n": 2}),
        ("chat/completions", chat | {"temperature": 0, "logprobs": True, "top_logprobs": 2}),
        ("completions", text | {"temperature": 0, "echo": True}),
        ("chat/completions", chat | {"temperature": 1, "seed": number, "stop": ["e", "zq"], "frequency_penalty": 0.5}),
    ]
    return kinds[number % len(kinds)]


class Heard:
    """One stream as its client saw it."""

    def __init__(self) -> None:
        self.texts: dict[int, str] = {}
        self.finishes: dict[int, str] = {}
        self.logprobs = 0
        self.usage: object = None
        self.error: object = None
        self.done = False
        self.gap_s = 0.0

    def take(self, line: str) -> None:
        data = line.removeprefix("data: ")
        if data == "[DONE]":
            self.done = True
            return
        chunk = json.loads(data)
        self.error = chunk.get("error") or self.error
        if usage := chunk.get("usage"):
            self.usage = {name: usage[name] for name in ("prompt_tokens", "completion_tokens")}
        for choice in chunk.get("choices", []):
            piece = choice.get("text") or choice.get("delta", {}).get("content") or ""
            index = choice["index"]
            self.texts[index] = self.texts.get(index, "") + piece
            self.logprobs += len((choice.get("logprobs") or {}).get("content") or [])
            if choice["finish_reason"]:
                self.finishes[index] = choice["finish_reason"]

    def answer(self) -> Answer:
        return {"texts": self.texts, "finishes": self.finishes, "logprobs": self.logprobs, "usage": self.usage}


async def ask(client: httpx.AsyncClient, model: str, number: int, tokens: int) -> Heard:
    heard = Heard()
    path, told = body(model, number, tokens)
    try:
        async with client.stream("POST", f"/v1/{path}", json=told) as reply:
            if reply.status_code != 200:
                heard.error = (await reply.aread()).decode()
                return heard
            before = None
            async for line in reply.aiter_lines():
                if line.startswith("data: "):
                    now = time.monotonic()
                    heard.gap_s = max(heard.gap_s, now - before) if before else 0.0
                    before = now
                    heard.take(line)
    except httpx.HTTPError as error:
        heard.error = repr(error)
    return heard


def workers(run_dir: Path) -> list[int]:
    """Pids of the workers that are ready."""
    return sorted(json.loads(path.read_bytes())["pid"] for path in (run_dir / "records").glob("*.json"))


async def hurt(args: argparse.Namespace, chance: random.Random) -> None:
    """Kill or freeze one worker at a random moment."""
    await asyncio.sleep(chance.uniform(0.2, args.within))
    pid = chance.choice(workers(args.run_dir))
    os.kill(pid, signal.SIGSTOP if args.freeze else signal.SIGKILL)
    if args.freeze:
        await asyncio.sleep(args.freeze)
        with contextlib.suppress(ProcessLookupError):  # frozen beyond the fence: killed and restarted meanwhile
            os.kill(pid, signal.SIGCONT)


async def whole(client: httpx.AsyncClient, args: argparse.Namespace, count: int) -> None:
    """Wait until all workers serve."""
    while True:
        health = (await client.get("/health")).json()
        if sum(worker["health"] == "ok" for worker in health["workers"]) >= count and health["in_flight"] == 0:
            return
        await asyncio.sleep(0.1)


async def storm(args: argparse.Namespace) -> None:
    chance = random.Random(args.seed)
    limits = httpx.Limits(max_connections=args.streams + 4)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{args.port}", timeout=120, limits=limits) as client:
        model = (await client.get("/v1/models")).json()["data"][0]["id"]
        count = len(workers(args.run_dir))

        async def everybody() -> list[Heard]:
            return await asyncio.gather(*(ask(client, model, n, args.tokens) for n in range(args.streams)))

        calm = await everybody()
        expected = [heard.answer() for heard in calm]
        print(f"calm: {failed(calm)} failed, longest gap {max(h.gap_s for h in calm):.2f} s", flush=True)
        gaps, bad, different = [], 0, 0
        for number in range(args.rounds):
            await whole(client, args, count)
            began = time.monotonic()
            hurting = asyncio.create_task(hurt(args, chance))
            heard = await everybody()
            await hurting
            gaps += [h.gap_s for h in heard]
            bad += failed(heard)
            changed = [n for n, h in enumerate(heard) if h.answer() != expected[n]]
            different += len(changed)
            took_s = time.monotonic() - began
            result = f"{failed(heard)} failed, {len(changed)} differ {changed[:8]}"
            print(f"round {number}: {result}, {took_s:.1f} s", flush=True)
            for n in changed[:1]:
                print("  expected", expected[n], "\n  got", heard[n].answer(), heard[n].error)
        gaps.sort()
        p50, p99 = gaps[len(gaps) // 2], gaps[int(len(gaps) * 0.99)]
        print(f"{len(gaps)} streams: {bad} failed, {different} differ; longest gap p50 {p50:.2f} p99 {p99:.2f} s")


def failed(heard: list[Heard]) -> int:
    return sum(h.error is not None or not h.done for h in heard)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--within", type=float, default=1.5, help="latest moment of the blow, seconds into a round")
    parser.add_argument("--freeze", type=float, default=0.0, help="freeze for so many seconds instead of killing")
    parser.add_argument("--seed", type=int, default=1)
    asyncio.run(storm(parser.parse_args()))


if __name__ == "__main__":
    main()
