"""Which requests belong to one conversation, as routing is told."""

from pathlib import Path
from typing import Any

import pytest
from frontend_world import HELLO, ScriptedPort, application, post

from jedlik.core.events import Arrived
from jedlik.frontend.generate import session_of


def of(header: str = "", tenant: str = "t", prompt_cache_key: str = "", user: str = "") -> str:
    headers = {b"x-session-id": header.encode()} if header else {}
    return session_of((prompt_cache_key, user), headers, tenant)


def test_the_key_comes_before_the_header_and_that_before_the_user() -> None:
    key, header, user = of(prompt_cache_key="x"), of("y"), of(user="z")
    assert len({key, header, user, ""}) == 4
    assert of("y", prompt_cache_key="x", user="z") == key
    assert of("y", user="z") == header
    assert of() == of(prompt_cache_key="", user="") == ""


def test_what_the_client_said_is_not_kept_and_tenants_do_not_meet() -> None:
    user = "ann@example.org " * 1000
    assert of(user=user) == of(user=user)
    assert len(of(user=user)) == 16
    assert of(user="a", tenant="t") != of(user="a", tenant="u")
    assert of(user="b/c", tenant="a") != of(user="c", tenant="a/b")
    assert len(of(user="\ud800")) == 16


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_every_prompt_of_a_call_carries_it(model_dir: Path, path: str) -> None:
    port = ScriptedPort([300, 2])
    what: dict[str, Any] = {"messages": HELLO} if "chat" in path else {"prompt": ["Hi", "Ho"]}
    headers = {"x-session-id": "talk", "content-type": "application/json"}
    reply = post(application(model_dir, port), path, {"model": "tiny", **what}, headers=headers)
    assert reply.status == 200, reply.body
    sessions = [event.request.session for event in port.events if isinstance(event, Arrived)]
    assert sessions == [of("talk", tenant="")] * len(what.get("prompt", [1]))
