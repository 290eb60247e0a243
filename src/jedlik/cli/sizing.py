"""Sizes nobody named: KV cache memory, context length, threads. Pure arithmetic over what the machine says it has."""

import subprocess
from pathlib import Path

import msgspec

from jedlik.core.config import ServeConfig
from jedlik.core.errors import ConfigError
from jedlik.core.protocol import Layout
from jedlik.models.info import block_bytes

SHARE, GPU_SHARE = 0.1, 0.8
MOST_SHARE = 0.5
"""Of a host's free memory, for all workers' KV caches."""
LEAST_BYTES, MOST_BYTES = 64 << 20, 2 << 30


class Sizes(msgspec.Struct, frozen=True):
    """What one worker gets."""

    kv_cache_bytes: int
    total_blocks: int
    """Block 0, the engine's padding, included."""
    max_model_len: int


def host_share(memory_bytes: int) -> int:
    """Of a host's free memory, for one worker's KV cache."""
    return min(max(int(memory_bytes * SHARE), LEAST_BYTES), MOST_BYTES)


def gpu_share(memory_bytes: int, weight_bytes: int, workers: int) -> int:
    """Of a GPU's memory, for the KV cache of one of the workers that share it, each with the weights of its own."""
    return max(int(memory_bytes * GPU_SHARE / max(workers, 1)) - weight_bytes, LEAST_BYTES)


def threads(config: ServeConfig, cores: int) -> int:
    """Compute threads of one worker."""
    return config.threads or max(1, cores // max(config.most_workers, 1))


def host_sharing(config: ServeConfig, memory_bytes: int) -> int:
    """KV cache memory of each worker on CPU where nobody named a size: all that there may ever be get the same."""
    return min(host_share(memory_bytes), max(int(memory_bytes * MOST_SHARE / config.most_workers), LEAST_BYTES))


def sizes(config: ServeConfig, layout: Layout, model_len: int, share_bytes: int) -> Sizes:
    """`model_len` is the model's own context length. Raises ConfigError if a request would not fit."""
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
    return Sizes(blocks * block, blocks, min(wanted, holds))


def gpu_bytes() -> int:
    """Memory of the first GPU. Raises ConfigError if nobody says."""
    query = ["nvidia-smi", "--id=0", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True).stdout
        return int(told.split()[0]) << 20
    except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
        raise ConfigError(
            f"nvidia-smi does not say how much memory the GPU has: set --kv-cache-bytes ({error})"
        ) from error


def available_bytes(proc: Path = Path("/proc/meminfo"), cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Memory this process may still take: the machine's, or its container's if that is less."""
    fields = dict(line.split(":", 1) for line in proc.read_text().splitlines() if ":" in line)
    machine = int(fields["MemAvailable"].split()[0]) << 10
    try:
        limit, used = (cgroup / "memory.max").read_text().strip(), (cgroup / "memory.current").read_text()
    except OSError:
        return machine
    return machine if limit == "max" else max(min(machine, int(limit) - int(used)), 0)
