"""What reports say together."""

import pytest
from msgspec.structs import replace
from planner_given import G, H, demand, id_of, report, seen

from jedlik.core.events import Reported
from jedlik.core.ids import GatewayId
from jedlik.nodes.planner.observation import FORGET_S, NOTHING, Observation, add, urgent


def test_demand_adds_up() -> None:
    assert add([demand(1, 2, 30), demand(3), demand(0, 1, 5)]) == demand(4, 3, 35)
    assert add([]) == NOTHING


def test_rates_of_gateways_add_up_though_their_periods_differ() -> None:
    observation = Observation()
    for at in (1.0, 2.0, 3.0, 4.0):
        observation.take(report(at, asked=demand(10)).report, at)
    observation.take(report(4.0, gateway=H, asked=demand(5)).report, 4.0)
    total, period_s = observation.demand(4.0)
    assert (total.arrived, total.arrived / period_s) == (45, 15.0)
    assert observation.demand(4.0) == (NOTHING, 0.0)
    observation.take(report(5.0).report, 5.0)
    assert observation.demand(5.0) == (NOTHING, 0.0)  # the other's is missing
    observation.take(report(5.0, gateway=H).report, 5.0)
    assert observation.demand(5.0) == (NOTHING, 1.0)


def test_who_has_not_reported_for_three_periods_makes_all_stale() -> None:
    observation = Observation()
    assert observation.stale(0.0) == ["none has reported"]
    observation.take(report(1.0).report, 1.0)
    observation.take(report(2.0, gateway=H, period_s=2.0).report, 2.0)
    assert observation.stale(4.0) == []
    assert observation.stale(4.1) == [G]
    assert observation.stale(8.1) == [G, H]
    observation.gone(G)
    assert observation.stale(8.0) == []


def test_a_gap_in_reports_begins_the_leases_again() -> None:
    observation = Observation()
    for at in (1.0, 2.0, 3.0):
        observation.take(report(at).report, at)
    assert observation.whole_since == 1.0
    observation.take(report(9.0).report, 9.0)
    assert observation.whole_since == 9.0
    observation.take(report(9.5, gateway=H).report, 9.5)
    assert observation.whole_since == 9.5


def test_only_gateways_of_the_same_name_take_each_others_place() -> None:
    observation = Observation()
    for at, name in enumerate(("a@1", "b@1", "a@2", "plain")):
        observation.take(report(float(at), gateway=GatewayId(name)).report, float(at))
    assert observation.stale(99.0) == ["a@2", "b@1", "plain"]


def test_workers_that_nobody_names_are_forgotten() -> None:
    observation = Observation()
    observation.take(report(1.0, [seen(id_of("w0"))]).report, 1.0)
    observation.take(report(1.0 + FORGET_S + 1.0).report, 1.0 + FORGET_S + 1.0)
    assert list(observation.heard_at) == [id_of("w0")]
    observation.demand(1.0 + FORGET_S + 1.0)
    assert not observation.heard_at


def test_worth_comes_from_hits_and_recent_answers() -> None:
    observation = Observation()
    busy = replace(seen(id_of("w0"), hit_tokens=600), running=2)
    observation.take(report(1.0, [busy], asked=demand(answered=2, output_tokens=20)).report, 1.0)
    observation.demand(1.0)
    loss = observation.loss(observation.workers()[id_of("w0")], 100.0, 1.0)
    assert loss.residual_s == pytest.approx(2 * 0.001 * 10)
    assert loss.cache_s == pytest.approx(600 / 60 * 0.001 * 100)
    assert observation.loss(None, 100.0, 1.0).residual_s is None


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
