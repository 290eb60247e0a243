"""Every dialect keeps the contract (`docs/contracts/dialects.md`): whatever the cut, whole or streamed, in order."""

from pathlib import Path
from typing import Any, get_args

import pytest
from dialect_world import PROMPT, SPEAKERS, Answered, Asked, Speaker
from frontend_world import ScriptedPort, application, byte_level, post
from hypothesis import given, settings
from hypothesis import strategies as st

from jedlik.core.errors import Fault, FaultKind
from jedlik.core.protocol import FinishReason
from jedlik.frontend.app import Application

TOKENIZER = byte_level()
TEXT = "The quick é 敏捷 👩‍👩‍👧‍👦 fox. It doesn't\n\n jump"
SCRIPT: list[int] = TOKENIZER.encode(TEXT).ids
STATUS: dict[FaultKind, int] = {"invalid": 400, "overloaded": 429, "unavailable": 503, "timeout": 504, "internal": 500}


@pytest.fixture(scope="module", params=sorted(SPEAKERS))
def speaker(request: pytest.FixtureRequest) -> Speaker:
    return SPEAKERS[request.param]


class Server:
    """One application for a whole module: the port's script is set for each request."""

    def __init__(self, directory: Path) -> None:
        self.port = ScriptedPort()
        self.app: Application = application(directory, self.port)

    def set(self, script: list[int], per_delivery: int = 1, end: FinishReason = "length") -> None:
        self.port.script, self.port.per_delivery, self.port.end = script, per_delivery, end
        self.port.refuse, self.port.break_after = None, None
        self.port.consumed.clear()

    def ask(self, speaker: Speaker, asked: Asked) -> Answered:
        reply = post(self.app, speaker.path, speaker.body(asked))
        assert reply.status == 200, reply.body
        return speaker.streamed(reply) if asked.stream else speaker.whole(reply)


@pytest.fixture(scope="module")
def server(model_dir: Path) -> Server:
    return Server(model_dir)


def asked(speaker: Speaker, stream: bool = False, **more: Any) -> Asked:
    """A request without what the dialect has no word for."""
    return Asked(
        stream=stream, **{name: value for name, value in more.items() if name in {"max_tokens", *speaker.knows}}
    )


@settings(max_examples=60, deadline=None)
@given(
    script=st.lists(st.sampled_from(SCRIPT), min_size=1, max_size=20),
    cut=st.integers(1, 20),
    end=st.sampled_from(["stop", "length"]),
    n=st.integers(1, 3),
    stops=st.lists(st.sampled_from([".", "qu", "fox", " é", "\n"]), max_size=2),
    logprobs=st.none() | st.integers(0, 2),
    echo=st.booleans(),
)
def test_whole_and_streamed_are_the_same_answer_whatever_the_cut(
    speaker: Speaker, server: Server, script: list[int], cut: int, end: FinishReason, **more: Any
) -> None:
    server.set(script, 1, end)
    whole = server.ask(speaker, asked(speaker, **more))
    server.set(script, cut, end)
    streamed = server.ask(speaker, asked(speaker, stream=True, **more))
    assert whole.complete
    assert streamed.complete
    assert streamed == whole


def test_any_cut_gives_the_text(speaker: Speaker, server: Server) -> None:
    for cut in range(1, len(SCRIPT) + 1):
        for stream in (False, True):
            server.set(SCRIPT, cut)
            answered = server.ask(speaker, asked(speaker, stream))
            assert answered.texts == {0: TEXT}
            assert answered.finishes == {0: "length"}


@pytest.mark.parametrize("stream", [False, True])
def test_usage_counts_the_prompt_once_and_every_choice(speaker: Speaker, server: Server, stream: bool) -> None:
    server.set(SCRIPT)
    one = server.ask(speaker, asked(speaker, stream)).usage
    assert one is not None
    assert one[1:] == (len(SCRIPT), 3)
    assert one[0] > 0
    if "n" in speaker.knows:
        assert server.ask(speaker, asked(speaker, stream, n=4)).usage == (one[0], 4 * len(SCRIPT), 3)


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_says_why_it_ended(speaker: Speaker, server: Server, stream: bool) -> None:
    server.set(SCRIPT, end="stop")
    assert server.ask(speaker, asked(speaker, stream)).finishes == {0: "stop"}
    assert server.ask(speaker, asked(speaker, stream, max_tokens=3)).finishes == {0: "length"}
    if "stops" in speaker.knows:
        stopped = server.ask(speaker, asked(speaker, stream, stops=["fox"]))
        assert (stopped.finishes, stopped.texts[0]) == ({0: "stop"}, TEXT[: TEXT.index("fox")])


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs_are_of_every_token(speaker: Speaker, server: Server, stream: bool) -> None:
    if "logprobs" not in speaker.knows:
        pytest.skip("the dialect has none")
    server.set(SCRIPT, 3)
    assert len(server.ask(speaker, asked(speaker, stream, logprobs=2)).logprobs[0]) == len(SCRIPT)
    assert server.ask(speaker, asked(speaker, stream)).logprobs[0] == []


@pytest.mark.parametrize("stream", [False, True])
def test_an_echo_is_the_beginning_of_every_choice(speaker: Speaker, server: Server, stream: bool) -> None:
    if "echo" not in speaker.knows:
        pytest.skip("the dialect has none")
    server.set(SCRIPT, 5)
    echoed = server.ask(speaker, asked(speaker, stream, echo=True, n=2))
    assert echoed.texts == {0: PROMPT + TEXT, 1: PROMPT + TEXT}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", get_args(FaultKind))
def test_a_fault_before_the_opening_is_a_status(
    speaker: Speaker, server: Server, kind: FaultKind, stream: bool
) -> None:
    server.set(SCRIPT)
    server.port.refuse = Fault(kind=kind, message="it is full", retry_after_s=2.5)
    reply = post(server.app, speaker.path, speaker.body(asked(speaker, stream)))
    assert (reply.status, reply.headers["content-type"]) == (STATUS[kind], "application/json")
    assert "it is full" in speaker.error(reply)["message"]
    assert ("retry-after" in reply.headers) == (kind in ("overloaded", "unavailable", "timeout"))


@pytest.mark.parametrize("stream", [False, True])
def test_a_bad_request_is_refused_and_the_parameter_named(speaker: Speaker, server: Server, stream: bool) -> None:
    server.set(SCRIPT)
    body = speaker.body(asked(speaker, stream))
    unknown = post(server.app, speaker.path, body | {"model": "nobody"})
    assert (unknown.status, speaker.error(unknown)["code"]) == (404, "model_not_found")
    ignored = post(server.app, speaker.path, body | {"no_such_parameter": 1})
    assert (ignored.status, speaker.error(ignored)["param"]) == (400, "no_such_parameter")
    wrong = post(server.app, speaker.path, body | {"max_tokens": "many"})
    assert (wrong.status, speaker.error(wrong)["param"]) == (400, "max_tokens")


@pytest.mark.parametrize("after", [1, 3, len(SCRIPT) - 1])
def test_a_fault_after_the_opening_ends_the_stream_as_an_error(speaker: Speaker, server: Server, after: int) -> None:
    server.set(SCRIPT)
    server.port.break_after = after
    broken = server.ask(speaker, asked(speaker, stream=True))
    assert broken.error is not None
    assert not broken.complete
    assert not broken.finishes
    assert TEXT.startswith(broken.texts.get(0, ""))
    whole = post(server.app, speaker.path, speaker.body(asked(speaker)))
    assert whole.status == 500
