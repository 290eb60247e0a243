"""One attempt at one choice as the scheduler sees it: history, progress, blocks and phase.

A record, changed by `scheduling/` and `nodes/worker` only. Lengths count tokens of prompt and output together:
`known` are those the worker has seen, `expected` also those that steps in flight will draw, `scheduled` those whose
KV is computed by a step handed over, `computed` those whose KV is there for certain. `stop_at` is the one number the
decode loop compares: no token is planned beyond it.
"""

from enum import Enum
from typing import NamedTuple

from jedlik.core.errors import Bug
from jedlik.core.ids import BlockId, BlockIndex, ClientId, Lane
from jedlik.core.protocol import RUN_AHEAD_TOKENS, Submit
from jedlik.core.requests import MOST_PRIORITY
from jedlik.core.step import TokenLogprobs
from jedlik.core.tokens import TOKEN_BYTES, count
from jedlik.kv.eviction import Run

AGEING_S = 1.0
"""A unit of priority counts as so much waiting. The range is bounded, so nothing starves."""
NO_LANE = Lane(-1)
NEVER = 1 << 62


class Phase(Enum):
    WAITING = "waiting"
    ARRIVING = "arriving"
    """The sequence's blocks are on their way, from another worker or a tier."""
    PARKED = "parked"
    """Preempted, and its gateway has not acknowledged enough to go on."""
    PREFILL = "prefill"
    DECODE = "decode"
    LEAVING = "leaving"
    """Preempted while a step computes it: its blocks are let go when that step ends."""
    ENDED = "ended"


MOVES: dict[tuple[Phase, str], Phase] = {
    (Phase.WAITING, "admit"): Phase.PREFILL,
    (Phase.WAITING, "depart"): Phase.ARRIVING,
    (Phase.ARRIVING, "arrive"): Phase.WAITING,
    (Phase.ARRIVING, "end"): Phase.ENDED,
    (Phase.WAITING, "park"): Phase.PARKED,
    (Phase.PARKED, "unpark"): Phase.WAITING,
    (Phase.PREFILL, "prefilled"): Phase.DECODE,
    (Phase.PREFILL, "preempt"): Phase.LEAVING,
    (Phase.DECODE, "preempt"): Phase.LEAVING,
    (Phase.LEAVING, "requeue"): Phase.WAITING,
    (Phase.WAITING, "end"): Phase.ENDED,
    (Phase.PARKED, "end"): Phase.ENDED,
    (Phase.PREFILL, "end"): Phase.ENDED,
    (Phase.DECODE, "end"): Phase.ENDED,
    (Phase.LEAVING, "end"): Phase.ENDED,
}


class HistoryMatch(NamedTuple):
    """The part of a sequence's history that a pool has."""

    ids: list[BlockId]
    """The ids of the full blocks that the sequence could adopt: all but the block of its last token."""
    found: int
    """The number of leading blocks that the pool has."""
    in_use: int
    """The number of those that some sequence holds already."""
    version: int
    """The version of the pool that this is true for."""


class Sequence:
    """One choice inside a worker. `number` is the worker's own count of arrivals: the last word in every tie."""

    __slots__ = (
        "admitted",
        "arrived_s",
        "block_ids",
        "blocks",
        "cached_tokens",
        "client",
        "computed",
        "due_s",
        "end_at",
        "expected",
        "handle",
        "history",
        "in_flight",
        "key",
        "known",
        "lane",
        "match",
        "min_length",
        "missing",
        "missing_pairs",
        "number",
        "phase",
        "prompt_logprobs",
        "prompt_tokens",
        "publish_at",
        "published",
        "queued_s",
        "resumed",
        "root",
        "run",
        "scheduled",
        "started",
        "stop_at",
        "stops",
        "story",
        "submit",
        "tabled",
        "turn",
        "window",
        "window_at",
    )

    def __init__(
        self, submit: Submit, client: ClientId, number: int, now: float, root: BlockId, window: int = RUN_AHEAD_TOKENS
    ) -> None:
        self.submit, self.client, self.handle, self.number = submit, client, submit.handle, number
        self.arrived_s = now
        self.due_s = None if submit.budget_s is None else now + submit.budget_s
        priority = max(-MOST_PRIORITY, min(MOST_PRIORITY, submit.priority))  # whatever a peer says
        self.key = (now + priority * AGEING_S, number)
        self.turn = number  # `WaitingQueue` exchanges turns within a tenant
        self.root = root
        self.history = bytearray(submit.prompt + submit.output)
        self.prompt_tokens = count(submit.prompt)
        self.known = len(self.history) // TOKEN_BYTES
        self.min_length = self.prompt_tokens + submit.stopping.min_tokens
        self.stops: frozenset[int] = frozenset()
        self.end_at = self.prompt_tokens + submit.stopping.max_tokens
        self.window, self.window_at = window, self.known + window
        self.block_ids: list[BlockId] = []
        self.match: HistoryMatch | None = None  # the last one, see `Booking.match`
        self.in_flight = 0
        self.missing, self.missing_pairs = self.known, 0  # as far as known when it was queued
        self.cached_tokens = 0
        self.queued_s = 0.0
        self.admitted = False  # ever
        self.started = self.resumed = False
        self.prompt_logprobs: list[TokenLogprobs] | None = None
        self.phase, self.story = Phase.WAITING, "waiting"
        self.rewind()

    def rewind(self) -> None:
        """Nothing is computed, no block or lane is held: how every (re)start begins."""
        self.expected, self.scheduled, self.computed = self.known, 0, 0
        self.blocks: list[BlockIndex] = []
        self.run: Run | None = None  # the last it holds under a name
        self.lane, self.tabled, self.published = NO_LANE, 0, 0
        self.publish_at = NEVER  # `Booking.open` says from where
        self.stop_at = 0  # nothing is planned before `bound`

    def bound(self) -> None:
        """Have a running sequence planned up to its end, or as far as its client allows."""
        self.stop_at = min(self.end_at, self.window_at)

    def limit(self, max_length: int, stops: frozenset[int]) -> None:
        """Set what ends it: the longest history the worker takes, and the tokens that stop it."""
        self.end_at = min(self.end_at, max_length)
        self.stops = stops

    def acknowledge(self, position: int) -> None:
        """The gateway's client has taken the output up to `position`."""
        self.window_at = max(self.window_at, self.prompt_tokens + position + self.window)
        if self.phase in (Phase.PREFILL, Phase.DECODE):
            self.bound()

    @property
    def window_closed(self) -> bool:
        """Return whether the sequence must wait for its client to acknowledge more."""
        return self.known >= self.window_at

    @property
    def pushes(self) -> bool:
        """Return whether the sequence is computed for another worker, which gets its blocks."""
        return self.submit.push is not None

    @property
    def reads_prompt(self) -> bool:
        """Return whether every position must be computed, because log-probabilities of the prompt are still owed."""
        return self.submit.sampling.prompt_logprobs is not None and not self.started

    def move(self, event: str) -> None:
        """Change phase by the table; raises Bug with the story so far where the table has no entry."""
        phase = MOVES.get((self.phase, event))
        self.story = f"{self.story[-200:]} {event}"
        if phase is None:
            raise Bug(f"sequence {self.handle} of {self.client} can't {event} while {self.phase.value}: {self.story}")
        self.phase = phase
        if phase is Phase.LEAVING or phase is Phase.ENDED:
            self.stop_at = 0  # the decode loop passes it by
