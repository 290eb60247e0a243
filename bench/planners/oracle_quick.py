"""A quick guess at a simulation: requests on alike workers, steps and leaps by the step model, nothing else.

Twenty times as fast as the nodes, for searching; what it finds is simulated with the nodes before anybody believes it.
A request goes where (queued prompt + own) x (requests + 1) is least, and is shed if that worker can't keep its TTFT; a
worker prefills in chunks beside its decodes and takes decodes in a row as one leap. Cached tokens are given. Left out:
networks, preemption, what a new worker's cache lacks, how gateways protect others' pace. A prefill worker hands a
prompt to the decode worker with fewest requests, at once, which computes the last token.
"""

import heapq
from collections import deque
from collections.abc import Mapping, Sequence

from oracle_load import Came
from oracle_schedule import Counts

from jedlik.core.config import Role
from jedlik.perf.model import StepModel, leap_s, steps_begun
from jedlik.perf.step import StepShape
from jedlik.sim.setup import Setup

PROBE_TOKENS = 1024


class Worker:
    """One of many."""

    __slots__ = (
        "cur",
        "end_s",
        "held",
        "it",
        "k",
        "line",
        "model",
        "queued",
        "role",
        "run",
        "running",
        "t0",
        "ver",
        "wait",
    )

    def __init__(self, role: Role, model: StepModel) -> None:
        self.role, self.model = role, model
        self.wait: deque[list[int]] = deque()
        """Request, tokens to prefill, tokens before them."""
        self.run: list[tuple[int, int]] = []
        """(last step, request), a heap."""
        self.cur: list[int] = []
        """Requests whose prefill ends with the step that runs."""
        self.running = self.held = self.queued = self.it = self.k = self.ver = 0
        """Decodes, their context, tokens to prefill, steps done, steps of what runs (0: nothing does), version."""
        self.t0 = self.end_s = 0.0
        self.line = (0.0, 0.0)


