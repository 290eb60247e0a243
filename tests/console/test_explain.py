"""`jedlik explain`: what it asks for, what it prints, and what it says when it can't."""

from collections.abc import Iterator
from io import StringIO

import msgspec
import pytest
from msgspec.structs import replace
from rich.console import Console, Group
from top_given import serving

from jedlik.console.explain import Explained, decision_parts, explain, fetch
from jedlik.core.errors import ConfigError
from jedlik.core.facts import Candidate, Elsewhere, Routed, Shadow
from jedlik.core.ids import RequestId, WorkerId

A, B = WorkerId("worker-0@a"), WorkerId("worker-1@b")
NEAR = Candidate(worker=A, cost_s=0.5, cached_tokens=64, parts={"wait": 0.2, "prefill": 0.3})
FAR = Candidate(worker=B, cost_s=0.7, cached_tokens=0, parts={"wait": 0.0, "prefill": 0.7})
GONE = Candidate(worker=WorkerId("worker-2@c"), cost_s=0.0, cached_tokens=0, parts={}, excluded="draining")
SHADOW = Shadow(
    policy="dynamo",
    chosen=B,
    cost=31.5,
    unit="blocks",
    candidates=(Candidate(worker=B, cost_s=31.5, cached_tokens=0, parts={"prefill": 11.5, "decode": 20.0}),),
)
ROUTED = Routed(
    request_id=RequestId("r/1"),
    attempt=1,
    tenant="",
    at=3.0,
    prompt_tokens=128,
    chosen=A,
    unit="s",
    candidates=(FAR, NEAR, GONE),
    choice=0,
    policy="jedlik",
    failure="",
    predicted_ttft_s=0.5,
    observed_ttft_s=0.75,
    shadow=SHADOW,
)
ANSWERS = {
    "/explain/r%2F1": (200, msgspec.json.encode({"request_id": "r/1", "decisions": [ROUTED]})),
    "/explain/other": (404, b'{"error": {"message": "No such request is remembered."}}'),
    "/explain/strange": (200, b"<html>"),
}


@pytest.fixture
def url() -> Iterator[str]:
    with serving(ANSWERS) as address:
        yield address


def shown(routed: Routed) -> list[str]:
    console = Console(width=140, file=StringIO())
    with console.capture() as capture:
        console.print(Group(*decision_parts(routed)))
    return [line.rstrip() for line in capture.get().splitlines()]


def test_who_prefills_is_shown_with_what_it_was_compared_with() -> None:
    itself = Elsewhere(None, True, {"wait": 0.0, "prefill": 0.4, "stall": 1.2})
    near = Candidate(
        worker=A,
        cost_s=0.5,
        cached_tokens=64,
        parts={"wait": 0.1, "prefill": 0.1, "remote_prefill": 0.3},
        remote=B,
        instead=itself,
        tier_tokens=32,
    )
    lines = shown(replace(ROUTED, candidates=(near, FAR), remote=B, shadow=None))
    [row] = [line for line in lines if line.startswith(A)]
    assert "64 (50%) + 32 in tiers" in row
    assert row.endswith("chosen, worker-1@b prefills for it")
    assert (
        "worker-1@b prefills for it; the next best place: prefills itself, 1.6000 s (prefill 0.4000, stall 1.2000)"
    ) in lines
    pulled = replace(near, remote=B, compute=False, instead=replace(itself, worker=B))
    lines = shown(replace(ROUTED, candidates=(pulled,), remote=B, compute=False))
    assert any(
        line.startswith("worker-1@b sends what it has; the next best place: worker-1@b prefills for it")
        for line in lines
    )


