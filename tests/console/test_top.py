"""`jedlik top`: what two looks at a server say, how that reads in a terminal, and what happens without a server."""

import os
import subprocess
import sys
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from rich.cells import cell_len
from top_given import DECISIONS, HEALTH, PLAN, bare, lines, metrics, plan, sample, serving

from jedlik.console.keys import parsed
from jedlik.console.sample import History, ServerLook, look
from jedlik.console.series import Series, read
from jedlik.console.top import Screen
from jedlik.console.top_page import exact, render, span
from jedlik.console.view import TopRow, View, natural, of_history, view
from jedlik.core.errors import ConfigError

BEFORE = sample(100.0, plan())
AFTER = sample(
    110.0, plan(), answered=100, refused=5, tokens=2000, offered=105, kept=84, quick=80, prompt=1000, cached=640
)
ANSWERS = {
    "/health": (200, msgspec.json.encode(HEALTH)),
    "/metrics": (200, metrics(answered=4, tokens=40, offered=4, kept=4, quick=4)),
    "/plan": (200, msgspec.json.encode(PLAN)),
    "/v1/models": (200, b'{"data": [{"id": "tiny", "created": 1}]}'),
}


def jedlik(*arguments: str) -> "subprocess.CompletedProcess[str]":
    environ = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "COLUMNS": "80"}
    command = [sys.executable, "-m", "jedlik", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environ, timeout=60, check=False)


def page(previous: ServerLook | None, current: ServerLook, width: int = 80) -> list[str]:
    return lines(render(view(previous, current, previous), width), width)


# --- values ---


def test_rates_are_differences_and_shares_are_of_the_window() -> None:
    head = view(BEFORE, AFTER, BEFORE).header
    assert (head.requests_s, head.refused_s, head.tokens_s) == (10.5, 0.5, 200.0)
    assert (head.in_flight, head.waiting) == (7, 3)
    assert (head.slo_share, head.offered, head.target, head.window_s) == (0.8, 105.0, 0.95, 10.0)
    assert (head.slo_ttft_s, head.slo_itl_s) == (0.2, None)
    assert head.ttft_p50_s == pytest.approx(0.1 * 50 / 80)
    assert head.ttft_p99_s == pytest.approx(0.1 + 0.15 * 19 / 20)
    assert head.itl_p50_s is None


def test_one_look_has_no_rates_and_everything_since_the_start() -> None:
    head = view(None, AFTER).header
    assert (head.requests_s, head.tokens_s, head.window_s) == (None, None, None)
    assert head.slo_share == 0.8


def test_a_row_joins_what_gateway_metrics_and_planner_say_of_a_worker() -> None:
    first, crashed, starting, draining = view(BEFORE, AFTER, BEFORE).rows
    assert first == TopRow(
        worker="worker-0", role="both", state="serving", since_s=754.0, expected_s=None, start=1, health="ok",
        running=4, waiting=1, queued_tokens=1200.0, used=0.5, cached=0.25, tiers={"host": None, "disk": None},
        tokens_s=200.0, hits=0.64,
    )  # fmt: skip
    assert view(None, AFTER).rows[0].tiers == {"host": None, "disk": 0.75}
    assert (crashed.worker, crashed.state, crashed.start, crashed.running) == ("worker-1", "waiting", 5, None)
    assert (starting.state, starting.since_s, starting.expected_s) == ("starting", 12.0, 30.0)
    assert (draining.state, draining.health, draining.used, draining.tokens_s) == ("draining", "suspect", None, None)


def test_without_a_planner_a_worker_serves_or_drains() -> None:
    rows = view(None, AFTER._replace(plan=None)).rows
    assert [(row.worker, row.state, row.since_s) for row in rows] == [
        ("worker-0", "serving", None),
        ("worker-3", "draining", None),
    ]


