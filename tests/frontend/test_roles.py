"""Reading and changing roles over HTTP."""

from pathlib import Path

import pytest
from frontend_world import FixedRoles, ScriptedPort, application, get, post

from jedlik.frontend.app import Application


def app(model_dir: Path, roles: FixedRoles) -> Application:
    return application(model_dir, ScriptedPort(), roles=roles)


def test_roles_are_listed_by_worker(model_dir: Path) -> None:
    roles = FixedRoles()
    assert get(app(model_dir, roles), "/roles").json() == {"workers": roles.roles()}


@pytest.mark.parametrize("named", ["w1", "w1@1"])
def test_a_worker_is_named_by_id_or_name_and_told(model_dir: Path, named: str) -> None:
    roles = FixedRoles()
    reply = post(app(model_dir, roles), "/roles", {"worker": named, "role": "prefill"})
    assert (reply.status, reply.json()) == (202, {"worker": "w1@1", "told": "prefill"})
    assert roles.asked == [("w1@1", "prefill")]


@pytest.mark.parametrize(
    ("body", "status", "code", "said"),
    [
        ({"worker": "w2", "role": "prefill"}, 409, "role_refused", "nobody would be left to decode for model 'm'."),
        (
            {"worker": "w0", "role": "prefill"},
            409,
            "ambiguous",
            "2 workers have the name 'w0': w0@1, w0@2.",
        ),
        ({"worker": "w9", "role": "prefill"}, 404, "not_found", "No worker 'w9' is connected."),
        ({"worker": "w1", "role": "both ways"}, 400, "invalid_value", "role must be 'both'"),
        ({"worker": "w1"}, 400, "missing_parameter", "role is missing"),
        ({"worker": "w1", "role": "both", "why": "so"}, 400, "unknown_parameter", "why is not supported"),
    ],
)
def test_what_may_not_be_is_refused_with_the_reason(
    model_dir: Path, body: dict[str, str], status: int, code: str, said: str
) -> None:
    roles = FixedRoles()
    reply = post(app(model_dir, roles), "/roles", body)
    error = reply.json()["error"]
    assert (reply.status, error["code"]) == (status, code)
    assert said in error["message"]
    assert roles.asked == []
