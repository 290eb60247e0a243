"""The trace context of an HTTP request reaches the gateway, if it is valid."""

from pathlib import Path

import pytest
from frontend_world import ScriptedPort, application, post

from jedlik.core.trace import TraceContext

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"traceparent": PARENT, "tracestate": "rojo=1"}, TraceContext(PARENT, "rojo=1")),
        ({"traceparent": "00-nonsense", "tracestate": "rojo=1"}, None),
        ({}, None),
    ],
)
def test_the_header_of_a_request_goes_to_the_gateway(
    model_dir: Path, headers: dict[str, str], expected: TraceContext | None
) -> None:
    port = ScriptedPort([300, 2])
    body = {"model": "tiny", "prompt": ["a", "b"], "max_tokens": 2}
    assert post(application(model_dir, port), "/v1/completions", body, headers=headers).status == 200
    assert [request.trace for request in port.requests.values()] == [expected, expected]
