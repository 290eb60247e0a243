"""Closed loops: a request comes a pause after the answer before it, helpers run beside, the ended are replaced."""

import heapq
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jedlik.core.errors import ConfigError
from jedlik.sim.workload.load import load
from jedlik.sim.workload.offered import Offered, Workload
from jedlik.sim.workload.options import WorkloadOptions
from jedlik.sim.workload.trace import ID_LIMIT

ONE = WorkloadOptions(concurrency=1, ramp_s=0.0)


def request(
    tokens: int, think: float | None = 0.0, k: int = 0, h: list[int] | None = None, **more: Any
) -> dict[str, Any]:
    return {"t": 0.0, "in": tokens, "out": 7, "api": 1.0, "think": think, "k": k, "h": h or [], **more}


def agent(*requests: dict[str, Any], status: str = "completed") -> dict[str, Any]:
    return {"t": 9.0, "agent_id": "a", "duration_ms": 5, "status": status, "sub": list(requests)}


def written(path: Path, *conversations: list[dict[str, Any]]) -> str:
    file = path / "agentic.jsonl"
    lines = [
        json.dumps({"id": f"c{number}", "block_size": 4, "reqs": reqs}) for number, reqs in enumerate(conversations)
    ]
    file.write_text("\n".join(lines))
    return str(file)


def played(workload: Workload, answer_s: float = 10.0, most: int = 1000) -> list[Offered]:
    """What is sent, in order, if every answer takes as long."""
    sent: list[Offered] = []
    waiting = [(offered.at_s, number, offered) for number, offered in enumerate(workload.arrivals())]
    heapq.heapify(waiting)
    answers: list[tuple[float, int, Offered]] = []
    while (waiting or answers) and len(sent) < most:
        if not answers or (waiting and waiting[0][0] <= answers[0][0]):
            at_s, _, offered = heapq.heappop(waiting)
            sent.append(offered)
            heapq.heappush(answers, (at_s + answer_s, len(sent), offered))
            continue
        now_s, _, offered = heapq.heappop(answers)
        for place, following in enumerate(workload.ended(offered, now_s)):
            assert following.at_s >= now_s
            heapq.heappush(waiting, (following.at_s, 10_000 * len(sent) + place, following))
    return sent


def told(sent: list[Offered]) -> list[tuple[float, str, list[int]]]:
    return [(offered.at_s, offered.session, list(offered.text.ids)) for offered in sent]


def test_the_next_request_comes_think_s_after_the_answer(tmp_path: Path) -> None:
    source = written(
        tmp_path, [request(8, 99.0, 0, [1, 2]), request(16, 3.0, 2, [7, 2]), request(12, 0.5, 1, [7, 1, 9, 1])]
    )
    assert told(played(load(source, ONE, 0))) == [
        (0.0, "c0", [1, 2]),
        (13.0, "c0", [1, 2, 7, 8]),
        (23.5, "c0", [1, 7, 9]),
    ]
    assert told(played(load(source, WorkloadOptions(concurrency=1, ramp_s=0.0, speed=2.0), 0)))[1][0] == 11.5


def test_a_partial_last_block_is_nobodys(tmp_path: Path) -> None:
    source = written(tmp_path, [request(10, 0.0, 0, [1, 2]), request(11, 0.0, 2), request(9, 0.0, 2, [5, 1])])
    first, second, third = (list(offered.text.ids) for offered in played(load(source, ONE, 0)))
    assert first[:2] == second[:2] == [1, 2]
    assert third == [1, 2, 5]
    assert ID_LIMIT < first[2] != second[2] > ID_LIMIT


def test_sub_agents_start_with_the_answer_and_are_waited_for(tmp_path: Path) -> None:
    helper = agent(request(4, 0.0, 0, [50, 1]), request(8, 2.0, 1, [60, 1]))
    source = written(tmp_path, [request(4, 0.0, 0, [1, 1]), helper, request(8, 5.0, 1, [2, 1])])
    assert told(played(load(source, ONE, 0))) == [
        (0.0, "c0", [1]),
        (10.0, "c0/1", [50]),
        (22.0, "c0/1", [50, 60]),
        (32.0, "c0", [1, 2]),
    ]


def test_think_time_is_kept_where_sub_agents_are_faster(tmp_path: Path) -> None:
    source = written(
        tmp_path,
        [request(4, 0.0, 0, [1, 1]), agent(request(4, 0.0, 0, [50, 1])), agent(request(4, 0.0, 0, [51, 1])),
         request(8, 40.0, 1, [2, 1])],
    )  # fmt: skip
    assert [at for at, _, _ in told(played(load(source, ONE, 0)))] == [0.0, 10.0, 10.0, 50.0]


