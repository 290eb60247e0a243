"""The frontend's test world: small trained tokenizers, a scripted gateway that keeps the contract, ASGI calls."""

import asyncio
import json
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from jedlik.core import tokens
from jedlik.core.config import FrontendConfig, GatewayConfig, Role
from jedlik.core.effects import Deliver, StreamEnded, StreamStarted
from jedlik.core.errors import Fault, PeerError
from jedlik.core.events import Abandoned, Arrived, Consumed, Cut, Hold, Scale
from jedlik.core.facts import Candidate, Routed, Shadow
from jedlik.core.ids import RequestId, StreamId, WorkerId
from jedlik.core.protocol import RUN_AHEAD_TOKENS, Capabilities, Card, FinishReason, Layout
from jedlik.core.requests import OPENAI, Defaults, Request, Sampling, Stopping
from jedlik.core.step import TokenLogprobs
from jedlik.frontend.app import Application, FrontendParts, ServedModel, build_app
from jedlik.frontend.port import DeliverTo, GatewayPort, PlansPort, RolesPort
from jedlik.frontend.site import Site
from jedlik.frontend.text.samples import SAMPLES

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
HELLO: list[dict[str, str]] = [{"role": "user", "content": "Hi"}]
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_SUFFIX = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
O200K = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_SUFFIX}|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_SUFFIX}"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _split(pattern: str) -> Any:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _gpt2() -> Any:
    return pre_tokenizers.ByteLevel(add_prefix_space=False)


PRE: dict[str, Callable[[], Any]] = {
    "gpt2": _gpt2,
    "smollm": lambda: pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _gpt2()]),
    "llama3": lambda: _split(LLAMA3),
    "qwen": lambda: _split(QWEN),
    "o200k": lambda: _split(O200K),
}


def byte_level(kind: str = "smollm", vocab: int = 900) -> Tokenizer:
    """A byte-level BPE with the named pre-tokeniser, trained on the samples."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = PRE[kind]()
    tokenizer.decoder = decoders.ByteLevel()
    if kind == "qwen":
        tokenizer.normalizer = normalizers.NFC()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SAMPLES * 3, trainer)
    tokenizer.add_tokens([AddedToken("<tool>", normalized=False), AddedToken("ÿé", normalized=False)])
    return tokenizer


def sentence_piece() -> Tokenizer:
    """A metaspace BPE with byte fallback, as Llama 2 and Mistral have."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=special, show_progress=False, max_token_length=8)
    tokenizer.train_from_iterator([word for text in SAMPLES[:2] for word in text.split()], trainer)
    spec = json.loads(tokenizer.to_str())
    spec["added_tokens"] = [token for token in spec["added_tokens"] if not token["content"].startswith("<0x")]
    return Tokenizer.from_str(json.dumps(spec))


