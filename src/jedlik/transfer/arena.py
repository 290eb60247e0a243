"""The arena: a worker's memory for blocks, one region of shared memory that peers of the host can map.

        0            host_at         scratch_at    size        (each at a multiple of PAGE_BYTES)
        | device     | host          | scratch     |
          the engine's  the host tier   for trials of
          cache                         transports

The device part is empty where the engine's cache is a GPU's. All pages are faulted in at start. A
peer maps the arena, when a transfer first needs it, by a reference that names process, file and inode: memory of a
process that has ended, or of one that has taken its pid, is refused.
"""

import contextlib
import ctypes
import errno
import mmap
import os
from collections.abc import Iterator

import msgspec
import numpy as np

from jedlik.core.errors import ConfigError, PeerError
from jedlik.transfer.processes import ProcessName, start_ticks, this_process
from jedlik.transfer.region import Bytes, Mapped

PAGE_BYTES = mmap.ALLOCATIONGRANULARITY
SCRATCH_BYTES = 8 << 20
MADV_POPULATE_WRITE = 23
"""The advice that faults pages in, since Linux 5.14; Python has no name for it."""


class ArenaReference(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """The address of an arena, for processes of the same host."""

    process: ProcessName
    fd: int
    inode: int
    block_bytes: int
    device_blocks: int
    host_blocks: int


class ArenaParts(msgspec.Struct, frozen=True):
    """The offsets at which an arena's parts begin, in bytes."""

    host_at: int
    scratch_at: int
    size: int


def parts(block_bytes: int, device_blocks: int, host_blocks: int) -> ArenaParts:
    """Return the layout of an arena with so many blocks."""
    host_at = _page_up(device_blocks * block_bytes)
    scratch_at = host_at + _page_up(host_blocks * block_bytes)
    return ArenaParts(host_at, scratch_at, scratch_at + SCRATCH_BYTES)


def _page_up(size: int) -> int:
    return -(-size // PAGE_BYTES) * PAGE_BYTES


class MappedArena:
    """An arena's parts, as this process sees them."""

    def __init__(self, fd: int, block_bytes: int, device_blocks: int, host_blocks: int) -> None:
        self.block_bytes = block_bytes
        where = parts(block_bytes, device_blocks, host_blocks)
        self._mapped = mmap.mmap(fd, where.size)
        self.whole: Bytes = np.frombuffer(self._mapped, np.uint8)
        self.device = Mapped(self.whole[: device_blocks * block_bytes], block_bytes)
        self.host = Mapped(self.whole[where.host_at : where.host_at + host_blocks * block_bytes], block_bytes)
        self.scratch: Bytes = self.whole[where.scratch_at :]


def fault_in(mapped: mmap.mmap, array: Bytes) -> int:
    """Fault in every page now, not in the middle of a step; return 0, or the kernel's error number.

    The call goes through libc, because Python's own `madvise` would stop every other thread meanwhile.
    """
    with contextlib.suppress(OSError):
        mapped.madvise(mmap.MADV_HUGEPAGE)
    madvise = ctypes.CDLL(None, use_errno=True).madvise
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    done = madvise(array.ctypes.data, array.nbytes, MADV_POPULATE_WRITE)
    return ctypes.get_errno() if done else 0


class Arena(MappedArena):
    """The owner's arena, made before the worker's engine and its agent; both get it handed in.

    `device` and `host` are `Mapped`; `arena.device.array` is uint8 [device_blocks * block_bytes], C-contiguous, for the
    engine to view as [device_blocks, ...]. Give device_blocks=0 where the engine's cache is a GPU's.
    """

    def __init__(self, block_bytes: int, device_blocks: int, host_blocks: int = 0) -> None:
        """Reserve the memory, zeroed. Raises ConfigError where memory is short."""
        self._fd = os.memfd_create("jedlik-kv", os.MFD_CLOEXEC)
        try:
            os.ftruncate(self._fd, parts(block_bytes, device_blocks, host_blocks).size)
            super().__init__(self._fd, block_bytes, device_blocks, host_blocks)
            self._have_all()
        except BaseException:
            os.close(self._fd)
            raise
        self.reference = ArenaReference(
            process=this_process(),
            fd=self._fd,
            inode=os.fstat(self._fd).st_ino,
            block_bytes=block_bytes,
            device_blocks=device_blocks,
            host_blocks=host_blocks,
        )

    def _have_all(self) -> None:
        why = fault_in(self._mapped, self.whole)
        if why in (errno.EINVAL, errno.ENOSYS):  # an older kernel
            self.whole[::PAGE_BYTES] = 0
        elif why:
            raise ConfigError(
                f"{len(self.whole) >> 20} MiB of memory for KV blocks can't be reserved: {os.strerror(why)}; "
                "lower --kv-cache-bytes or --kv-host-bytes"
            )

    def close(self) -> None:
        """Let no peer map the arena any more. The memory goes when the last view of it does."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def attach(reference: ArenaReference) -> MappedArena:
    """Map another process's arena; its pages come as they are touched. Raises PeerError if it is not there."""
    with _opened(reference) as fd:
        return MappedArena(fd, reference.block_bytes, reference.device_blocks, reference.host_blocks)


def attach_scratch(reference: ArenaReference) -> Bytes:
    """Map an arena's scratch alone, faulted in. Raises PeerError."""
    with _opened(reference) as fd:
        at = parts(reference.block_bytes, reference.device_blocks, reference.host_blocks).scratch_at
        mapped = mmap.mmap(fd, SCRATCH_BYTES, offset=at)
    scratch = np.frombuffer(mapped, np.uint8)
    fault_in(mapped, scratch)  # where it can't, pages come as they are touched
    return scratch


@contextlib.contextmanager
def _opened(reference: ArenaReference) -> Iterator[int]:
    process = reference.process
    try:
        fd = os.open(f"/proc/{process.pid}/fd/{reference.fd}", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise PeerError(f"memory of process {process.pid} can't be opened: {error.strerror}") from error
    try:
        size = parts(reference.block_bytes, reference.device_blocks, reference.host_blocks).size
        found = os.fstat(fd)
        if start_ticks(process.pid) != process.started or (found.st_ino, found.st_size) != (reference.inode, size):
            raise PeerError(f"process {process.pid} is not the one whose memory was meant")
        yield fd
    except (OSError, ValueError) as error:
        raise PeerError(f"memory of process {process.pid} can't be mapped: {error}") from error
    finally:
        os.close(fd)
