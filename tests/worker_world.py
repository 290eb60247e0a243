"""A worker node with an engine that models KV memory exactly: every position read must hold the reader's own.

`MemoryEngine` keeps, for every slot of every block, a fingerprint of the history up to that position. A block freed too
early, shared wrongly, published before its step or missing from a table shows as a wrong fingerprint.
"""

from collections import deque

from jedlik.core.config import WorkerConfig
from jedlik.core.effects import Drained, Note, RunStep, ToClient, Wake
from jedlik.core.events import ClientJoined, FromClient, StepEnded, WorkerEvent
from jedlik.core.ids import ClientId, GatewayId, Handle, Lane, RequestId, WorkerId
from jedlik.core.protocol import (
    SCHEMA_VERSION,
    Ack,
    Cancel,
    Capabilities,
    Card,
    Facts,
    Finished,
    Goodbye,
    Layout,
    Load,
    Resync,
    Snapshot,
    Started,
    State,
    Submit,
    Tokens,
)
from jedlik.core.requests import Sampling, Stopping
from jedlik.core.step import Open, Step, StepDone, TokenLogprobs
from jedlik.core.tokens import pack, unpack
from jedlik.kv.hashing import BlockHasher, hash_check
from jedlik.nodes.worker.node import WorkerNode

KEY = b"0123456789abcdef"
VOCAB = 1000
EOS = 7
GATEWAY = GatewayId("g@1")


def make_card(total_blocks: int = 64, block_size: int = 4, max_model_len: int = 128, max_sequences: int = 8) -> Card:
    return Card(
        schema=SCHEMA_VERSION,
        worker=WorkerId("w@1"),
        name="w",
        model="m",
        revision="r",
        layout=Layout(dtype="float32", layers=1, kv_heads=1, head_dim=1, block_size=block_size),
        total_blocks=total_blocks,
        max_model_len=max_model_len,
        max_sequences=max_sequences,
        max_step_tokens=512,
        vocab_size=VOCAB,
        eos_token_ids=(EOS,),
        hash_check=hash_check(KEY),
        capabilities=Capabilities(),
    )


def make_submit(
    handle: int,
    prompt: list[int],
    *,
    output: list[int] | None = None,
    sampling: Sampling | None = None,
    stopping: Stopping | None = None,
    request_id: str = "",
    attempt: int = 1,
    choice: int = 0,
    priority: int = 0,
    budget_s: float | None = None,
    number: int = 0,
    tenant: str = "",
) -> Submit:
    return Submit(
        handle=Handle(handle),
        request_id=RequestId(request_id or f"r{handle}"),
        choice=choice,
        attempt=attempt,
        prompt=pack(prompt),
        output=pack(output or []),
        sampling=sampling or Sampling(temperature=0.0),
        stopping=stopping or Stopping(max_tokens=8),
        tenant=tenant,
        salt="",
        priority=priority,
        budget_s=budget_s,
        output_hint=None,
        number=number or handle,
    )


def fingerprint(parent: int, token: int) -> int:
    """Of a history, from that of the history without its last token."""
    return (parent * 1_000_003 + token + 1) % ((1 << 61) - 1)


def next_token(history: list[int]) -> int:
    """The deterministic model: any error in a history changes all that follows."""
    mark = 0
    for token in history:
        mark = fingerprint(mark, token)
    return mark % VOCAB


def continuation(prompt: list[int], stopping: Stopping, max_length: int) -> list[int]:
    """What a request must answer, whatever else is in the batch."""
    history = list(prompt)
    stops = set(stopping.stop_token_ids) | (set() if stopping.ignore_eos else {EOS})
    while len(history) - len(prompt) < stopping.max_tokens and len(history) < max_length:
        token = next_token(history)
        position = len(history) - len(prompt)
        while token in stops and position < stopping.min_tokens:
            token = (token + 1) % VOCAB
        history.append(token)
        if token in stops:
            break
    return history[len(prompt) :]


