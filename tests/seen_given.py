"""A worker as gateways see it, at rest: what tests of planners and fleets change a little."""

from msgspec.structs import replace

from jedlik.core.ids import WorkerId
from jedlik.core.plans import WorkerSeen

AT_REST = WorkerSeen(
    worker=WorkerId("w@1"),
    name="w",
    role="both",
    draining=False,
    trusted=True,
    age_s=0.1,
    running=0,
    waiting=0,
    waiting_tokens=0,
    context_tokens=0,
    held_blocks=0,
    total_blocks=1000,
    block_size=16,
    max_sequences=64,
    max_step_tokens=2048,
    step_s=None,
    costs=None,
    correction=1.0,
    hit_tokens=0,
)


def worker_seen(worker: WorkerId = AT_REST.worker, **changes: object) -> WorkerSeen:
    """With changes; its name is that of its id."""
    return replace(AT_REST, worker=worker, name=worker.split("@")[0], **changes)
