"""A request refused for load, as a client sees it: a real gateway node behind the real frontend."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from frontend_world import HELLO, application, card, get, post
from msgspec.structs import replace

from jedlik.core.config import GatewayConfig
from jedlik.core.effects import Deliver
from jedlik.core.events import Abandoned, Arrived, Consumed, Cut, FromWorker, GatewayEvent, WorkerJoined
from jedlik.core.facts import Routed
from jedlik.core.ids import GatewayId, RequestId, WorkerId
from jedlik.core.protocol import Card, Load, Snapshot, StepCosts
from jedlik.frontend.port import DeliverTo
from jedlik.kv.hashing import hash_check
from jedlik.kv.prefix_chains import Naming
from jedlik.nodes.gateway.node import GatewayNode

KEY = b"cluster key"
COSTS = StepCosts(base_s=0.005, prefill_token_s=0.001, prefill_pair_s=0.0, decode_sequence_s=0.001, context_token_s=0.0)


class NodePort:
    """A gateway node of which one worker is as busy as it says; time stands still."""

    def __init__(self, config: GatewayConfig, load: Load) -> None:
        self._node = GatewayNode(config, GatewayId("g@1"), Naming(KEY))
        self._deliver: DeliverTo = lambda deliver: None
        worker = WorkerId("w0@1")
        self._tell(WorkerJoined(replace(card("w0"), hash_check=hash_check(KEY))))
        for message in (Snapshot(number=0, chunk=0, last=True, runs=[], digest=0), load):
            self._tell(FromWorker(worker, message))

    def send(self, event: Arrived | Abandoned | Cut | Consumed) -> None:
        self._tell(event)

    def listen(self, deliver: DeliverTo) -> None:
        self._deliver = deliver

    def cards(self) -> Sequence[Card]:
        return self._node.cards()

    def explain(self, request_id: RequestId) -> Sequence[Routed]:
        return self._node.explain(request_id)

    def health(self) -> dict[str, object]:
        return self._node.health()

    def _tell(self, event: GatewayEvent) -> None:
        for effect in self._node.handle(event, 0.0):
            if isinstance(effect, Deliver):
                self._deliver(effect)
        self._node.check()


def test_a_client_gets_429_with_retry_after_and_may_ask_why(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jedlik.routing.estimates.ENOUGH_REQUESTS", 0)  # it may refuse from the first request on
    busy = Load(
        steps=1,
        step_age_s=0.0,
        step_predicted_s=None,
        running=0,
        waiting=9,
        waiting_tokens=6250,
        context_tokens=0,
        held_blocks=0,
        cached_blocks=0,
        last_submit=0,
        costs=COSTS,
        waiting_pairs=0,
    )
    port = NodePort(GatewayConfig(slo_ttft_s=1.0), busy)
    app = application(model_dir, port)
    for stream in (False, True):
        reply = post(app, "/v1/chat/completions", {"model": "tiny", "messages": HELLO, "stream": stream, "n": 2})
        assert reply.status == 429
        error = reply.json()["error"]
        assert (error["type"], error["code"]) == ("rate_limit_error", "overloaded")
        assert "the first token would take" in error["message"]
        assert reply.headers["retry-after"] == "6"
        assert 5000 < int(reply.headers["retry-after-ms"]) <= 6000
        explained = get(app, f"/explain/{reply.headers['x-request-id']}").json()
        (decision,) = explained["decisions"]
        assert (decision["chosen"], decision["shed"]) == (None, "late")
        assert decision["deferred"] in error["message"]
        (seen,) = decision["candidates"]
        assert seen["parts"]["wait"] > 6
        assert seen["excluded"].startswith("first token in 6.")
    assert port.health()["in_flight"] == 0
