"""10,000 corruptions of a disk tier: each is told as a miss, or does no harm; what comes back is always right.

Two kinds: of a store that runs (its data is hurt under it), and of one that lies there (data or log are hurt, then it
is opened). Small blocks, seeded; where the machine has memory for files, the disk is not waited for.
"""

import os
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kept_blocks import data, fast_folder, filled, memory, names, never, opened

from jedlik.core.ids import BlockId
from jedlik.transfer.file import LOG_FILE, SLOTS_FILE, FileStore
from jedlik.transfer.slots import DATA_START, RECORD_BYTES

SLOTS, SIZE = 24, 4096
RUNNING, LYING = 8000, 2000


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=fast_folder()) as made:
        yield Path(made)


class Slots:
    """The slot file as something that goes wrong sees it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def get(self, slot: int) -> bytes:
        with open(self._path, "rb") as file:
            return os.pread(file.fileno(), SIZE, DATA_START + slot * SIZE)

    def set(self, slot: int, at: int, found: bytes) -> None:
        with open(self._path, "r+b") as file:
            os.pwrite(file.fileno(), found, DATA_START + slot * SIZE + at)

    def cut(self, slot: int, at: int) -> None:
        os.truncate(self._path, DATA_START + slot * SIZE + at)

    def grow(self) -> None:
        os.truncate(self._path, DATA_START + SLOTS * SIZE)


Hurt = Callable[[Slots, random.Random, bytes], set[int]]
"""Does something to slots; says which may hold other bytes now. Also given: what slot 0 held one write before."""


def flip_bit(slots: Slots, rng: random.Random, _: bytes) -> set[int]:
    slot, at = rng.randrange(SLOTS), rng.randrange(SIZE)
    slots.set(slot, at, bytes([slots.get(slot)[at] ^ 1 << rng.randrange(8)]))
    return {slot}


def noise(slots: Slots, rng: random.Random, _: bytes) -> set[int]:
    slot, at = rng.randrange(SLOTS), rng.randrange(SIZE)
    slots.set(slot, at, rng.randbytes(rng.randint(1, SIZE - at)))
    return {slot}


def zero_page(slots: Slots, rng: random.Random, _: bytes) -> set[int]:
    slot = rng.randrange(SLOTS)
    slots.set(slot, 0, bytes(SIZE))
    return {slot}


def torn_write(slots: Slots, rng: random.Random, _: bytes) -> set[int]:
    """The second half is another block's."""
    slot, other = rng.sample(range(SLOTS), 2)
    slots.set(slot, SIZE // 2, slots.get(other)[SIZE // 2 :])
    return {slot}


def swap(slots: Slots, rng: random.Random, _: bytes) -> set[int]:
    one, other = rng.sample(range(SLOTS), 2)
    was = slots.get(one)
    slots.set(one, 0, slots.get(other))
    slots.set(other, 0, was)
    return {one, other}


def stale(slots: Slots, _rng: random.Random, before: bytes) -> set[int]:
    """A write that never reached the disk."""
    slots.set(0, 0, before)
    return {0}


def truncate(slots: Slots, rng: random.Random, _: bytes) -> set[int]:
    slot = rng.randrange(SLOTS)
    slots.cut(slot, rng.randrange(SIZE))
    return set(range(slot, SLOTS))


HURTS: list[Hurt] = [flip_bit, noise, zero_page, torn_write, swap, stale, truncate]


def verdict(store: FileStore, slot: int, block: BlockId, truth: bytes) -> str:
    """Why the block is missing; "right" if it came back as it was."""
    (back,) = buffers = memory(1, SIZE)
    done, cause = store.read([slot], [block], buffers, never)
    assert done == (cause == "")
    assert cause or bytes(back) == truth, "wrong data came back"
    return cause or "right"


def test_a_running_store(folder: Path) -> None:
    """Every corruption is detected, and named so; untouched slots stay readable."""
    rng, slots, told = random.Random(1), Slots(folder / SLOTS_FILE), Counter[str]()
    ids, blocks = names(SLOTS), filled(SLOTS, SIZE)
    older, truth = filled(1, SIZE, 2), data(blocks)
    with opened(folder, SLOTS) as (store, _):

        def write(which: list[int]) -> None:
            told = store.write(which, [ids[i] for i in which], None, [blocks[i] for i in which], never)
            assert told == (len(which), "")

        assert store.write([0], [ids[0]], None, older, never) == (1, "")  # the same name, another generation
        write(list(range(SLOTS)))
        for _ in range(RUNNING):
            before = data(older)[0]
            hit = rng.choice(HURTS)(slots, rng, before)
            changed = {slot for slot in hit if slots.get(slot) != truth[slot]}
            for slot in sorted({*hit, rng.randrange(SLOTS)}):
                said = verdict(store, slot, ids[slot], truth[slot])
                assert said == ("corrupt" if slot in changed else "right")
                told[said] += slot in hit
                assert slot not in changed or verdict(store, slot, ids[slot], truth[slot]) == "missing"
            slots.grow()
            write(sorted(changed))
    assert told["corrupt"] >= RUNNING * 0.99  # a noise byte may happen to be the one that was there


def hurt_log(path: Path, rng: random.Random) -> None:
    """A bit, a page of zeros, the end cut off, one record over another, an older record once more, bytes missing."""
    log = bytearray(path.read_bytes())
    records = len(log) // RECORD_BYTES
    at = rng.randrange(len(log))
    to, source = (rng.randrange(records) * RECORD_BYTES for _ in range(2))
    match rng.randrange(7):
        case 0:
            log[at] ^= 1 << rng.randrange(8)
        case 1:
            log[at : at + 512] = bytes(len(log[at : at + 512]))
        case 2:
            del log[at:]
        case 3:
            log[to : to + RECORD_BYTES] = log[source : source + RECORD_BYTES]
        case 4:
            log += log[source : source + RECORD_BYTES]
        case 5:
            del log[at : at + rng.randint(1, 200)]
        case 6:
            log[at:] = rng.randbytes(len(log) - at)
    path.write_bytes(log)


def test_a_store_that_lay_there(folder: Path) -> None:
    """Log or data are hurt between two starts: what opens is whole chains, and every block read is right or a miss."""
    rng, told = random.Random(3), Counter[str]()
    ids, old, new = names(SLOTS), filled(SLOTS, SIZE, 4), filled(SLOTS, SIZE, 5)
    truth = dict(zip(ids, data(new), strict=True))
    model, place = folder / "model", folder / "w"
    with opened(model, SLOTS) as (store, _):
        order = rng.sample(range(SLOTS), SLOTS)
        store.write(order, names(SLOTS, "before"), None, old, never)
        before = Slots(model / SLOTS_FILE).get(0)
        order = rng.sample(range(SLOTS), SLOTS)
        store.write(order, ids, None, new, never)
        log = (model / LOG_FILE).read_bytes()  # with the superseded records
    (model / LOG_FILE).write_bytes(log)
    for _ in range(LYING):
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(model, place)
        if rng.random() < 0.8:
            hurt_log(place / LOG_FILE, rng)
        else:
            rng.choice(HURTS)(Slots(place / SLOTS_FILE), rng, before)
        with opened(place, SLOTS) as (store, runs):
            seen: set[BlockId | None] = {None}
            for run in runs:
                assert run.parent in seen
                seen.update(run.ids)
                for slot, block in zip(run.slots, run.ids, strict=True):
                    told[verdict(store, slot, block, truth.get(block, b""))] += 1
            told["dropped"] += SLOTS + 1 - len(seen)
    assert told["right"] > LYING
    assert told["corrupt"] > LYING / 10
    assert told["dropped"] > LYING
