"""Trace files: what is in them comes out, in order; what is broken is named by file, line and remedy."""

import gzip
import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jedlik.core.errors import ConfigError
from jedlik.sim.workload.load import load
from jedlik.sim.workload.offered import Offered
from jedlik.sim.workload.options import WorkloadOptions
from jedlik.sim.workload.trace import ID_LIMIT

AS_IT_IS = WorkloadOptions()


def written(path: Path, lines: list[str], name: str = "trace") -> str:
    file = path / name
    file.write_text("\n".join(lines) + "\n")
    return str(file)


def offers(source: str, options: WorkloadOptions = AS_IT_IS, seed: int = 0) -> list[Offered]:
    return list(load(source, options, seed).arrivals())


def plain(offered: Offered) -> tuple[float, int, int, list[int]]:
    return offered.at_s, offered.text.tokens, offered.output_tokens, list(offered.text.ids)


def complaint(source: str) -> str | None:
    try:
        offers(source)
    except ConfigError as error:
        return str(error)
    return None


def mooncake(at_ms: int, tokens: int, output: int, ids: list[int]) -> str:
    return json.dumps({"timestamp": at_ms, "input_length": tokens, "output_length": output, "hash_ids": ids})


@st.composite
def requests(draw: st.DrawFn) -> tuple[int, int, int, list[int]]:
    tokens = draw(st.integers(1, 3000))
    blocks = -(-tokens // 512)
    ids = draw(st.lists(st.integers(0, 2**64 - 1), min_size=blocks, max_size=blocks))
    return draw(st.integers(0, 10**7)), tokens, draw(st.integers(1, 9)), ids


@given(rows=st.lists(requests(), min_size=1, max_size=20), zipped=st.booleans())
def test_mooncake_rows_come_back_by_time(
    rows: list[tuple[int, int, int, list[int]]], zipped: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("mooncake") / "trace"
    text = "\n".join(mooncake(*row) for row in rows).encode()
    path.write_bytes(gzip.compress(text) if zipped else text)
    workload = load(str(path), AS_IT_IS, 0)
    expected = [(at / 1000, *rest) for at, *rest in sorted(rows, key=lambda row: row[0])]
    assert [plain(offered) for offered in workload.arrivals()] == expected
    assert workload.total == len(rows)


@given(st.binary(max_size=300))
def test_rubbish_is_refused_and_never_crashes(tmp_path_factory: pytest.TempPathFactory, rubbish: bytes) -> None:
    path = tmp_path_factory.mktemp("rubbish") / "trace"
    for begin in (b"", mooncake(0, 5, 1, [1]).encode() + b"\n", b"timestamp_ms,input_length,output_length\n0,1,1\n"):
        path.write_bytes(begin + rubbish)
        told = complaint(str(path))
        assert told is None or told.startswith(f"{path}:")


GOOD = mooncake(0, 600, 5, [1, 2])


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (mooncake(-1, 600, 5, [1, 2]), "the time is negative"),
        (mooncake(0, 0, 5, []), "the prompt has 0 tokens"),
        (mooncake(0, 600, -5, [1, 2]), "the answer has -5 tokens"),
        (mooncake(0, 600, 5, [1, 2, 3]), "600 tokens make 2 blocks of 512, but there are 3 block ids"),
        (mooncake(0, 600, 5, list(range(38))), "or say trace_block = 16"),
        (mooncake(0, 600, 5, [1, -2]), "hash_ids are not all whole numbers from 0 to 2^64 - 1; of longer hashes"),
        (mooncake(0, 600, 5, [1, 2**64]), "hash_ids are not all"),
        (GOOD.replace("[1", "[1.5"), "hash_ids"),
        (GOOD.replace("[1", '["1_0"'), "hash_ids are not all"),
        (GOOD.replace("[1", '["0x10"'), "hash_ids are not all"),
        (GOOD.replace("600", '"6_00"'), "input_length is '6_00', not a number"),
        (GOOD.replace("600", '"+600"'), "input_length is '+600'"),
        (GOOD.replace("600", "600.5"), "input_length is 600.5, not a whole number"),
        (GOOD.replace("600", "NaN"), "correct the line or remove it"),
        (GOOD.replace("600", "null"), "correct the line or remove it"),
        (GOOD.replace('"timestamp": 0', '"timestamp": "2024-01-01T00:00:00Z"'), "the time is a number here and a date"),
        (GOOD.replace('"timestamp": 0', '"timestamp": 1.7e12'), "1.97e+04 days after the one in line"),
        ("\0" + GOOD, "zero bytes"),
        ('{"timestamp": 0, "input_length": 600, "hash_ids": []}', "output_length"),
        ('{"timestamp": 1e999, "input_length": 1, "output_length": 1, "hash_ids": [1]}', "out of range"),
        ('{"timestamp": 0,', "correct the line or remove it"),
        ("rubbish", "correct the line or remove it"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: str, told: str) -> None:
    source = written(tmp_path, [GOOD, "", line, GOOD])
    with pytest.raises(ConfigError) as caught:
        load(source, AS_IT_IS, 0)
    assert str(caught.value).startswith(f"{source}:3: ")
    assert told in str(caught.value)


def test_answers_of_no_tokens_are_simulated_with_one(tmp_path: Path) -> None:
    assert offers(written(tmp_path, [mooncake(0, 5, 0, [1])]))[0].output_tokens == 1


def test_the_block_size_can_be_told_and_a_partial_block_may_have_no_id(tmp_path: Path) -> None:
    source = written(tmp_path, [mooncake(0, 40, 1, [7, 8, 9]), mooncake(1, 40, 1, [7, 8])])
    first, second = offers(source, WorkloadOptions(trace_block=16))
    assert first.text.piece_tokens == 16
    assert list(first.text.ids) == [7, 8, 9]
    assert list(second.text.ids) == [7, 8, ID_LIMIT + 2]


def test_bailian_turns_belong_to_the_chat_they_began_with(tmp_path: Path) -> None:
    def turn(chat: int, parent: int, at_s: float, ids: list[int]) -> str:
        lengths = {"input_length": 16 * len(ids), "output_length": 3, "type": "text", "turn": 1}
        return json.dumps({"chat_id": chat, "parent_chat_id": parent, "timestamp": at_s, **lengths, "hash_ids": ids})

    found = offers(written(tmp_path, [turn(5, -1, 0.5, [1]), turn(7, 5, 2.0, [1, 2]), turn(9, 7, 3.0, [1, 2, 3])]))
    assert [(o.at_s, o.session, list(o.text.ids)) for o in found] == [
        (0.5, "5", [1]), (2.0, "5", [1, 2]), (3.0, "5", [1, 2, 3])
    ]  # fmt: skip
    assert found[0].text.piece_tokens == 16


@pytest.mark.parametrize(
    "lines",
    [
        ["timestamp_ms,input_length,output_length", "0.0,600,10", "4250,30,8"],
        [
            "TIMESTAMP,ContextTokens,GeneratedTokens",
            "2023-11-16 18:15:46.6805900,600,10",
            "2023-11-16 18:15:50.9305900,30,8",
        ],
        [
            "TIMESTAMP,ContextTokens,GeneratedTokens",
            "2024-05-10 00:00:04.250000+00:00,30,8",
            "2024-05-10 00:00:00+00:00,600,10",
        ],
    ],
)
def test_azure_prompts_share_nothing(tmp_path: Path, lines: list[str]) -> None:
    first, second = offers(written(tmp_path, lines))
    assert (first.at_s, first.text.tokens, first.output_tokens) == (0.0, 600, 10)
    assert (second.at_s, second.text.tokens, second.output_tokens) == (4.25, 30, 8)
    assert len(first.text.ids) == 2
    assert not set(first.text.ids) & set(second.text.ids)


def test_burstgpt_has_sessions_where_the_release_has_them(tmp_path: Path) -> None:
    old = ["Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type", "5,ChatGPT,472,0,472,API log"]
    new = [
        "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type",
        "5,s1,0.4,ChatGPT,472,18,490,API log",
    ]
    (first,), (second,) = offers(written(tmp_path, old, "old")), offers(written(tmp_path, new, "new"))
    assert (first.at_s, first.text.tokens, first.output_tokens, first.session) == (5.0, 472, 1, "")
    assert (second.output_tokens, second.session) == (18, "s1")


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (["timestamp_ms,input_length,output_length", "0,5,5", "", "-5,5,5"], ":4: the time is negative"),
        (["timestamp_ms,input_length,output_length", "0,5,5", "zero,5,5"], ":3: timestamp_ms is 'zero', not a number"),
        (["timestamp_ms,input_length,output_length", "0,5.5,5"], ":2: input_length is '5.5', not a whole number"),
        (["timestamp_ms,input_length,output_length", "inf,5,5"], ":2: timestamp_ms is 'inf'"),
        (["timestamp_ms,input_length,output_length", "0,5"], ":2: 2 fields under 3 columns"),
        (["timestamp_ms,input_length,output"], ":1: no column of answers' lengths"),
        (["timestamp_ms,input_length,output_length"], "no request in it"),
        (["timestamp_ms,input_length,output_length", "0,5\r6,5"], ":2: not a line of CSV"),
        (["timestamp_ms,input_length,output_length", "0,5,1e300"], "more than any model takes"),
        (["TIMESTAMP,ContextTokens,GeneratedTokens", "yesterday,5,5"], ":2: timestamp is 'yesterday'"),
        (["input_length,output_length", "5,5"], ":1: no column of times"),
        (["a,b", "5,5"], ":1: of no format that is known"),
        ([""], "the file is empty"),
    ],
)
def test_a_broken_table_is_named(tmp_path: Path, lines: list[str], told: str) -> None:
    source = written(tmp_path, lines)
    with pytest.raises(ConfigError) as caught:
        load(source, AS_IT_IS, 0)
    assert str(caught.value).startswith(source)
    assert told in str(caught.value)


