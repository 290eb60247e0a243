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
    push = Push(Layout("float32", 1, 1, 8, 16), 0, compute)
    return Submit(Handle(1), R, 0, 1, b"", b"", Sampling(), Stopping(), "", "", 0, None, None, 1, push=push)


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
    return HandedOff(R, 0, P, compute, 32, 2, 48, cause, 0.02)


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
    counts.fact(Fetched(R, "host", 4, 3, "corrupt", 0.001))
    counts.fact(Fetched(R, "disk", 2, 2, "", 0.001))
    counts.fact(Fetched(R, "disk", 5, 0, "shadow", 0.001))
    counts.fact(Verified("disk", 5, 1))
    counts.fact(Offloaded("disk", 9, 4, "full", 0.1))
    counts.fact(Carried("device", "host", "copy", 3, 300, "", 0.01, 0.02))
    counts.fact(Carried("disk", "device", "file", 2, 200, "", 0.0, 0.02))
    counts.fact(Carried("device", f"device of {D}", "shm", 5, 500, "", 0.0, 0.02))
    counts.fact(Carried("device", f"device of {D}", "", 0, 0, "gone", 0.0, 0.0))
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