class Quick:
    """Requests, and what serves them; each `late` call is one guess."""

    def __init__(self, setup: Setup, requests: Sequence[Came]) -> None:
        self._came = sorted(requests)
        self._chunk, self._most = setup.worker.max_step_tokens, setup.worker.max_sequences
        self._ttft_s, self._itl_s = setup.gateway.slo_ttft_s, setup.gateway.slo_itl_s
        self._sheds = setup.gateway.shed
        self._pool = {pool.role: pool for pool in reversed(setup.pools)}
        self._events: list[tuple[float, int, int, Worker]] = []
        self._fleet: dict[Role, list[Worker]] = {}
        self._first: list[float] = []
        self._late: list[float] = []
        self._number = 0
        model = self._pool.get("prefill", setup.pools[0]).model
        one, two = (model.step_s(StepShape(n, 0, 0, 0)) for n in (PROBE_TOKENS, 2 * PROBE_TOKENS))
        self._token_s = (two - one) / PROBE_TOKENS

    def late(self, schedule: Mapping[Role, Counts], bin_s: float) -> list[float]:
        """When those arrived that would miss a promise."""
        self._fleet = {
            role: [Worker(role, self._pool[role].model) for _ in range(int(chosen.max()))]
            for role, chosen in schedule.items()
        }
        self._events, self._late, self._number = [], [], 0
        self._first = [0.0] * len(self._came)
        entry: Role = "prefill" if "prefill" in schedule else "both"
        counts = {role: chosen.tolist() for role, chosen in schedule.items()}
        last = len(counts[entry]) - 1
        for number, came in enumerate(self._came):
            while self._events and self._events[0][0] < came.at_s:
                self._next(counts, bin_s)
            serving = self._fleet[entry][: counts[entry][min(int(came.at_s / bin_s), last)]]
            self._arrive(number, came, serving)
        while self._events:
            self._next(counts, bin_s)
        return self._late

    def _arrive(self, number: int, came: Came, serving: list[Worker]) -> None:
        fresh = max(1, came.prompt_tokens - came.cached_tokens)
        if not serving:
            self._miss(came)
            return
        worker = min(serving, key=lambda w: (w.queued + fresh) * (w.running + len(w.wait) + 1))
        if self._ttft_s is not None and self._sheds:
            rest_s = 0.0
            if worker.k:
                rest_s = worker.end_s - came.at_s if worker.k == 1 else worker.line[0] + worker.line[1] * worker.held
            pairs = fresh * (came.prompt_tokens - fresh) + fresh * (fresh + 1) // 2
            own_s = worker.model.step_s(StepShape(fresh, pairs, worker.running, worker.held))
            if rest_s + worker.queued * self._token_s + own_s > self._ttft_s:
                self._miss(came)
                return
        self._admit(worker, [number, fresh, came.prompt_tokens - fresh], came.at_s)

    def _admit(self, worker: Worker, entry: list[int], now: float) -> None:
        worker.wait.append(entry)
        worker.queued += entry[1]
        if not worker.k:
            self._begin(worker, now)
        elif worker.k > 1:
            steps = steps_begun(worker.line, worker.running, worker.held, now - worker.t0)
            if steps < worker.k:
                worker.k = steps
                self._until(worker, worker.t0 + leap_s(worker.line, worker.running, worker.held, steps))

    def _until(self, worker: Worker, end_s: float) -> None:
        worker.ver += 1
        worker.end_s = end_s
        self._number += 1
        heapq.heappush(self._events, (end_s, self._number, worker.ver, worker))

    def _begin(self, worker: Worker, now: float) -> None:
        worker.t0 = now
        if worker.wait and worker.running < self._most and self._mixed(worker, now):
            return
        if worker.run:
            worker.k = worker.run[0][0] - worker.it
            worker.line = worker.model.decode_line(worker.running)
            self._until(worker, now + leap_s(worker.line, worker.running, worker.held, worker.k))
        else:
            worker.k = 0

    def _mixed(self, worker: Worker, now: float) -> bool:
        """A step that prefills; False: nobody can be admitted."""
        left, tokens, pairs = max(1, self._chunk - worker.running), 0, 0
        room = self._pool[worker.role].kv_tokens - worker.held
        while worker.wait and left and worker.running + len(worker.cur) < self._most:
            number, fresh, before = entry = worker.wait[0]
            if fresh + before > room and worker.running + len(worker.cur):
                break
            part = min(left, fresh)
            tokens += part
            pairs += part * before + part * (part + 1) // 2
            left -= part
            if part < fresh:
                entry[1], entry[2] = fresh - part, before + part
                break
            room -= fresh + before
            worker.wait.popleft()
            worker.cur.append(number)
        if not tokens:
            return False
        worker.k = 1
        worker.queued -= tokens
        self._until(worker, now + worker.model.step_s(StepShape(tokens, pairs, worker.running, worker.held)))
        return True

    def _next(self, counts: Mapping[Role, Sequence[int]], bin_s: float) -> None:
        now, _, version, worker = heapq.heappop(self._events)
        if version != worker.ver:
            return
        worker.it += worker.k
        worker.held += worker.running * worker.k
        while worker.run and worker.run[0][0] <= worker.it:
            _, number = heapq.heappop(worker.run)
            worker.running -= 1
            worker.held -= self._came[number].prompt_tokens + self._came[number].output_tokens - 1
            self._ended(number, now)
        done, worker.cur = worker.cur, []
        for number in done:
            if worker.role == "prefill":
                chosen = counts["decode"]
                serving = self._fleet["decode"][: max(1, chosen[min(int(now / bin_s), len(chosen) - 1)])]
                to = min(serving, key=lambda w: w.running + len(w.wait))
                self._admit(to, [number, 1, self._came[number].prompt_tokens - 1], now)
            else:
                self._started(worker, number, now)
        self._begin(worker, now)

    def _started(self, worker: Worker, number: int, now: float) -> None:
        """Its first token is there."""
        came = self._came[number]
        self._first[number] = now
        if came.output_tokens > 1:
            heapq.heappush(worker.run, (worker.it + came.output_tokens - 1, number))
            worker.running += 1
            worker.held += came.prompt_tokens
        else:
            self._ended(number, now)

    def _ended(self, number: int, now: float) -> None:
        came, first_s = self._came[number], self._first[number]
        slow = self._ttft_s is not None and first_s - came.at_s > self._ttft_s
        if self._itl_s is not None and came.output_tokens > 1:
            slow = slow or (now - first_s) / (came.output_tokens - 1) > self._itl_s
        if slow:
            self._miss(came)

    def _miss(self, came: Came) -> None:
        if came.counts:
            self._late.append(came.at_s)