def test_a_decision_is_shown_whole() -> None:
    lines = shown(ROUTED)
    assert lines[0] == "choice 0, attempt 1: 128 prompt tokens to worker-0@a by jedlik"
    assert [line.split() for line in lines[1:5]] == [
        ["worker", "cached", "cost", "(s)", "wait", "prefill"],
        ["worker-0@a", "64", "(50%)", "0.5000", "0.2000", "0.3000", "chosen"],
        ["worker-1@b", "0", "(0%)", "0.7000", "0.0000", "0.7000"],
        ["worker-2@c", "0", "(0%)", "draining"],
    ]
    assert lines[5] == "shadow dynamo would have chosen worker-1@b (another worker)"
    assert [line.split() for line in lines[6:8]] == [
        ["worker", "cached", "cost", "(blocks)", "prefill", "decode"],
        ["worker-1@b", "0", "(0%)", "31.5000", "11.5000", "20.0000", "chosen"],
    ]
    assert lines[8] == "time to first token: predicted 0.5000 s, observed 0.7500 s (1.50 times)"


def test_failures_and_what_is_not_known_are_said() -> None:
    failed = Shadow(
        policy="mine", chosen=None, cost=0.0, unit="", candidates=(), failure="policy mine failed: KeyError: 'x'"
    )
    routed = msgspec.structs.replace(
        ROUTED, failure="policy own failed: oh", shadow=failed, predicted_ttft_s=None, observed_ttft_s=None
    )
    lines = shown(routed)
    assert lines[1] == "policy own failed: oh"
    assert "shadow: policy mine failed: KeyError: 'x'" in lines
    assert "time to first token: predicted unknown (no step model), none observed yet" in lines


def test_a_server_is_asked_and_its_answer_printed(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert fetch("r/1", url, None) == Explained("r/1", [ROUTED])
    explain("r/1", url, None)
    assert "by jedlik" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("request_id", "message"),
    [("other", "request 'other': No such request is remembered"), ("strange", "does not answer as this release")],
)
def test_what_the_server_says_is_passed_on(url: str, request_id: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        fetch(request_id, url, None)


def test_where_no_server_is_the_remedy_is_named() -> None:
    with pytest.raises(ConfigError, match=r"no server answers on http://127\.0\.0\.1:1 .*--port"):
        fetch("r", "http://127.0.0.1:1", None)
    with pytest.raises(ConfigError, match="is no address of a server"):
        fetch("r", "localhost:8000", None)


LATE = "first token in 2.00 s, 0.00 answers would miss their pace"
HELD = Candidate(worker=A, cost_s=2.0, cached_tokens=64, parts={"wait": 1.7, "prefill": 0.3}, excluded=LATE)


def test_who_was_held_back_or_refused_is_told_why_and_what_each_worker_would_have_cost() -> None:
    waits = msgspec.structs.replace(ROUTED, chosen=None, candidates=(HELD,), shadow=None, deferred="not now")
    lines = shown(waits)
    assert lines[:2] == ["choice 0, attempt 1: 128 prompt tokens to nobody by jedlik", "held back: not now"]
    assert lines[3].split() == ["worker-0@a", "64", "(50%)", "2.0000", "1.7000", "0.3000", *LATE.split()]
    assert not any("time to first token" in line for line in lines)
    refused = msgspec.structs.replace(waits, deferred="too late", shed="late", waited_s=0.25)
    assert shown(refused)[1:3] == ["refused (late): too late", "after 0.2500 s at the gateway"]
    went = msgspec.structs.replace(ROUTED, waited_s=0.5)
    assert shown(went)[1] == "after 0.5000 s at the gateway"
    minds = msgspec.structs.replace(
        ROUTED, shadow=Shadow(policy="mine", chosen=None, cost=0.0, unit="s", candidates=(HELD,), deferred="not now")
    )
    assert "shadow mine would have chosen nobody: not now" in shown(minds)


def test_nothing_of_a_table_is_cut_on_a_narrow_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    named = WorkerId("a-worker-with-a-long-name-of-its-own@0123456789ab")
    row = Candidate(
        worker=named,
        cost_s=0.5,
        cached_tokens=64,
        parts=dict.fromkeys(("wait", "prefill", "decode", "stall", "transfer"), 0.125),
    )
    routed = replace(ROUTED, candidates=(row,), chosen=named, shadow=None)
    with serving({"/explain/r": (200, msgspec.json.encode({"request_id": "r", "decisions": [routed]}))}) as url:
        explain("r", url, None)
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith(f"{named} ") and "0.125" in line]
    assert line.count("0.1250") == 5
    assert line.rstrip().endswith("chosen")