def test_a_damaged_gzip_file_and_a_missing_one_are_named(tmp_path: Path) -> None:
    damaged = tmp_path / "trace.gz"
    damaged.write_bytes(gzip.compress(GOOD.encode() * 9)[:-12])
    with pytest.raises(ConfigError, match=r"trace\.gz:\d+: the file is damaged here"):
        load(str(damaged), AS_IT_IS, 0)
    with pytest.raises(ConfigError, match=r"nowhere\.jsonl: no such file"):
        load(str(tmp_path / "nowhere.jsonl"), AS_IT_IS, 0)
    with pytest.raises(ConfigError, match="cannot be read"):
        load(str(tmp_path), AS_IT_IS, 0)


SIX = [mooncake(1000 * (number // 2), 20, 1, [number]) for number in range(6)]
"""Batches of two, a second apart."""


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [(0, 0), (0, 1), (1, 2), (1, 3), (2, 4), (2, 5)]),
        ({"speed": 4.0}, [(0, 0), (0, 1), (0.25, 2), (0.25, 3), (0.5, 4), (0.5, 5)]),
        ({"limit": 3}, [(0, 0), (0, 1), (1, 2)]),
        ({"start_s": 1.0}, [(0, 2), (0, 3), (1, 4), (1, 5)]),
        ({"start_s": 0.5, "duration_s": 1.5, "speed": 0.5}, [(1, 2), (1, 3)]),
        ({"duration_s": 2.0}, [(0, 0), (0, 1), (1, 2), (1, 3)]),
    ],
)
def test_windows_speed_and_limit(tmp_path: Path, options: dict[str, Any], expected: list[tuple[float, int]]) -> None:
    workload = load(written(tmp_path, SIX), WorkloadOptions(**options), 0)
    assert [(o.at_s, o.text.ids[0]) for o in workload.arrivals()] == expected
    assert workload.total == len(expected)
    assert workload.ended(next(workload.arrivals()), 5.0) == ()


