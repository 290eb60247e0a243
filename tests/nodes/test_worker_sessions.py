"""Sessions alone, as an adapter before an engine with its own scheduler uses them: no batch, no pool, no moves."""

import pytest

from jedlik.core.config import WorkerConfig
from jedlik.core.effects import ToClient, WorkerEffect
from jedlik.core.errors import Fault
from jedlik.core.ids import BlockKey, ClientId, GatewayId, Handle, RequestId, WorkerId
from jedlik.core.protocol import (
    SCHEMA_VERSION,
    Capabilities,
    Card,
    Evicted,
    Facts,
    Finished,
    Layout,
    Load,
    Snapshot,
    Started,
    State,
    Stored,
    Submit,
    Tokens,
)
from jedlik.core.requests import Sampling, Stopping
from jedlik.core.step import TokenLogprobs
from jedlik.core.tokens import pack
from jedlik.kv.cache_report import CacheReport
from jedlik.nodes.worker.sessions import ClientSession, Sessions

G, OTHER = GatewayId("g@1"), WorkerId("w-2@1")
CARD = Card(
    schema=SCHEMA_VERSION,
    worker=WorkerId("w@1"),
    name="w",
    model="m",
    revision="r",
    layout=Layout(dtype="bfloat16", layers=1, kv_heads=1, head_dim=8, block_size=16),
    total_blocks=101,
    max_model_len=1000,
    max_sequences=4,
    max_step_tokens=512,
    vocab_size=500,
    eos_token_ids=(2,),
    hash_check="hash",
    capabilities=Capabilities(),
)
CONFIG = WorkerConfig(load_period_s=0.1, heartbeat_s=1.0)


class Engine:
    """What an engine with a cache of its own says of it."""

    def __init__(self) -> None:
        self.changes: list[Stored | Evicted] = []
        self.digest = 0

    def take_changes(self) -> list[Stored | Evicted]:
        changes, self.changes = self.changes, []
        return changes

    def runs(self) -> list[Stored]:
        return []


class Answer:
    """An attempt at an engine that schedules itself."""

    def __init__(self, submit: Submit, client: ClientId = G) -> None:
        self.submit, self.client, self.handle = submit, client, submit.handle
        self.cached_tokens, self.queued_s, self.started = 16, 0.25, False
        self.prompt_logprobs: list[TokenLogprobs] | None = None


def submit(
    handle: int, attempt: int = 1, request: str = "r", prompt: tuple[int, ...] = (5, 6), most: int = 8
) -> Submit:
    return Submit(
        handle=Handle(handle),
        request_id=RequestId(request),
        choice=0,
        attempt=attempt,
        prompt=pack(list(prompt)),
        output=b"",
        sampling=Sampling(),
        stopping=Stopping(max_tokens=most),
        tenant="",
        salt="",
        priority=0,
        budget_s=None,
        output_hint=None,
        number=handle,
    )


def load(last_submit: int) -> Load:
    return Load(
        steps=1,
        step_age_s=0.0,
        step_predicted_s=None,
        running=0,
        waiting=0,
        waiting_tokens=0,
        context_tokens=0,
        held_blocks=0,
        cached_blocks=0,
        last_submit=last_submit,
        step_s=None,
        preemptions=0,
    )


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def sessions(engine: Engine) -> Sessions[Answer]:
    return Sessions(CARD, CONFIG, "both", [CacheReport(engine)])


def joined(sessions: Sessions[Answer], client: ClientId = G, follows: bool = True) -> ClientSession[Answer]:
    sessions.join(client, follows, load, [])
    return sessions.open[client]


def sent(out: list[WorkerEffect]) -> list[tuple[ClientId, type]]:
    return [(e.client, type(e.message)) for e in out if isinstance(e, ToClient)]


def test_a_follower_gets_state_load_and_snapshot_and_another_client_the_state(sessions: Sessions[Answer]) -> None:
    out: list[WorkerEffect] = []
    sessions.join(G, True, load, out)
    sessions.join(OTHER, False, load, out)
    assert sent(out) == [(G, State), (G, Load), (G, Snapshot), (OTHER, State)]


