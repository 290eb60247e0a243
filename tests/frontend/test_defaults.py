"""A model's own sampling defaults: they hold where a request says nothing, and nowhere else."""

from pathlib import Path
from typing import Any

import pytest
from frontend_world import ABLE, HELLO, ScriptedPort, application, card, get, post

from jedlik.core.config import FrontendConfig
from jedlik.core.events import Arrived
from jedlik.core.protocol import Capabilities
from jedlik.core.requests import OPENAI, Defaults, Request

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
VENDOR = Defaults(temperature=0.25, top_p=0.75, top_k=30, min_p=0.125, repetition_penalty=1.5, max_tokens=6)


def asked(model_dir: Path, path: str, port: ScriptedPort | None = None, **more: Any) -> Request:
    """The request that workers get."""
    port = port or ScriptedPort([300, 301, 2])
    base: dict[str, Any] = {"model": "tiny"} | ({"messages": HELLO} if path == CHAT else {"prompt": "Hi"})
    config = FrontendConfig(default_max_tokens=more.pop("default_max_tokens", None))
    reply = post(application(model_dir, port, config, defaults=VENDOR), path, base | more)
    assert reply.status == 200, reply.body
    return next(event.request for event in port.events if isinstance(event, Arrived))


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_they_hold_where_a_request_says_nothing_or_null(model_dir: Path, path: str) -> None:
    names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
    nothing: tuple[dict[str, Any], ...] = ({}, dict.fromkeys((*names, "max_tokens")))
    for more in nothing:
        request = asked(model_dir, path, **more)
        assert [getattr(request.sampling, name) for name in names] == [0.25, 0.75, 30, 0.125, 1.5]
        assert request.stopping.max_tokens == 6


@pytest.mark.parametrize(
    ("name", "value", "drawn"),
    [
        ("temperature", 1, 1.0), ("temperature", 0, 0.0), ("top_p", 1, 1.0), ("top_k", 0, 0), ("top_k", -1, 0),
        ("top_k", 5, 5), ("min_p", 0, 0.0), ("repetition_penalty", 1, 1.0), ("repetition_penalty", 1.25, 1.25),
    ],
)  # fmt: skip
def test_a_request_s_own_value_wins_neutral_ones_too(model_dir: Path, name: str, value: float, drawn: float) -> None:
    named: dict[str, Any] = {name: value}
    request = asked(model_dir, CHAT, **named)
    assert getattr(request.sampling, name) == drawn
    others = {"temperature", "top_p", "top_k", "min_p", "repetition_penalty"} - {name}
    assert all(getattr(request.sampling, other) == getattr(VENDOR, other) for other in others)


@pytest.mark.parametrize(
    ("path", "more", "tokens"),
    [
        (CHAT, {}, 6),
        (CHAT, {"max_tokens": 30}, 6),
        (CHAT, {"max_completion_tokens": 30}, 6),
        (CHAT, {"max_tokens": 3}, 3),
        (CHAT, {"default_max_tokens": 4}, 4),
        (CHAT, {"default_max_tokens": 40}, 6),
        (TEXT, {}, 6),
        (TEXT, {"max_tokens": 0, "echo": True}, 0),
        (TEXT, {"prompt": ["Hi", "Ho"], "n": 2}, 6),
    ],
)
def test_max_new_tokens_bounds_every_answer(model_dir: Path, path: str, more: dict[str, Any], tokens: int) -> None:
    assert asked(model_dir, path, **more).stopping.max_tokens == tokens


def test_what_a_worker_cannot_honour_is_no_default(model_dir: Path) -> None:
    """Of two workers one can only decode greedily: requests are served, greedily, and not refused."""
    port = ScriptedPort([300, 2])
    port.card_list = [card("w0"), card("w1", able=Capabilities(sampling=frozenset({"seed"})))]
    sampling = asked(model_dir, CHAT, port).sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.0, 1.0, 0)
    assert (sampling.min_p, sampling.repetition_penalty) == (0.0, 1.0)


def test_the_list_of_models_shows_what_holds(model_dir: Path) -> None:
    shown = {"temperature": 0.25, "top_p": 0.75, "top_k": 30, "min_p": 0.125, "repetition_penalty": 1.5}
    for defaults, expected in ((VENDOR, shown | {"max_tokens": 6}), (OPENAI, {"temperature": 1.0, "max_tokens": None})):
        found = get(application(model_dir, ScriptedPort([2]), defaults=defaults), "/v1/models").json()["data"][0]
        assert expected.items() <= found["default_sampling_params"].items()


def test_only_what_is_lacking_leaves() -> None:
    assert VENDOR.within(ABLE.sampling) == VENDOR
    assert VENDOR.within(ABLE.sampling - {"top_k"}) == Defaults(
        temperature=0.25, top_p=0.75, top_k=0, min_p=0.125, repetition_penalty=1.5, max_tokens=6
    )
    assert VENDOR.within(frozenset()) == Defaults(temperature=0.0, max_tokens=6)
