"""The running batch: turns waiting, prefilling and decoding sequences into one step after another.

Continuous batching with chunked prefill: decodes first, then prefills in order of admission, then new admissions.
Sequences may come with blocks that others filled, and leave theirs to who still reads them. Plans may be made while
earlier ones run; a sequence that ends or is preempted in the meantime keeps its blocks until the last step that names
it has ended (`settle`). It knows no gateway, no message and no engine.

One plan divides the tokens of a step and the blocks of the pool:

    step    | decodes: 1 each | chunks of admitted prefills | chunks of new admissions |       at most max_step_tokens
    pool    | held by sequences | promised to admitted prefills | margin | `_spare`: for new admissions |

`_extend` and `_room` let a sequence that runs grow; where no block is left, the last in line is preempted and starts
again later from what is cached. `_fits` admits a waiting sequence only if its whole history fits into `_spare`, or,
where none runs, into what is free.
It is long because planning, memory and leaps change the same few sets.
"""

from collections.abc import Iterable, Iterator

from jedlik.core.config import WorkerConfig
from jedlik.core.errors import Bug
from jedlik.core.ids import BlockIndex, Lane
from jedlik.core.step import Chunk, Open
from jedlik.core.tokens import TOKEN_BYTES
from jedlik.perf.step import chunk_pairs
from jedlik.scheduling.booking import SequenceBlocks
from jedlik.scheduling.queue import WaitingQueue, last_in_line, victim_of
from jedlik.scheduling.sequence import Phase, Sequence
from jedlik.scheduling.step_plan import StepPlan, chunk_length, leap_steps

WATERMARK = 0.01
"""Share of the pool that admissions leave to running sequences, to grow into."""

MARGIN = 0.02
"""The share of the pool that blocks on their way leave to sequences that run, at least."""