def test_nothing_that_is_not_told_is_a_number() -> None:
    seen = view(bare(1.0, "w@1"), bare(2.0, "w@1"), bare(1.0, "w@1"))
    head = seen.header._replace(window_s=None)
    assert all(value is None for value in head)
    [row] = seen.rows
    assert (row.worker, row.state, row.tiers) == ("w", "serving", {})
    assert all(value is None for name, value in row._asdict().items() if name not in ("worker", "state", "tiers"))
    text = "\n".join(lines(render(seen, 160), 160)).replace("p50", "").replace("p99", "")
    assert not any(character.isdigit() for character in text)


def test_a_gateway_that_began_again_counts_from_zero() -> None:
    again = sample(120.0, plan(), answered=30, tokens=500, offered=30, kept=30, quick=30)
    head = view(AFTER, again, AFTER).header
    assert (head.requests_s, head.tokens_s, head.slo_share) == (3.0, 50.0, 1.0)


def test_workers_are_in_the_order_people_count() -> None:
    names = ["worker-10", "worker-2", "worker-1", "decode-1"]
    assert sorted(names, key=natural) == ["decode-1", "worker-1", "worker-2", "worker-10"]


def test_a_window_is_a_minute_and_not_less_than_says_something() -> None:
    history = History()
    assert of_history(history) is None
    for second in range(100):
        history.add(sample(float(second), offered=second, kept=second))
    seen = of_history(history)
    assert seen is not None
    assert seen.header.window_s == pytest.approx(60, abs=1.5)
    short = History()
    for at in (0.0, 1.0, 2.0):
        short.add(sample(at))
    young = of_history(short)
    assert young is not None
    assert young.header.window_s is None
    assert young.header.requests_s == 0.0


BOUNDS = (0.001, 0.01, 0.1, 1.0)


