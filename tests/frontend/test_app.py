"""Routes, access, errors in one shape, small pages."""

import asyncio
from pathlib import Path

import pytest
from frontend_world import HELLO, Client, ScriptedPort, application, card, get, post

from jedlik.core.config import FrontendConfig
from jedlik.core.events import Arrived
from jedlik.frontend.app import Application, Route
from jedlik.frontend.site import Site

CHAT = "/v1/chat/completions"
KEYS = {"secret": "acme", "other": "globex"}
BODY = {"model": "tiny", "messages": HELLO}


def app(model_dir: Path, keys: dict[str, str] | None = None, config: FrontendConfig | None = None) -> Application:
    return application(model_dir, ScriptedPort([300, 301, 2]), config, keys)


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def path_of(route: Route) -> str:
    return route.path + "x" if route.path.endswith("/") else route.path


def test_every_route_but_the_open_ones_needs_a_key(model_dir: Path) -> None:
    application = app(model_dir, KEYS)
    for route in application.routes:
        for headers in ({}, bearer("wrong"), {"authorization": "secret"}, {"authorization": "Basic secret"}):
            client = Client(application)
            status = _status(client, route, headers)
            if route.path in ("/live", "/ready", "/health"):
                assert status == 200, route
            else:
                assert status == 401, route


def _status(client: Client, route: Route, headers: dict[str, str]) -> int:
    return asyncio.run(client.call(route.method, path_of(route), b"{}", headers=headers)).status


def test_metrics_need_a_key_wherever_the_caller_is(model_dir: Path) -> None:
    application = app(model_dir, KEYS)
    assert get(application, "/metrics").status == 401
    assert get(application, "/metrics", headers=bearer("secret")).body == b"up 1\n"
    assert get(app(model_dir), "/metrics").body == b"up 1\n"


def test_a_port_for_metrics_has_nothing_else_and_needs_no_key(model_dir: Path) -> None:
    site = Site(metrics_only=True, origins=frozenset())
    application_ = application(model_dir, ScriptedPort(), keys=KEYS, other_sites={9400: site})

    def asked(path: str, port: int, method: str = "GET", **headers: str) -> int:
        client = Client(application_)
        client.port = port
        return asyncio.run(client.call(method, path, headers=headers)).status

    assert [asked("/metrics", port) for port in (9400, 8000)] == [200, 401]
    assert asked("/metrics/", 9400) == 200
    assert asked("/metrics", 9400, "POST") == 405
    assert asked("/metrics", 9400, host="evil.example") == 403
    for route in application_.routes:
        if route.path != "/metrics":
            assert asked(path_of(route), 9400, route.method, authorization="Bearer secret") == 404


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer wrong"}, {"authorization": "Basic secret"}])
def test_401_says_how_to_authenticate(model_dir: Path, headers: dict[str, str]) -> None:
    reply = get(app(model_dir, KEYS), "/v1/models", headers=headers)
    assert reply.status == 401
    assert reply.headers["www-authenticate"].startswith("Bearer ")
    assert ("invalid_token" in reply.headers["www-authenticate"]) is bool(headers)


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/roles", "GET, HEAD, OPTIONS, POST"),
        ("/scale", "OPTIONS, POST"),
        ("/v1/models", "GET, HEAD, OPTIONS"),
        ("/v1/models/x", "GET, HEAD, OPTIONS"),
        ("/explain/x/", "GET, HEAD, OPTIONS"),
        ("//v1//chat/completions/", "OPTIONS, POST"),
    ],
)
def test_every_known_path_says_what_may_be_done_there(model_dir: Path, path: str, allowed: str) -> None:
    application = app(model_dir, KEYS)
    for method in {"PUT", "DELETE", "PATCH", "TRACE", "GET", "HEAD", "POST"} - set(allowed.split(", ")):
        reply = get(application, path, method)
        assert (reply.status, reply.headers["allow"]) == (405, allowed)
    reply = get(application, path, "OPTIONS")
    assert (reply.status, reply.headers["allow"], reply.body) == (204, allowed, b"")


def test_options_of_the_server_and_of_nothing(model_dir: Path) -> None:
    assert get(app(model_dir), "*", "OPTIONS").headers["allow"] == "GET, HEAD, OPTIONS, POST"
    for method in ("OPTIONS", "GET", "PUT"):
        assert get(app(model_dir), "/nothing", method).status == 404
    assert get(app(model_dir), "/v1/models/", "POST").status == 405  # the list, not a model without a name


