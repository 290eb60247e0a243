"""Tiers of a worker node: what is copied down, what is fetched back, and that wrong or late data is never read."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from jedlik.core.config import WorkerConfig
from jedlik.core.events import FromClient, Woken
from jedlik.core.facts import Fetched, Offloaded, Verified
from jedlik.core.ids import BlockId, Handle, WorkerId
from jedlik.core.moves import Cause, Moved, PathCosts, PathsMeasured, StoredRun, Tier, TierOpened
from jedlik.core.protocol import Cancel, Facts, Snapshot, StepCosts, TierSize
from jedlik.core.requests import KvHint, Stopping
from jedlik.nodes.worker.node import WorkerNode
from pair_world import Cluster
from worker_world import GATEWAY, continuation, make_card, make_submit

W = WorkerId("w@1")
STOPPING = Stopping(max_tokens=3, ignore_eos=True)
COSTS = StepCosts(base_s=0.01, prefill_token_s=0.001, prefill_pair_s=0.0, decode_sequence_s=0.001, context_token_s=0.0)
"""A slow engine: fetching pays."""


def alone(blocks: int = 16, host: int = 0, disk: int = 0, objects: int = 0, **config: object) -> Cluster:
    sizes: list[tuple[Tier, int]] = [("host", host), ("disk", disk), ("object", objects)]
    tiers = tuple(TierSize(tier, size) for tier, size in sizes if size)
    card = replace(make_card(blocks), worker=W, tiers=tiers)
    values: dict[str, object] = {"block_size": 4, "max_sequences": 8, "max_step_tokens": 64}
    world = Cluster([card], WorkerConfig(**(values | config)), COSTS)  # type: ignore[arg-type]
    world.send(W, PathsMeasured([PathCosts(tier, 1e-6, 1e-9) for tier in ("host", "disk", "object")]))
    for tier in ("disk", "object"):
        world.send(W, TierOpened(tier, []))
    return world


def text(number: int, length: int = 25) -> list[int]:
    return [(number * 37 + at) % 900 for at in range(length)]


def ask(world: Cluster, handle: int, prompt: list[int], hint: KvHint | None = None) -> None:
    world.submit(W, replace(make_submit(handle, prompt, stopping=STOPPING), hint=hint))
    world.settle()
    assert world.heard[W].tokens[handle] == continuation(prompt, STOPPING, 128)


def of(world: Cluster, kind: type) -> list[object]:
    return [fact for fact in world.facts if isinstance(fact, kind)]


@pytest.mark.parametrize("tier", ["host", "disk", "object"])
def test_what_left_the_device_comes_back_from_a_tier(tier: Tier) -> None:
    world = alone(
        host=64 * (tier == "host"), disk=64 * (tier == "disk"), objects=64 * (tier == "object"), disk_admission="all"
    )
    ask(world, 1, text(1))
    if tier == "object":
        ask(world, 10, text(1))  # asked for again: worth keeping
    for other in range(2, 6):
        ask(world, other, text(other))
    before = world.workers[W].engine.computed_tokens
    ask(world, 9, text(1))
    assert world.workers[W].engine.computed_tokens - before < 5
    assert world.heard[W].started[9].cached_tokens == 24
    (fetched,) = of(world, Fetched)
    assert isinstance(fetched, Fetched)
    assert (fetched.tier, fetched.wanted, fetched.blocks, fetched.cause) == (tier, 6, 6, "")
    world.rest()


def test_a_chain_is_copied_once_and_from_its_beginning() -> None:
    world = alone(blocks=40, host=64)
    ask(world, 1, text(1, 25))
    ask(world, 2, text(1, 25) + text(7, 8))
    told = [(f.wanted, f.blocks, f.cause) for f in of(world, Offloaded) if isinstance(f, Offloaded)]
    assert told == [(6, 6, ""), (2, 2, "")]


def test_gateways_follow_every_tier_by_itself() -> None:
    world = alone(host=64)
    ask(world, 1, text(1))
    tiers = {message.tier for message in world.told[W] if isinstance(message, Facts)}
    assert tiers == {0, 1}
    assert {message.tier for message in world.told[W] if isinstance(message, Snapshot)} == {0, 1}


@pytest.mark.parametrize("cause", ["corrupt", "missing", "stale", "failed", "gone", "late"])
def test_a_load_that_fails_is_a_miss_and_the_prompt_is_computed(cause: Cause) -> None:
    world = alone(disk=64, disk_admission="all")
    ask(world, 1, text(1))
    for other in range(2, 6):
        ask(world, other, text(other))
    world.submit(W, make_submit(9, text(1), stopping=STOPPING))
    ((name, move),) = world.moves
    world.moves.clear()
    world.facts.clear()
    for block in move.target_blocks[2:]:
        world.workers[W].engine.memory[block] = [13] * 4  # whatever was written: it is not read
    world.spread(name, move, 2)
    world.send(W, Moved(number=move.number, blocks=2, cause=cause, path="file"))
    world.settle()
    assert world.heard[W].tokens[9] == continuation(text(1), STOPPING, 128)
    assert world.heard[W].started[9].cached_tokens == 8
    store = world.workers[W].node._movement.tiers.named("disk")
    forgotten = cause in ("corrupt", "missing", "stale")
    node: WorkerNode = world.workers[W].node
    root = node._hasher.root("", "")
    ids = list(node._hasher.chain(root, make_submit(1, text(1)).prompt))
    assert store.pool.match(ids)[0] == 6  # forgotten ones were computed and copied again
    assert bool(of(world, Offloaded)) == forgotten
    world.rest()


def test_a_load_that_is_late_is_not_waited_for_and_its_blocks_are_not_used() -> None:
    world = alone(disk=64, disk_admission="all", load_deadline_s=2.0)
    ask(world, 1, text(1))
    for other in range(2, 6):
        ask(world, other, text(other))
    world.submit(W, make_submit(9, text(1), stopping=STOPPING))
    held, world.moves = world.moves, []
    world.settle()
    assert world.heard[W].tokens[9] == continuation(text(1), STOPPING, 128)
    assert world.workers[W].node.load(0.0).reserved_blocks == 6
    for other in range(12, 16):
        ask(world, other, text(other))
    world.moves = held + world.moves
    world.settle()
    world.rest()


def test_a_cancelled_request_leaves_its_load_to_end() -> None:
    world = alone(disk=64, disk_admission="all")
    ask(world, 1, text(1))
    for other in range(2, 6):
        ask(world, other, text(other))
    world.submit(W, make_submit(9, text(1), stopping=STOPPING))
    world.send(W, FromClient(GATEWAY, Cancel([Handle(9)])))
    assert world.workers[W].node.load(0.0).reserved_blocks == 6
    world.settle()
    world.rest()


def test_a_disk_is_found_again_after_a_restart() -> None:
    world = alone(disk=64, disk_admission="all")
    ask(world, 1, text(1))
    node = world.workers[W].node
    ids: list[BlockId] = list(node._hasher.chain(node._hasher.root("", ""), make_submit(1, text(1)).prompt))
    slots = list(node._movement.tiers.named("disk").pool.lookup(ids))
    fresh = Cluster([world.workers[W].card], WorkerConfig(block_size=4, max_sequences=8, max_step_tokens=64), COSTS)
    fresh.workers[W].shelves = world.workers[W].shelves
    fresh.send(W, PathsMeasured([PathCosts("disk", 1e-6, 1e-9)]))
    fresh.send(W, TierOpened("disk", [StoredRun(None, ids, [int(slot) for slot in slots])]))
    ask(fresh, 1, text(1))
    assert fresh.heard[W].started[1].cached_tokens == 24


def test_short_memory_takes_what_waits_to_be_copied() -> None:
    world = alone(blocks=12, host=64)
    world.submit(W, make_submit(1, text(1), stopping=STOPPING))
    while world.workers[W].steps:
        world.do(("step", W))
    held, world.moves = world.moves, []  # the copy under way is slow
    world.submit(W, make_submit(2, text(2), stopping=Stopping(max_tokens=18, ignore_eos=True)))
    for _ in range(10):
        if world.workers[W].steps:
            world.do(("step", W))
    world.moves += held
    world.settle()
    assert len(world.heard[W].tokens[2]) == 18
    world.rest()


def test_a_final_turn_is_not_copied_and_goes_first() -> None:
    world = alone(blocks=20, host=64)
    ask(world, 1, text(1))
    ask(world, 2, text(2), KvHint(final=True))
    assert [f.wanted for f in of(world, Offloaded) if isinstance(f, Offloaded)] == [6]
    ask(world, 3, text(3, 21))
    before = world.workers[W].engine.computed_tokens
    ask(world, 4, text(1))
    assert world.workers[W].engine.computed_tokens - before < 5
    assert not of(world, Fetched)


@given(st.integers(0, 1 << 30))
def test_any_order_of_events_gives_the_right_answers(seed: int) -> None:
    rng = Random(seed)
    world = alone(
        blocks=rng.randint(12, 30),
        host=rng.choice([0, 12, 40]),
        disk=rng.choice([0, 14, 60]),
        objects=rng.choice([0, 0, 60]),
        disk_admission=rng.choice(["all", "second_touch"]),
        host_eviction=rng.choice(["lru", "s3fifo"]),
        max_step_tokens=rng.choice([8, 16, 64]),
        offload_blocks=rng.choice([6, 1000]),
        verify_share=rng.choice([0.0, 0.3]),
    )
    stems = [text(stem, rng.randint(4, 20)) for stem in range(4)]
    asked: dict[int, list[int]] = {}
    cancelled: set[int] = set()
    for handle in range(1, rng.randint(4, 20)):
        prompt = asked[handle] = rng.choice(stems) + [rng.randrange(900) for _ in range(rng.randint(1, 12))]
        world.submit(W, make_submit(handle, prompt, stopping=STOPPING))
        for _ in range(rng.randrange(30)):
            if choices := world.choices():
                choice = rng.choice(choices)
                if choice[0] == "move" and rng.random() < 0.2:
                    world.fail(choice, rng)
                else:
                    world.do(choice)
        if rng.random() < 0.1 and handle not in world.heard[W].finished:
            cancelled.add(handle)
            world.send(W, FromClient(GATEWAY, Cancel([Handle(handle)])))
    world.settle(rng)
    for handle, prompt in asked.items():
        if handle not in cancelled:
            assert world.heard[W].tokens[handle] == continuation(prompt, STOPPING, 128)
    world.rest()


def test_what_is_pinned_stays_on_the_device_until_its_time_is_over_or_memory_is_short() -> None:
    world = alone(blocks=40, host=64)
    ask(world, 1, text(1), KvHint(pin_s=60.0))
    assert world.workers[W].node.load(world.now).held_blocks == 6
    for other in range(2, 8):
        ask(world, other, text(other))
    before = len(of(world, Fetched))
    ask(world, 9, text(1))
    assert len(of(world, Fetched)) == before
    world.now += 100
    world.send(W, Woken())
    assert world.workers[W].node.load(world.now).held_blocks == 0


def test_a_pin_gives_way_where_memory_is_short() -> None:
    world = alone(blocks=32)
    ask(world, 1, text(1), KvHint(pin_s=1e9))
    ask(world, 2, text(2, 100))
    prompt = text(3, 116)
    ask(world, 3, prompt)
    assert world.workers[W].node.load(world.now).held_blocks == 0


def test_an_announced_turn_finds_its_blocks_on_the_device() -> None:
    world = alone(blocks=16, host=64)
    ask(world, 1, text(1), KvHint(next_turn_s=30.0))
    for other in range(2, 6):
        ask(world, other, text(other))
    assert not of(world, Fetched)
    world.now += 29.9
    world.send(W, Woken())
    world.settle()
    assert len(of(world, Fetched)) == 1
    ask(world, 9, text(1))
    assert len(of(world, Fetched)) == 1
    assert world.heard[W].started[9].cached_tokens == 24
    world.rest()


@pytest.mark.parametrize("garbled", [False, True])
def test_a_sample_of_loads_is_computed_as_well_and_compared(garbled: bool) -> None:
    world = alone(disk=64, disk_admission="all", verify_share=1.0)
    ask(world, 1, text(1))
    for other in range(2, 6):
        ask(world, other, text(other))
    if garbled:
        shelves = world.workers[W].shelves
        for key, (name, _) in list(shelves.items()):
            shelves[key] = name, [13] * 4
    world.facts.clear()
    before = world.workers[W].engine.computed_tokens
    ask(world, 9, text(1))
    assert world.workers[W].engine.computed_tokens - before >= 25
    (verified,) = of(world, Verified)
    assert isinstance(verified, Verified)
    assert (verified.tier, verified.blocks, verified.differing) == ("disk", 6, 6 * garbled)
    world.rest()


def test_what_writing_a_tier_takes_says_what_reading_it_might() -> None:
    world = Cluster(
        [replace(make_card(16), worker=W, tiers=(TierSize("disk", 64),))],
        WorkerConfig(block_size=4, max_sequences=8, max_step_tokens=64, disk_admission="all"),
        COSTS,
    )
    world.send(W, TierOpened("disk", []))
    ask(world, 1, text(1))
    for other in range(2, 6):
        ask(world, other, text(other))
    ask(world, 9, text(1))
    assert world.heard[W].started[9].cached_tokens == 24