def test_the_columns_of_a_message_hold_all_since_the_last_one(sessions: Sessions[Answer]) -> None:
    session, answer = joined(sessions), Answer(submit(1))
    session.own(answer)
    session.start(answer)
    session.handles.append(Handle(1))
    session.tokens.append(9)
    session.finish(Handle(1), "stop", 9)
    session.forget(answer)
    out: list[WorkerEffect] = []
    sessions.flush(3, out)
    (effect,) = out
    assert isinstance(effect, ToClient)
    expected = Tokens(
        step=3,
        handles=[Handle(1)],
        tokens=[9],
        started=[Started(Handle(1), 16, 0.25, None)],
        finished=[Finished(Handle(1), "stop", 9)],
        logprobs=[],
        each=1,
    )
    assert effect.message == expected
    sessions.flush(4, out)
    assert len(out) == 1
    assert answer.started
    assert not list(sessions.attempts())
    sessions.check()


def test_a_newer_attempt_replaces_an_older_one_and_no_other(sessions: Sessions[Answer]) -> None:
    session, first = joined(sessions), Answer(submit(1))
    session.own(first)
    assert session.replaced(submit(2, attempt=2)) == (first, None)
    older, fault = session.replaced(submit(3, attempt=1))
    assert (older, fault and fault.kind) == (None, "invalid")
    assert session.replaced(submit(4, request="other")) == (None, None)
    assert session.last_submit == 4


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        (submit(1), None),
        (submit(1, prompt=()), "invalid_prompt"),
        (submit(1, prompt=(500,)), "invalid_token"),
        (submit(1, prompt=(5,) * 1000), "context_length_exceeded"),
        (submit(1, prompt=(5,) * 1000, most=0), None),
    ],
)
def test_a_submit_is_checked_against_the_card(sessions: Sessions[Answer], asked: Submit, code: str | None) -> None:
    fault = sessions.fault(asked)
    assert (fault and fault.code) == code


def test_what_the_engine_objects_to_is_refused(sessions: Sessions[Answer]) -> None:
    objection = Fault(kind="invalid", message="no such sampling here")
    assert sessions.fault(submit(1), objection) is objection


def test_a_draining_worker_takes_nothing_and_says_so_to_all(sessions: Sessions[Answer]) -> None:
    joined(sessions)
    joined(sessions, OTHER, follows=False)
    out: list[WorkerEffect] = []
    sessions.change(out, draining=True)
    assert out == [ToClient(G, State(2, "both", True)), ToClient(OTHER, State(2, "both", True))]
    fault = sessions.fault(submit(1))
    assert fault is not None
    assert fault.kind == "unavailable"
    sessions.change(out, role="prefill")
    assert sessions.state == State(3, "prefill", True)


def test_cache_facts_are_numbered_and_go_to_followers(sessions: Sessions[Answer], engine: Engine) -> None:
    joined(sessions)
    joined(sessions, OTHER, follows=False)
    numbers = []
    for key in (7, 8):
        engine.changes.append(Stored(None, [BlockKey(key)]))
        out: list[WorkerEffect] = []
        sessions.flush(1, out)
        assert sent(out) == [(G, Facts)]
        numbers += [e.message.number for e in out if isinstance(e, ToClient) and isinstance(e.message, Facts)]
    assert numbers == [1, 2]


def test_load_reports_come_soon_after_a_change_and_regularly_without_one(sessions: Sessions[Answer]) -> None:
    assert sessions.next_report_s() == float("inf")
    session = joined(sessions)
    session.last_submit = 5
    out: list[WorkerEffect] = []
    sessions.report(load, 2.0, out)
    assert out == [ToClient(G, load(5))]
    assert sessions.next_report_s() == 3.0
    sessions.changed = True
    assert sessions.next_report_s() == pytest.approx(2.1)
    sessions.report(load, 2.05, out)
    assert len(out) == 1
    sessions.report(load, 2.1, out)
    assert len(out) == 2


def test_a_lost_client_leaves_its_attempts_to_the_caller(sessions: Sessions[Answer]) -> None:
    session, answer = joined(sessions), Answer(submit(1))
    session.own(answer)
    lost = sessions.lose(G)
    assert lost is session
    assert list(lost.attempts.values()) == [answer]
    assert sessions.lose(G) is None
    assert not list(sessions.attempts())
