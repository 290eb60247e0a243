"""Closed loop: clients that send the next request some time after the answer to the last one, and their helpers.

A conversation is a list of turns; helpers (sub-agents) are lists of their own that start between two of its turns, and
it may wait for them. Ended ones are replaced, where a number of conversations is kept going. Prompts are decoded turn
by turn: memory is that of the scripts and of the conversations under way. Promises: the same answers at the same times
give the same requests. The first turn of a list is sent at once.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from random import Random
from typing import Protocol

import msgspec

from jedlik.core.errors import Bug
from jedlik.sim.workload.offered import Offered, OfferedText
from jedlik.sim.workload.options import WorkloadOptions
from jedlik.sim.workload.trace import ID_LIMIT


class ConversationTurn(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One request; its prompt begins with what the one before it in the list had."""

    tokens: int
    output_tokens: int
    think_s: float
    """Seconds from the answer before this turn until it is sent."""
    keep: int
    """Leading pieces that are the previous prompt's."""
    runs: Sequence[int]
    """The pieces after those: first, count, first, count, ..."""


class Helper(msgspec.Struct, frozen=True):
    """A sub-agent's part of a conversation."""

    turns: Sequence[ConversationTurn]
    awaited: bool = True
    """The conversation goes on only when this one has ended."""


class Script(msgspec.Struct, frozen=True):
    """One conversation. Equal ids in one space are equal text, also between conversations and helpers."""

    name: str
    space: int
    turns: Sequence[ConversationTurn]
    helpers: Mapping[int, Sequence[Helper]] = {}
    """Helpers by the number of the turn before which they start."""


class Scripts(Protocol):
    """The source of conversations."""

    piece_tokens: int

    def script(self, number: int) -> Script | None:
        """Conversation `number` from 0, the same at each call; None: there are no more."""


class Start(msgspec.Struct, frozen=True):
    """A conversation that begins by itself."""

    at_s: float
    number: int
    skip: float = 0.0
    """The share of its turns that is left out at its beginning: in [0, 1)."""


class Strand(msgspec.Struct, kw_only=True, eq=False):
    """One list of turns under way, a conversation's own or a helper's: `Offered.then`."""

    talk: "Talk"
    turns: Sequence[ConversationTurn]
    session: str
    number: int = 0
    """0 is the conversation's own."""
    awaited: bool = False
    position: int = 0
    """The next turn to send."""
    ids: list[int] = []
    """The ids of the last prompt; replaced, never changed."""
    due_s: float = 0.0
    """When the next turn is sent, if nothing is waited for."""


class Talk:
    """A conversation under way."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.own = Strand(talk=self, turns=script.turns, session=script.name)
        self.strands = 1
        """Begun so far."""
        self.open = 1
        """Of those, not ended."""
        self.awaited = 0
        """Helpers without which it does not go on."""


class Conversations:
    """Conversations that begin at `starts`, in order of time; with `replaced`, the next one begins where one ends."""

    def __init__(
        self, scripts: Scripts, starts: Iterable[Start], options: WorkloadOptions, replaced: bool, total: int | None
    ) -> None:
        self._scripts = scripts
        self._starts = starts
        self._options = options
        self._replaced = replaced
        self._next = 0
        self._sent = 0
        self.total = total

    def arrivals(self) -> Iterator[Offered]:
        """Begins anew: an earlier run's conversations must not go on after this."""
        self._sent = 0
        self._next = sum(1 for _ in self._starts) if self._replaced else 0
        for start in self._starts:
            yield from self._allowed(self._begin(start))

    def ended(self, offered: Offered, now_s: float) -> Sequence[Offered]:
        strand = offered.then
        if not isinstance(strand, Strand):
            raise Bug(f"a request of another workload ended here: session {offered.session!r}")
        think_s = strand.turns[strand.position].think_s if strand.position < len(strand.turns) else 0.0
        return list(self._allowed(self._go_on(strand, now_s, now_s + think_s / self._options.speed)))

    def _allowed(self, offers: Iterable[Offered]) -> Iterator[Offered]:
        """Within limit and duration; a conversation beyond them just stops."""
        limit, duration_s = self._options.limit, self._options.duration_s
        for offered in offers:
            if (limit is None or self._sent < limit) and (duration_s is None or offered.at_s < duration_s):
                self._sent += 1
                yield offered

    def _begin(self, start: Start) -> list[Offered]:
        script = self._scripts.script(start.number)
        if script is None:
            return []
        own = Talk(script).own
        for turn in script.turns[: int(start.skip * len(script.turns))]:
            own.ids = following(own.ids, turn)
            own.position += 1
        return self._go_on(own, start.at_s, start.at_s)

    def _go_on(self, strand: Strand, now_s: float, due_s: float) -> list[Offered]:
        """What comes after an answer, or at the beginning; the next turn not before `due_s`."""
        talk = strand.talk
        offers = self._helpers(talk, now_s) if strand is talk.own else []
        if strand.position == len(strand.turns):
            return offers + self._over(strand, now_s)
        strand.due_s = due_s
        if strand is talk.own and talk.awaited:
            return offers
        return [*offers, self._send(strand, strand.due_s)]

    def _helpers(self, talk: Talk, now_s: float) -> list[Offered]:
        """The first requests of those that start before the conversation's next turn."""
        offers = []
        for helper in talk.script.helpers.get(talk.own.position, ()):
            session = f"{talk.script.name}/{talk.strands}"
            strand = Strand(talk=talk, turns=helper.turns, session=session, number=talk.strands, awaited=helper.awaited)
            talk.strands += 1
            talk.open += 1
            talk.awaited += helper.awaited
            offers.append(self._send(strand, now_s))
        return offers

    def _over(self, strand: Strand, now_s: float) -> list[Offered]:
        """A list of turns has ended: its conversation may have waited for it, or end with it."""
        talk = strand.talk
        talk.open -= 1
        talk.awaited -= strand.awaited
        if strand.awaited and not talk.awaited and talk.own.position < len(talk.own.turns):
            return [self._send(talk.own, max(now_s, talk.own.due_s))]
        if talk.open or not self._replaced:
            return []
        self._next += 1
        return self._begin(Start(now_s, self._next - 1))

    def _send(self, strand: Strand, at_s: float) -> Offered:
        turn, script, piece_tokens = strand.turns[strand.position], strand.talk.script, self._scripts.piece_tokens
        strand.position += 1
        ids = strand.ids = following(strand.ids, turn)
        if len(ids) * piece_tokens < turn.tokens:  # the last piece is partial, and nobody's but this prompt's
            ids = [*ids, ID_LIMIT + (strand.number << 32) + strand.position]
        text = OfferedText(script.space, ids, piece_tokens, turn.tokens)
        return Offered(at_s=at_s, text=text, output_tokens=turn.output_tokens, session=strand.session, then=strand)


def following(ids: Sequence[int], turn: ConversationTurn) -> list[int]:
    """The ids of a turn's prompt, from those of the one before it."""
    found = list(ids[: turn.keep])
    for first, count in zip(turn.runs[::2], turn.runs[1::2], strict=True):
        found.extend(range(first, first + count))
    return found


def steady(options: WorkloadOptions, concurrency: int, seed: int) -> list[Start]:
    """The first conversations, as many as are kept going: spread over the ramp, each from its first turn or midway."""
    chance = Random(f"starts {seed}")
    times = sorted(chance.uniform(0, options.ramp_s) for _ in range(concurrency))
    return [Start(at_s, number, chance.random() if options.begin_midway else 0.0) for number, at_s in enumerate(times)]
