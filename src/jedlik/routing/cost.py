"""The cost of a request at one worker, to itself and to those already there.

With the worker's `StepCosts` in seconds:
    wait      = the rest of the step in flight, the backlog before it, and a place in the batch where it is full
    fetch     = time to load what a tier of the worker's has beyond its device, as far as that is quicker
    prefill   = time to compute the tokens that are cached in neither
    stall     = prefill x sequences decoding there, which all wait for its chunks
    slowdown  = expected output tokens x (its context's and sequence's share of a step) x (the others + itself),
                plus expected output tokens x what the others' context and sequences add to its steps
    evicted   = time to compute again what is evicted for it, as often as computed tokens are found again
    memory    = time to compute again what must be preempted to make room
Wait and prefill are multiplied by the worker's correction: what its times to first token were against prediction.
Without step costs, in prefill tokens: wait = backlog (+ 64 for each sequence beyond the batch), prefill = uncached,
batch = 32 for each sequence there, memory = tokens that do not fit.
"""

from typing import NamedTuple

import msgspec

from jedlik.core.moves import PathCosts
from jedlik.core.protocol import StepCosts
from jedlik.perf.step import decode_s, prefill_s
from jedlik.routing.view import SEQUENCE_TOKENS, WorkerView

FULL_BATCH_TOKENS = 64


Tiers = tuple[tuple[str, int], ...]
"""Tiers of a worker that have more of a history than its device and the tiers before them, with how many tokens."""


class OwnWork(NamedTuple):
    """The way in which a worker comes by the part of a history that its device lacks."""

    fetch_s: float
    prefill_s: float
    cached_tokens: int
    """Tokens that need not be computed."""


class Dispatch(msgspec.Struct, frozen=True, kw_only=True):
    """The work that one dispatch asks of a worker."""

    history_tokens: int
    """Prompt plus output delivered so far."""
    output_tokens: int
    """Output tokens that are expected to follow."""
    cached_tokens: int
    """Tokens of the history that are cached at this worker."""
    shared_tokens: int = 0
    """The part of this worker's backlog that the request's other choices compute: it counts as cached."""
    tiers: Tiers = ()

    @property
    def uncached_tokens(self) -> int:
        """The tokens to be computed: at least the last one, whatever is cached."""
        uncached = self.history_tokens - self.cached_tokens
        return uncached if uncached > 0 else 1


def path_costs(view: WorkerView, path: str) -> PathCosts | None:
    """Return what a worker reports of one of its paths; None if it reports nothing: unknown is never zero."""
    for costs in view.load.paths if view.load is not None else ():
        if costs.path == path:
            return costs
    return None


def path_s(costs: PathCosts, view: WorkerView, tokens: int) -> float:
    """Return the seconds that the blocks of so many tokens take on a path, in this worker's layout."""
    layout = view.card.layout
    blocks = -(-tokens // layout.block_size)
    return blocks * (costs.block_s + layout.block_bytes * costs.byte_s)


def fetch_s(view: WorkerView, tier: str, tokens: int) -> float | None:
    """Return the seconds to load so many tokens from a worker's own tier; None if unknown or not possible."""
    costs = path_costs(view, tier)
    return path_s(costs, view, tokens) if costs is not None and costs.open else None


def backlog_s(view: WorkerView, costs: StepCosts, shared_tokens: int = 0) -> float:
    """Return the seconds to compute what waits at a worker, in full steps."""
    tokens = view.backlog_tokens - shared_tokens
    if tokens <= 0:
        return 0.0
    pairs = view.backlog_pairs * tokens / view.backlog_tokens
    steps = -(-tokens // view.card.max_step_tokens)
    return steps * costs.base_s + tokens * costs.prefill_token_s + pairs * costs.prefill_pair_s


def wait_s(view: WorkerView, dispatch: Dispatch, costs: StepCosts) -> float:
    """Return the seconds until a worker begins with this dispatch."""
    wait = backlog_s(view, costs, dispatch.shared_tokens) if view.backlog_tokens else 0.0
    load = view.load
    if load is not None and load.step_predicted_s is not None and load.step_predicted_s > load.step_age_s:
        wait += load.step_predicted_s - load.step_age_s
    most = view.card.max_sequences
    excess = view.sequences + 1 - most
    if excess > 0:
        wait += excess / most * dispatch.output_tokens * decode_s(costs, view.sequences, view.context_tokens)
    return wait


def own_work(view: WorkerView, dispatch: Dispatch, costs: StepCosts) -> OwnWork:
    """Return the quickest: to compute what the device lacks, or to load as much as one of the tiers has before."""
    chunk, device = view.card.max_step_tokens, dispatch.cached_tokens
    best = OwnWork(0.0, prefill_s(costs, dispatch.uncached_tokens, device, chunk), device)
    loading_s, have = 0.0, device
    for tier, tokens in dispatch.tiers:
        more_s = fetch_s(view, tier, tokens - have)
        if more_s is None:
            continue
        loading_s, have = loading_s + more_s, tokens
        computing_s = prefill_s(costs, max(1, dispatch.history_tokens - have), have, chunk)
        if loading_s + computing_s < best.fetch_s + best.prefill_s:
            best = OwnWork(loading_s, computing_s, have)
    return best


def first_token_s(view: WorkerView, dispatch: Dispatch, costs: StepCosts) -> float:
    """Return the seconds to the first token by the step model alone, before any correction."""
    wait = wait_s(view, dispatch, costs)
    if not dispatch.tiers:
        return wait + prefill_s(costs, dispatch.uncached_tokens, dispatch.cached_tokens, view.card.max_step_tokens)
    own = own_work(view, dispatch, costs)
    return wait + own.fetch_s + own.prefill_s


def cost_seconds(view: WorkerView, dispatch: Dispatch, costs: StepCosts, reuse: float = 0.0) -> dict[str, float]:
    """Return the parts of the cost, in seconds."""
    card, sequences, output, correction = view.card, view.sequences, dispatch.output_tokens, view.correction
    in_batch = sequences if sequences < card.max_sequences else card.max_sequences
    if dispatch.tiers:
        fetch, own, _ = own_work(view, dispatch, costs)
    else:
        fetch, own = None, prefill_s(costs, dispatch.uncached_tokens, dispatch.cached_tokens, card.max_step_tokens)
    others = costs.decode_sequence_s * sequences + costs.context_token_s * view.context_tokens
    share = costs.decode_sequence_s + dispatch.history_tokens * costs.context_token_s
    missing = missing_tokens(view, dispatch)
    wait = wait_s(view, dispatch, costs) * correction
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


def cost_tokens(view: WorkerView, dispatch: Dispatch) -> dict[str, float]:
    """Return the parts of the cost without step costs, in tokens of prefill."""
    excess = max(0, view.sequences + 1 - view.card.max_sequences)
    return {
        "wait": float(max(0, view.backlog_tokens - dispatch.shared_tokens) + FULL_BATCH_TOKENS * excess),
        "prefill": float(dispatch.uncached_tokens),
        "batch": float(SEQUENCE_TOKENS * view.sequences),
        "memory": float(missing_tokens(view, dispatch)),
    }


def missing_tokens(view: WorkerView, dispatch: Dispatch) -> int:
    """Return the tokens for which no block is free or reclaimable. A worker that has not reported lacks none."""
    if view.load is None:
        return 0
    card = view.card
    free = (card.total_blocks - 1 - view.load.held_blocks) * card.layout.block_size - view.booked_prefill_tokens
    missing = dispatch.uncached_tokens - (free if free > 0 else 0)
    return missing if missing > 0 else 0