def word_piece() -> Tokenizer:
    """A decoder that no table fits."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=["[UNK]", "[CLS]"], show_progress=False)
    tokenizer.train_from_iterator(SAMPLES, trainer)
    return tokenizer


def spec_of(tokenizer: Tokenizer) -> dict[str, object]:
    return msgspec.json.decode(tokenizer.to_str().encode(), type=dict[str, object])


def write_model(directory: Path, tokenizer: Tokenizer | None = None, template: str | None = TEMPLATE) -> Path:
    """A model directory as the frontend needs it."""
    directory.mkdir(parents=True, exist_ok=True)
    (tokenizer or byte_level()).save(str(directory / "tokenizer.json"))
    config = {"bos_token": SPECIAL[1], "eos_token": {"content": SPECIAL[2]}}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    if template is not None:
        (directory / "chat_template.jinja").write_text(template)
    return directory


ABLE = Capabilities(
    sampling=frozenset(Sampling.__struct_fields__ + Stopping.__struct_fields__),
    max_logprobs=5,
    choices=16,
)


def card(
    name: str = "w0",
    *,
    model: str = "tiny",
    vocab: int = 900,
    able: Capabilities = ABLE,
    length: int = 512,
    revision: str = "r",
) -> Card:
    layout = Layout(dtype="float32", layers=2, kv_heads=2, head_dim=8, block_size=16)
    worker = WorkerId(f"{name}@1")
    return Card(
        schema=1,
        worker=worker,
        name=name,
        model=model,
        revision=revision,
        layout=layout,
        total_blocks=100,
        max_model_len=length,
        max_sequences=8,
        max_step_tokens=512,
        vocab_size=vocab,
        eos_token_ids=(2,),
        hash_check="h",
        capabilities=able,
    )


class ScriptedPort:
    """A gateway that answers each choice with the same tokens, some per delivery, within the run-ahead limit."""

    def __init__(self, script: Sequence[int] = (), per_delivery: int = 1, end: FinishReason = "stop") -> None:
        self.script = list(script)
        self.per_delivery = per_delivery
        self.end: FinishReason = end
        self.refuse: Fault | None = None
        self.break_after: int | None = None
        self.silent = False
        self.events: list[object] = []
        self.requests: dict[RequestId, Request] = {}
        self.consumed: dict[int, int] = {}
        self.dead: set[int] = set()
        self.card_list: Sequence[Card] = (card(),)
        self.draining = False
        self.on_arrival: Callable[[], None] = lambda: None
        self._deliver: DeliverTo = lambda deliver: None

    # --- the port ---

    def send(self, event: Arrived | Abandoned | Cut | Consumed) -> None:
        self.events.append(event)
        if isinstance(event, Consumed):
            self.consumed[event.stream] = event.position
        elif isinstance(event, Cut):
            self.dead.add(event.stream)
        elif isinstance(event, Abandoned):
            self.dead.update(self._streams(self.requests[event.request_id]))
        else:
            self._arrived(event.request)

    def listen(self, deliver: DeliverTo) -> None:
        self._deliver = deliver

    def cards(self) -> Sequence[Card]:
        return self.card_list

    def explain(self, request_id: RequestId) -> Sequence[Routed]:
        request = self.requests.get(request_id)
        if request is None:
            return ()
        here = WorkerId("w0@1")
        seen = (Candidate(worker=here, cost_s=1.0, cached_tokens=3, parts={"wait": 0.25, "prefill": 0.75}),)
        shadow = Shadow(
            policy="dynamo",
            chosen=here,
            cost=4.5,
            unit="blocks",
            candidates=(Candidate(worker=here, cost_s=4.5, cached_tokens=3, parts={"decode": 4.5}),),
        )
        decision = Routed(
            request_id=request_id,
            attempt=1,
            tenant=request.tenant,
            at=0.0,
            prompt_tokens=tokens.count(request.prompt),
            chosen=here,
            unit="s",
            candidates=seen,
            policy="jedlik",
            predicted_ttft_s=1.0,
            observed_ttft_s=1.5,
            shadow=shadow,
        )
        return (decision,)

    def health(self) -> dict[str, object]:
        return {"draining": self.draining, "workers": [c.worker for c in self.card_list]}

    # --- the script ---

    def _streams(self, request: Request) -> list[int]:
        return [request.first_stream + c for c in range(request.choices)]

    def _arrived(self, request: Request) -> None:
        self.requests[request.request_id] = request
        self.on_arrival()
        if self.refuse is not None:
            ended = [StreamEnded(StreamId(s), "abort", fault=self.refuse) for s in self._streams(request)]
            self._deliver(Deliver(streams=[], tokens=[], ended=ended))
        elif not self.silent:
            for stream in self._streams(request):
                asyncio.get_running_loop().call_soon(self._step, request, StreamId(stream), 0)

    def _step(self, request: Request, stream: StreamId, at: int) -> None:
        if stream in self.dead:
            return
        loop = asyncio.get_running_loop()
        if at - self.consumed.get(stream, 0) > RUN_AHEAD_TOKENS - self.per_delivery:
            loop.call_later(0.001, self._step, request, stream, at)  # waits for the client, as a worker does
            return
        limit = request.stopping.max_tokens
        given = self.script[at : min(at + self.per_delivery, limit)]
        end = at + len(given)
        broken = self.break_after is not None and end >= self.break_after
        over = end >= min(limit, len(self.script)) or broken
        self._deliver(
            Deliver(
                streams=[stream] * len(given),
                tokens=given,
                started=[self._start(request, stream)] if at == 0 else [],
                ended=[self._end(stream, end, limit, broken)] if over else [],
                logprobs=self._logprobs(request, stream, given),
            )
        )
        if not over:
            loop.call_soon(self._step, request, stream, end)

    def _start(self, request: Request, stream: StreamId) -> StreamStarted:
        count = request.sampling.prompt_logprobs
        ids = tokens.unpack(request.prompt)[1:]
        return StreamStarted(stream, WorkerId("w0@1"), 3, None if count is None else [self._one(i, count) for i in ids])

    def _end(self, stream: StreamId, end: int, limit: int, broken: bool) -> StreamEnded:
        if broken:
            return StreamEnded(stream, "abort", fault=Fault(kind="internal", message="the worker died"))
        if self.end == "stop" and end == len(self.script):
            return StreamEnded(stream, "stop", stop_token=self.script[-1])
        return StreamEnded(stream, "length")

    def _one(self, token: int, count: int) -> TokenLogprobs:
        return TokenLogprobs(-0.5, 1, [(token + k, -0.5 - k) for k in range(count)])

    def _logprobs(
        self, request: Request, stream: StreamId, given: Iterable[int]
    ) -> list[tuple[StreamId, TokenLogprobs]]:
        count = request.sampling.logprobs
        return [] if count is None else [(stream, self._one(token, count)) for token in given]


class FixedRoles:
    """Workers that do as they are told, but for one that may not."""

    def __init__(self) -> None:
        self.known = [("w0@1", "w0"), ("w0@2", "w0"), ("w1@1", "w1"), ("w2@1", "w2")]
        self.asked: list[tuple[str, str]] = []

    def roles(self) -> list[dict[str, object]]:
        return [{"worker": worker, "name": name, "role": "both", "epoch": 0} for worker, name in self.known]

    def flip(self, worker: WorkerId, role: Role) -> str | None:
        if worker == "w2@1":
            return "nobody would be left to decode for model 'm'"
        self.asked.append((worker, role))
        return None


class FixedPlans:
    """A supervisor that sets what it is told, but not ten workers; `away`: it can't be reached."""

    def __init__(self) -> None:
        self.asked: list[Scale | Hold] = []
        self.away = False

    async def plan(self) -> bytes:
        if self.away:
            raise PeerError("the supervisor can't be reached")
        return b'{"mode":"off"}'

    async def scale(self, wanted: Scale | Hold) -> bytes | str:
        if self.away:
            raise PeerError("the supervisor can't be reached")
        if isinstance(wanted, Scale) and wanted.counts == {"both": 10}:
            return "there is room for 4"
        self.asked.append(wanted)
        return b'{"auto":false}'


