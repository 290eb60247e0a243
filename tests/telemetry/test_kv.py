"""What workers count of blocks on the move, and what /metrics says of it."""

from prometheus_client.parser import text_string_to_metric_families

from jedlik.core.facts import Carried, Fetched, HandedOff, Offloaded, Verified
from jedlik.core.ids import Handle, RequestId, WorkerId
from jedlik.core.protocol import Count, Counters, Layout, Push, Submit
from jedlik.core.requests import Sampling, Stopping
from jedlik.telemetry.kv import FAMILIES, KvCounts
from jedlik.telemetry.metrics import GatewayMetrics

R, P = RequestId("r"), WorkerId("worker-0@a")
D = WorkerId("worker-1@a")


def submit(compute: bool = True) -> Submit:
    push = Push(Layout(dtype="float32", layers=1, kv_heads=1, head_dim=8, block_size=16), 0, compute)
    return Submit(
        handle=Handle(1),
        request_id=R,
        choice=0,
        attempt=1,
        prompt=b"",
        output=b"",
        sampling=Sampling(),
        stopping=Stopping(),
        tenant="",
        salt="",
        priority=0,
        budget_s=None,
        output_hint=None,
        number=1,
        push=push,
    )


def values(*told: tuple[WorkerId, Counters]) -> dict[str, float]:
    metrics = GatewayMetrics(dict)
    for worker, counters in told:
        metrics.counters(worker, counters)
    found = {}
    for family in text_string_to_metric_families(metrics.scrape().decode()):
        for sample in family.samples:
            labels = ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}"] = sample.value
    return found


def handed_off(cause: str = "", compute: bool = True) -> HandedOff:
    return HandedOff(
        request_id=R, choice=0, worker=P, compute=compute, tokens=32, blocks=2, wanted=48, cause=cause, elapsed_s=0.02
    )


def test_every_family_is_there_before_anybody_counted() -> None:
    text = GatewayMetrics(dict).scrape().decode()
    for name in FAMILIES:
        assert f"# TYPE {name}" in text


def test_hand_offs_are_counted_by_how_they_ended() -> None:
    counts = KvCounts()
    for _ in range(5):
        counts.asked(submit())
    counts.asked(submit(compute=False))
    for fact in (handed_off(), handed_off(), handed_off("late"), handed_off("of its own"), handed_off(compute=False)):
        counts.fact(fact)
    found = values((D, counts.counters()))
    assert found["jedlik_handoff_started_total{kind=prefill,worker=worker-1}"] == 5
    assert found["jedlik_handoff_started_total{kind=pull,worker=worker-1}"] == 1
    assert found["jedlik_handoff_completed_total{kind=prefill,worker=worker-1}"] == 2
    assert found["jedlik_handoff_completed_total{kind=pull,worker=worker-1}"] == 1
    assert found["jedlik_handoff_fallbacks_total{cause=late,worker=worker-1}"] == 1
    assert found["jedlik_handoff_fallbacks_total{cause=gone,worker=worker-1}"] == 0
    assert found["jedlik_handoff_fallbacks_total{cause=other,worker=worker-1}"] == 1
    assert found["jedlik_handoff_in_flight{worker=worker-1}"] == 1
    assert found["jedlik_handoff_tokens_total{worker=worker-1}"] == 5 * 32
    assert found["jedlik_handoff_seconds_bucket{le=0.01,worker=worker-1}"] == 0
    assert found["jedlik_handoff_seconds_bucket{le=0.025,worker=worker-1}"] == 5
    assert found["jedlik_handoff_seconds_bucket{le=3600,worker=worker-1}"] == 5
    assert found["jedlik_handoff_seconds_count{worker=worker-1}"] == 5


