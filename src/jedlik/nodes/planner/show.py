"""The view of a planner node, JSON-able: for `/plan`, `jedlik plan` and `jedlik top`."""

from collections.abc import Iterable, Mapping, Sequence
from math import isfinite

import msgspec

from jedlik.core.config import Role
from jedlik.core.facts import Planned
from jedlik.core.plans import Demand
from jedlik.fleet.members import Member
from jedlik.planning.lengths import mean
from jedlik.planning.policy import Pool


def members(all_members: Sequence[Member], now: float) -> list[dict[str, object]]:
    """One row per place."""
    return [
        {
            "name": member.name,
            "start": member.start,
            "role": member.role,
            "state": member.state,
            "since_s": max(0.0, now - member.since),
            "why": member.why,
            "worker": member.worker,
            "quick_ends": member.quick_ends,
            "hopeless": member.hopeless,
            "place": msgspec.to_builtins(member.place),
        }
        for member in all_members
    ]


def pools(by_role: Mapping[Role, Pool]) -> dict[str, object]:
    """Serving, starting and draining members by role."""
    return {
        role: {
            "serving": pool.serving,
            "starting": len(pool.starting),
            "ready_in_s": list(pool.starting),
            "draining": pool.draining,
        }
        for role, pool in by_role.items()
    }


def decisions(facts: Iterable[Planned]) -> list[object]:
    """Return the decisions, newest first."""
    return [msgspec.to_builtins(fact) for fact in reversed(list(facts))]


def demand(last: Demand, period_s: float, waiting: tuple[int, int]) -> dict[str, float | None]:
    """The last demand that was seen, in numbers a person can read; None: not known."""
    rate = 1.0 / period_s if period_s > 0 and isfinite(period_s) else None
    well = last.answered or None
    return {
        "period_s": period_s,
        "arrived_per_s": None if rate is None else last.arrived * rate,
        "prompt_tokens": mean(dict(last.prompts)),
        "output_tokens": None if well is None else last.output_tokens / well,
        "hit_share": last.cached_tokens / last.answered_prompt_tokens if last.answered_prompt_tokens else None,
        "waiting": float(waiting[0]),
        "waiting_tokens": float(waiting[1]),
        "refused": float(last.refused),
        "failed": float(last.failed),
        "kept_share": None if well is None else last.met / well,
        "ttft_s": None if well is None else last.ttft_sum_s / well,
        "itl_s": last.itl_sum_s / last.itl_count if last.itl_count else None,
    }
