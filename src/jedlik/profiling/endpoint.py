"""Measures an OpenAI endpoint from outside: time to first token of prompts alone, time between tokens of batches.

Prompts are token ids drawn anew each time, so no cache knows them. A batch's step time is taken where all its streams
decode and none prefills any more. What is measured is the whole endpoint, HTTP and tokenising included: put one worker
behind it. A prompt longer than the server's own chunk takes several steps, whose bases end up in tokens and pairs.
"""

import json
import random
import secrets
import statistics
import threading
import time
from collections.abc import Callable

import msgspec

from jedlik.core.errors import ConfigError, PeerError
from jedlik.net.http_client import ERRORS, HttpClient, Reply
from jedlik.perf.linear import Point
from jedlik.perf.step import StepShape, chunk_pairs
from jedlik.profiling.grid import Grid, GridTask, Room, plan

TIMEOUT_S = 300.0
PROMPT_IDS = range(100, 400)
"""Token ids that are in every vocabulary, and special in none that we know."""
REPEATS = 3
WINDOW_TOKENS = 24
LEAST_EVENTS = 4
SMALLEST_CHUNK = 128
"""The least tokens of a prefill's chunk: it says how many steps the others of a batch may take meanwhile."""
UNKNOWN_LEN = 4096


class MeasuredStream(msgspec.Struct, frozen=True, kw_only=True):
    """One completion, as it came."""

    began_s: float
    events_s: list[float]
    """When each piece of text came."""
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int

    @property
    def tokens_per_event(self) -> float:
        return self.output_tokens / len(self.events_s)


class Endpoint:
    """An OpenAI-compatible server and one of its models."""

    def __init__(self, url: str, model: str | None, api_key: str | None) -> None:
        """Raises ConfigError if nobody answers there, or not that model."""
        server = (url if "//" in url else f"http://{url}").rstrip("/").removesuffix("/v1")
        try:
            self._client = HttpClient(f"{server}/v1", api_key, TIMEOUT_S)
        except ConfigError as error:
            raise ConfigError(f"--url {url}: expected something like http://127.0.0.1:8000") from error
        self.model, self.max_model_len = self._choose(model, url)

    def stream(self, prompt: list[int], max_tokens: int) -> MeasuredStream:
        """One completion of exactly that many tokens. Raises PeerError with what the server said."""
        body = {
            "model": self.model,
            "prompt": prompt,
            "max_tokens": max_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        events, usage = [], None
        began_s = time.perf_counter()
        try:
            for data in self._client.events("/completions", body, _refusal):
                at_s, chunk = time.perf_counter(), json.loads(data)
                if "error" in chunk:
                    raise PeerError(str(chunk["error"]))
                if chunk.get("choices"):
                    events.append(at_s)
                usage = chunk.get("usage") or usage
        except ERRORS as error:
            raise PeerError(f"the endpoint broke off: {type(error).__name__}: {error}") from error
        if not events or usage is None:
            raise PeerError("the server streamed no text or no usage: it needs stream_options.include_usage")
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        return MeasuredStream(
            began_s=began_s,
            events_s=events,
            prompt_tokens=usage["prompt_tokens"],
            cached_tokens=cached,
            output_tokens=usage["completion_tokens"],
        )

    def _choose(self, model: str | None, url: str) -> tuple[str, int | None]:
        try:
            reply = self._client.get("/models")
            if reply.status != 200:
                raise _refusal(reply)
            known = {entry["id"]: entry.get("max_model_len") for entry in json.loads(reply.body)["data"]}
        except (*ERRORS, PeerError, KeyError, TypeError) as error:
            raise ConfigError(f"--url {url}: no OpenAI endpoint answers there: {error}") from error
        if not known:
            raise ConfigError(f"--url {url}: the server has no model yet; try again in a moment")
        if model is not None and model not in known:
            raise ConfigError(f"--model {model}: the server at {url} has {', '.join(known)}")
        name = model or next(iter(known))
        return name, known[name]


def _refusal(reply: Reply) -> PeerError:
    return PeerError(f"{reply.status} {reply.reason}: {reply.body[:300].decode(errors='replace')}")


def room(endpoint: Endpoint, grid: Grid) -> Room:
    """Return what can be known from outside: the context length. The cache is taken to hold the grid."""
    return Room(endpoint.max_model_len or UNKNOWN_LEN, 4 * grid.fill_tokens + 4 * grid.lengths[-1])


def tasks(grid: Grid, space: Room) -> list[GridTask]:
    """Return the tasks that can be measured from outside: prefills of fresh prompts, and decodes."""
    return [task for task in plan(grid, space) if not task.start and not (task.length and task.batch)]


def measure(endpoint: Endpoint, grid: Grid, todo: list[GridTask], advance: Callable[[GridTask], None]) -> list[Point]:
    """Raises PeerError if the server refuses; decodes that never ran together are left out."""
    draw = random.Random(secrets.randbits(64))
    endpoint.stream(_prompt(draw, grid.lengths[0]), 8)  # connections, caches and kernels that a first request makes
    found: list[Point] = []
    for task in todo:
        if task.length:
            found += _prefill(endpoint, draw, task.length)
        else:
            found += _decode(endpoint, draw, task)
        advance(task)
    return found


def _prompt(draw: random.Random, length: int) -> list[int]:
    return draw.choices(PROMPT_IDS, k=length)


def _prefill(endpoint: Endpoint, draw: random.Random, length: int) -> list[Point]:
    streams = [endpoint.stream(_prompt(draw, length), 1) for _ in range(REPEATS)]
    new = streams[0].prompt_tokens - streams[0].cached_tokens
    shape = StepShape(new, chunk_pairs(streams[0].cached_tokens, new), 0, 0)
    return [Point(shape, statistics.median(s.events_s[0] - s.began_s for s in streams))]


def _decode(endpoint: Endpoint, draw: random.Random, task: GridTask) -> list[Point]:
    steps = WINDOW_TOKENS + task.batch * (1 + -(-task.context // SMALLEST_CHUNK))
    most = (endpoint.max_model_len or UNKNOWN_LEN) - task.context - 1
    for output in (steps, 3 * steps):
        streams = together(endpoint, [_prompt(draw, task.context) for _ in range(task.batch)], min(output, most))
        if point := window(streams):
            return [point]
    return []


def together(endpoint: Endpoint, prompts: list[list[int]], max_tokens: int) -> list[MeasuredStream]:
    """All at once. Raises the first error."""
    streams: list[MeasuredStream] = []
    errors: list[Exception] = []

    def run(prompt: list[int]) -> None:
        try:
            streams.append(endpoint.stream(prompt, max_tokens))
        except Exception as error:  # told by the thread that waits
            errors.append(error)

    threads = [threading.Thread(target=run, args=(prompt,), daemon=True) for prompt in prompts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return streams


def window(streams: list[MeasuredStream]) -> Point | None:
    """The step time while all of them decode; None where that was too short."""
    begins_s = max(stream.events_s[0] for stream in streams)
    ends_s = min(stream.events_s[-1] for stream in streams)
    gaps_s, context = [], 0.0
    for stream in streams:
        inside = [at_s for at_s in stream.events_s if begins_s <= at_s <= ends_s]
        if len(inside) < LEAST_EVENTS:
            return None
        rate = stream.tokens_per_event
        gaps_s.append((inside[-1] - inside[0]) / (len(inside) - 1) / rate)
        before = sum(at_s < begins_s for at_s in stream.events_s)
        context += stream.prompt_tokens + rate * (before + len(inside) / 2)
    return Point(StepShape(0, 0, len(streams), round(context)), statistics.median(gaps_s))