@given(st.lists(st.integers(0, 50), min_size=5, max_size=5), st.floats(0.01, 1.0))
def test_a_quantile_is_in_the_bucket_where_the_observation_is(counts: list[int], share: float) -> None:
    lines, total = [], 0
    for bound, count in zip((*map(str, BOUNDS), "+Inf"), counts, strict=True):
        total += count
        lines.append(f'h_bucket{{le="{bound}"}} {total}')
    found = read(("# TYPE h histogram\n" + "\n".join(lines) + "\n").encode()).quantile(None, "h", share)
    if total == 0:
        assert found is None
        return
    observations = [at for at, count in enumerate(counts) for _ in range(count)]
    rank = max(0, min(total - 1, -int(-share * total // 1) - 1))
    assert found is not None
    low, high = (0.0, *BOUNDS)[observations[rank]], (*BOUNDS, BOUNDS[-1])[observations[rank]]
    assert low - 1e-9 <= found <= high + 1e-9


def test_series_that_do_not_exist_have_no_total_and_no_increase() -> None:
    empty = Series({})
    assert (empty.total("x"), empty.increase(None, "x"), empty.quantile(None, "x", 0.5)) == (None, None, None)
    with pytest.raises(ConfigError, match="not Prometheus text"):
        read(b"a b c d e\n")


# --- the page ---


def test_a_page_of_80_columns() -> None:
    assert page(BEFORE, AFTER) == [
        " m  ok  up 12m34s",
        " 10.5 requests/s (0.5 refused)   200 tokens/s   in flight 7   waiting 3",
        " TTFT p50 62.5 ms  p99 243 ms (limit 200 ms)   ITL p50 –",
        " SLO kept by 80.0% of 105 requests, target 95%   of the last 10s",
        "",
        " worker    role  state             run  wait  tokens/s  hits  KV used cached",
        " worker-0  both  serving 12m34s      4     1       200   64%  ███▒▒·  50%  25%",
        " worker-1  both  waiting 3s          –     –         –     –  –",
        " worker-2  both  starting 12s/30s    –     –         –     –  –",
        " worker-3  both  draining 1m01s !    –     –         –     –  –",
        " worker-1 ended after start 5 and waits to be started again: crashed; crash",
        " loop, next start in 8 s",
        " worker-3 is suspect: no message for 2 s",
        "",
        " planner jedlik, mode on, budget 4",
        " both: 1 serving, 2 starting, 1 draining; 3 wanted",
        " as many as demand needs",
        "   10s ago  start worker-2 (both): demand at the time a start would be ready",
        "   exceeds what is committed",
        "     demand 12.5 requests/s, predicted TTFT 310 ms, hit rate unknown",
        "   1m00s ago  would do: start 3 both: more of everything",
    ]


@given(st.integers(30, 200))
def test_no_line_is_wider_than_the_terminal_and_names_are_whole(width: int) -> None:
    shown = page(BEFORE, AFTER, width)
    assert all(cell_len(line) <= width for line in shown)
    for name in ("worker-0", "worker-1", "worker-2", "worker-3"):
        assert any(line.startswith(f" {name} ") for line in shown)


def test_columns_come_with_room() -> None:
    def heads(width: int) -> str:
        return next(line for line in page(BEFORE, AFTER, width) if line.startswith(" worker "))

    assert heads(120).split() == [
        "worker", "role", "state", "health", "run", "wait", "queued", "tokens/s", "hits", "KV", "used", "cached",
        "host", "disk",
    ]  # fmt: skip
    assert heads(40).split() == ["worker", "role", "state", "run"]
    assert "health" not in heads(80)


def test_who_was_given_up_is_said() -> None:
    members = [
        {"name": "w-0", "start": 5, "state": "free", "why": "another place takes over", "quick_ends": 4},
        {"name": "w-1", "start": 1, "state": "ended", "why": "no such model", "hopeless": True},
        {"name": "w-2", "start": 3, "state": "free", "why": "scaled down", "quick_ends": 1},
    ]
    seen = view(None, AFTER._replace(plan=plan(members=members)))
    assert seen.troubles[:-1] == [
        "w-0 is given up after start 5: another place takes over",
        "w-1 is given up after start 1: no such model",
    ]
    assert [row.worker for row in seen.rows] == ["worker-0", "worker-3"]


def test_counts_by_hand_and_trouble_are_said() -> None:
    seen = plan(by_hand={"both": 3}, advice={"both": 2}, stale=["gateway@1"], trouble="3 decode fit, 5 wanted")
    text = page(BEFORE, AFTER._replace(plan=seen))
    assert " planner jedlik, mode on, budget 4  counts set by hand  reports are missing" in text
    assert " both: 1 serving, 2 starting, 1 draining; 3 wanted; 2 advised" in text
    assert " 3 decode fit, 5 wanted" in text


def test_figures_as_people_read_them() -> None:
    assert [span(value) for value in (None, 0.4, 59, 61, 7500, 200000)] == ["–", "0s", "59s", "1m01s", "2h05m", "2d07h"]
    assert [exact(value) for value in (None, 0.0, 0.0001, 0.9996, 1.0)] == ["–", "0%", "0.1%", "99.9%", "100%"]


# --- the screen ---


def screen_of(workers: int) -> Screen:
    health = replace(AFTER.health, workers=tuple(bare(0, *(f"w-{n}@1" for n in range(workers))).health.workers))
    screen = Screen("http://127.0.0.1:8000", 1.0)
    screen.take(AFTER._replace(health=health, plan=None))
    return screen


def names(shown: Sequence[str]) -> list[str]:
    return [line.split()[0] for line in shown if line.startswith(" w-")]


def test_a_fleet_that_is_too_long_scrolls() -> None:
    screen = screen_of(50)
    rows = screen.detail(80, 24).rows or 0
    shown = lines(screen.page(80, 24))
    assert len(shown) <= 24
    assert names(shown) == [f"w-{n}" for n in range(rows)]
    assert f" 1 to {rows} of 50 workers" in shown
    screen.press("down", rows)
    screen.press("page down", rows)
    assert names(lines(screen.page(80, 24)))[0] == f"w-{rows + 1}"
    for _ in range(9):
        screen.press("page down", rows)
    assert names(lines(screen.page(80, 24)))[-1] == "w-49"
    for _ in range(9):
        screen.press("page up", rows)
    screen.press("up", rows)
    assert names(lines(screen.page(80, 24)))[0] == "w-0"


@given(st.integers(15, 60), st.integers(1, 30), st.integers(0, 6))
def test_a_page_is_never_taller_than_the_terminal(height: int, reasons: int, decisions: int) -> None:
    one = {**DECISIONS[0], "reasons": [["a number with a name", 1.5, "requests/s"]] * reasons}
    screen = Screen("http://127.0.0.1:8000", 1.0)
    screen.take(AFTER._replace(plan=plan(decisions=[one] * decisions, why="")))
    shown = lines(screen.page(80, height))
    assert len(shown) < height or height < 20
    assert any(line.startswith(" worker-0") for line in shown)
    assert shown[-1].startswith(" q quit")


def test_a_pause_keeps_the_page_and_its_end_shows_what_came() -> None:
    screen = screen_of(1)
    screen.press("pause", 3)
    screen.take(AFTER._replace(at=111.0))
    shown = lines(screen.page(80, 24))
    assert names(shown) == ["w-0"]
    assert "PAUSED" in shown[-1]
    screen.press("pause", 3)
    assert any(line.startswith(" worker-0") for line in lines(screen.page(80, 24)))


def test_a_server_that_is_gone_is_said_above_the_last_page() -> None:
    screen = Screen("http://127.0.0.1:1", 1.0)
    assert lines(screen.page(80, 24))[0] == " looking at http://127.0.0.1:1 ..."
    screen.take(ConfigError("no server answers"))
    assert lines(screen.page(80, 24))[0] == " no server answers; trying again every 1 s"
    screen.take(AFTER)
    screen.take(ConfigError("no server answers"))
    shown = lines(screen.page(80, 40))
    assert shown[0] == " no server answers; trying again every 1 s"
    assert shown[1].startswith(" m  ok")
    screen.take(AFTER)
    assert lines(screen.page(80, 40))[0].startswith(" m  ok")


def test_keys() -> None:
    assert parsed(b"q") == ["quit"]
    assert parsed(b"\x1b[A\x1b[6~xp\x1b[Z") == ["up", "page down", "pause"]


# --- a server ---


def test_a_look_takes_what_answers_and_says_what_does_not() -> None:
    with serving(ANSWERS) as url:
        seen = look(url, None)
    assert (seen.model, seen.notes) == ("tiny", ())
    assert seen.plan is not None
    assert seen.series is not None
    refused = {
        "/health": (503, ANSWERS["/health"][1]),
        "/metrics": (401, b'{"error": {"message": "No key."}}'),
        "/plan": (503, b'{"error": {"message": "The supervisor is away."}}'),
        "/v1/models": (401, b'{"error": {"message": "No key."}}'),
    }
    with serving(refused) as url:
        seen = look(url, None)
        *notes, models = seen.notes
        assert notes == ["/metrics: No key.", f"{url}/plan: The supervisor is away."]
        assert "uptime: No key. (--api-key" in models
    assert (seen.series, seen.plan, seen.uptime_s, seen.model) == (None, None, None, None)
    with serving({"/health": (200, b"<html>")}) as url, pytest.raises(ConfigError, match="this release"):
        look(url, None)
    with serving({}) as url, pytest.raises(ConfigError, match="is it a jedlik server"):
        look(url, None)


def test_once_prints_one_plain_page() -> None:
    with serving(ANSWERS) as url:
        done = jedlik("top", "--url", url, "--once", "--interval", "0.1")
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    assert done.stdout.startswith(" tiny  ok  up ")
    assert " 0 requests/s   0 tokens/s   in flight 7   waiting 3" in done.stdout


def test_once_without_a_server_ends_with_a_remedy() -> None:
    done = jedlik("top", "--url", "http://127.0.0.1:9", "--once")
    assert done.returncode == 2
    assert done.stdout == ""
    assert "no server answers on http://127.0.0.1:9" in done.stderr
    assert "--port" in done.stderr


def test_the_view_of_a_history_is_that_of_its_looks() -> None:
    history = History()
    history.add(BEFORE)
    history.add(AFTER)
    assert isinstance(of_history(history), View)
    assert of_history(history) == view(BEFORE, AFTER, BEFORE)
