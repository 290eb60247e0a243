"""Whether a new request may come in at all, and when it is worth asking again."""

from jedlik.core.errors import Fault
from jedlik.routing.cost import backlog_s
from jedlik.routing.policy import Refuse
from jedlik.routing.view import Fleet

MIN_RETRY_S, MAX_RETRY_S = 1.0, 30.0
RESTART_S = 2.0
"""The seconds a worker takes to come back, where nothing better is known."""


def too_many(in_flight: int, choices: int, limit: int, fleet: Fleet) -> Fault | None:
    """Refuse a request beyond the limit of choices in flight; for good if it exceeds the limit alone."""
    if in_flight + choices <= limit:
        return None
    if choices > limit:
        return Fault(
            kind="invalid", message=f"{choices} choices are more than the gateway takes at once ({limit})", param="n"
        )
    message = f"{in_flight} choices in flight, this request has {choices}, the gateway takes {limit}: retry later"
    return Fault(kind="overloaded", message=message, retry_after_s=retry_after_s(fleet))


def too_late(predicted_s: float | None, left_s: float | None) -> Fault | None:
    """Refuse a request that the chosen worker can't begin to answer before its deadline, where that is predicted."""
    if left_s is None:
        return None
    if left_s <= 0:
        return Fault(kind="timeout", message="the deadline passed before a worker could be chosen")
    if predicted_s is None or predicted_s <= left_s:
        return None
    message = f"the first token would take about {predicted_s:.2f} s, the deadline is in {left_s:.2f} s"
    return Fault(kind="overloaded", message=message, retry_after_s=_clamp(predicted_s - left_s))


def refused(refusal: Refuse) -> Fault:
    """Return the fault of a request that the policy refused: its objectives can't be met because of load."""
    message = f"overloaded: {refusal.why}: retry later"
    return Fault(kind="overloaded", message=message, retry_after_s=_clamp(refusal.retry_after_s))


def no_worker(model: str, waited_s: float = 0.0, why: str = "") -> Fault:
    """Return the fault of a request without a worker, perhaps after waiting, perhaps after a failed attempt."""
    after = f" after {waited_s:.1f} s" if waited_s else ""
    cause = f" ({why})" if why else ""
    message = f"no worker is ready for model {model!r}{after}{cause}: retry later"
    return Fault(kind="unavailable", message=message, retry_after_s=RESTART_S)


def retry_after_s(fleet: Fleet) -> float:
    """Return when the least loaded worker will have computed its backlog, within what a client should wait."""
    waits = []
    for view in fleet:
        if view.ready() and view.costs is not None:
            waits.append(backlog_s(view, view.costs))
    return _clamp(min(waits, default=MIN_RETRY_S))


def _clamp(seconds: float) -> float:
    return min(MAX_RETRY_S, max(MIN_RETRY_S, seconds))
