"""What the published planners here have in common: usual lengths so far, counts within limits, target concurrency.

HPA and KPA aim at a concurrency per worker, which an operator sets by hand, after measuring. Here it is computed: as
many requests as one worker serves within the SLOs, by the step model, at the lengths seen so far. That is the largest
batch that keeps the ITL (and, where prompts are prefilled beside it, the TTFT). For workers that only prefill it is
the most prompts of which the last still keeps the TTFT.
"""

from collections.abc import Mapping

from capacity import Asked, aggregated_capacity, decode_capacity, engine_of, most_within

from jedlik.core.config import Role
from jedlik.core.plans import Demand, Reason, Wish, WorkerSeen
from jedlik.planning.policy import Limits, Situation, Terms


class Lengths:
    """Of all that came so far: what somebody who sets a target by hand would know of the workload."""

    def __init__(self) -> None:
        self._arrived = self._prompt_tokens = 0
        self._answered = self._output_tokens = 0
        self._answered_prompts = self._cached_tokens = 0

    def add(self, demand: Demand) -> None:
        self._arrived += demand.arrived
        self._prompt_tokens += demand.prompt_tokens
        self._answered += demand.answered
        self._output_tokens += demand.output_tokens
        self._answered_prompts += demand.answered_prompt_tokens
        self._cached_tokens += demand.cached_tokens

    @property
    def asked(self) -> Asked | None:
        """None: no request has been answered yet."""
        if not self._answered or not self._arrived:
            return None
        hit = self._cached_tokens / self._answered_prompts if self._answered_prompts else 0.0
        return Asked(self._prompt_tokens / self._arrived, self._output_tokens / self._answered, hit)


def roles_of(situation: Situation) -> tuple[Role, ...]:
    return ("prefill", "decode") if situation.split else ("both",)


def serving(situation: Situation, role: Role) -> list[WorkerSeen]:
    """Workers of that role that get requests, by id."""
    return [seen for seen in situation.workers if seen.role == role and seen.trusted and not seen.draining]


def in_flight(situation: Situation, role: Role) -> float:
    """Requests at the workers of a role; those that wait at gateways wait for their prefill."""
    here = sum(seen.running + seen.waiting for seen in serving(situation, role))
    return here + (situation.waiting if role != "decode" else 0)


def fitted(counts: Mapping[Role, int], limits: Limits) -> dict[Role, int]:
    """Within the limits. Both roles shrink in proportion, as Dynamo's budget has it (planner/core/budget.py)."""
    if "both" in counts:
        return {"both": max(limits.least, min(counts["both"], limits.most))}
    prefill, decode = max(limits.least_prefill, counts["prefill"]), max(limits.least_decode, counts["decode"])
    if prefill + decode > limits.most:
        share = limits.most / (prefill + decode)
        prefill = max(limits.least_prefill, min(limits.most - limits.least_decode, int(prefill * share)))
        decode = max(limits.least_decode, limits.most - prefill)
    return {"prefill": prefill, "decode": max(decode, limits.least - prefill)}


def wish(counts: Mapping[Role, int], why: str, *reasons: Reason) -> Wish:
    """Of a planner that knows no flips."""
    return Wish(dict(counts), why, reasons, flips=False)


def target(role: Role, situation: Situation, terms: Terms, lengths: Lengths) -> int | None:
    """Requests at one worker, at least 1; None: not known yet."""
    asked = lengths.asked
    engine = engine_of(terms, serving(situation, role))
    if asked is None or engine is None:
        return None
    if role == "prefill":
        return most_within(situation.slo_ttft_s, engine, asked)
    if role == "decode":
        return decode_capacity(engine, asked, situation.slo_itl_s).batch
    found = aggregated_capacity(engine, asked, situation.slo_ttft_s, situation.slo_itl_s)
    return found.batch if found.met else 1