def test_copies_come_a_little_later_in_order_and_share_no_text(tmp_path: Path) -> None:
    workload = load(written(tmp_path, SIX), WorkloadOptions(copies=3, limit=17), 0)
    found = list(workload.arrivals())
    assert workload.total == len(found) == 17
    assert [o.at_s for o in found] == sorted(o.at_s for o in found)
    by_space = {space: [o.at_s for o in found if o.text.space == space] for space in range(3)}
    assert by_space[1] == [at + 0.37 for at in by_space[0]]
    assert by_space[2] == pytest.approx([at + 0.74 for at in by_space[0]][:5])


def test_batches_are_spread_over_their_period_by_the_seed(tmp_path: Path) -> None:
    source = written(tmp_path, SIX)
    spread = offers(source, WorkloadOptions(spread_batches=True), 1)
    assert spread == offers(source, WorkloadOptions(spread_batches=True), 1)
    assert spread != offers(source, WorkloadOptions(spread_batches=True), 2)
    assert [o.at_s for o in spread] == sorted(o.at_s for o in spread)
    for offered in spread:
        recorded_s = offered.text.ids[0] // 2
        assert recorded_s <= offered.at_s < recorded_s + 1
    assert len({o.at_s for o in spread}) == 6


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"speed": 0.0}, "speed is 0.0"),
        ({"speed": float("nan")}, "speed is nan"),
        ({"start_s": -1.0}, "start_s is -1.0"),
        ({"copies": 0}, "copies is 0"),
        ({"concurrency": 4}, "concurrency = 4 has no meaning here"),
        ({"start_s": 99.0}, "the trace lasts 2.000 s"),
    ],
)
def test_options_that_cannot_be_are_refused(tmp_path: Path, options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        load(written(tmp_path, SIX), WorkloadOptions(**options), 0)


def test_arrivals_can_be_drawn_again(tmp_path: Path) -> None:
    workload = load(written(tmp_path, SIX), WorkloadOptions(copies=2), 0)
    assert list(islice(workload.arrivals(), 3)) == list(workload.arrivals())[:3]
