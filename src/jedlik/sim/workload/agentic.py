"""Agentic traces: one conversation per line, with think times and sub-agents, prompts as runs of block ids.

A request's ids are the first `k` of the request before it in its list, then the runs in `h` (first, count, first,
count, ...); full blocks only. Entries with `sub` are sub-agents: lists of their own that start with the answer before
them. The conversation waits for those that completed while it was recorded, beside its think time.
"""

from collections.abc import Iterator, Sequence
from typing import Annotated

import msgspec

from jedlik.core.errors import ConfigError
from jedlik.sim.workload.clock import LONGEST_PAUSE_S
from jedlik.sim.workload.conversations import Conversations, ConversationTurn, Helper, Script, steady
from jedlik.sim.workload.options import DEFAULT_CONCURRENCY, WorkloadOptions
from jedlik.sim.workload.reading import MOST_TOKENS, Source
from jedlik.sim.workload.trace import ID_LIMIT

Count = Annotated[int, msgspec.Meta(ge=0, le=MOST_TOKENS)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]
Length = Annotated[int, msgspec.Meta(ge=1, le=MOST_TOKENS)]


class Entry(msgspec.Struct, frozen=True, kw_only=True, rename={"tokens": "in", "output_tokens": "out"}):
    """A request, or with `sub` a sub-agent."""

    t: Seconds | None = None
    tokens: Length | None = None
    output_tokens: Count = 1
    api: Seconds | None = None
    """Seconds that the answer took."""
    think: Seconds | None = None
    k: Count = 0
    h: list[Annotated[int, msgspec.Meta(ge=0)]] = []
    sub: list["Entry"] | None = None
    status: str = "completed"
    """The status of a sub-agent."""


class Recorded(msgspec.Struct, frozen=True):
    """One line of a file."""

    id: str
    block_size: Length
    reqs: Annotated[list[Entry], msgspec.Meta(min_length=1)]


class RecordedConversation(msgspec.Struct, frozen=True):
    """One line of a file, checked."""

    name: str
    turns: list[ConversationTurn]
    helpers: dict[int, list[Helper]]

    def requests(self) -> int:
        return len(self.turns) + sum(len(helper.turns) for some in self.helpers.values() for helper in some)


class File:
    """The conversations of a file. `again`: after the last comes the first, sharing no text with its earlier self."""

    def __init__(self, conversations: Sequence[RecordedConversation], piece_tokens: int, again: bool) -> None:
        self.conversations = conversations
        self.piece_tokens = piece_tokens
        self._again = again

    def script(self, number: int) -> Script | None:
        passed, place = divmod(number, len(self.conversations))
        if passed and not self._again:
            return None
        found = self.conversations[place]
        return Script(f"{found.name}#{passed}" if passed else found.name, number, found.turns, found.helpers)


def read(source: Source, options: WorkloadOptions, seed: int) -> Conversations:
    """Read conversations. Without limit and duration each runs once, else they go round. Raises ConfigError."""
    options.refuse(("start_s",), "conversations have no common clock; see begin_midway")
    options.refuse(("spread_batches", "trace_block"), "conversations are sent after answers, and name their block size")
    conversations, piece_tokens = recorded(source)
    again = options.limit is not None or options.duration_s is not None
    concurrency = (options.concurrency or DEFAULT_CONCURRENCY) * options.copies
    starts = steady(options, concurrency, seed)
    total = options.limit
    if not again and not options.begin_midway:
        total = sum(conversation.requests() for conversation in conversations)
    return Conversations(File(conversations, piece_tokens, again), starts, options, replaced=True, total=total)


def recorded(source: Source) -> tuple[list[RecordedConversation], int]:
    """All lines, and the size of their blocks. Raises ConfigError with the line that is broken."""
    found, size = [], 0
    for line, one in source.records(Recorded):
        size = size or one.block_size
        if one.block_size != size:
            raise source.broken(
                line, f"block_size is {one.block_size}, but {size} in the lines before", "split the file"
            )
        try:
            found.append(checked(one))
        except ConfigError as error:
            raise source.broken(line, str(error)) from None
    if not found:
        raise ConfigError(f"{source.path}: no conversation in it; give a trace with at least one")
    return found, size


def checked(one: Recorded) -> RecordedConversation:
    """Raises ConfigError naming the entry that is wrong."""
    helpers: dict[int, list[Helper]] = {}
    turns = 0
    for number, entry in enumerate(one.reqs):
        if entry.sub is None:
            turns += 1
            continue
        where = f"reqs[{number}].sub"
        helper = Helper(list(strand(entry.sub, one.block_size, where)), awaited=entry.status == "completed")
        if not helper.turns:
            raise ConfigError(f"{where} has no requests")
        helpers.setdefault(turns, []).append(helper)
    if not turns:
        raise ConfigError("reqs has no request of the conversation itself")
    return RecordedConversation(one.id, list(strand(one.reqs, one.block_size, "reqs")), helpers)


def strand(entries: Sequence[Entry], block_size: int, where: str) -> Iterator[ConversationTurn]:
    """The turns of one list, sub-agents left out."""
    before, blocks = None, 0
    for number, entry in enumerate(entries):
        if entry.sub is not None:
            if where != "reqs":
                raise ConfigError(f"{where}[{number}] is a sub-agent of a sub-agent, which is not known here")
            continue
        tokens, blocks = sized(entry, blocks, block_size, f"{where}[{number}]")
        pause_s = think_s(entry, before)
        if pause_s > LONGEST_PAUSE_S:
            raise ConfigError(f"{where}[{number}] comes {pause_s / 86400:.3g} days after the answer before it")
        yield ConversationTurn(
            tokens=tokens, output_tokens=max(entry.output_tokens, 1), think_s=pause_s, keep=entry.k, runs=tuple(entry.h)
        )
        blocks = tokens // block_size
        before = entry


def sized(entry: Entry, blocks: int, block_size: int, where: str) -> tuple[int, int]:
    """Tokens and named blocks of a prompt, where the one before it had `blocks` of them."""
    if entry.tokens is None:
        raise ConfigError(f"{where} has no length `in`")
    if entry.k > blocks:
        raise ConfigError(f"{where} keeps k = {entry.k} blocks of a prompt that has {blocks}")
    if len(entry.h) % 2:
        raise ConfigError(f"{where}.h has {len(entry.h)} numbers; they must be pairs of first id and count")
    if any(first + count > ID_LIMIT for first, count in zip(entry.h[::2], entry.h[1::2], strict=True)):
        raise ConfigError(f"{where}.h names blocks beyond 2^64 - 1; keep 64 bits of longer hashes")
    named = entry.k + sum(entry.h[1::2])
    if named not in (entry.tokens // block_size, -(-entry.tokens // block_size)):
        raise ConfigError(f"{where} names {named} blocks of {block_size} for {entry.tokens} tokens")
    return entry.tokens, named


def think_s(entry: Entry, before: Entry | None) -> float:
    """Return the recorded pause; where there is none, what lies between the answer before and this request, as far as
    known."""
    if entry.think is not None or before is None or entry.t is None or before.t is None:
        return entry.think or 0.0
    return max(0.0, entry.t - before.t - (before.api or 0.0))
