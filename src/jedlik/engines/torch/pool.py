"""The engine's KV cache: a view of a buffer that the caller owns.

Block first: `[blocks, layers, 2, block_size, kv_heads, head_dim]`, so that one block is one byte range, whatever reads
or moves it. Block 0 is padding: reads of it are masked, writes to it are lost.
"""

import contextlib
import mmap

import torch

from jedlik.core.errors import ConfigError
from jedlik.core.protocol import Layout

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float16": torch.float16}


def block_bytes(layout: Layout) -> int:
    """Return the size of one block."""
    values = layout.layers * 2 * layout.block_size * layout.kv_heads * layout.head_dim
    return values * DTYPES[layout.dtype].itemsize


def allocate(size_bytes: int, device: str) -> torch.Tensor:
    """Return zeroed memory for a pool, where there is no arena. On a CPU it has huge pages if the kernel has them.

    A sequence's blocks lie all over the pool; with small pages every one of them costs an address translation.
    """
    if device != "cpu":
        return torch.zeros(size_bytes, dtype=torch.uint8, device=device)
    memory = mmap.mmap(-1, size_bytes)
    with contextlib.suppress(OSError, AttributeError):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.uint8)


class KvPool:
    """Blocks of one layout in a buffer of bytes (a uint8 tensor, or anything writable with the buffer protocol)."""

    def __init__(self, buffer: torch.Tensor | bytearray | memoryview, layout: Layout) -> None:
        flat = buffer if isinstance(buffer, torch.Tensor) else torch.frombuffer(buffer, dtype=torch.uint8)
        size = block_bytes(layout)
        self.layout = layout
        self.total_blocks = flat.numel() // size
        if self.total_blocks < 2:
            raise ConfigError(f"KV cache of {flat.numel()} bytes holds no block of {size}: raise --kv-cache-bytes")
        shape = (self.total_blocks, layout.layers, 2, layout.block_size, layout.kv_heads, layout.head_dim)
        self.blocks = flat[: self.total_blocks * size].view(DTYPES[layout.dtype]).view(shape)
        self.keys = [self.blocks[:, layer, 0] for layer in range(layout.layers)]
        """The keys of each layer: [blocks, block_size, kv_heads, head_dim], strided."""
        self.values = [self.blocks[:, layer, 1] for layer in range(layout.layers)]
