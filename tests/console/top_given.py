"""What a server says, as bytes: for the tests of `jedlik top` and of `jedlik plan` on a running server."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from io import StringIO

import msgspec
from rich.console import Console, RenderableType

from jedlik.console.plan_seen import PlanAnswer, read_plan
from jedlik.console.sample import Health, ServerLook, WorkerHealth
from jedlik.console.series import read

METRICS = """\
# TYPE jedlik_requests_total counter
jedlik_requests_total{outcome="stop"} %(answered)s
jedlik_requests_total{outcome="overloaded"} %(refused)s
jedlik_output_tokens_total %(tokens)s
jedlik_requests_offered_total %(offered)s
jedlik_requests_kept_slo_total %(kept)s
jedlik_slo_seconds{of="ttft"} 0.2
jedlik_slo_attainment_target_ratio 0.95
jedlik_time_to_first_token_seconds_bucket{le="0.1"} %(quick)s
jedlik_time_to_first_token_seconds_bucket{le="0.25"} %(answered)s
jedlik_time_to_first_token_seconds_bucket{le="+Inf"} %(answered)s
jedlik_waiting_tokens{worker="worker-0"} 1200
jedlik_worker_output_tokens_total{worker="worker-0"} %(tokens)s
jedlik_worker_prompt_tokens_total{worker="worker-0"} %(prompt)s
jedlik_worker_cached_tokens_total{worker="worker-0"} %(cached)s
jedlik_tier_hits_total{worker="worker-0",tier="disk"} 30
jedlik_tier_misses_total{worker="worker-0",tier="disk",cause="late"} 10
jedlik_tier_stored_total{worker="worker-0",tier="host"} 40
"""
NOTHING_YET = dict.fromkeys(("answered", "refused", "tokens", "offered", "kept", "quick", "prompt", "cached"), 0)
DECISIONS: list[dict[str, object]] = [
    {
        "type": "planned", "at": 90.0, "planner": "jedlik", "serving": {"both": 1}, "starting": {"both": 0},
        "draining": {"both": 1}, "wanted": {"both": 3}, "done": ["start worker-2 (both)"],
        "why": "demand at the time a start would be ready exceeds what is committed",
        "reasons": [["demand", 12.5, "requests/s"], ["predicted TTFT", 0.31, "s"], ["hit rate", None, "share"]],
        "advice": False,
    },
    {
        "type": "planned", "at": 40.0, "planner": "jedlik", "serving": {"both": 1}, "starting": {"both": 0},
        "draining": {}, "wanted": {"both": 4}, "done": [], "why": "more of everything", "reasons": [], "advice": True,
    },
]  # fmt: skip
PLAN: dict[str, object] = {
    "mode": "on", "planner": "jedlik", "split": False, "budget": 4.0, "wanted": {"both": 3}, "by_hand": None,
    "advice": {"both": 3}, "trouble": "", "start_s": 30.0, "stale": [], "why": "as many as demand needs", "now": 100.0,
    "members": [
        {"name": "worker-0", "start": 1, "role": "both", "state": "serving", "since_s": 754.0, "why": "ready",
         "worker": "worker-0@a", "quick_ends": 0, "hopeless": False, "place": {"name": "worker-0"}},
        {"name": "worker-1", "start": 5, "role": "both", "state": "waiting", "since_s": 3.0,
         "why": "crashed; crash loop, next start in 8 s"},
        {"name": "worker-2", "start": 1, "role": "both", "state": "starting", "since_s": 12.0, "why": "wanted"},
        {"name": "worker-3", "start": 2, "role": "both", "state": "draining", "since_s": 61.0, "why": "scaled down"},
        {"name": "worker-4", "start": 0, "role": "both", "state": "free", "since_s": 900.0, "why": ""},
    ],
    "pools": {"both": {"serving": 1, "starting": 2, "ready_in_s": [18.0, 18.0], "draining": 1}},
    "decisions": DECISIONS,
}  # fmt: skip
HEALTH: dict[str, object] = {
    "status": "ok", "draining": False, "in_flight": 7, "waiting": 2, "parked": 1,
    "workers": [
        {"worker": "worker-0@a", "model": "m", "health": "ok", "reason": "", "role": "both", "draining": False,
         "running": 4, "waiting": 1, "attempts": 5, "steps": 9, "step_age_s": 0.0, "kv_blocks": 101,
         "held_blocks": 50, "cached_blocks": 25},
        {"worker": "worker-3@b", "model": "m", "health": "suspect", "reason": "no message for 2 s", "role": "both",
         "draining": True, "running": None, "waiting": None, "kv_blocks": 101, "held_blocks": None,
         "cached_blocks": None},
    ],
}  # fmt: skip


def metrics(**said: int) -> bytes:
    return (METRICS % (NOTHING_YET | said)).encode()


def plan(**other: object) -> PlanAnswer:
    return read_plan(msgspec.json.encode(PLAN | other))


def sample(at: float, seen: PlanAnswer | None = None, **said: int) -> ServerLook:
    health = msgspec.convert(HEALTH, Health)
    return ServerLook(at, health, read(metrics(**said)), seen, 754.0, "m", ())


def bare(at: float, *workers: str) -> ServerLook:
    """A server that says next to nothing."""
    return ServerLook(at, Health(workers=tuple(WorkerHealth(worker=worker) for worker in workers)))


def lines(page: RenderableType, width: int = 80) -> list[str]:
    console = Console(width=width, file=StringIO())
    with console.capture() as capture:
        console.print(page)
    return [line.rstrip() for line in capture.get().splitlines()]


@contextmanager
def serving(answers: Mapping[str, tuple[int, bytes]]) -> Iterator[str]:
    """A server that says just this; its address."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answers.get(self.path, (404, b'{"error": {"message": "There is nothing."}}'))
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
