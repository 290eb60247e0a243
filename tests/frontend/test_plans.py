"""The plan, and counts by hand, over HTTP."""

from pathlib import Path

import pytest
from frontend_world import FixedPlans, ScriptedPort, application, get, post

from jedlik.core.events import Hold, Scale
from jedlik.frontend.app import Application


def app(model_dir: Path, plans: FixedPlans) -> Application:
    return application(model_dir, ScriptedPort(), plans=plans)


def test_the_plan_is_the_supervisors(model_dir: Path) -> None:
    assert get(app(model_dir, FixedPlans()), "/plan").json() == {"mode": "off"}


@pytest.mark.parametrize(
    ("body", "asked"),
    [
        ({"workers": 3}, Scale({"both": 3})),
        ({"workers": 0}, Scale({"both": 0})),
        ({"prefill": 2, "decode": 1}, Scale({"prefill": 2, "decode": 1})),
        ({"auto": True}, Scale(None)),
        ({"hold": "worker-1"}, Hold("worker-1", active=True)),
        ({"release": "worker-1"}, Hold("worker-1", active=False)),
    ],
)
def test_what_is_asked_for_is_told(model_dir: Path, body: dict[str, object], asked: Scale | Hold) -> None:
    plans = FixedPlans()
    reply = post(app(model_dir, plans), "/scale", body)
    assert (reply.status, reply.json()) == (202, {"auto": False})
    assert plans.asked == [asked]


@pytest.mark.parametrize(
    ("body", "status", "code", "message"),
    [
        ({"workers": 10}, 409, "scale_refused", "there is room for 4."),
        ({"workers": -1}, 400, "invalid_value", "workers must"),
        ({"workers": 1.5}, 400, "invalid_value", "workers must"),
        ({"workers": "3"}, 400, "invalid_value", "workers must"),
        ({"wokers": 3}, 400, "unknown_parameter", "did you mean 'workers'"),
        ([], 400, "invalid_value", "must be an object"),
        ({}, 400, "invalid_value", "must ask for one thing"),
        ({"workers": 3, "auto": True}, 400, "invalid_value", "must ask for one thing"),
        ({"hold": "worker-1", "release": "worker-1"}, 400, "invalid_value", "must ask for one thing"),
        ({"auto": False}, 400, None, "say them"),
    ],
)
def test_what_may_not_be_is_refused_with_the_reason(
    model_dir: Path, body: dict[str, object], status: int, code: str | None, message: str
) -> None:
    plans = FixedPlans()
    reply = post(app(model_dir, plans), "/scale", body)
    error = reply.json()["error"]
    assert (reply.status, error["code"]) == (status, code)
    assert message in error["message"]
    assert plans.asked == []


def test_without_a_supervisor_both_say_so(model_dir: Path) -> None:
    plans = FixedPlans()
    plans.away = True
    asked = app(model_dir, plans)
    for reply in (get(asked, "/plan"), post(asked, "/scale", {"workers": 3})):
        error = reply.json()["error"]
        assert (reply.status, error["code"]) == (503, "supervisor_unreachable")
        assert error["message"] == "the supervisor can't be reached."


def test_both_need_a_key_where_keys_are_set(model_dir: Path) -> None:
    closed = application(model_dir, ScriptedPort(), keys={"secret": "alice"}, plans=FixedPlans())
    assert get(closed, "/plan").status == 401
    assert post(closed, "/scale", {"workers": 3}).status == 401
