"""Places in a simulated fleet, and what the worker at one shows of itself: one incarnation after the other.

A slot's `state` is where its worker is: nothing there, starting (GPUs are taken), serving, draining.
"""

from typing import Literal

from jedlik.core.config import Role
from jedlik.core.ids import WorkerId
from jedlik.core.moves import Tier
from jedlik.core.plans import Place
from jedlik.core.protocol import SCHEMA_VERSION, Capabilities, Card, Layout, TierSize
from jedlik.kv.hashing import hash_check
from jedlik.sim.engine import VOCABULARY
from jedlik.sim.process import WorkerProcess
from jedlik.sim.setup import Setup, SimPool

HANDOFF = "slots"
KEY = b"a simulated cluster's"


class Slot:
    """A place in the fleet."""

    __slots__ = (
        "busy_s",
        "fell",
        "host",
        "index",
        "name",
        "no_start",
        "pool",
        "process",
        "role",
        "since_s",
        "starts",
        "state",
        "up_s",
    )

    def __init__(self, index: int, name: str, pool: SimPool, host: str) -> None:
        self.index, self.name, self.pool, self.host = index, name, pool, host
        self.process: WorkerProcess | None = None
        self.starts = 0
        self.role: Role = pool.role
        self.state: Literal["", "starting", "serving", "draining"] = ""
        self.no_start = self.fell = False
        """`no_start`: a fault wants no worker here. `fell`: the last one did not end because of a planner."""
        self.up_s = self.busy_s = 0.0
        """Of processes that ended: from start to end, and in steps."""
        self.since_s: float | None = None
        """Since when its GPUs have been busy or starting; None: they are free."""

    @property
    def place(self) -> Place:
        """The place as planners see it."""
        return Place(name=self.name, gpus=self.pool.gpus, path=(self.host,), role=self.pool.role)


def slots_of(setup: Setup) -> list[Slot]:
    """All places, those that begin empty too."""
    places = zip(setup.workers, setup.pool_of, setup.hosts, strict=True)
    return [Slot(index, *place) for index, place in enumerate(places)]


def card_of(setup: Setup, slot: Slot) -> Card:
    """Return the card of the incarnation that starts there now."""
    worker, size = slot.pool.worker or setup.worker, setup.worker.block_size
    return Card(
        schema=SCHEMA_VERSION,
        worker=WorkerId(f"{slot.name}@{slot.starts}"),
        name=slot.name,
        model=setup.model,
        revision=setup.model,
        layout=Layout(
            dtype="float8", layers=1, kv_heads=1, head_dim=-(-slot.pool.kv_token_bytes // 2), block_size=size
        ),  # as many bytes as there are
        total_blocks=slot.pool.kv_tokens // size + 1,
        max_model_len=setup.max_model_len or slot.pool.kv_tokens,
        max_sequences=worker.max_sequences,
        max_step_tokens=worker.max_step_tokens,
        vocab_size=VOCABULARY,
        eos_token_ids=(),
        hash_check=hash_check(KEY),
        capabilities=Capabilities(),
        handoffs=(HANDOFF,) if setup.handoffs else (),
        engine="simulated",
        host=slot.host if setup.handoffs else "",
        tiers=_tiers(slot.pool, size),
        pool=slot.pool.name,
    )


def _tiers(pool: SimPool, block_size: int) -> tuple[TierSize, ...]:
    """Block 0 of each is not used."""
    sizes: list[tuple[Tier, int]] = [
        ("host", pool.kv_host_tokens),
        ("disk", pool.kv_disk_tokens),
        ("object", pool.kv_object_tokens),
    ]
    return tuple(TierSize(tier, tokens // block_size + 1) for tier, tokens in sizes if tokens)
