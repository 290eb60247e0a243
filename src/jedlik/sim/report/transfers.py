"""The figures of KV transfers: hand-offs, tiers, and how busy each role was.

Keys are documented in docs/simulator.md.
"""

import msgspec
import numpy as np

from jedlik.core.sums import float_sum
from jedlik.sim.movement import MovementCounts, TierCount
from jedlik.sim.outcome import SimulationRun
from jedlik.sim.report.words import NOTHING, number, seconds, share

Row = tuple[str, str]
UNITS = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


class HandOffs(msgspec.Struct, frozen=True, kw_only=True):
    """KV that came from other workers."""

    count: int
    """The hand-offs that ended, well or not."""
    remote_share: float | None
    """Prompt tokens whose KV came from another worker / prompt tokens."""
    tokens: int
    """The prompt tokens whose KV came."""
    wanted_tokens: int
    fallbacks: dict[str, int]
    """The hand-offs of which the decode worker computed a part, by cause."""
    bytes: int
    mean_s: float | None
    """The mean time from asking to the last block, or to giving up."""


class TierRow(msgspec.Struct, frozen=True, kw_only=True):
    """One tier, over all workers."""

    tier: str
    hit_tokens: int
    """The tokens whose KV was fetched."""
    wanted_tokens: int
    misses: dict[str, int]
    """The tokens that were wanted and did not come, by cause."""
    kept_tokens: int
    """The tokens that were copied to the tier."""
    refused: dict[str, int]
    """The tokens that were not copied, by cause."""
    in_bytes: int
    out_bytes: int
    fetch_mean_s: float | None


class RoleRow(msgspec.Struct, frozen=True, kw_only=True):
    """The workers that were meant for one role."""

    role: str
    workers: int
    utilisation: float | None
    """The share of the time in which their engines ran a step."""
    running_mean: float | None
    """The mean number of sequences in one worker's batch, over the samples."""
    waiting_mean: float | None


def hand_offs(run: SimulationRun) -> HandOffs | None:
    """Return the figures of hand-offs; None: there were none."""
    movement: MovementCounts = run.movement
    if not movement.handoffs:
        return None
    prompts = sum(outcome.prompt_tokens for outcome in run.outcomes)
    return HandOffs(
        count=movement.handoffs,
        remote_share=movement.handed_tokens / prompts if prompts else None,
        tokens=movement.handed_tokens,
        wanted_tokens=movement.wanted_tokens,
        fallbacks=dict(sorted(movement.fallbacks.items())),
        bytes=movement.handoff_bytes,
        mean_s=movement.handoff_s / movement.handoffs,
    )


def tiers(run: SimulationRun) -> list[TierRow]:
    """Return the figures of the tiers that were used, nearest first."""
    order = {name: at for at, name in enumerate(("host", "disk", "object"))}
    names = sorted(run.movement.tiers, key=lambda name: (order.get(name, len(order)), name))
    return [_tier(name, run.movement.tiers[name], run.block_size) for name in names]


def roles(run: SimulationRun) -> list[RoleRow]:
    """Return the figures of each role; empty where all workers do everything."""
    if set(run.roles) <= {"both"}:
        return []
    running = np.array([sample.running for sample in run.samples]).reshape(-1, len(run.workers))
    waiting = np.array([sample.waiting for sample in run.samples]).reshape(-1, len(run.workers))
    rows = []
    for role in sorted(set(run.roles)):
        here = [index for index, one in enumerate(run.roles) if one == role and (not run.up_s or run.up_s[index])]
        time_s = len(here) * run.duration_s
        up = 1.0
        if run.planning is not None:  # they come and go: means are over the time in which they were there
            up = float_sum(run.up_s[index] for index in here) / time_s if time_s else 0.0
        rows.append(
            RoleRow(
                role=role,
                workers=len(here),
                utilisation=float_sum(run.busy_s[index] for index in here) / (time_s * up) if time_s and up else None,
                running_mean=float(running[:, here].mean()) / up if len(running) and up else None,
                waiting_mean=float(waiting[:, here].mean()) / up if len(waiting) and up else None,
            )
        )
    return rows


def rows_of(handed: HandOffs | None, rows: list[TierRow]) -> list[Row]:
    """Return the figures for people, as names and values."""
    found: list[Row] = []
    if handed is not None:
        text = f"{number(handed.count)} ({share(handed.remote_share)} of prompt tokens), {size(handed.bytes)}"
        text += f", {seconds(handed.mean_s)} each on average"
        found.append(("hand-offs", text + _counts("; computed here after all", handed.fallbacks)))
    for row in rows:
        hits = f"{number(row.hit_tokens)} of {number(row.wanted_tokens)} tokens came"
        volume = f"{size(row.out_bytes)} out, {size(row.in_bytes)} in"
        found.append((f"KV tier {row.tier}", f"{hits}, {volume}{_counts('; misses', row.misses)}"))
    return found


ROLE_HEADS = ("role", "workers", "busy", "batch", "queue")


def role_cells(row: RoleRow) -> list[str]:
    """Return the cells of a role, in the order of `ROLE_HEADS`."""
    means = (number(row.running_mean), number(row.waiting_mean))
    return [row.role, number(row.workers), share(row.utilisation), *means]


def size(size_bytes: int) -> str:
    """Return a size for people, such as 12.3 GB."""
    for unit, name in UNITS:
        if size_bytes >= unit:
            return f"{number(size_bytes / unit)} {name}"
    return f"{size_bytes} bytes" if size_bytes else NOTHING


def _tier(name: str, counted: TierCount, block_size: int) -> TierRow:
    def tokens(counts: dict[str, int]) -> dict[str, int]:
        return {cause: blocks * block_size for cause, blocks in sorted(counts.items())}

    return TierRow(
        tier=name,
        hit_tokens=counted.hits * block_size,
        wanted_tokens=counted.wanted * block_size,
        misses=tokens(counted.misses),
        kept_tokens=counted.written * block_size,
        refused=tokens(counted.refused),
        in_bytes=counted.in_bytes,
        out_bytes=counted.out_bytes,
        fetch_mean_s=counted.fetch_s / counted.fetches if counted.fetches else None,
    )


def _counts(title: str, counts: dict[str, int]) -> str:
    listed = ", ".join(f"{number(count)} {cause}" for cause, count in counts.items())
    return f"{title}: {listed}" if listed else ""