# --- pages and names ---

PREFLIGHT = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,x-stainless-os"}


def test_a_page_of_this_machine_asks_first_and_is_let_in(model_dir: Path) -> None:
    origin = {"origin": "http://localhost:3000", "host": "localhost:8000"}
    for keys in (KEYS, {}):
        application = app(model_dir, keys)
        asked = get(application, CHAT, "OPTIONS", headers=origin | PREFLIGHT)
        assert asked.status == 204
        assert asked.headers["access-control-allow-origin"] == origin["origin"]
        assert asked.headers["access-control-allow-headers"] == PREFLIGHT["access-control-request-headers"]
        assert "POST" in asked.headers["access-control-allow-methods"]
        for body, status in ((BODY, 200), ({}, 400)):  # an error too is for the page to read
            reply = post(application, CHAT, body, headers=origin | bearer("secret"))
            assert reply.status == status
            assert reply.headers["access-control-allow-origin"] == origin["origin"]
            assert "x-request-id" in reply.headers["access-control-expose-headers"]
            assert reply.headers["vary"] == "origin"


def test_a_stream_is_for_the_page_to_read_too(model_dir: Path) -> None:
    reply = post(app(model_dir), CHAT, BODY | {"stream": True}, headers={"origin": "http://127.0.0.1:5173"})
    assert reply.headers["access-control-allow-origin"] == "http://127.0.0.1:5173"


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://localhost.evil.example"])
def test_another_page_changes_nothing_and_reads_nothing(model_dir: Path, origin: str) -> None:
    port = ScriptedPort([300, 2])
    application_ = application(model_dir, port)
    headers = {"origin": origin, "host": "127.0.0.1:8000"}
    for route in application_.routes:
        reply = get(application_, path_of(route), route.method, headers=headers)
        assert "access-control-allow-origin" not in reply.headers
        assert (reply.status == 403) is (route.method == "POST"), route
    assert get(application_, CHAT, "OPTIONS", headers=headers | PREFLIGHT).status == 403
    assert get(application_, "/scale", "POST", headers={"sec-fetch-site": "cross-site"}).status == 403
    assert port.events == []


@pytest.mark.parametrize("kind", ["", "text/plain", "text/plain+json", "application/x-www-form-urlencoded"])
def test_every_body_says_that_it_is_json(model_dir: Path, kind: str) -> None:
    application = app(model_dir)
    posts = [route for route in application.routes if route.method == "POST"]
    assert len(posts) >= 6
    for route in posts:
        assert get(application, route.path, "POST", body=b"{}", headers={"content-type": kind}).status == 415


def test_a_name_of_somebody_elses_is_not_answered_to(model_dir: Path) -> None:
    application = app(model_dir)
    for route in application.routes:
        reply = get(application, path_of(route), route.method, headers={"host": "evil.example:8000"})
        assert (reply.status, reply.json()["error"]["code"]) == (403, "host_not_allowed"), route
    assert get(application, "/version", headers={"host": "x"}).status == 200


def test_keys_make_tenants(model_dir: Path) -> None:
    port = ScriptedPort([300, 2])
    application_ = application(model_dir, port, keys=KEYS)
    for key in ("secret", "other"):
        assert post(application_, CHAT, BODY, headers=bearer(key)).status == 200
    assert [e.request.tenant for e in port.events if isinstance(e, Arrived)] == ["acme", "globex"]


def test_any_key_is_accepted_without_authentication(model_dir: Path) -> None:
    assert post(app(model_dir), CHAT, BODY, headers=bearer("whatever")).status == 200


def test_explain_shows_only_the_callers_own(model_dir: Path) -> None:
    application = app(model_dir, KEYS)
    assert post(application, CHAT, BODY, headers=bearer("secret") | {"x-request-id": "abc"}).status == 200
    own = get(application, "/explain/abc", headers=bearer("secret"))
    assert own.status == 200
    assert own.json()["decisions"][0]["candidates"][0]["worker"] == "w0@1"
    assert get(application, "/explain/abc", headers=bearer("other")).status == 404
    assert get(application, "/explain/nothing", headers=bearer("secret")).status == 404


