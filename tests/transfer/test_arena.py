"""The arena: where its parts are, who can map it, who can't."""

import subprocess
import sys

import msgspec
import pytest

from jedlik.core.errors import PeerError
from jedlik.transfer.arena import PAGE_BYTES, SCRATCH_BYTES, Arena, attach, attach_scratch
from jedlik.transfer.processes import ProcessName, ProcessWatch, host_name, start_ticks, this_process

ODD = 1000
"""Not a multiple of anything."""


def test_blocks_lie_one_behind_the_other_and_parts_on_pages() -> None:
    arena = Arena(ODD, 5, 3)
    assert arena.device.address % PAGE_BYTES == 0
    assert arena.host.address % PAGE_BYTES == 0
    assert arena.host.address - arena.device.address == 2 * PAGE_BYTES
    assert arena.device.array.shape == (5 * ODD,)
    assert not arena.whole.any()
    arena.device.array.reshape(5, ODD)[3, :] = 9
    assert bytes(arena.device.views([3])[0]) == b"\x09" * ODD
    assert not arena.host.array.any()
    assert arena.scratch.nbytes == SCRATCH_BYTES
    arena.close()


def test_another_mapping_shows_the_same_memory() -> None:
    arena = Arena(ODD, 5, 3)
    mapping = attach(arena.reference)
    mapping.device.views([4])[0][:] = b"\x07" * ODD
    mapping.host.views([0])[0][:] = b"\x08" * ODD
    assert arena.device.array[4 * ODD :].tolist() == [7] * ODD
    assert arena.host.array[:ODD].tolist() == [8] * ODD
    arena.close()


def test_the_scratch_is_mapped_alone() -> None:
    arena = Arena(ODD, 5, 3)
    attach_scratch(arena.reference)[:] = 7
    assert bool((arena.scratch == 7).all())
    assert not arena.device.array.any()
    assert not arena.host.array.any()
    arena.close()
    with pytest.raises(PeerError):
        attach_scratch(arena.reference)


def test_a_closed_arena_can_not_be_mapped() -> None:
    arena = Arena(ODD, 1)
    arena.close()
    with pytest.raises(PeerError):
        attach(arena.reference)


def test_a_handle_of_another_process_or_file_is_refused() -> None:
    arena = Arena(ODD, 1)
    handle = arena.reference
    older = ProcessName(handle.process.host, handle.process.pid, handle.process.started - 1)
    for wrong in (
        msgspec.structs.replace(handle, process=older),
        msgspec.structs.replace(handle, inode=handle.inode + 1),
        msgspec.structs.replace(handle, device_blocks=1000),
    ):
        with pytest.raises(PeerError, match="is not the one"):
            attach(wrong)
    arena.close()


def test_the_pulse_tells_a_death_and_a_reused_pid() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = start_ticks(child.pid)
    assert started is not None
    pulse, other = (ProcessWatch(ProcessName(host_name(), child.pid, ticks)) for ticks in (started, started - 1))
    far = ProcessWatch(ProcessName("elsewhere", child.pid, started))
    assert not pulse.dead()
    assert other.dead()
    child.kill()
    child.wait()
    assert pulse.dead()
    assert not far.dead()
    assert not ProcessWatch(this_process()).dead()
    for each in (pulse, other, far):
        each.close()
    assert child.stdin is not None
    child.stdin.close()
