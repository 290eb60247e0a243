"""An agent with the real stores: out of a worker's memory, and back into the next worker's after a restart."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from carrying import Carrying, ids, move
from kept_blocks import MINE

from jedlik.core.moves import Location, TierOpened
from jedlik.transfer.file import SLOTS_FILE, FileStore
from jedlik.transfer.object import object_store
from jedlik.transfer.slots import DATA_START
from jedlik.transfer.store import BlockStore

DEVICE = Location("device")
Make = Callable[..., Carrying]


@pytest.mark.parametrize("block_bytes", [4096, 5000])
@pytest.mark.parametrize(("tier", "path"), [("disk", "file"), ("object", "object")])
def test_out_and_back_after_a_restart(carrying: Make, tmp_path: Path, block_bytes: int, tier: str, path: str) -> None:
    def store() -> BlockStore:
        if tier == "disk":
            return FileStore(tmp_path / "kept", 32, block_bytes, MINE)
        pytest.importorskip("obstore", reason="obstore is not installed: pip install 'jedlik[object]'")
        return object_store(f"file://{tmp_path}/kept", block_bytes, MINE)

    kept, slots = Location(tier), [9, 3, 4, 5] if tier == "disk" else []  # type: ignore[arg-type]
    one = carrying("w0@1", block_bytes=block_bytes, stores=[store()])
    assert one.ear.heard(TierOpened).runs == []
    one.fill(1)
    one.agent.perform(move(1, DEVICE, [7, 2, 3, 4], kept, slots))
    moved = one.ear.moved(1)
    assert (moved.blocks, moved.cause, moved.path, moved.size_bytes) == (4, "", path, 4 * block_bytes)
    one.close()
    two = carrying("w0@2", block_bytes=block_bytes, stores=[store()])
    (run,) = two.ear.heard(TierOpened).runs
    assert (run.parent, run.ids, run.slots) == (None, ids(4), slots)
    two.agent.perform(move(1, kept, slots, DEVICE, [0, 1, 2, 3]))
    assert two.ear.moved(1).blocks == 4
    assert np.array_equal(two.device[:4], one.device[[7, 2, 3, 4]])


def test_damage_is_told_as_such(carrying: Make, tmp_path: Path) -> None:
    one = carrying("w0@1", stores=[FileStore(tmp_path / "kept", 32, 4096, MINE)])
    one.ear.heard(TierOpened)
    one.fill(1)
    one.agent.perform(move(1, DEVICE, [0, 1, 2], Location("disk"), [0, 1, 2]))
    one.ear.moved(1)
    with open(tmp_path / "kept" / SLOTS_FILE, "r+b") as file:
        file.seek(DATA_START + 4096 + 17)
        file.write(b"damage")
    one.agent.perform(move(2, Location("disk"), [0, 1, 2], DEVICE, [10, 11, 12]))
    moved = one.ear.moved(2)
    assert (moved.blocks, moved.cause) == (1, "corrupt")
    assert np.array_equal(one.device[10], one.device[0])