def test_explain_tells_costs_the_shadow_and_what_happened(model_dir: Path) -> None:
    application = app(model_dir)
    assert post(application, CHAT, BODY, headers={"x-request-id": "abc"}).status == 200
    [decision] = get(application, "/explain/abc").json()["decisions"]
    costs = {"wait": 0.25, "prefill": 0.75}
    alone = {"remote": None, "compute": True, "instead": None, "tier_tokens": 0}
    assert decision["candidates"] == [
        {"worker": "w0@1", "cost_s": 1.0, "cached_tokens": 3, "parts": costs, "excluded": None} | alone
    ]
    assert (decision["policy"], decision["unit"], decision["failure"]) == ("jedlik", "s", "")
    assert (decision["predicted_ttft_s"], decision["observed_ttft_s"]) == (1.0, 1.5)
    assert (decision["shadow"]["policy"], decision["shadow"]["chosen"]) == ("dynamo", "w0@1")
    assert decision["shadow"]["candidates"][0]["parts"] == {"decode": 4.5}


@pytest.mark.parametrize(
    ("given", "kept"),
    [("my-id.1", True), ("x" * 128, True), ("x" * 129, False), ("a\tb", False), ("é", False), ("a~1", False)],
)
def test_request_ids(model_dir: Path, given: str, kept: bool) -> None:
    reply = post(app(model_dir), CHAT, BODY, headers={"x-request-id": given})
    assert reply.status == 200
    assert (reply.headers["x-request-id"] == given) is kept


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("GET", CHAT, 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
        ("GET", "/v1/models/other", 404, "model_not_found"),
        ("POST", CHAT, 400, "invalid_json"),
    ],
)
def test_errors_have_one_shape(model_dir: Path, method: str, path: str, status: int, code: str) -> None:
    reply = get(app(model_dir), path, method)
    assert reply.status == status
    assert set(reply.json()["error"]) == {"message", "type", "param", "code"}
    assert reply.json()["error"]["code"] == code
    assert reply.headers["x-request-id"] == "req1"
    assert ("allow" in reply.headers) == (status == 405)


def test_content_type_and_size(model_dir: Path) -> None:
    application = app(model_dir, config=FrontendConfig(max_body_bytes=1000))
    assert post(application, CHAT, BODY, headers={"content-type": "text/plain"}).status == 415
    assert post(application, CHAT, BODY, headers={"content-type": "application/json; charset=utf-8"}).status == 200
    assert post(application, CHAT, {"x": "y" * 1000}).status == 413
    assert post(application, CHAT, BODY, headers={"content-length": "1001"}).status == 413


def test_doubled_slashes_are_tolerated(model_dir: Path) -> None:
    assert post(app(model_dir), "//v1//chat/completions/", BODY).status == 200


def test_models_are_those_that_can_be_reached(model_dir: Path) -> None:
    port = ScriptedPort([5])
    application_ = application(model_dir, port)
    listed = get(application_, "/v1/models").json()
    assert [(m["id"], m["object"], m["max_model_len"]) for m in listed["data"]] == [("tiny", "model", 512)]
    assert get(application_, "/v1/models/tiny").json() == listed["data"][0]
    port.card_list = ()
    assert get(application_, "/v1/models").json()["data"] == []


def test_health_ready_live(model_dir: Path) -> None:
    port = ScriptedPort()
    application_ = application(model_dir, port)
    assert [get(application_, path).status for path in ("/live", "/ready", "/health")] == [200, 200, 200]
    assert get(application_, "/health", "HEAD").status == 200
    port.draining = True
    assert [get(application_, path).status for path in ("/live", "/ready", "/health")] == [200, 503, 503]
    port.draining, port.card_list = False, ()
    assert [get(application_, path).status for path in ("/live", "/ready", "/health")] == [200, 503, 503]
    port.card_list = (card(),)
    assert get(application_, "/health").json() == {"status": "ok", "draining": False, "workers": ["w0@1"]}
    assert "version" in get(application_, "/version").json()


def test_tokenize_and_back(model_dir: Path) -> None:
    application = app(model_dir)
    ids = post(application, "/tokenize", {"prompt": "Hi there"}).json()
    assert ids["count"] == len(ids["tokens"])
    assert post(application, "/detokenize", {"tokens": ids["tokens"]}).json() == {"prompt": "Hi there"}
    assert post(application, "/detokenize", {"tokens": [-1]}).status == 400
    assert post(application, "/tokenize", {}).status == 400
