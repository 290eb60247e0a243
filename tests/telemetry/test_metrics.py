"""Facts, loads and deliveries become series; names, units and bounded labels hold from the first scrape."""

import re
from io import StringIO

from msgspec.structs import replace

from jedlik.core.effects import Deliver, StreamEnded
from jedlik.core.facts import Answered, Candidate, FirstToken, Migrated, Routed, Shadow
from jedlik.core.ids import Handle, RequestId, StreamId, WorkerId
from jedlik.core.plans import Promise
from jedlik.core.protocol import Load, Tokens
from jedlik.telemetry.gateway import GatewayMonitor
from jedlik.telemetry.log import Log
from jedlik.telemetry.metrics import OUTCOMES, SHED, GatewayMetrics


def answered(outcome: str) -> Answered:
    return Answered(
        request_id=RequestId("r"),
        choice=0,
        outcome=outcome,
        prompt_tokens=100,
        cached_tokens=64,
        output_tokens=5,
        attempts=1,
        queued_s=0.02,
        ttft_s=0.3,
        duration_s=0.9,
    )


def values(metrics: GatewayMetrics) -> dict[str, float]:
    lines = [line for line in metrics.scrape().decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def test_every_series_exists_before_anything_happened() -> None:
    found = values(GatewayMetrics(dict))
    assert found["jedlik_time_to_first_token_seconds_count"] == 0
    assert found["jedlik_inter_token_latency_seconds_count"] == 0
    assert found["jedlik_request_queue_seconds_count"] == 0
    assert found["jedlik_prefix_cache_hit_tokens_total"] == 0
    assert {f'jedlik_requests_total{{outcome="{o}"}}' for o in OUTCOMES} <= set(found)


def test_every_histogram_of_seconds_tells_an_hour_from_longer() -> None:
    found = values(GatewayMetrics(dict))
    tops: dict[str, float] = {}
    for series in found:
        if match := re.fullmatch(r'(.*_seconds)_bucket\{le="([0-9.e+]+)"\}', series):
            tops[match[1]] = max(float(match[2]), tops.get(match[1], 0.0))
    assert len(tops) == 4
    assert set(tops.values()) == {3600.0}


def test_what_takes_long_is_counted_where_it_belongs() -> None:
    metrics = GatewayMetrics(dict)
    metrics.answered(replace(answered("stop"), ttft_s=500.0, duration_s=3000.0))
    metrics.delivered(Deliver(streams=[StreamId(1)], tokens=[5]), 0.0)
    metrics.delivered(Deliver(streams=[StreamId(1)], tokens=[5]), 27.0)
    found = values(metrics)
    for name, below, above in (
        ("time_to_first_token", "300", "600"),
        ("request_duration", "1800", "3600"),
        ("inter_token_latency", "10", "30"),
    ):
        assert found[f'jedlik_{name}_seconds_bucket{{le="{below}"}}'] == 0
        assert found[f'jedlik_{name}_seconds_bucket{{le="{above}"}}'] == 1


def test_an_answered_request_is_counted() -> None:
    metrics = GatewayMetrics(dict)
    metrics.answered(answered("stop"))
    metrics.answered(answered("never heard of"))
    found = values(metrics)
    assert found['jedlik_requests_total{outcome="stop"}'] == 1
    assert found['jedlik_requests_total{outcome="other"}'] == 1
    assert found["jedlik_prefix_cache_queried_tokens_total"] == 200
    assert found["jedlik_prefix_cache_hit_tokens_total"] == 128
    assert found['jedlik_time_to_first_token_seconds_bucket{le="0.25"}'] == 0
    assert found['jedlik_time_to_first_token_seconds_bucket{le="0.5"}'] == 2


def test_inter_token_latency_is_per_stream_and_forgets_ended_ones() -> None:
    metrics = GatewayMetrics(dict)
    a, b = StreamId(1), StreamId(2)
    metrics.delivered(Deliver(streams=[a, b], tokens=[5, 6]), 1.0)
    metrics.delivered(Deliver(streams=[a], tokens=[5], ended=[StreamEnded(a, "stop")]), 1.04)
    metrics.delivered(Deliver(streams=[a], tokens=[5]), 9.0)
    found = values(metrics)
    assert found["jedlik_inter_token_latency_seconds_count"] == 1
    assert found['jedlik_inter_token_latency_seconds_bucket{le="0.05"}'] == 1
    assert found["jedlik_output_tokens_total"] == 4


def test_worker_gauges_follow_load_reports_and_go_with_the_worker() -> None:
    metrics = GatewayMetrics(lambda: {"worker-0": 101})
    load = Load(
        steps=9,
        step_age_s=0.0,
        step_predicted_s=None,
        running=3,
        waiting=2,
        waiting_tokens=50,
        context_tokens=40,
        held_blocks=25,
        cached_blocks=10,
        last_submit=1,
        step_s=0.01,
    )
    metrics.load(WorkerId("worker-0@a"), load)
    found = values(metrics)
    assert found['jedlik_requests_running{worker="worker-0"}'] == 3
    assert found['vllm:num_requests_waiting{worker="worker-0"}'] == 2
    assert found['jedlik_kv_cache_usage_ratio{worker="worker-0"}'] == 0.25
    assert found['jedlik_step_seconds{worker="worker-0"}'] == 0.01
    assert found['jedlik_worker_output_tokens_total{worker="worker-0"}'] == 0
    metrics.lost(WorkerId("worker-0@a"))
    assert 'jedlik_requests_running{worker="worker-0"}' not in values(metrics)


def test_one_line_a_request_in_both_formats() -> None:
    for form, expected in (
        ("json", '{"time":0.5,"process":"gateway","event":"migrated","request_id":"r","attempt":2,"delivered":7,'),
        ("human", "gateway: migrated request_id=r attempt=2 delivered=7 reason="),
    ):
        stream = StringIO()
        log = Log("gateway", "json" if form == "json" else "human", stream, lambda: 0.5)
        telemetry = GatewayMonitor(GatewayMetrics(dict), log, log_requests=True)
        telemetry.fact(Migrated(RequestId("r"), 2, 7, "worker lost"))
        telemetry.fact(answered("stop"))
        migrated, line = stream.getvalue().splitlines()
        assert expected in migrated
        assert "output_tokens" in line
        assert "choice" not in line


def test_streams_that_never_end_are_forgotten() -> None:
    metrics = GatewayMetrics(dict)
    for n in range(30_000):
        metrics.delivered(Deliver(streams=[StreamId(n)], tokens=[5]), float(n))
    assert metrics.followed_streams() < 10_000


def routed(shadow: Shadow | None = None, failure: str = "") -> Routed:
    return Routed(
        request_id=RequestId("r"),
        attempt=1,
        tenant="t",
        at=0.0,
        prompt_tokens=9,
        chosen=WorkerId("a@1"),
        unit="s",
        candidates=(),
        failure=failure,
        shadow=shadow,
    )


def shadow(chosen: str | None, failure: str = "") -> Shadow:
    return Shadow(
        policy="dynamo",
        chosen=WorkerId(chosen) if chosen else None,
        cost=1.0,
        unit="blocks",
        candidates=(),
        failure=failure,
    )


def test_a_shadows_choices_are_counted_by_agreement() -> None:
    metrics = GatewayMetrics(dict)
    assert "jedlik_shadow_decisions_total" in metrics.scrape().decode()
    metrics.routed(routed())
    metrics.routed(routed(shadow("a@1")))
    metrics.routed(routed(shadow("b@1")))
    metrics.routed(routed(shadow(None, "it failed")))
    found = values(metrics)
    assert found['jedlik_shadow_decisions_total{agreed="true",policy="dynamo"}'] == 1
    assert found['jedlik_shadow_decisions_total{agreed="false",policy="dynamo"}'] == 2
    assert found["jedlik_dispatches_total"] == 4


def test_calibration_is_told_per_worker_and_goes_with_it() -> None:
    metrics = GatewayMetrics(dict)
    metrics.first_token(
        FirstToken(
            request_id=RequestId("r"),
            choice=0,
            worker=WorkerId("worker-0@a"),
            predicted_s=0.5,
            observed_s=1.0,
            ratio=1.9,
        )
    )
    metrics.first_token(
        FirstToken(
            request_id=RequestId("r"),
            choice=0,
            worker=WorkerId("worker-0@a"),
            predicted_s=1.0,
            observed_s=1.0,
            ratio=1.8,
        )
    )
    found = values(metrics)
    assert found['jedlik_ttft_calibration_ratio{worker="worker-0"}'] == 1.8
    assert found['jedlik_ttft_predicted_over_observed_ratio_bucket{le="0.5"}'] == 1
    assert found['jedlik_ttft_predicted_over_observed_ratio_bucket{le="1"}'] == 2
    metrics.lost(WorkerId("worker-0@a"))
    assert 'jedlik_ttft_calibration_ratio{worker="worker-0"}' not in values(metrics)


def test_a_policy_that_fails_is_counted_each_time_and_told_once() -> None:
    stream, metrics = StringIO(), GatewayMetrics(dict)
    telemetry = GatewayMonitor(metrics, Log("gateway", "human", stream, lambda: 0.5), log_requests=True)
    for _ in range(3):
        telemetry.fact(routed(failure="policy mine failed: oh"))
        telemetry.fact(routed(shadow(None, "policy dynamo failed: ah")))
    assert values(metrics)["jedlik_policy_failures_total"] == 3
    assert [line.partition("failure=")[2] for line in stream.getvalue().splitlines()] == [
        '"policy mine failed: oh"',
        '"policy dynamo failed: ah"',
    ]


def test_requests_refused_for_load_are_counted_by_why_and_those_that_wait_are_told() -> None:
    metrics = GatewayMetrics(dict, lambda: 3)
    for shed in ("late", "late", "harm", "of a user's own"):
        metrics.routed(replace(routed(), chosen=None, deferred="because", shed=shed))
    metrics.routed(replace(routed(), chosen=None, deferred="not now"))
    found = values(metrics)
    counted = {reason: found[f'jedlik_requests_shed_total{{reason="{reason}"}}'] for reason in SHED}
    assert counted == {"late": 2, "long": 0, "harm": 1, "deadline": 0, "policy": 1}
    assert found["jedlik_gateway_requests_waiting"] == 3
    assert found["jedlik_dispatches_total"] == 0


def test_requests_are_held_against_what_was_promised() -> None:
    well = Answered(
        request_id=RequestId("r"),
        choice=0,
        outcome="stop",
        prompt_tokens=100,
        cached_tokens=64,
        output_tokens=11,
        attempts=1,
        queued_s=0.02,
        ttft_s=0.3,
        duration_s=0.8,
    )  # 50 ms a token
    for promise, kept in (
        (Promise(), 3),
        (Promise(ttft_s=0.3), 3),
        (Promise(ttft_s=0.29), 0),
        (Promise(itl_s=0.051), 3),
        (Promise(itl_s=0.049), 1),
        (Promise(0.3, 0.051, 0.95), 3),
    ):
        metrics = GatewayMetrics(dict, promise=promise)
        for fact in (well, replace(well, outcome="cut"), replace(well, output_tokens=1, duration_s=0.3)):
            metrics.answered(fact)
        for outcome in ("overloaded", "internal", "abandoned", "invalid"):
            metrics.answered(replace(well, outcome=outcome))
        found = values(metrics)
        assert found["jedlik_requests_offered_total"] == 5
        assert found["jedlik_requests_kept_slo_total"] == kept
        assert found.get('jedlik_slo_seconds{of="ttft"}') == promise.ttft_s
        assert found.get('jedlik_slo_seconds{of="itl"}') == promise.itl_s
        assert found.get("jedlik_slo_attainment_target_ratio") == promise.attainment


def test_tokens_are_counted_by_the_worker_they_came_from_or_went_to() -> None:
    metrics = GatewayMetrics(dict)
    telemetry = GatewayMonitor(metrics, Log("gateway", "human", StringIO(), lambda: 0.5), log_requests=False)
    telemetry.heard(WorkerId("a@1"), Tokens(step=1, handles=[Handle(1), Handle(2)], tokens=[7, 8]))
    telemetry.heard(WorkerId("a@2"), Tokens(step=1, handles=[Handle(1)], tokens=[7, 8, 9], each=3))
    rows = (
        Candidate(worker=WorkerId("b@1"), cost_s=0.1, cached_tokens=5, parts={}),
        Candidate(worker=WorkerId("a@1"), cost_s=0.1, cached_tokens=4, parts={}),
    )
    telemetry.fact(replace(routed(), candidates=rows))
    telemetry.fact(replace(routed(), chosen=None, candidates=rows))
    found = values(metrics)
    assert found['jedlik_worker_output_tokens_total{worker="a"}'] == 5
    assert found['jedlik_worker_prompt_tokens_total{worker="a"}'] == 9
    assert found['jedlik_worker_cached_tokens_total{worker="a"}'] == 4
    assert not [name for name in found if 'worker="b"' in name]


def test_caches_are_counted_by_name() -> None:
    metrics = GatewayMetrics(dict)
    metrics.caches += [lambda: {"index": (3, 100)}, lambda: {"words": (5, 1000)}]
    found = values(metrics)
    assert found['jedlik_gateway_cache_items{cache="index"}'] == 3
    assert found['jedlik_gateway_cache_bytes{cache="words"}'] == 1000
