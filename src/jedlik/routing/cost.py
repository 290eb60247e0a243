"""What a request would cost at one worker, to itself and to those already there.

With the worker's `StepCosts` in seconds:
    wait      = the rest of the step in flight, the backlog before it, and a place in the batch where it is full
    fetch     = time to load what a tier of the worker's holds beyond its device, as far as that is quicker
    prefill   = time to compute the tokens that are cached in neither
    stall     = prefill x sequences decoding there, which all wait for its chunks
    slowdown  = expected output tokens x (its context's and sequence's share of a step) x (the others + itself),
                plus expected output tokens x what the others' context and sequences add to its steps
    evicted   = time to compute again what is evicted for it, as often as computed tokens are found again
    memory    = time to compute again what must be preempted to make room
Wait and prefill are multiplied by the worker's correction: what its times to first token were against prediction.
Without a profile, in prefill tokens: wait = backlog (+ 64 for each sequence beyond the batch), prefill = uncached,
batch = 32 for each sequence there, memory = tokens that do not fit.
"""

from typing import NamedTuple

import msgspec

from jedlik.core.protocol import StepCosts
from jedlik.perf.step import decode_s, prefill_s
from jedlik.routing.paths import fetch_s
from jedlik.routing.view import SEQUENCE_TOKENS, WorkerView

FULL_BATCH_TOKENS = 64


Tiers = tuple[tuple[str, int], ...]
"""Tiers of a worker that hold more of a history than its device and the tiers before them, with how many tokens."""


class Own(NamedTuple):
    """How a worker comes by what its device lacks of a history."""

    fetch_s: float
    prefill_s: float
    cached_tokens: int
    """Not to be computed."""


class Demand(msgspec.Struct, frozen=True):
    """What one dispatch asks of a worker."""

    history_tokens: int
    """Prompt plus output delivered so far."""
    output_tokens: int
    """Expected to follow."""
    cached_tokens: int
    """Of the history, at this worker."""
    shared_tokens: int = 0
    """Of this worker's backlog: the request's other choices compute them, and they count as cached."""
    tiers: Tiers = ()

    @property
    def uncached_tokens(self) -> int:
        """To be computed: at least the last token, whatever is cached."""
        uncached = self.history_tokens - self.cached_tokens
        return uncached if uncached > 0 else 1


def backlog_s(view: WorkerView, costs: StepCosts, shared_tokens: int = 0) -> float:
    """Seconds to compute what waits at a worker, in full steps."""
    tokens = view.backlog_tokens - shared_tokens
    if tokens <= 0:
        return 0.0
    pairs = view.backlog_pairs * tokens / view.backlog_tokens
    steps = -(-tokens // view.card.max_step_tokens)
    return steps * costs.base_s + tokens * costs.prefill_token_s + pairs * costs.prefill_pair_s


def wait_s(view: WorkerView, demand: Demand, costs: StepCosts) -> float:
    """Seconds until a worker begins with this dispatch."""
    wait = backlog_s(view, costs, demand.shared_tokens) if view.backlog_tokens else 0.0
    load = view.load
    if load is not None and load.step_predicted_s is not None and load.step_predicted_s > load.step_age_s:
        wait += load.step_predicted_s - load.step_age_s
    most = view.card.max_sequences
    excess = view.sequences + 1 - most
    if excess > 0:
        wait += excess / most * demand.output_tokens * decode_s(costs, view.sequences, view.context_tokens)
    return wait


def own_work(view: WorkerView, demand: Demand, costs: StepCosts) -> Own:
    """What is quickest: to compute what the device lacks, or to load as much as one of the tiers has before."""
    chunk, device = view.card.max_step_tokens, demand.cached_tokens
    best = Own(0.0, prefill_s(costs, demand.uncached_tokens, device, chunk), device)
    loading_s, have = 0.0, device
    for tier, tokens in demand.tiers:
        more_s = fetch_s(view, tier, tokens - have)
        if more_s is None:
            continue
        loading_s, have = loading_s + more_s, tokens
        computing_s = prefill_s(costs, max(1, demand.history_tokens - have), have, chunk)
        if loading_s + computing_s < best.fetch_s + best.prefill_s:
            best = Own(loading_s, computing_s, have)
    return best


def first_token_s(view: WorkerView, demand: Demand, costs: StepCosts) -> float:
    """Seconds to the first token by the step model alone, before any correction."""
    wait = wait_s(view, demand, costs)
    if not demand.tiers:
        return wait + prefill_s(costs, demand.uncached_tokens, demand.cached_tokens, view.card.max_step_tokens)
    own = own_work(view, demand, costs)
    return wait + own.fetch_s + own.prefill_s


def cost_seconds(view: WorkerView, demand: Demand, costs: StepCosts, reuse: float = 0.0) -> dict[str, float]:
    """The parts of the cost, in seconds."""
    card, sequences, output, correction = view.card, view.sequences, demand.output_tokens, view.correction
    in_batch = sequences if sequences < card.max_sequences else card.max_sequences
    if demand.tiers:
        fetch, own, _ = own_work(view, demand, costs)
    else:
        fetch, own = None, prefill_s(costs, demand.uncached_tokens, demand.cached_tokens, card.max_step_tokens)
    others = costs.decode_sequence_s * sequences + costs.context_token_s * view.context_tokens
    share = costs.decode_sequence_s + demand.history_tokens * costs.context_token_s
    missing = missing_tokens(view, demand)
    wait = wait_s(view, demand, costs) * correction
    terms = {
        "wait": wait,
        "prefill": own * correction,
        "stall": own * in_batch,
        "evicted": reuse * own,
        "slowdown": output * (others + share * (1 + in_batch)),
        "memory": prefill_s(costs, missing, 0, card.max_step_tokens) if missing else 0.0,
    }
    if fetch is not None:
        terms["fetch"] = fetch
        terms["evicted"] += reuse * fetch
    return terms


def cost_tokens(view: WorkerView, demand: Demand) -> dict[str, float]:
    """The parts of the cost without a profile, in tokens of prefill."""
    excess = max(0, view.sequences + 1 - view.card.max_sequences)
    return {
        "wait": float(max(0, view.backlog_tokens - demand.shared_tokens) + FULL_BATCH_TOKENS * excess),
        "prefill": float(demand.uncached_tokens),
        "batch": float(SEQUENCE_TOKENS * view.sequences),
        "memory": float(missing_tokens(view, demand)),
    }


def missing_tokens(view: WorkerView, demand: Demand) -> int:
    """Tokens of this dispatch for which no block is free or reclaimable. Unknown counts as none."""
    if view.load is None:
        return 0
    card = view.card
    free = (card.total_blocks - 1 - view.load.held_blocks) * card.layout.block_size - view.booked_prefill_tokens
    missing = demand.uncached_tokens - (free if free > 0 else 0)
    return missing if missing > 0 else 0
