"""Random requests through the real worker node and engine, checked against transformers.

    OMP_NUM_THREADS=1 python bench/parity.py [--requests 112] [--threads 1] [--deterministic] [ARCHITECTURE ...]

Requests (per architecture, tiny random models, float32, greedy) arrive while others run; prompts share beginnings and
memory is short, so chunks, prefix hits and preemption all happen; what happened is printed. Each answer is checked by
one transformers forward over prompt and answer, with its own attention: the answer is what greedy `generate` gives if
and only if each token is the most likely one there. A first difference where the two logits are closer than 1e-3 is a
near tie. With --deterministic some requests are also run alone on an empty worker, and must give the same tokens and
log-probabilities, bit for bit.
Exits 1 if anything differs.
"""

import argparse
import random
import tempfile
from collections import Counter, deque
from pathlib import Path
from typing import Any

import torch
import transformers

from jedlik.core.config import WorkerConfig
from jedlik.core.effects import RunStep, ToClient
from jedlik.core.events import ClientJoined, FromClient, StepEnded, WorkerEvent
from jedlik.core.ids import GatewayId, Handle, Lane, RequestId, WorkerId
from jedlik.core.protocol import SCHEMA_VERSION, Card, Submit, Tokens
from jedlik.core.requests import Sampling, Stopping
from jedlik.core.step import Step, StepDone
from jedlik.core.tokens import pack
from jedlik.engines.torch.engine import TorchEngine
from jedlik.engines.torch.options import EngineOptions
from jedlik.engines.torch.pool import allocate, block_bytes
from jedlik.kv.hashing import BlockHasher, hash_check
from jedlik.models import tiny_torch
from jedlik.nodes.worker.node import WorkerNode

KEY, GATEWAY, CLOSE, BLOCKS, LANES, LONGEST = b"parity" * 3, GatewayId("g@1"), 1e-3, 22, 8, 200
Answer = tuple[list[int], list[object]]


class World:
    """One worker node on one engine; time is told."""

    def __init__(self, engine: TorchEngine, logprobs: int | None) -> None:
        facts = engine.facts
        card = Card(
            schema=SCHEMA_VERSION,
            worker=WorkerId("w@1"),
            name="w",
            model="m",
            revision="r",
            layout=facts.layout,
            total_blocks=facts.total_blocks,
            max_model_len=LONGEST,
            max_sequences=LANES,
            max_step_tokens=48,
            vocab_size=facts.vocab_size,
            eos_token_ids=(),
            hash_check=hash_check(KEY),
            capabilities=facts.capabilities,
        )
        config = WorkerConfig(max_sequences=LANES, max_step_tokens=48)
        self._engine, self._logprobs = engine, logprobs
        self._node = WorkerNode(card, config, BlockHasher(KEY, "r", facts.layout.block_size))
        self._steps: deque[Step] = deque()
        self._now, self._left = 0.0, 0
        self._open: set[Lane] = set()
        self.answers: dict[int, Answer] = {}
        self.seen: Counter[str] = Counter()
        self._send(ClientJoined(GATEWAY))

    def run(self, prompts: dict[int, tuple[list[int], int]], rng: random.Random) -> None:
        """Requests by handle: (prompt, tokens wanted)."""
        waiting = list(prompts.items())
        self._left = len(waiting)
        while self._left:
            while waiting and (not self._steps or rng.random() < 0.5):
                self._submit(*waiting.pop())
            self._advance()
        while self._steps:
            self._advance()
        self._engine.run(
            Step(step_id=0, closed=sorted(self._open), opened=[], tables=[], prefills=[], decodes=[], decode_context=0)
        )  # as the next world begins with all lanes free
        self._node.check()
        self._engine.check()

    def _submit(self, handle: int, request: tuple[list[int], int]) -> None:
        prompt, want = request
        self.answers[handle] = ([], [])
        sampling = Sampling(temperature=0.0, logprobs=self._logprobs)
        submit = Submit(
            handle=Handle(handle),
            request_id=RequestId(str(handle)),
            choice=0,
            attempt=1,
            prompt=pack(prompt),
            output=b"",
            sampling=sampling,
            stopping=Stopping(max_tokens=want, ignore_eos=True),
            tenant="",
            salt="",
            priority=0,
            budget_s=None,
            output_hint=None,
            number=handle,
        )
        self._send(FromClient(GATEWAY, submit))

    def _advance(self) -> None:
        step = self._steps.popleft()
        done = self._run(step)
        self._now += 0.01
        self._send(StepEnded(done))

    def _run(self, step: Step) -> StepDone:
        self._open = self._open - set(step.closed) | {opened.lane for opened in step.opened}
        self.seen["steps"] += 1
        self.seen["mixed"] += bool(step.prefills and step.decodes)
        self.seen["chunks cut"] += sum(not chunk.sample for chunk in step.prefills)
        self.seen["resumed"] += sum(bool(opened.output) for opened in step.opened)
        self.seen["prefix hits"] += sum(c.start > 0 for c in step.prefills if c.lane in {o.lane for o in step.opened})
        return self._engine.run(step)

    def _send(self, event: WorkerEvent) -> None:
        for effect in self._node.handle(event, self._now):
            if isinstance(effect, RunStep):
                self._steps.append(effect.step)
            elif isinstance(effect, ToClient):
                self._hear(effect.message)

    def _hear(self, message: object) -> None:
        if not isinstance(message, Tokens):
            return
        for handle, token in zip(message.handles, message.tokens, strict=True):
            self.answers[handle][0].append(token)
        for handle, told in message.logprobs:
            self.answers[handle][1].append(told)
        self._left -= len(message.finished)
        faults = [finished for finished in message.finished if finished.fault is not None]
        if faults:
            raise SystemExit(f"refused: {faults}")


