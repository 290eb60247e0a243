"""What is kept can be read again, holds no token ids unless asked, and a changed decision shows."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jedlik.core.effects import Deliver, GatewayEffect, StreamEnded, ToWorkerEffect, Wake
from jedlik.core.errors import ConfigError
from jedlik.core.events import Arrived, FromWorker, GatewayEvent, Woken
from jedlik.core.ids import BlockId, Handle, RequestId, StreamId, WorkerId
from jedlik.core.moves import Location, Move
from jedlik.core.protocol import Layout, Push, Submit, Tokens
from jedlik.core.requests import Request, Sampling, Stopping
from jedlik.core.tokens import pack
from jedlik.live.recorder import MAGIC, Difference, EventLog, GatewayTurn, LogRecord, LogReplay, WorkerTurn, read
from jedlik.live.redact import Redactor

SECRET = 123456
WORKER = WorkerId("w@1")
REQUEST = Request(
    request_id=RequestId("r"),
    first_stream=StreamId(1),
    model="m",
    prompt=pack([SECRET] * 40),
    sampling=Sampling(),
    stopping=Stopping(),
)
SUBMIT = Submit(
    handle=Handle(1),
    request_id=RequestId("r"),
    choice=0,
    attempt=1,
    prompt=REQUEST.prompt,
    output=pack([SECRET]),
    sampling=Sampling(),
    stopping=Stopping(),
    tenant="",
    salt="",
    priority=0,
    budget_s=None,
    output_hint=None,
    number=1,
)
HISTORY: list[tuple[GatewayEvent, list[GatewayEffect]]] = [
    (Arrived(REQUEST), [ToWorkerEffect(WORKER, SUBMIT), Wake(2.0)]),
    (
        FromWorker(WORKER, Tokens(step=1, handles=[Handle(1)], tokens=[SECRET])),
        [Deliver(streams=[StreamId(1)], tokens=[SECRET])],
    ),
    (Woken(), [Deliver(streams=[], tokens=[], ended=[StreamEnded(StreamId(1), "stop", SECRET)])]),
]


def write(path: Path, redactor: Redactor | None) -> list[LogRecord[GatewayEvent, GatewayEffect]]:
    log: EventLog[GatewayEvent, GatewayEffect] = EventLog(path, redactor or (lambda e: e), redactor or (lambda e: e))
    for number, (event, effects) in enumerate(HISTORY):
        log.record(event, effects, float(number))
    log.close()
    return list(read(path, GatewayTurn))


def test_what_was_written_is_read(tmp_path: Path) -> None:
    turns = write(tmp_path / "log", None)
    assert [(t.event, t.effects) for t in turns] == HISTORY
    assert [t.now for t in turns] == [0.0, 1.0, 2.0]


def test_token_ids_are_not_kept(tmp_path: Path) -> None:
    turns = write(tmp_path / "log", Redactor(b"key", 16))
    data = (tmp_path / "log").read_bytes()
    assert pack([SECRET]) not in data
    assert SECRET.to_bytes(4, "big") not in data  # msgpack's form
    event = turns[0].event
    assert isinstance(event, Arrived)
    assert len(event.request.prompt) == len(REQUEST.prompt)


@pytest.mark.parametrize("kept", range(len(MAGIC), len(MAGIC) + 60))
def test_a_cut_last_frame_is_left_out_and_counted(tmp_path: Path, kept: int) -> None:
    """Wherever a kill cut it."""
    whole = write(tmp_path / "log", None)
    data = (tmp_path / "log").read_bytes()
    (tmp_path / "log").write_bytes(data[:kept])
    recording = read(tmp_path / "log", GatewayTurn)
    turns = list(recording)
    assert turns == whole[: len(turns)]
    assert len(turns) < len(whole)
    (tmp_path / "other").write_bytes(data[: kept - recording.cut_bytes])
    again = read(tmp_path / "other", GatewayTurn)
    assert (list(again), again.cut_bytes) == (turns, 0)


def test_every_damaged_byte_is_found(tmp_path: Path) -> None:
    """Never a traceback, never a turn that was not recorded."""
    whole = write(tmp_path / "log", None)
    data = (tmp_path / "log").read_bytes()
    for place in range(len(data)):
        for damage in (0x01, 0x80, 0xFF):
            (tmp_path / "log").write_bytes(data[:place] + bytes([data[place] ^ damage]) + data[place + 1 :])
            recording = read(tmp_path / "log", GatewayTurn)
            turns: list[LogRecord[GatewayEvent, GatewayEffect]] = []
            try:
                turns += recording
            except ConfigError:
                assert turns != whole
            else:
                assert recording.cut_bytes or turns == whole
            assert turns == whole[: len(turns)]


def test_what_is_no_log_or_another_nodes_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "log", None)
    with pytest.raises(ConfigError, match="turn 0 is none that this release knows"):
        list(read(tmp_path / "log", WorkerTurn))
    for content, told in ((b"", "is empty"), (b"{}", "no event log"), (b"\0\0\0\1x", "no event log")):
        (tmp_path / "log").write_bytes(content)
        with pytest.raises(ConfigError, match=told):
            list(read(tmp_path / "log", GatewayTurn))


def test_a_changed_decision_shows_its_difference(tmp_path: Path) -> None:
    turns = write(tmp_path / "log", None)
    answers = [list(effects) for _, effects in HISTORY]
    assert list(LogReplay(turns, lambda event, now: answers[int(now)])) == []
    answers[1] = []
    assert list(LogReplay(turns, lambda event, now: answers[int(now)])) == [
        Difference(turn=1, now=1.0, event=HISTORY[1][0], recorded=list(HISTORY[1][1]), replayed=[])
    ]


def test_a_node_that_fails_ends_the_replay_and_is_told(tmp_path: Path) -> None:
    turns = write(tmp_path / "log", None)

    def fails(event: GatewayEvent, now: float) -> list[GatewayEffect]:
        raise KeyError("gone")

    replayed = LogReplay(turns, fails)
    assert [(one.turn, one.failure) for one in replayed] == [(0, "KeyError: 'gone'")]
    assert (replayed.events, replayed.decisions) == (1, 2)


def test_what_workers_ask_of_workers_is_kept_without_token_ids() -> None:
    redact = Redactor(b"key", 16)
    push = Push(Layout(dtype="float32", layers=1, kv_heads=1, head_dim=8, block_size=16), 0)
    asked = redact(ToWorkerEffect(WORKER, msgspec.structs.replace(SUBMIT, push=push)))
    assert isinstance(asked.message, Submit)
    assert asked.message.push == push
    assert asked.message.prompt == redact.packed(SUBMIT.prompt) != SUBMIT.prompt
    move = Move(
        number=1,
        source=Location("device"),
        source_blocks=[1],
        target=Location("host"),
        target_blocks=[2],
        ids=[BlockId(b"i" * 16)],
        parent=None,
        deadline_s=1.0,
    )
    assert redact(move) == move  # identities are keyed digests, no tokens


@pytest.mark.parametrize("length", [0, 1, 15, 16, 17, 40])
def test_redacted_prompts_keep_their_length(length: int) -> None:
    assert len(Redactor(b"key", 16).packed(pack(range(length)))) == 4 * length


@given(st.lists(st.integers(0, 3), max_size=12), st.lists(st.integers(0, 3), max_size=12))
def test_redacted_prompts_share_whole_blocks_as_the_originals_do(a: list[int], b: list[int]) -> None:
    redactor = Redactor(b"key", 2)
    x, y = redactor.packed(pack(a)), redactor.packed(pack(b))
    for blocks in range(1, min(len(a), len(b)) // 2 + 1):
        assert (x[: blocks * 8] == y[: blocks * 8]) == (a[: blocks * 2] == b[: blocks * 2])