class MemoryEngine:
    """Steps in order over modelled memory. Asserts the contract of core/step."""

    def __init__(self, card: Card) -> None:
        self.size = card.layout.block_size
        self.memory = [[-1] * self.size for _ in range(card.total_blocks)]
        self.opened: dict[int, Open] = {}
        self.histories: dict[int, list[int]] = {}
        self.tables: dict[int, list[int]] = {}
        self.steps = 0
        self.computed_tokens = 0

    def run(self, step: Step) -> StepDone:
        self.steps += 1
        assert step.step_id == self.steps
        self._prepare(step)
        chunks = [(c.lane, c.start, c.length, c.sample) for c in step.prefills]
        context = 0
        for lane in step.decodes:
            length = len(self.histories[lane])
            context += length
            chunks.append((lane, length - 1, 1, True))
        assert context == step.decode_context
        assert len({c[0] for c in chunks}) == len(chunks)
        assert all(c[2] > 0 for c in chunks)
        for lane, start, length, _ in chunks:
            self._write(lane, start, start + length)
        for lane, start, length, sample in chunks:
            self._read(lane, start + length)
            assert not sample or start + length == len(self.histories[lane])
        return self._answer(step, chunks)

    def _prepare(self, step: Step) -> None:
        for lane in step.closed:
            del self.opened[lane], self.histories[lane], self.tables[lane]
        for o in step.opened:
            assert o.lane not in self.opened
            self.opened[o.lane], self.tables[o.lane] = o, []
            self.histories[o.lane] = unpack(o.prompt) + unpack(o.output)
        for lane, blocks in step.tables:
            assert blocks
            assert 0 not in blocks
            self.tables[lane] += blocks

    def _marks(self, lane: int, end: int) -> list[int]:
        marks, mark = [], 0
        for token in self.histories[lane][:end]:
            mark = fingerprint(mark, token)
            marks.append(mark)
        return marks

    def _write(self, lane: int, start: int, end: int) -> None:
        marks = self._marks(lane, end)
        assert len(marks) == end
        self.computed_tokens += end - start
        for at in range(start, end):
            self.memory[self.tables[lane][at // self.size]][at % self.size] = marks[at]

    def _read(self, lane: int, end: int) -> None:
        table = self.tables[lane]
        for at, mark in enumerate(self._marks(lane, end)):
            assert self.memory[table[at // self.size]][at % self.size] == mark, (lane, at)

    def _answer(self, step: Step, chunks: list[tuple[Lane, int, int, bool]]) -> StepDone:
        lanes: list[Lane] = []
        tokens: list[int] = []
        logprobs: dict[int, TokenLogprobs] = {}
        prompt_logprobs: dict[int, list[TokenLogprobs]] = {}
        for lane, start, length, sample in chunks:
            opened, history = self.opened[lane], self.histories[lane]
            prompt = unpack(opened.prompt)
            if opened.sampling.prompt_logprobs is not None:
                positions = range(start + 1, min(start + length + 1, len(prompt)))
                prompt_logprobs[lane] = [TokenLogprobs(-float(at), 1, []) for at in positions]
            if not sample:
                continue
            token = next_token(history)
            while token in opened.banned and len(history) - len(prompt) < opened.banned_until:
                token = (token + 1) % VOCAB
            if opened.sampling.logprobs is not None:
                logprobs[lane] = TokenLogprobs(-float(len(history)), 1, [])
            history.append(token)
            lanes.append(lane)
            tokens.append(token)
        return StepDone(
            step_id=step.step_id,
            lanes=lanes,
            tokens=tokens,
            elapsed_s=0.01,
            logprobs=logprobs,
            prompt_logprobs=prompt_logprobs,
        )


class World:
    """One node, one engine, a clock that moves when told, and what the gateways have heard."""

    def __init__(self, card: Card | None = None, **config: object) -> None:
        self.card = card or make_card()
        defaults: dict[str, object] = {
            "block_size": self.card.layout.block_size,
            "max_sequences": self.card.max_sequences,
            "max_step_tokens": 16,
        }
        self.config = WorkerConfig(**(defaults | config))  # type: ignore[arg-type]
        self.node = WorkerNode(self.card, self.config, BlockHasher(KEY, "r", self.config.block_size))
        self.engine = MemoryEngine(self.card)
        self.now = 0.0
        self.queue: deque[Step] = deque()
        self.tokens: dict[int, list[int]] = {}
        self.started: dict[int, Started] = {}
        self.finished: dict[int, Finished] = {}
        self.logprobs: dict[int, list[TokenLogprobs]] = {}
        self.loads: list[Load] = []
        self.states: list[State] = []
        self.notes: list[Note] = []
        self.wake_at: float | None = None
        self.drained = False
        self.views: dict[ClientId, CacheView] = {}

    def send(self, event: WorkerEvent) -> None:
        """One event, its effects performed, every invariant checked."""
        for effect in self.node.handle(event, self.now):
            if isinstance(effect, ToClient):
                self._hear(effect)
            elif isinstance(effect, RunStep):
                self.queue.append(effect.step)
                assert len(self.queue) <= 1 + self.config.run_ahead
            elif isinstance(effect, Wake):
                self.wake_at = effect.at
            elif isinstance(effect, Drained):
                assert not self.drained
                self.drained = True
            elif isinstance(effect, Note):
                self.notes.append(effect)
            else:
                raise AssertionError(f"no leap was planned: {effect}")
        self.node.check()

    def join(self, gateway: GatewayId = GATEWAY) -> None:
        self.views[gateway] = CacheView()
        self.send(ClientJoined(gateway))

    def say(self, message: Submit | Cancel | Ack | Resync | Goodbye, gateway: GatewayId = GATEWAY) -> None:
        self.send(FromClient(gateway, message))

    def step(self) -> Step | None:
        """Let the engine finish one step, if one is there."""
        if not self.queue:
            return None
        self.now += 0.01
        step = self.queue.popleft()
        self.send(StepEnded(self.engine.run(step)))
        return step

    def settle(self, gateway: GatewayId = GATEWAY) -> None:
        """Run until the engine is idle, acknowledging everything."""
        for _ in range(10_000):
            positions = {h: len(t) for h, t in self.tokens.items() if h not in self.finished}
            if positions:
                self.say(Ack([Handle(h) for h in positions], list(positions.values())), gateway)
            if self.step() is None:
                return
        raise AssertionError("the worker never comes to rest")

    def _hear(self, effect: ToClient) -> None:
        message = effect.message
        view = self.views[effect.client]
        if isinstance(message, Tokens):
            assert len(set(message.handles)) == len(message.handles) == len(message.tokens)
            for s in message.started:
                assert s.handle not in self.started
                self.started[s.handle] = s
            for handle, token in zip(message.handles, message.tokens, strict=True):
                assert handle not in self.finished
                assert handle in self.started
                self.tokens.setdefault(handle, []).append(token)
            for finished in message.finished:
                assert finished.handle not in self.finished
                self.finished[finished.handle] = finished
            for handle, logprobs in message.logprobs:
                self.logprobs.setdefault(handle, []).append(logprobs)
        elif isinstance(message, Load):
            self.loads.append(message)
        elif isinstance(message, State):
            self.states.append(message)
        elif isinstance(message, Facts | Snapshot):
            view.take(message)
        else:
            raise AssertionError(f"no hand-off was asked for: {message}")


class CacheView:
    """What a gateway knows of a worker's blocks, from snapshots and deltas."""

    def __init__(self) -> None:
        self.keys: dict[int, int | None] = {}
        self.number: int | None = None
        self.complete = False

    def take(self, message: Snapshot | Facts) -> None:
        if isinstance(message, Snapshot):
            if message.chunk == 0:
                self.keys, self.complete = {}, False
            for run in message.runs:
                self._store(run.parent, run.keys)
            self.number, self.complete = message.number, message.last
        else:
            assert self.complete
            assert self.number is not None
            assert message.number == self.number + 1
            self.number = message.number
            for fact in message.facts:
                if hasattr(fact, "parent"):
                    self._store(fact.parent, fact.keys)
                else:
                    for key in fact.keys:
                        assert key not in self.keys.values(), "evicted before its child"
                        del self.keys[key]
        if self.complete:
            assert message.digest == sum(self.keys) % (1 << 64)

    def _store(self, parent: int | None, keys: list[int]) -> None:
        for key in keys:
            assert parent is None or parent in self.keys, "stored before its parent"
            assert key not in self.keys
            self.keys[key] = parent
            parent = key
