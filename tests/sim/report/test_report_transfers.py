"""Hand-offs, tiers and roles as reports show them: from what workers told, and nothing where nothing moved."""

import io

import pytest
from report_runs import outcome, run
from rich.console import Console

from jedlik.core.facts import Carried, Fetched, HandedOff, Offloaded, Suspected
from jedlik.core.ids import RequestId, WorkerId
from jedlik.sim.movement import MovementCounts
from jedlik.sim.outcome import FleetSample, SimulationRun
from jedlik.sim.report.columns import Slo
from jedlik.sim.report.numbers import Summary, summarise
from jedlik.sim.report.page import page
from jedlik.sim.report.table import rendered
from jedlik.sim.report.transfers import HandOffs, RoleRow, TierRow, size

P = WorkerId("p/0@1")
R = RequestId("r")


def moved() -> MovementCounts:
    movement = MovementCounts()
    for fact in (
        HandedOff(
            request_id=R, choice=0, worker=P, compute=True, tokens=80, blocks=5, wanted=80, cause="", elapsed_s=0.2
        ),
        HandedOff(
            request_id=R, choice=0, worker=P, compute=True, tokens=20, blocks=2, wanted=90, cause="late", elapsed_s=0.6
        ),
        HandedOff(
            request_id=R, choice=0, worker=P, compute=False, tokens=0, blocks=0, wanted=10, cause="late", elapsed_s=0.1
        ),
        Carried(
            source="device",
            target=f"device of {P}",
            path="shm",
            blocks=7,
            size_bytes=7_000,
            cause="",
            queued_s=0.0,
            elapsed_s=0.1,
        ),
        Fetched(request_id=R, tier="disk", wanted=4, blocks=4, cause="", elapsed_s=0.3),
        Fetched(request_id=R, tier="host", wanted=10, blocks=6, cause="missing", elapsed_s=0.1),
        Fetched(request_id=R, tier="host", wanted=3, blocks=0, cause="late", elapsed_s=0.2),
        Offloaded(tier="host", wanted=9, blocks=8, cause="full", elapsed_s=0.1),
        Carried(
            source="device",
            target="host",
            path="host",
            blocks=8,
            size_bytes=8_000,
            cause="",
            queued_s=0.0,
            elapsed_s=0.1,
        ),
        Carried(
            source="host",
            target="device",
            path="host",
            blocks=6,
            size_bytes=6_000,
            cause="missing",
            queued_s=0.0,
            elapsed_s=0.1,
        ),
        Carried(
            source="host", target="disk", path="disk", blocks=2, size_bytes=2_000, cause="", queued_s=0.0, elapsed_s=0.1
        ),
        Suspected(P, "ok", "of no interest"),
    ):
        movement.note(fact)
    return movement


def a_run() -> SimulationRun:
    samples = [
        FleetSample(at_s=at, running=[2, 4], waiting=[0, 1], context_tokens=[0, 0], cached_blocks=[0, 0])
        for at in (1.0, 2.0)
    ]
    given = {"samples": samples, "roles": ["prefill", "decode"], "busy_s": [4.0, 9.0], "block_size": 16}
    return run([outcome(prompt_tokens=300), outcome(prompt_tokens=100)], movement=moved(), **given)


def summary(of: SimulationRun) -> Summary:
    return summarise(of, Slo(), "jedlik", 0)


def test_what_was_told_is_summed_up() -> None:
    told = summary(a_run())
    assert told.handoffs == HandOffs(
        count=3,
        remote_share=0.25,
        tokens=100,
        wanted_tokens=180,
        fallbacks={"late": 2},
        bytes=7000,
        mean_s=pytest.approx(0.3),  # type: ignore[arg-type]
    )
    host, disk = told.tiers
    assert host == TierRow(
        tier="host",
        hit_tokens=96,
        wanted_tokens=208,
        misses={"late": 48, "missing": 64},
        kept_tokens=128,
        refused={"full": 16},
        in_bytes=8000,
        out_bytes=8000,
        fetch_mean_s=pytest.approx(0.15),  # type: ignore[arg-type]
    )
    assert (disk.tier, disk.hit_tokens, disk.in_bytes, disk.out_bytes, disk.misses) == ("disk", 64, 2000, 0, {})
    assert told.roles == [
        RoleRow(role="decode", workers=1, utilisation=0.9, running_mean=4.0, waiting_mean=1.0),
        RoleRow(role="prefill", workers=1, utilisation=0.4, running_mean=2.0, waiting_mean=0.0),
    ]


def test_where_nothing_moved_nothing_is_said() -> None:
    told = summary(run([outcome()], roles=["both", "both"], busy_s=[1.0, 1.0]))
    assert (told.handoffs, told.tiers, told.roles) == (None, [], [])


def test_people_see_it_on_the_terminal_and_on_the_page() -> None:
    result = a_run()
    out = io.StringIO()
    Console(file=out, width=160).print(rendered(summary(result)))
    html = page(result, summary(result), "t", [])
    for shown in (out.getvalue(), html):
        for text in (
            "hand-offs",
            "3 (25.0 % of prompt tokens), 7 kB, 300 ms each",
            "2 late",
            "KV tier host",
            "prefill",
        ):
            assert text in shown
        assert "96 of 208 tokens came, 8 kB out, 8 kB in; misses: 48 late, 64 missing" in shown


def test_sizes() -> None:
    assert [size(n) for n in (0, 12, 12_000, 3_400_000_000)] == ["–", "12 bytes", "12 kB", "3.40 GB"]
