"""A flood at the most urgent priority holds others up for a bounded time, and other tenants not at all."""

from collections.abc import Iterator, Sequence

import pytest
from msgspec.structs import replace

from jedlik.core.requests import MOST_PRIORITY
from jedlik.scheduling.sequence import AGEING_S
from jedlik.sim.workload.offered import Offered, OfferedText
from sim_world import WORKER, a_setup, run

ONE_PLACE = replace(WORKER, max_sequences=1)
CLIENTS = 20
ANSWER_TOKENS = 15
FLOOD_S = 120.0
LATE_S = 10.0
"""When the one request comes that the flood could starve."""


class Flood:
    """So many clients ask again as soon as they have their answer; one other request comes meanwhile."""

    total: int | None = None

    def __init__(self, priority: int, tenant: str = "", own_priority: int = 0) -> None:
        self._priority, self._tenant, self._own_priority = priority, tenant, own_priority
        self._number = 0

    def arrivals(self) -> Iterator[Offered]:
        for number in range(CLIENTS):
            yield self._ask(number / 100)
        yield Offered(
            at_s=LATE_S,
            text=OfferedText(1, [0], 64, 64),
            output_tokens=ANSWER_TOKENS,
            session="own",
            priority=self._own_priority,
        )

    def ended(self, offered: Offered, now_s: float) -> Sequence[Offered]:
        return () if offered.session or now_s > FLOOD_S else (self._ask(now_s),)

    def _ask(self, at_s: float) -> Offered:
        self._number += 1
        text = OfferedText(2, [self._number], 64, 64)
        return Offered(at_s=at_s, text=text, output_tokens=ANSWER_TOKENS, tenant=self._tenant, priority=self._priority)


def waited_s(flood: Flood) -> float:
    """For its first token, by the one request of another kind."""
    result = run(a_setup(1, worker=ONE_PLACE), flood)
    assert all(o.ok for o in result.outcomes)
    own = next(o for o in result.outcomes if o.session)
    assert own.ttft_s is not None
    return own.ttft_s


@pytest.mark.parametrize("own_priority", [0, MOST_PRIORITY])
def test_a_flood_at_the_most_urgent_priority_is_passed_in_a_bounded_time(own_priority: int) -> None:
    in_turn_s = waited_s(Flood(0))
    bound_s = (own_priority + MOST_PRIORITY) * AGEING_S
    assert bound_s / 2 < waited_s(Flood(-MOST_PRIORITY, own_priority=own_priority)) < bound_s + 2 * in_turn_s


def test_another_tenant_waits_no_longer_for_a_flood_that_bids_high() -> None:
    assert waited_s(Flood(-MOST_PRIORITY, "other")) == pytest.approx(waited_s(Flood(0, "other")), rel=0.05)