class Batch:
    """Every sequence of one worker that waits or runs."""

    def __init__(
        self, config: WorkerConfig, booking: SequenceBlocks, longest_leap: int = 1, keeps: bool = False
    ) -> None:
        """`keeps`: those that end go to `lingering` with their blocks, until somebody calls `let_go`."""
        self.waiting = WaitingQueue()
        self.parked: dict[int, Sequence] = {}
        self.arriving: dict[int, Sequence] = {}
        self.lingering: dict[int, Sequence] = {}
        self.prefilling: list[Sequence] = []
        self.decoding: list[Sequence] = []
        self.preemptions = 0
        self._config, self._booking, self._longest_leap = config, booking, longest_leap
        self._lanes = [Lane(lane) for lane in range(config.max_sequences - 1, -1, -1)]
        self._closing: list[Lane] = []
        self._unsettled: dict[int, Sequence] = {}
        """Ended or leaving, but named by a step in flight."""
        self._stale = False
        """`prefilling` or `decoding` hold some that no longer belong there."""
        self._holders: dict[int, Sequence] = {}
        """Of those waiting: whose blocks have arrived."""
        self.readers: dict[int, int] = {}
        """By number: how many moves read a sequence's blocks."""
        self._keeps = keeps
        self.needs_blocks = False
        """A sequence could not grow for want of blocks that `arriving` or `lingering` ones hold, since `clear_need`."""
        self.most_inbound = int(booking.pool.capacity * config.handoff_share)
        """Blocks of what is on its way, at most."""
        self._promised = 0
        """Blocks that the leap under way may still take."""
        self._leap_blocked = False
        """They were wanted meanwhile: live would have had some."""
        self.reserved = 0
        """Blocks that moves fill: nobody's yet."""
        self._preempts = False
        """Whether the plan under way may take blocks from sequences that run."""
        self._steps = 0

    def plan(self, now: float, admit: bool = True, preempt: bool = False) -> StepPlan | None:
        """Return the next step, or None if no sequence can compute anything.

        Without `admit` only sequences that run already are planned. With `preempt` a sequence that lacks blocks does
        not wait for those of arriving and kept sequences (then `needs_blocks` is set): others are preempted for it.
        """
        self._preempts = preempt
        self._sweep()
        if not (self.decoding or self.prefilling or (admit and self.waiting.members)):
            return None
        plan = StepPlan(self._steps + 1, self._closing)
        self._closing = []
        self._lanes += plan.closed
        self._plan_decodes(plan)
        if self.prefilling:
            self._plan_prefills(plan)
        if admit and self.waiting.members:
            self._admit(plan, now)
        self._sweep()
        if self._longest_leap > 1 and admit:
            self._extend(plan)
        if not plan.decodes and not plan.prefills:
            del self._lanes[len(self._lanes) - len(plan.closed) :]
            self._closing = plan.closed + self._closing
            return None
        self._steps += 1
        return plan

    def add(self, sequence: Sequence) -> None:
        """A new sequence waits."""
        self._queue(sequence)

    def _queue(self, sequence: Sequence) -> None:
        self._booking.estimate(sequence)
        self.waiting.push(sequence)

    def depart(self, sequence: Sequence) -> None:
        """A new sequence whose blocks are on their way: it waits for them, not for its turn."""
        sequence.move("depart")
        self.arriving[sequence.number] = sequence

    def arrive(self, sequence: Sequence) -> None:
        """Put a sequence whose blocks are here, or will not come, in the queue, in the order in which all arrived."""
        del self.arriving[sequence.number]
        sequence.move("arrive")
        if sequence.blocks:
            self._holders[sequence.number] = sequence
        self._queue(sequence)

    def hold(self, sequence: Sequence) -> None:
        """A move reads its blocks: they stay as they are until `let_go`, whatever becomes of it."""
        sequence.in_flight += 1
        self.readers[sequence.number] = self.readers.get(sequence.number, 0) + 1

    def let_go(self, sequence: Sequence) -> None:
        """Record that a move of a sequence's blocks has ended."""
        sequence.in_flight -= 1
        self.readers[sequence.number] -= 1
        if not self.readers[sequence.number]:
            del self.readers[sequence.number]
        if not sequence.in_flight and sequence.number in self._unsettled:
            self.settle(sequence)

    def free(self, sequence: Sequence) -> None:
        """Nobody needs the blocks of this ended sequence any more."""
        del self.lingering[sequence.number]
        self._booking.release(sequence)

    def acknowledge(self, sequence: Sequence, position: int) -> None:
        """Record that a sequence's client has taken more: it may run on."""
        sequence.acknowledge(position)
        if sequence.phase is Phase.PARKED and not sequence.window_closed:
            del self.parked[sequence.number]
            sequence.move("unpark")
            self._queue(sequence)

    def end(self, sequence: Sequence) -> None:
        """End a sequence that finished or was cancelled: it is planned no more, and its blocks go as soon as no step
        names it."""
        phase = sequence.phase
        if phase is Phase.WAITING:
            self.waiting.remove(sequence)
            self._holders.pop(sequence.number, None)
        elif phase is Phase.ARRIVING:
            del self.arriving[sequence.number]
        elif phase is Phase.PARKED:
            del self.parked[sequence.number]
        elif phase is not Phase.LEAVING:
            self._leave_lane(sequence)
        sequence.move("end")
        if sequence.in_flight:
            self._unsettled[sequence.number] = sequence
        else:
            self._unsettled.pop(sequence.number, None)
            self._release(sequence)

    def settle(self, sequence: Sequence) -> None:
        """No step in flight names this ended or leaving sequence any more."""
        del self._unsettled[sequence.number]
        self._release(sequence)
        if sequence.phase is Phase.LEAVING:
            self._requeue(sequence)

    def _release(self, sequence: Sequence) -> None:
        wanted = self._keeps or sequence.submit.hint is not None
        if wanted and sequence.phase is Phase.ENDED and sequence.run is not None:
            self.lingering[sequence.number] = sequence
            self._booking.trim(sequence)
        else:
            self._booking.release(sequence)

    def room(self) -> int:
        """Blocks that may be reserved now for what is on its way: within its share, some left to those that run."""
        pool = self._booking.pool
        inbound = self.reserved + sum(len(s.blocks) for s in self.arriving.values())
        spare = pool.available_blocks - int(pool.capacity * MARGIN) - self.running
        room, unpromised = max(0, min(self.most_inbound - inbound, spare)), pool.available_blocks - self._promised
        self._leap_blocked |= unpromised < room
        return min(room, max(0, unpromised))

    def clear_need(self) -> None:
        """Take note that the need of blocks is being answered."""
        self.needs_blocks = False

    def reserve(self, count: int) -> list[BlockIndex]:
        """Take up to `count` blocks, for a move to fill: they belong to no sequence until `land` or `unreserve`."""
        blocks = self._booking.pool.take(count) or []
        self.reserved += len(blocks)
        return blocks

    def land(self, sequence: Sequence, blocks: list[BlockIndex], tokens: int) -> None:
        """Give reserved blocks to a sequence: they hold the KV of its history up to `tokens`."""
        self.reserved -= len(blocks)
        self._booking.land(sequence, blocks, tokens)

    def unreserve(self, blocks: list[BlockIndex]) -> None:
        """Give reserved blocks back to the pool."""
        self.reserved -= len(blocks)
        self._booking.pool.release(None, blocks)

    def may_adopt(self, sequence: Sequence) -> bool:
        """Whether what is cached of its history can be held now, outside of a plan: a leap was promised its memory."""
        match = self._booking.match(sequence)
        return match.found - match.in_use <= self._booking.pool.available_blocks - self._promised

    @property
    def steps(self) -> int:
        """Planned so far: the number of the last one."""
        return self._steps

    @property
    def lined_up(self) -> int:
        """Sequences that wait, for whatever it is."""
        return len(self.waiting) + len(self.parked) + len(self.arriving)

    def full(self, s: Sequence) -> bool:
        """Whether with this new one more would wait than may, beyond those that could run now."""
        most, lined_up = self._config.max_waiting, self.lined_up
        return lined_up >= most and lined_up + 1 > most + self._startable(s)

    def _startable(self, s: Sequence) -> int:
        """How many of those lined up and this one could run now, limited by places and, about, by memory."""
        places = self._config.max_sequences - self.running
        if self.idle:
            return places
        wanting, spare = self.lined_up + 1, max(0, self._spare())
        needed = self._booking.demand(s) + self._booking.blocks_for(self.waiting.tokens) + len(self.waiting)
        return places if needed <= spare else min(places, wanting * spare // needed)

    @property
    def running(self) -> int:
        self._sweep()
        return len(self.prefilling) + len(self.decoding)

    @property
    def idle(self) -> bool:
        """Nobody waits or runs, and no step in flight names anybody."""
        return not (self.running or len(self.waiting) or self.parked or self.arriving or self._unsettled)

    # --- leaps ---

    def _extend(self, plan: StepPlan) -> None:
        """Make a leap of a step that only decodes, if nothing else could be planned behind it."""
        if plan.prefills or plan.preempted or self._unsettled or len(plan.decoded) != self.running:
            return
        longest = self._longest_leap
        steps = leap_steps(plan.decoded, longest, self._booking.block_size, self._booking.pool.available_blocks)
        steps -= self._config.run_ahead
        if steps > 1:
            plan.repeat, plan.head = steps, self.waiting.peek()
            most = len(plan.decoded) * (steps // self._booking.block_size + 1)
            self._promised = min(most, self._booking.pool.available_blocks)
            self._stretch(plan, steps - 1)

    def unplanned(self, plan: StepPlan) -> bool:
        """Whether live would plan otherwise now than it did when this leap was planned."""
        return self._leap_blocked or bool(self._unsettled) or self.waiting.peek() is not plan.head

    def shorten(self, plan: StepPlan, steps: int) -> None:
        """Only so many steps of a leap are (or were) run."""
        self._promised, self._leap_blocked = 0, False
        self._stretch(plan, steps - plan.repeat)
        plan.repeat = steps

    def _stretch(self, plan: StepPlan, steps: int) -> None:
        for s in plan.decoded:
            s.scheduled += steps
            s.expected += steps

    def take_leap(self, plan: StepPlan) -> None:
        """A leap has ended: the blocks of all its steps but the first are taken now, in the order of stepping."""
        self._promised, self._leap_blocked = 0, False
        for s in plan.decoded:
            if s.phase is Phase.DECODE and self._booking.grow(s, s.scheduled) < s.scheduled:
                raise Bug(f"a leap of {plan.repeat} steps was planned without memory for it")

    # --- planning ---

    def _plan_decodes(self, plan: StepPlan) -> None:
        size, context = self._booking.block_size, 0
        add_lane, add_sequence = plan.decodes.append, plan.decoded.append
        for s in self.decoding:
            if s.expected >= s.stop_at:
                continue
            scheduled = s.scheduled
            if not scheduled % size and scheduled >= len(s.blocks) * size:
                if not self._room(s, scheduled + 1, plan):
                    continue
                self._tell_table(plan, s)
            s.scheduled = scheduled = scheduled + 1
            s.expected += 1
            s.in_flight += 1
            context += scheduled
            add_lane(s.lane)
            add_sequence(s)
        plan.context = context

    def _plan_prefills(self, plan: StepPlan) -> None:
        budget = self._config.max_step_tokens - len(plan.decodes)
        for sequence in self.prefilling:
            if budget <= 0:
                break
            budget -= self._plan_chunk(plan, sequence, budget)

    def _plan_chunk(self, plan: StepPlan, s: Sequence, budget: int) -> int:
        if s.phase is not Phase.PREFILL:
            return 0
        gained = self._booking.adopt(s)
        if not s.resumed:
            s.cached_tokens += gained
        length = chunk_length(s.scheduled, s.known - s.scheduled, budget, self._booking.block_size)
        length = min(length, self._room(s, s.scheduled + length, plan) - s.scheduled) if length else 0
        if length <= 0:
            return 0
        start = s.scheduled
        s.scheduled = start + length
        complete = s.scheduled == s.known
        sample = complete and s.known < s.end_at
        self._tell_table(plan, s)
        plan.prefills.append(Chunk(s.lane, start, length, sample))
        plan.chunked.append(s)
        plan.prefill_tokens += length
        plan.pairs += chunk_pairs(start, length)
        s.in_flight += 1
        if sample:
            plan.prefill_sampled.append(s)
            s.expected += 1
        if complete:
            s.move("prefilled")
            self.decoding.append(s)
            self._stale = True
        self._booking.publish(s)
        return length

    def _admit(self, plan: StepPlan, now: float) -> None:
        budget = self._config.max_step_tokens - len(plan.decodes) - plan.prefill_tokens
        while budget > 0 and (s := self.waiting.peek()) is not None:
            if s.window_closed:
                self.waiting.remove(s)
                s.move("park")
                self.parked[s.number] = s
                continue
            if not self._lanes or not self._fits(s):
                if self._oust_paused(plan):
                    continue
                return
            self.waiting.remove(s)
            self._holders.pop(s.number, None)
            s.move("admit")
            self._open(plan, s, now)
            chunk = self._plan_chunk(plan, s, budget)
            if not chunk:
                raise Bug(f"sequence {s.handle} was admitted without room for a single token")
            budget -= chunk

    def _oust_paused(self, plan: StepPlan) -> bool:
        """Where nobody else can compute, whoever waits for an acknowledgement gives its place to the queue."""
        if plan.decodes or plan.prefills or self._unsettled or self._in_flight():
            return False
        victim = victim_of((*self.decoding, *self.prefilling))
        if victim is None or not victim.window_closed:
            return False
        self._preempt(victim)
        self._sweep()
        plan.closed += self._closing  # the engine has no step that names this lane: it is free at once
        self._lanes += self._closing
        self._closing = []
        plan.preempted += 1
        return True

    def _open(self, plan: StepPlan, s: Sequence, now: float) -> None:
        if not s.admitted:
            s.admitted, s.queued_s, s.due_s = True, now - s.arrived_s, None
        if s.reads_prompt:
            s.prompt_logprobs = []
        self._booking.open(s)
        s.bound()
        s.lane = self._lanes.pop()
        self.prefilling.append(s)
        submit, until = s.submit, s.submit.stopping.min_tokens
        output = bytes(s.history[s.prompt_tokens * TOKEN_BYTES :])
        banned = tuple(sorted(s.stops)) if until else ()
        plan.opened.append(
            Open(
                lane=s.lane,
                prompt=submit.prompt,
                output=output,
                sampling=submit.sampling,
                choice=submit.choice,
                banned_until=until,
                banned=banned,
            )
        )

    def _fits(self, s: Sequence) -> bool:
        """Whether its whole history fits beside what admitted prefills still need and a margin for decodes."""
        alone, booking = not self.running and not self._unsettled, self._booking
        if alone and self._free_for(s):
            return True
        return booking.demand(s) <= self._spare()

    def _spare(self) -> int:
        """Blocks that admissions may take: what is left beside admitted prefills and a margin for decodes."""
        booking = self._booking
        promised = sum(
            booking.blocks_for(p.known + 1) - len(p.blocks) for p in self.prefilling if p.phase is Phase.PREFILL
        )
        margin = int(booking.pool.capacity * WATERMARK) + 1
        return booking.pool.available_blocks - promised - margin

    def _free_for(self, s: Sequence) -> bool:
        """Whether it can have all it needs, nobody running; alone, anything that was accepted fits."""
        while True:
            if self._booking.demand(s) <= self._booking.pool.available_blocks:
                return True
            if not self._strip(s):
                break
        self.needs_blocks = True
        return not (self.lingering or self.arriving or self.reserved)

    def _tell_table(self, plan: StepPlan, s: Sequence) -> None:
        if s.tabled < len(s.blocks):
            plan.tables.append((s.lane, s.blocks[s.tabled :]))
            s.tabled = len(s.blocks)

    # --- memory ---

    def _room(self, s: Sequence, tokens: int, plan: StepPlan) -> int:
        """Room in its table after growing towards `tokens`, preempting where no block is left; 0 if it must wait."""
        while True:
            room = self._booking.grow(s, tokens)
            if room > s.scheduled:
                return room
            if self._unsettled:
                return 0  # their blocks come back when a step ends
            if self._strip(s):
                continue
            if (self.lingering or self.arriving) and not self._preempts:
                self.needs_blocks = True
                return 0
            victim = victim_of((*self.decoding, *self.prefilling))
            if victim is None:
                raise Bug("no block is left and nobody holds one")
            if victim is s and s.phase is Phase.PREFILL and (plan.decodes or plan.prefills or self._in_flight()):
                return 0
            self._preempt(victim)
            self._sweep()
            plan.preempted += 1
            if victim is s:
                return 0

    def _in_flight(self) -> bool:
        return any(s.in_flight for s in (*self.decoding, *self.prefilling))

    def _preempt(self, victim: Sequence) -> None:
        self.preemptions += 1
        self._leave_lane(victim)
        victim.move("preempt")
        if victim.in_flight:
            self._unsettled[victim.number] = victim
        else:
            self._booking.release(victim)
            self._requeue(victim)

    def _strip(self, wanting: Sequence) -> bool:
        """Who waits for its turn with blocks that have arrived gives them back, the last in line first."""
        last = last_in_line(s for s in self._holders.values() if s is not wanting)
        if last is None:
            return False
        del self._holders[last.number]
        self.waiting.remove(last)
        self._booking.release(last)
        last.rewind()
        last.cached_tokens = 0
        self._queue(last)
        return True

    def _requeue(self, sequence: Sequence) -> None:
        sequence.move("requeue")
        sequence.rewind()
        sequence.resumed = True  # what it finds cached from now on may be its own work
        self._queue(sequence)

    def _leave_lane(self, sequence: Sequence) -> None:
        self._closing.append(sequence.lane)
        self._stale = True

    def _sweep(self) -> None:
        """Drop those that are no longer prefilling or decoding from the running lists."""
        if self._stale:
            self._stale = False
            self.prefilling = [s for s in self.prefilling if s.phase is Phase.PREFILL]
            self.decoding = [s for s in self.decoding if s.phase is Phase.DECODE]

    def everyone(self) -> Iterator[Sequence]:
        """All that hold blocks or may."""
        yield from self.prefilling
        yield from (s for s in self.decoding if s not in self.prefilling)
        yield from self._unsettled.values()
        yield from self.arriving.values()
        yield from self._holders.values()
        yield from self.lingering.values()

    def check(self, reserved: Iterable[list[BlockIndex]] = ()) -> None:
        """Assert the invariants of queue, lanes and blocks; `reserved` ones belong to moves."""
        self._sweep()
        self.waiting.check()
        holders = list(self.everyone())
        assert len({id(s) for s in holders}) == len(holders)
        assert all(s.phase is Phase.WAITING and s.blocks for s in self._holders.values())
        self._booking.pool.check([*(s.blocks for s in holders), *reserved])
        lanes = [s.lane for s in (*self.prefilling, *self.decoding)] + self._lanes + self._closing
        assert sorted(lanes) == list(range(self._config.max_sequences))
        assert all(s.in_flight for s in self._unsettled.values())
        assert all(self._booking.sound(s) for s in self.waiting.everyone())
        for s in self.decoding:
            assert s.expected <= s.end_at
            assert self._longest_leap > 1 or s.scheduled <= len(s.blocks) * self._booking.block_size
