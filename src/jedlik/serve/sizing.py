"""Sizes nobody named: KV cache memory, context length, threads. Pure arithmetic over what the machine says it has."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec

from jedlik.core.config import ServeConfig
from jedlik.core.errors import ConfigError
from jedlik.core.protocol import Layout
from jedlik.core.units import size_text
from jedlik.models.info import block_bytes

SHARE, GPU_SHARE = 0.1, 0.8
MOST_SHARE = 0.5
"""The KV caches of all workers take at most this share of a host's memory that nothing else takes."""
LEAST_BYTES, MOST_BYTES = 64 << 20, 1 << 30
LEAST_CONTEXT = 256
"""Tokens: with fewer nobody is served, unless they were asked for."""

GROUP_FILES = {
    "memory.current": (("memory.max", "memory.high"), ("active_file", "inactive_file")),
    "memory.usage_in_bytes": (("memory.limit_in_bytes",), ("total_active_file", "total_inactive_file")),
}
"""The names in a control group, version 2 and 1: of what it uses, of its limits, and of file pages within that use."""


class Sizes(msgspec.Struct, frozen=True):
    """The sizes that one worker gets."""

    kv_cache_bytes: int
    total_blocks: int
    """Block 0, the engine's padding, included."""
    max_model_len: int


def host_share(memory_bytes: int) -> int:
    """Return the share of a host's free memory for one worker's KV cache, in bytes."""
    return min(max(int(memory_bytes * SHARE), LEAST_BYTES), MOST_BYTES)


def gpu_share(memory_bytes: int, weight_bytes: int, workers: int) -> int:
    """Return the share of a GPU's memory for the KV cache of one of the workers that share it, in bytes.

    Each worker has weights of its own.
    """
    return max(int(memory_bytes * GPU_SHARE / max(workers, 1)) - weight_bytes, LEAST_BYTES)


def threads(config: ServeConfig, cores: int) -> int:
    """Return the number of compute threads of one worker."""
    return config.threads or max(1, cores // max(config.most_workers, 1))


def sizes(config: ServeConfig, layout: Layout, model_len: int, share_bytes: int) -> Sizes:
    """Return one worker's sizes. Raises ConfigError if a request would not fit.

    `model_len` is the model's own context length.
    """
    budget = config.kv_cache_bytes or share_bytes
    block = block_bytes(layout)
    blocks = budget // block
    holds = (blocks - 1) * layout.block_size
    if blocks < 2:
        raise ConfigError(f"a KV cache of {budget} bytes holds no block of {block} bytes: raise --kv-cache-bytes")
    wanted = config.max_model_len or model_len
    if wanted > model_len:
        raise ConfigError(f"--max-model-len {wanted} is more than the model's own context of {model_len} tokens")
    if config.max_model_len is not None and wanted > holds:
        needed = (-(-wanted // layout.block_size) + 1) * block
        raise ConfigError(
            f"--max-model-len {wanted} needs a KV cache of {needed} bytes per worker and {budget} are given: "
            f"set --kv-cache-bytes {needed}, or a shorter length"
        )
    if config.max_model_len is None and holds < min(model_len, LEAST_CONTEXT):
        needed = (-(-min(model_len, LEAST_CONTEXT) // layout.block_size) + 1) * block
        raise ConfigError(
            f"a KV cache of {size_text(budget)} per worker holds {holds} tokens, prompt and answer together: raise "
            f"--kv-cache-bytes to {needed} or more, or say --max-model-len {holds} if so few are meant"
        )
    return Sizes(blocks * block, blocks, min(wanted, holds))


def gpu_bytes() -> int:
    """Return the memory of the first GPU. Raises ConfigError if nobody says."""
    query = ["nvidia-smi", "--id=0", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        listed = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True).stdout
        return int(listed.split()[0]) << 20
    except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
        raise ConfigError(
            f"nvidia-smi does not say how much memory the GPU has: set --kv-cache-bytes ({error})"
        ) from error


def available_bytes(proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the memory that this process may still take, in bytes.

    It is the machine's, or less where a control group (a container) has a limit.
    """
    fields = dict(line.split(":", 1) for line in (proc / "meminfo").read_text().splitlines() if ":" in line)
    rooms = [int(fields["MemAvailable"].split()[0]) << 10]
    for folder in _memory_groups(proc, groups):
        rooms += _rooms(folder)
    return max(min(rooms), 0)


def _memory_groups(proc: Path, groups: Path) -> Iterator[Path]:
    """Folders of the control groups that this process is in, each with those above it, of version 1 and 2."""
    try:
        lines = (proc / "self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top = groups / "memory" if controllers else groups
        inner = top / path.lstrip("/")
        yield from (folder for folder in (inner, *inner.parents) if folder == top or top in folder.parents)


def _rooms(folder: Path) -> Iterator[int]:
    """What a group may still take. Pages of files count as free: the kernel gives them up first."""
    for usage, (limits, pages) in GROUP_FILES.items():
        try:
            used = int((folder / usage).read_text())
            lines = (line.split() for line in (folder / "memory.stat").read_text().splitlines())
            files = sum(int(size) for name, size in lines if name in pages)
            found = [text for name in limits if (text := (folder / name).read_text().strip()) != "max"]
        except (OSError, ValueError):
            continue
        yield from (int(limit) - max(used - files, 0) for limit in found)
