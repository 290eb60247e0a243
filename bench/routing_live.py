"""What routing is worth on this machine: chats on two torch workers, the default policy against round robin, in turns.

    python bench/routing_live.py [--rounds 3]

`--chats` people talk to SmolLM2 at once: one system prompt for all, a first message that pastes a text of 300 to 700
words, then 20 to 120 words a message, answers of 60 tokens, an exponential time of thinking before each. What a worker
caches (`--kv-cache-bytes`) is by default so much that all chats fit into both caches together once, not twice, as where
GPU memory is scarce. Each round serves the same chats (drawn by its seed) with a fresh server per policy, policies in
changing order. TTFT is the client's. Prints a Markdown table and the ratio of mean TTFTs.
"""

import argparse
import asyncio
import gc
import random
import statistics
from typing import NamedTuple

import numpy as np
import uvloop
from tokenizers import Tokenizer

from jedlik.models.cache import home
from jedlik.serve.engines import words
from served import Answer, ask, request, serving

MODEL = "smollm2-135m"
POLICIES = ("round_robin", "jedlik")
SYSTEM = (
    "You are a patient assistant. You answer in full sentences, say what you do not know, and never invent sources. "
)
ANSWER_TOKENS = 60


class Turn(NamedTuple):
    think_s: float
    """Before it is sent."""
    message: str


class Round(NamedTuple):
    """One policy's."""

    ttft_mean_s: float
    ttft_p50_s: float
    ttft_p90_s: float
    itl_p50_s: float
    hit_rate: float


def vocabulary() -> list[str]:
    path = home() / "models/v2" / MODEL
    tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    return [tokenizer.decode([token]).strip() for token in words(path)]


def chats(args: argparse.Namespace, seed: int) -> list[list[Turn]]:
    chance, known = random.Random(seed), vocabulary()

    def message(turn: int) -> str:
        return " ".join(chance.choices(known, k=chance.randint(*(args.later if turn else args.first))))

    def pause(turn: int) -> float:
        return chance.expovariate(1 / args.think) if turn else chance.uniform(0, 2 * args.think)

    return [[Turn(pause(turn), message(turn)) for turn in range(args.turns)] for _ in range(args.chats)]


async def talk(port: int, turns: list[Turn]) -> list[Answer]:
    """One chat from its first message to its last answer."""
    messages = [{"role": "system", "content": SYSTEM * 4}]
    answers = []
    for turn in turns:
        await asyncio.sleep(turn.think_s)
        messages.append({"role": "user", "content": turn.message})
        body = {"model": MODEL, "messages": messages, "max_tokens": ANSWER_TOKENS, "ignore_eos": True, "temperature": 0}
        answer = (await ask(port, request("chat/completions", body))).answer()
        messages.append({"role": "assistant", "content": answer.text})
        answers.append(answer)
    return answers


def measure(policy: str, cache: str, talks: list[list[Turn]]) -> Round:
    async def everybody(port: int) -> list[Answer]:
        return [a for answers in await asyncio.gather(*(talk(port, turns) for turns in talks)) for a in answers]

    flags = ("--device", "cpu", "--gateway.policy", policy, *(("--kv-cache-bytes", cache) if cache else ()))
    with serving(MODEL, *flags, workers=2) as port:
        gc.collect()
        gc.freeze()
        answers = uvloop.run(everybody(port))
    ttft_s = [a.ttft_s for a in answers]
    longest = max(a.prompt_tokens for a in answers)
    cached, prompt = sum(a.cached_tokens for a in answers), sum(a.prompt_tokens for a in answers)
    itl_s = statistics.median(a.itl_s for a in answers if a.itl_s is not None)
    got = Round(
        statistics.fmean(ttft_s), statistics.median(ttft_s), float(np.percentile(ttft_s, 90)), itl_s, cached / prompt
    )
    print(f"  {policy}: {len(answers)} requests, prompts to {longest} tokens:", *(f"{x:.3f}" for x in got), flush=True)
    return got


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chats", type=int, default=10)
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--first", type=int, nargs=2, default=(300, 700), help="words of the first message")
    parser.add_argument("--later", type=int, nargs=2, default=(20, 120), help="words of the others")
    parser.add_argument("--kv-cache-bytes", default="256MiB", help='"" for the default of `jedlik serve`')
    parser.add_argument("--think", type=float, default=8.0, help="mean, seconds")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    rounds: dict[str, list[Round]] = {policy: [] for policy in POLICIES}
    for number in range(args.rounds):
        talks = chats(args, args.seed + number)
        for policy in POLICIES[:: 1 if number % 2 else -1]:
            rounds[policy].append(measure(policy, args.kv_cache_bytes, talks))
    print("| | TTFT mean | p50 | p90 | ITL p50 | hit rate |\n|---|---|---|---|---|---|")
    for policy, found in rounds.items():
        cells = [f"{statistics.fmean(x):.2f} ({min(x):.2f}-{max(x):.2f})" for x in zip(*found, strict=True)]
        print(f"| {policy} |", " | ".join(cells), "|")
    ratios = [ours.ttft_mean_s / theirs.ttft_mean_s for theirs, ours in zip(*rounds.values(), strict=True)]
    told = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    print(f"mean TTFT, jedlik / round_robin: {statistics.fmean(ratios):.2f} ({told})")


if __name__ == "__main__":
    main()
