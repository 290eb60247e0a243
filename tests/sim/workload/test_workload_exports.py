"""Traces as exporters write them: packings, encodings, clocks, columns, numbers: taken, or refused with the line."""

import bz2
import codecs
import gzip
import json
import lzma
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from jedlik.core.errors import ConfigError
from jedlik.sim.workload.load import load
from jedlik.sim.workload.offered import Offered
from jedlik.sim.workload.options import WorkloadOptions

Packer = Callable[[bytes], bytes]
AS_IT_IS = WorkloadOptions()
TIMES_MS = (0, 1500, 61_000)
STARTED = datetime(2024, 5, 10, 11, 59, 58, tzinfo=UTC)
LINES = [
    json.dumps({"timestamp": at, "input_length": 600, "output_length": 5, "hash_ids": [n, n + 9]})
    for n, at in enumerate(TIMES_MS)
]
TABLE = ["timestamp_ms,input_length,output_length", *(f"{at},600,5" for at in TIMES_MS)]


def read(path: Path, content: bytes) -> list[Offered]:
    file = path / "trace"
    file.write_bytes(content)
    return list(load(str(file), AS_IT_IS, 0).arrivals())


def complaint(path: Path, content: bytes) -> str:
    with pytest.raises(ConfigError) as caught:
        read(path, content)
    told = str(caught.value)
    assert told.startswith(f"{path / 'trace'}:")
    return told.removeprefix(str(path / "trace"))


def times(offers: list[Offered]) -> list[float]:
    assert {(o.text.tokens, o.output_tokens) for o in offers} == {(600, 5)}
    return [offered.at_s for offered in offers]


def zstd(content: bytes) -> bytes:
    import pyarrow

    packed = pyarrow.compress(content, codec="zstd", asbytes=True)
    assert isinstance(packed, bytes)
    return packed


@pytest.mark.parametrize("lines", [LINES, TABLE], ids=["lines", "table"])
@pytest.mark.parametrize("packer", [bytes, gzip.compress, bz2.compress, lzma.compress, zstd])
@pytest.mark.parametrize(
    ("encoding", "mark"),
    [
        ("utf-8", b""),
        ("utf-8", codecs.BOM_UTF8),
        ("utf-16-le", codecs.BOM_UTF16_LE),
        ("utf-16-be", codecs.BOM_UTF16_BE),
        ("utf-32-le", codecs.BOM_UTF32_LE),
    ],
)
def test_packings_encodings_line_ends_empty_lines_and_comments_change_nothing(
    tmp_path: Path, lines: list[str], packer: Packer, encoding: str, mark: bytes
) -> None:
    plain = read(tmp_path, "\n".join(lines).encode())
    assert times(plain) == [0.0, 1.5, 61.0]
    for end in ("\n", "\r\n", "\n\n \n# a comment\n"):
        assert read(tmp_path, packer(mark + f"# exported\n{end.join(lines)}{end}".encode(encoding))) == plain


@pytest.mark.parametrize("packer", [gzip.compress, bz2.compress, lzma.compress, zstd])
def test_a_packed_file_that_is_cut_short_is_named(tmp_path: Path, packer: Packer) -> None:
    packed = packer("\n".join(LINES * 50).encode())
    assert "the file is damaged here" in complaint(tmp_path, packed[: len(packed) * 2 // 3])


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"PK\x03\x04rest", "a zip archive or a spreadsheet; unpack it"),
        (b"\x04\x22\x4d\x18rest", "packed with lz4; unpack it"),
        (f"[{','.join(LINES)}]".encode(), ":1: the file is one JSON list; write one object per line"),
        (json.dumps(json.loads(LINES[0]), indent=1).encode(), ":1: of no format that is known"),
        ("\n".join(LINES).encode("utf-16-le"), ":1: there are zero bytes in the text; save the file as UTF-8"),
        (codecs.BOM_UTF16_LE + b"\x00\xd8\x00\xd8", "the text is damaged"),
        ("\r".join(LINES).encode(), ":1: "),
        (b"\xff\xfe\x00", "the text is damaged"),
        (b"# only a comment\n", "the file is empty"),
        (LINES[0].encode("utf-8") + b"\n" + LINES[1].encode() + b" {}", ":2: "),
        (b"[" * 100_000, ":1: "),
        (LINES[0].encode() + b"\n" + b"[" * 100_000, ":2: "),
    ],
)
def test_what_is_no_file_of_lines_is_refused(tmp_path: Path, content: bytes, told: str) -> None:
    assert told in complaint(tmp_path, content)