def test_tiers_and_paths_are_counted_by_cause() -> None:
    counts = KvCounts()
    counts.fact(Fetched(request_id=R, tier="host", wanted=4, blocks=3, cause="corrupt", elapsed_s=0.001))
    counts.fact(Fetched(request_id=R, tier="disk", wanted=2, blocks=2, cause="", elapsed_s=0.001))
    counts.fact(Fetched(request_id=R, tier="disk", wanted=5, blocks=0, cause="shadow", elapsed_s=0.001))
    counts.fact(Verified("disk", 5, 1))
    counts.fact(Offloaded(tier="disk", wanted=9, blocks=4, cause="full", elapsed_s=0.1))
    counts.fact(
        Carried(
            source="device",
            target="host",
            path="copy",
            blocks=3,
            size_bytes=300,
            cause="",
            queued_s=0.01,
            elapsed_s=0.02,
        )
    )
    counts.fact(
        Carried(
            source="disk",
            target="device",
            path="file",
            blocks=2,
            size_bytes=200,
            cause="",
            queued_s=0.0,
            elapsed_s=0.02,
        )
    )
    counts.fact(
        Carried(
            source="device",
            target=f"device of {D}",
            path="shm",
            blocks=5,
            size_bytes=500,
            cause="",
            queued_s=0.0,
            elapsed_s=0.02,
        )
    )
    counts.fact(
        Carried(
            source="device",
            target=f"device of {D}",
            path="",
            blocks=0,
            size_bytes=0,
            cause="gone",
            queued_s=0.0,
            elapsed_s=0.0,
        )
    )
    found = values((P, counts.counters()))
    assert found["jedlik_tier_hits_total{tier=host,worker=worker-0}"] == 3
    assert found["jedlik_tier_misses_total{cause=corrupt,tier=host,worker=worker-0}"] == 1
    assert found["jedlik_tier_hits_total{tier=disk,worker=worker-0}"] == 2
    assert not [name for name in found if name.startswith("jedlik_tier_misses_total") and "disk" in name]
    assert found["jedlik_tier_verified_total{tier=disk,worker=worker-0}"] == 5
    assert found["jedlik_tier_differing_total{tier=disk,worker=worker-0}"] == 1
    assert "jedlik_tier_misses_total{cause=,tier=disk,worker=worker-0}" not in found
    assert found["jedlik_tier_not_stored_total{cause=full,tier=disk,worker=worker-0}"] == 5
    assert found["jedlik_tier_stored_bytes_total{tier=host,worker=worker-0}"] == 300
    assert found["jedlik_tier_loaded_bytes_total{tier=disk,worker=worker-0}"] == 200
    assert found["jedlik_handoff_bytes_total{worker=worker-0}"] == 500
    assert found["jedlik_transfer_bytes_total{path=shm,worker=worker-0}"] == 500
    assert found["jedlik_transfer_failures_total{cause=gone,path=none,worker=worker-0}"] == 1
    assert found["jedlik_transfer_queue_seconds_sum{path=copy,worker=worker-0}"] == 0.01


def test_counters_are_the_same_object_until_something_is_counted() -> None:
    counts = KvCounts()
    before = counts.counters()
    assert counts.counters() is before
    counts.fact(handed_off())
    assert counts.counters() is not before
    assert counts.counters() != before


def test_what_is_not_known_or_of_another_shape_is_left_out() -> None:
    strange = Counters(
        [
            Count("jedlik_future", (), (1.0,)),
            Count("jedlik_handoff_tokens", ("label",), (1.0,)),
            Count("jedlik_handoff_seconds", (), (1.0,)),
            Count("jedlik_tier_hits", ("a label drawn at random",), (1.0,)),
            Count("jedlik_handoff_blocks", (), (7.0,)),
        ]
    )
    found = values((P, strange))
    assert found["jedlik_handoff_blocks_total{worker=worker-0}"] == 7
    assert not [name for name in found if "future" in name or "label" in name or name.startswith("jedlik_tier")]


def test_a_restarted_worker_goes_on_under_its_name() -> None:
    first, second = KvCounts(), KvCounts()
    first.fact(handed_off())
    found = values((WorkerId("worker-0@a"), first.counters()), (WorkerId("worker-0@b"), second.counters()))
    assert found["jedlik_handoff_completed_total{kind=prefill,worker=worker-0}"] == 0