def test_sub_agents_in_the_background_are_not_waited_for(tmp_path: Path) -> None:
    helper = agent(request(4, 0.0, 0, [50, 1]), status="async_launched")
    source = written(
        tmp_path, [request(4, 0.0, 0, [1, 1]), helper, request(8, 5.0, 1, [2, 1])], [request(4, 0, 0, [1, 1])]
    )
    sent = told(played(load(source, ONE, 0)))
    assert [(at, session) for at, session, _ in sent] == [(0.0, "c0"), (10.0, "c0/1"), (15.0, "c0"), (25.0, "c1")]


def test_the_next_conversation_begins_when_all_of_one_has_ended(tmp_path: Path) -> None:
    last = agent(request(4, 0.0, 0, [50, 1]), request(4, 30.0, 1), status="async_launched")
    source = written(tmp_path, [request(4, 0.0, 0, [1, 1]), last], [request(4, 0.0, 0, [1, 1])])
    sent = played(load(source, ONE, 0))
    assert [(o.at_s, o.session, o.text.space) for o in sent] == [
        (0.0, "c0", 0), (10.0, "c0/1", 0), (50.0, "c0/1", 0), (60.0, "c1", 1),
    ]  # fmt: skip


def test_without_limits_each_conversation_runs_once(tmp_path: Path) -> None:
    source = written(tmp_path, *[[request(4, 0.0, 0, [1, 1]), request(4, 1.0, 1)] for _ in range(5)])
    workload = load(source, WorkloadOptions(concurrency=2), 0)
    assert workload.total == 10
    assert sorted(offered.session for offered in played(workload)) == sorted(2 * [f"c{number}" for number in range(5)])


def test_with_a_limit_they_go_round_and_share_nothing_with_their_earlier_selves(tmp_path: Path) -> None:
    source = written(tmp_path, [request(4, 0.0, 0, [1, 1])], [request(4, 0.0, 0, [1, 1])])
    workload = load(source, WorkloadOptions(concurrency=1, ramp_s=0.0, limit=5), 0)
    assert workload.total == 5
    assert [(o.session, o.text.space) for o in played(workload)] == [
        ("c0", 0), ("c1", 1), ("c0#1", 2), ("c1#1", 3), ("c0#2", 4),
    ]  # fmt: skip


def test_nothing_is_sent_after_the_duration(tmp_path: Path) -> None:
    source = written(tmp_path, [request(4, 0.0, 0, [1, 1]), request(4, 5.0, 1)])
    options = WorkloadOptions(concurrency=3, ramp_s=20.0, duration_s=100.0)
    sent = played(load(source, options, 0))
    assert max(offered.at_s for offered in sent) < 100.0
    assert len(sent) > 12


def test_starts_are_spread_over_the_ramp_by_the_seed(tmp_path: Path) -> None:
    source = written(tmp_path, *[[request(4 * n, 0.0, 0, [1, n]) for n in range(1, 9)]] * 3)
    for midway in (False, True):
        options = WorkloadOptions(concurrency=10, copies=2, ramp_s=30.0, limit=500, begin_midway=midway)
        first = list(load(source, options, 3).arrivals())
        assert len(first) == 20
        assert all(sooner.at_s <= later.at_s for sooner, later in pairwise(first))
        assert 0 < first[0].at_s < first[-1].at_s < 30
        assert ({offered.text.tokens for offered in first} == {4}) is not midway
        assert told(first) == told(list(load(source, options, 3).arrivals()))
        assert told(first) != told(list(load(source, options, 4).arrivals()))


def test_a_conversation_begun_midway_has_the_prompt_it_would_have_had(tmp_path: Path) -> None:
    turns = [request(4 * n, 0.0, n - 1, [n, 1]) for n in range(1, 20)]
    options = WorkloadOptions(concurrency=1, begin_midway=True, limit=1)
    starts = {len(next(iter(load(written(tmp_path, turns), options, seed).arrivals())).text.ids) for seed in range(20)}
    assert len(starts) > 5
    for seed in range(20):
        (sent,) = load(written(tmp_path, turns), options, seed).arrivals()
        assert list(sent.text.ids) == list(range(1, len(sent.text.ids) + 1))


def test_playing_again_gives_the_same(tmp_path: Path) -> None:
    source = written(tmp_path, *[[request(4, 0.0, 0, [1, 1]), request(5, 1.0, 1)] for _ in range(3)])
    workload = load(source, WorkloadOptions(concurrency=2, limit=20), 1)
    assert told(played(workload)) == told(played(workload))


def runs(ids: list[int]) -> list[int]:
    """The format's own encoding: first, count, first, count, ..."""
    found: list[int] = []
    for one in ids:
        if found and found[-2] + found[-1] == one:
            found[-1] += 1
        else:
            found += [one, 1]
    return found