def test_what_is_no_regular_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="no regular file"):
        load(str(tmp_path / "pipe"), AS_IT_IS, 0)


STAMPS: dict[str, Callable[[timedelta], object]] = {
    "since 1970 in s": lambda since: (STARTED + since).timestamp(),
    "since 1970 in ms": lambda since: round((STARTED + since).timestamp() * 1000),
    "since 1970 in us": lambda since: round((STARTED + since).timestamp() * 1e6),
    "since 1970 in ns": lambda since: round((STARTED + since).timestamp() * 1e3) * 10**6,
    "a text of ms": lambda since: str(round((STARTED + since).timestamp() * 1000)),
    "dates": lambda since: (STARTED + since).isoformat(),
    "dates in Z": lambda since: (STARTED + since).isoformat().replace("+00:00", "Z"),
    "dates without a zone": lambda since: str((STARTED + since).replace(tzinfo=None)),
    "dates of the east": lambda since: (STARTED + since + timedelta(hours=2)).isoformat().replace("+00:00", "+02:00"),
}


@pytest.mark.parametrize("form", ["mooncake", "bailian", "timestamp_ms", "Timestamp", "arrived_at"])
@pytest.mark.parametrize("stamp", STAMPS)
def test_a_clock_since_1970_and_dates_count_from_the_earliest_request(tmp_path: Path, stamp: str, form: str) -> None:
    """Whatever order the lines have."""
    said = [STAMPS[stamp](timedelta(milliseconds=at)) for at in (1500, 0, 61_000)]
    if form == "mooncake":
        lines = [json.dumps({"timestamp": at, "input_length": 5, "output_length": 5, "hash_ids": [1]}) for at in said]
    elif form == "bailian":
        turn = {"chat_id": 1, "input_length": 5, "output_length": 5, "hash_ids": [1]}
        lines = [json.dumps({"timestamp": at, **turn}) for at in said]
    else:
        lines = [f"{form},Request tokens,Response tokens", *(f'"{at}",5,5' for at in said)]
    found = [offered.at_s for offered in read(tmp_path, "\n".join(lines).encode())]
    assert found == pytest.approx([0.0, 1.5, 61.0], abs=1e-5)


def test_a_piece_of_a_long_trace_counts_from_its_own_start(tmp_path: Path) -> None:
    """An hour of idling at the start is as recorded; weeks of it are where the piece was cut out."""
    lines = ["Timestamp,Request tokens,Response tokens", "{},600,5", "{},600,5"]
    for start_s, expected in ((3600, [3600.0, 3601.5]), (5_000_000, [0.0, 1.5])):
        content = "\n".join(lines).format(start_s, start_s + 1.5)
        assert times(read(tmp_path, content.encode())) == expected


@pytest.mark.parametrize(
    ("at", "told"),
    [
        (["0", "1700000000"], ":3: the request comes 1.97e+04 days after the one in line 2"),
        (["1700000000", "1700000001000"], ":3: the request comes"),
        (["1700000000000", "1700000000500", "1700000001"], ":2: the request comes"),
        (["0", "700000"], ":3: the request comes 8.1 days after the one in line 2"),
        (["0", *(str(500_000 * n) for n in range(1, 70))], "the first; give all times in one unit"),
        (["2024-01-01", "17"], ":3: the time is a number here and a date in line 2"),
        (["5", "-1"], ":3: the time is negative"),
        (["1e3", "nan"], ":3: time is 'nan'"),
        (["1_000"], ":2: time is '1_000'"),
        (["+5"], ":2: time is '+5'"),
        (["５"], ":2: time is '５'"),
        (["16.11.2023 18:15"], ":2: time is '16.11.2023 18:15'"),
        (["5,"], ":2: time is '5,'"),
        ([""], ":2: time is ''"),
    ],
)
def test_what_no_clock_can_have_written_is_refused(tmp_path: Path, at: list[str], told: str) -> None:
    content = "\n".join(["time,input_tokens,output_tokens", *(f'"{one}",5,5' for one in at)])
    assert told in complaint(tmp_path, content.encode())