def requests(rng: random.Random, count: int) -> dict[int, tuple[list[int], int]]:
    """Half of the prompts begin with one of four stems."""
    stems = [[rng.randrange(3, 512) for _ in range(rng.randint(20, 60))] for _ in range(4)]
    made = {}
    for handle in range(1, count + 1):
        stem = rng.choice(stems) if rng.random() < 0.5 else []
        made[handle] = (stem + [rng.randrange(3, 512) for _ in range(rng.randint(1, 60))], rng.randint(1, 60))
    return made


@torch.inference_mode()
def verdict(model: Any, prompt: list[int], output: list[int]) -> str:
    """Whether an answer is transformers' own greedy one."""
    logits = model(torch.tensor([prompt + output]), use_cache=False).logits[0, len(prompt) - 1 : -1]
    for row, token in zip(logits, output, strict=True):
        if int(row.argmax()) != token:
            return "near tie" if float(row.max() - row[token]) < CLOSE else "different"
    return "identical"


def checked(architecture: str, folder: Path, args: argparse.Namespace) -> Counter[str]:
    """Runs one architecture; counts verdicts and what happened on the way."""
    tiny_torch.write(architecture, folder)
    options = EngineOptions(
        cache_dir=str(Path("~/.cache/jedlik/kernels").expanduser()),
        device="cpu",
        dtype="float32",
        threads=args.threads,
        deterministic=args.deterministic,
        max_sequences=LANES,
        max_model_len=LONGEST,
    )
    engine = TorchEngine(folder, options, lambda shape, device: allocate(BLOCKS * block_bytes(shape), device))
    logprobs = 2 if args.deterministic else None
    rng = random.Random(f"{architecture} {args.seed}")
    asked = requests(rng, args.requests)
    world = World(engine, logprobs)
    world.run(asked, rng)
    maker: Any = transformers.AutoModelForCausalLM
    model = maker.from_pretrained(folder, dtype=torch.float32)
    found = Counter(verdict(model, asked[handle][0], output) for handle, (output, _) in world.answers.items())
    found["lost tokens"] = sum(asked[handle][1] != len(output) for handle, (output, _) in world.answers.items())
    for handle in list(asked)[:: args.alone] if args.deterministic else ():
        alone = World(engine, logprobs)
        alone.run({handle: asked[handle]}, rng)
        same = alone.answers[handle] == world.answers[handle]
        found["alone the same" if same else "alone different"] += 1
    return found + world.seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("architectures", nargs="*", default=sorted(tiny_torch.ARCHITECTURES))
    parser.add_argument("--requests", type=int, default=112, help="per architecture; 9 of them make 1,008")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--deterministic", action="store_true")
    parser.add_argument("--alone", type=int, default=4, help="with --deterministic: run every n-th alone as well")
    args = parser.parse_args()
    total: Counter[str] = Counter()
    for architecture in args.architectures:
        with tempfile.TemporaryDirectory() as folder:
            found = checked(architecture, Path(folder), args)
        print(f"{architecture:10}", dict(found), flush=True)
        total += found
    print("total     ", dict(total))
    raise SystemExit(bool(total["different"] + total["alone different"] + total["lost tokens"]))


if __name__ == "__main__":
    main()
