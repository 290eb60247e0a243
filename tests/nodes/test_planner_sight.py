"""What reports say together."""

import pytest
from msgspec.structs import replace
from planner_given import G, H, demand, id_of, report, seen

from jedlik.core.events import Reported
from jedlik.core.ids import GatewayId
from jedlik.nodes.planner.observation import FORGET_S, NOTHING, Sight, add, urgent


def test_demand_adds_up() -> None:
    assert add([demand(1, 2, 30), demand(3), demand(0, 1, 5)]) == demand(4, 3, 35)
    assert add([]) == NOTHING


def test_rates_of_gateways_add_up_though_their_periods_differ() -> None:
    sight = Sight()
    for at in (1.0, 2.0, 3.0, 4.0):
        sight.take(report(at, asked=demand(10)).report, at)
    sight.take(report(4.0, gateway=H, asked=demand(5)).report, 4.0)
    total, period_s = sight.demand(4.0)
    assert (total.arrived, total.arrived / period_s) == (45, 15.0)
    assert sight.demand(4.0) == (NOTHING, 0.0)
    sight.take(report(5.0).report, 5.0)
    assert sight.demand(5.0) == (NOTHING, 0.0)  # the other's is missing
    sight.take(report(5.0, gateway=H).report, 5.0)
    assert sight.demand(5.0) == (NOTHING, 1.0)


def test_who_has_not_reported_for_three_periods_makes_all_stale() -> None:
    sight = Sight()
    assert sight.stale(0.0) == ["none has reported"]
    sight.take(report(1.0).report, 1.0)
    sight.take(report(2.0, gateway=H, period_s=2.0).report, 2.0)
    assert sight.stale(4.0) == []
    assert sight.stale(4.1) == [G]
    assert sight.stale(8.1) == [G, H]
    sight.gone(G)
    assert sight.stale(8.0) == []


def test_a_gap_in_reports_begins_the_leases_again() -> None:
    sight = Sight()
    for at in (1.0, 2.0, 3.0):
        sight.take(report(at).report, at)
    assert sight.whole_since == 1.0
    sight.take(report(9.0).report, 9.0)
    assert sight.whole_since == 9.0
    sight.take(report(9.5, gateway=H).report, 9.5)
    assert sight.whole_since == 9.5


def test_only_gateways_of_the_same_name_take_each_others_place() -> None:
    sight = Sight()
    for at, name in enumerate(("a@1", "b@1", "a@2", "plain")):
        sight.take(report(float(at), gateway=GatewayId(name)).report, float(at))
    assert sight.stale(99.0) == ["a@2", "b@1", "plain"]


def test_workers_that_nobody_names_are_forgotten() -> None:
    sight = Sight()
    sight.take(report(1.0, [seen(id_of("w0"))]).report, 1.0)
    sight.take(report(1.0 + FORGET_S + 1.0).report, 1.0 + FORGET_S + 1.0)
    assert list(sight.heard_at) == [id_of("w0")]
    sight.demand(1.0 + FORGET_S + 1.0)
    assert not sight.heard_at


def test_worth_comes_from_hits_and_recent_answers() -> None:
    sight = Sight()
    busy = replace(seen(id_of("w0"), hit_tokens=600), running=2)
    sight.take(report(1.0, [busy], asked=demand(answered=2, output_tokens=20)).report, 1.0)
    sight.demand(1.0)
    worth = sight.worth(sight.workers()[id_of("w0")], 100.0, 1.0)
    assert worth.residual_s == pytest.approx(2 * 0.001 * 10)
    assert worth.cache_s == pytest.approx(600 / 60 * 0.001 * 100)
    assert sight.worth(None, 100.0, 1.0).residual_s is None


@pytest.mark.parametrize(
    ("one", "slo_ttft_s", "expected"),
    [
        (report(1.0, waiting=1), None, True),
        (report(1.0, [seen(id_of("w0"), waiting_tokens=600)]), None, False),
        (report(1.0, [seen(id_of("w0"), waiting_tokens=600)]), 0.5, True),
        (report(1.0, [seen(id_of("w0"), waiting_tokens=400)]), 0.5, False),
        (report(1.0, [seen(id_of("w0"), waiting_tokens=600, trusted=False)]), 0.5, False),
        (report(1.0, [seen(id_of("w0"), waiting_tokens=600, costs=None)]), 0.5, False),
    ],
)
def test_a_backlog_that_can_not_wait_is_urgent(one: Reported, slo_ttft_s: float | None, expected: bool) -> None:
    assert urgent(one.report, slo_ttft_s) == expected