PROMPTS = st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=9), min_size=1, max_size=6)


@given(PROMPTS)
def test_prompts_come_back_from_their_encoding(
    tmp_path_factory: pytest.TempPathFactory, prompts: list[list[int]]
) -> None:
    entries, before = [], list[int]()
    for ids in prompts:
        k = 0
        while k < min(len(ids), len(before)) and ids[k] == before[k]:
            k += 1
        entries.append(request(4 * len(ids), 1.0, k, runs(ids[k:])))
        before = ids
    source = written(tmp_path_factory.mktemp("agentic"), entries)
    assert [list(offered.text.ids) for offered in played(load(source, ONE, 0))] == prompts


@pytest.mark.parametrize(
    ("reqs", "told"),
    [
        ([request(8, 0.0, 0, [1, 1])], "reqs[0] names 1 blocks of 4 for 8 tokens"),
        ([request(8, 0.0, 1, [1, 1])], "reqs[0] keeps k = 1 blocks of a prompt that has 0"),
        ([request(8, 0.0, 0, [1, 2]), request(16, 0.0, 3, [1, 1])], "reqs[1] keeps k = 3 blocks"),
        ([request(8, 0.0, 0, [1])], "must be pairs"),
        ([request(8, -1.0, 0, [1, 2])], "$.reqs[0].think"),
        ([request(0)], "$.reqs[0].in"),
        ([], "length >= 1"),
        ([agent(request(4, 0.0, 0, [1, 1]))], "no request of the conversation itself"),
        ([request(4, 0.0, 0, [1, 1]), agent()], "reqs[1].sub has no requests"),
        ([request(4, 0.0, 0, [1, 1]), agent(agent(request(4)))], "sub-agent of a sub-agent"),
        ([request(4, 0.0, 0, [1, 1]), {"t": 1.0}], "reqs[1] has no length `in`"),
    ],
)
def test_a_broken_conversation_is_named(tmp_path: Path, reqs: list[dict[str, Any]], told: str) -> None:
    source = written(tmp_path, [request(4, 0.0, 0, [1, 1])], reqs)
    with pytest.raises(ConfigError) as caught:
        load(source, ONE, 0)
    assert str(caught.value).startswith(f"{source}:2: ")
    assert told in str(caught.value)


def test_a_pause_that_was_not_recorded_is_what_lies_between(tmp_path: Path) -> None:
    source = written(tmp_path, [request(4, 0.0, 0, [1, 1]), request(4, None, 1, t=9.0), request(4, None, 1, t=9.5)])
    assert [offered.at_s for offered in played(load(source, ONE, 0))] == [0.0, 18.0, 28.0]


def test_options_of_recordings_are_refused(tmp_path: Path) -> None:
    source = written(tmp_path, [request(4, 0.0, 0, [1, 1])])
    for options in (
        WorkloadOptions(start_s=5.0),
        WorkloadOptions(spread_batches=True),
        WorkloadOptions(trace_block=16),
    ):
        with pytest.raises(ConfigError, match="has no meaning here"):
            load(source, options, 0)


def test_multi_turn_prompts_grow_by_the_answer_and_the_new_tokens() -> None:
    spec = "multi_turn:concurrency=1,turns=8,system=40,input=20,output=10,think=2,block=16"
    sent = played(load(spec, WorkloadOptions(limit=60, ramp_s=0.0), 0), answer_s=1.0)
    chats = {offered.session: [other for other in sent if other.session == offered.session] for offered in sent}
    assert len(sent) == 60
    assert len(chats) > 2
    for chat in chats.values():
        assert [offered.text.tokens for offered in chat] == [32 + 20 + 30 * turn for turn in range(len(chat))]
        assert list(chat[0].text.ids[:2]) == [0, 1]
        for sooner, later in pairwise(chat):
            whole = sooner.text.tokens // 16
            assert later.at_s > sooner.at_s + 1.0
            assert list(later.text.ids[:whole]) == list(sooner.text.ids[:whole])
            assert not set(later.text.ids[whole:]) & set(sooner.text.ids)
    own = [{piece for offered in chat for piece in offered.text.ids} for chat in chats.values()]
    assert own[0] & own[1] == {0, 1}


def test_multi_turn_conversations_may_begin_at_a_rate() -> None:
    sent = played(load("multi_turn:rate=2,turns=3,duration=300", WorkloadOptions(), 0), answer_s=0.1, most=10_000)
    chats = {offered.session for offered in sent}
    assert 500 < len(chats) < 700
    assert max(offered.at_s for offered in sent) < 300
    assert sent == sorted(sent, key=lambda offered: offered.at_s)
