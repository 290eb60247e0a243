"""Dynamo's load scaling with SLA targets: what the next request would meet at each engine, now and with one fewer.

Source: planner/core/load_scaling.py and perf_model/{prefill,decode,agg,engine_query}.py of NVIDIA Dynamo 1.6.1.
TTFT: queued prefill and a usual prompt in full chunks, beside the decodes that run. ITL: one step of those that run;
an aggregated one also prefills its steady share. Down only if after N/(N-1) of the load the part of
the TTFT that the queue makes stays within 80 % of what the request's own prefill leaves, the cache holds all, and the
ITL stays within 80 %.
"""

from math import ceil
from typing import NamedTuple

from capacity import Asked, Engine

from jedlik.core.config import Role

SENSITIVITY = 0.8


class Seen(NamedTuple):
    """One engine's load."""

    queued_tokens: float
    """Prompt tokens to be computed."""
    running: float
    context_tokens: float

    def grown(self, factor: float) -> "Seen":
        return Seen(self.queued_tokens * factor, self.running * factor, self.context_tokens * factor)


class Scales(NamedTuple):
    """What steps of a role are judged by."""

    role: Role
    engine: Engine
    usual: Asked
    slo_ttft_s: float | None
    slo_itl_s: float | None

    def step(self, seen: list[Seen]) -> tuple[int, list[tuple[str, float]]]:
        """(+1, -1 or 0; the largest estimates by name). Up if either dimension says so; down only if both do."""
        ups, downs, told = [], [], []
        factor = len(seen) / (len(seen) - 1) if len(seen) > 1 else 1.0
        if self.role != "decode" and self.slo_ttft_s is not None:
            first_s = [self.ttft_s(one) for one in seen]
            ups.append(all(value > self.slo_ttft_s for value in first_s))
            downs.append(all(self._queue_bears(one.grown(factor), self.slo_ttft_s) for one in seen))
            told.append(("estimated TTFT", max(first_s)))
        if self.role != "prefill" and self.slo_itl_s is not None:
            between_s = [self.itl_s(one) for one in seen]
            ups.append(all(value > self.slo_itl_s for value in between_s))
            downs.append(all(self._decode_bears(one.grown(factor), self.slo_itl_s) for one in seen))
            told.append(("estimated ITL", max(between_s)))
        if any(ups):
            return 1, told
        return (-1 if len(seen) > 1 and downs and all(downs) else 0), told

    def ttft_s(self, seen: Seen) -> float:
        """Of a usual request that comes now."""
        beside = (0.0, 0.0) if self.role == "prefill" else (seen.running, seen.context_tokens)
        return self.engine.prefill_s(seen.queued_tokens + self.usual.fresh_tokens, self.usual.attended, *beside)

    def itl_s(self, seen: Seen) -> float:
        """Of one step of what runs."""
        running, context = seen.running, seen.context_tokens
        share = 0
        if self.role == "both":
            share = ceil(running * self.usual.fresh_tokens / max(1.0, self.usual.output_tokens))
            share = min(share, self.engine.max_step_tokens)
        return self.engine.step_s(share, self.usual.attended, running, context)

    def _queue_bears(self, after: Seen, slo_ttft_s: float) -> bool:
        own_s = self.ttft_s(after._replace(queued_tokens=0.0))
        left_s = (slo_ttft_s - own_s) * SENSITIVITY
        return left_s > 0 and self.ttft_s(after) - own_s < left_s

    def _decode_bears(self, after: Seen, slo_itl_s: float) -> bool:
        """What is queued to be prefilled here will be decoded here, too."""
        queued = after.queued_tokens if self.role == "both" else 0.0
        context = after.context_tokens + queued
        if context >= self.engine.kv_tokens:
            return False
        return self.itl_s(after._replace(context_tokens=context)) < slo_itl_s * SENSITIVITY