@pytest.mark.parametrize(
    "lines",
    [
        ['"timestamp_ms" , "input_length","output_length"', "0 , 600, 5"],
        ["Output_Length;INPUT_LENGTH;Timestamp (ms)", "5;600;0"],
        ["arrived_at\tnum_prefill_tokens\tnum_decode_tokens", "0.0\t600\t5"],
        ["time,prompt_tokens,completion_tokens,", "0,600,5,"],
        ["id,Timestamp,model,input tokens,output tokens", '7,0,"a, b",600.0,5.0', ",,,,"],
    ],
)
def test_columns_are_found_by_their_usual_names(tmp_path: Path, lines: list[str]) -> None:
    assert times(read(tmp_path, "\n".join(lines).encode())) == [0.0]


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (["time,input_tokens", "0,5"], ":1: no column of answers' lengths among time, input_tokens; add it"),
        (["when,input_tokens,output_tokens", "0,5,5"], ":1: no column of times"),
        (["time,time,input_tokens,output_tokens", "0,0,5,5"], ":1: more than one column 'time'"),
        (["time,input_tokens,output_tokens", "0,5,5,6"], ":2: 4 fields under 3 columns"),
        (["time,input_tokens,output_tokens", "0,,5"], ":2: input_tokens is '', not a number"),
        (["time,input_tokens,output_tokens", "0,NaN,5"], ":2: input_tokens is 'NaN'"),
        (["time,input_tokens,output_tokens", '0,"1,000",5'], ":2: input_tokens is '1,000'"),
        (["time,input_tokens,output_tokens", "0,5,-1"], ":2: the answer has -1 tokens"),
        (["time,input_tokens,output_tokens", "0,1_0,5"], ":2: input_tokens is '1_0'"),
        (["time,input_tokens,output_tokens", "0,5"], ":2: 2 fields under 3 columns"),
        (["0,5,5"], ":1: of no format that is known"),
    ],
)
def test_columns_that_are_not_as_they_should_be_are_named(tmp_path: Path, lines: list[str], told: str) -> None:
    assert told in complaint(tmp_path, "\n".join(lines).encode())


def test_numbers_in_quotes_and_whole_floats_are_numbers(tmp_path: Path) -> None:
    """JavaScript can't write 64-bit ids otherwise; pandas makes floats of whole columns."""
    line = {"timestamp": "1500.0", "input_length": "600", "output_length": 5.0, "hash_ids": ["18446744073709551615", 3]}
    (offered,) = read(tmp_path, json.dumps(line).encode())
    assert list(offered.text.ids) == [2**64 - 1, 3]
    assert times([offered]) == [1.5]


def agentic(**changes: object) -> bytes:
    first = {"t": 5.0, "in": 128, "out": 1, "h": [2**64 - 2, 2]}
    second = {"t": 9.0, "in": 192, "out": 1, "k": 2, "h": [7, 1]} | changes
    return json.dumps({"id": "a", "block_size": 64, "reqs": [first, second]}).encode()


def test_agentic_block_ids_may_use_all_64_bits(tmp_path: Path) -> None:
    (offered,) = read(tmp_path, agentic())
    assert list(offered.text.ids) == [2**64 - 2, 2**64 - 1]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"h": [2**64 - 1, 2], "in": 256}, "beyond 2^64 - 1"),
        ({"h": [-1, 1]}, "reqs[1].h"),
        ({"h": [7, 10**15], "in": 10**15}, "reqs[1].in"),
        ({"t": 1.7e9}, "reqs[1] comes 1.97e+04 days after the answer before it"),
        ({"think": 1e7}, "days after the answer before it"),
    ],
)
def test_agentic_lines_that_cannot_be_are_refused(tmp_path: Path, changes: dict[str, object], told: str) -> None:
    assert told in complaint(tmp_path, agentic(**changes))