def application(
    directory: Path,
    port: GatewayPort,
    config: FrontendConfig | None = None,
    keys: dict[str, str] | None = None,
    roles: RolesPort | None = None,
    plans: PlansPort | None = None,
    defaults: Defaults = OPENAI,
    gateway: GatewayConfig | None = None,
    other_sites: Mapping[int, Site] | None = None,
    special_in_text: bool = False,
    more_models: dict[str, ServedModel] | None = None,
) -> Application:
    numbers = iter(range(1, 1_000_000))
    return build_app(
        FrontendParts(
            port=port,
            roles=roles or FixedRoles(),
            plans=plans or FixedPlans(),
            models={"tiny": ServedModel(directory=directory, defaults=defaults)} | (more_models or {}),
            config=config or FrontendConfig(),
            gateway=gateway or GatewayConfig(),
            api_keys=keys or {},
            other_sites=other_sites or {},
            special_in_text=special_in_text,
            metrics=lambda: b"up 1\n",
            rng=random.Random(7),
            fresh_id=lambda: f"req{next(numbers)}",
            now=time.monotonic,
            wall=lambda: 1_700_000_000.0,
        )
    )


class Reply:
    """What an ASGI call sent."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.parts: list[bytes] = []
        self.complete = False

    @property
    def body(self) -> bytes:
        return b"".join(self.parts)

    def json(self) -> Any:
        return json.loads(self.body)

    def events(self) -> list[Any]:
        """Data of server-sent events; "[DONE]" as it is."""
        lines = [line[6:] for line in self.body.decode().split("\n\n") if line.startswith("data: ")]
        return [line if line == "[DONE]" else json.loads(line) for line in lines]


class Client:
    """Makes raw ASGI calls. When `leave` is set the client disconnects; `sent` sees the reply after each message."""

    def __init__(self, app: Application) -> None:
        self.app = app
        self.port = 8000
        """Where its connections come in."""

    async def call(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: dict[str, str] | None = None,
        leave: asyncio.Event | None = None,
        sent: Callable[[Reply], Any] | None = None,
        query: str = "",
    ) -> Reply:
        reply = Reply()
        queue: list[dict[str, object]] = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Any:
            if queue:
                return queue.pop()
            await (leave or asyncio.Event()).wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                reply.status = message["status"]
                reply.headers = {k.decode(): v.decode() for k, v in message["headers"]}
            else:
                reply.parts.append(message["body"])
                reply.complete = not message.get("more_body", False)
            if sent is not None:
                outcome = sent(reply)
                if outcome is not None:
                    await outcome

        head = {"content-type": "application/json", **(headers or {})}
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": query.encode(),
            "headers": [(k.encode("latin-1"), v.encode("latin-1")) for k, v in head.items()],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", self.port),
        }
        await self.app(scope, receive, send)
        self.app.hub.check()
        return reply

    async def post(self, path: str, value: object, **more: Any) -> Reply:
        return await self.call("POST", path, msgspec.json.encode(value), **more)


def post(app: Application, path: str, value: object, **more: Any) -> Reply:
    return asyncio.run(Client(app).post(path, value, **more))


def get(app: Application, path: str, method: str = "GET", **more: Any) -> Reply:
    return asyncio.run(Client(app).call(method, path, **more))
