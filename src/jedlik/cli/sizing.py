"""Sizes nobody named: KV cache memory, context length, threads. Pure arithmetic over what the machine says it has."""

from pathlib import Path

import msgspec

from jedlik.core.config import ServeConfig
from jedlik.core.errors import ConfigError
from jedlik.core.protocol import Layout
from jedlik.models.info import block_bytes

SHARE = 0.1
LEAST_BYTES, MOST_BYTES = 64 << 20, 2 << 30


class Sizes(msgspec.Struct, frozen=True):
    """What one worker gets."""

    kv_cache_bytes: int
    total_blocks: int
    """Block 0, the engine's padding, included."""
    max_model_len: int
    threads: int


def sizes(config: ServeConfig, layout: Layout, model_len: int, memory_bytes: int, cores: int) -> Sizes:
    """`model_len` is the model's own context length. Raises ConfigError if a request would not fit."""
    budget = config.kv_cache_bytes or min(max(int(memory_bytes * SHARE), LEAST_BYTES), MOST_BYTES)
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
    threads = config.threads or max(1, cores // max(config.workers, 1))
    return Sizes(blocks * block, blocks, min(wanted, holds), threads)


def available_bytes(proc: Path = Path("/proc/meminfo"), cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Memory this process may still take: the machine's, or its container's if that is less."""
    fields = dict(line.split(":", 1) for line in proc.read_text().splitlines() if ":" in line)
    machine = int(fields["MemAvailable"].split()[0]) << 10
    try:
        limit, used = (cgroup / "memory.max").read_text().strip(), (cgroup / "memory.current").read_text()
    except OSError:
        return machine
    return machine if limit == "max" else max(min(machine, int(limit) - int(used)), 0)
