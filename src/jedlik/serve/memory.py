"""The memory that a server takes of this host: computed before it is taken, shown, and refused where it can't fit.

Workers fault their KV caches in when they start, so that no step waits for a page: better refused now than killed then.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from jedlik.core.config import ServeConfig
from jedlik.core.errors import ConfigError
from jedlik.core.units import size_text
from jedlik.models import info, safetensors
from jedlik.serve.engines import kind_of
from jedlik.serve.sizing import LEAST_BYTES, MOST_SHARE, available_bytes, host_share, sizes

SERVER_BYTES = 200 << 20
"""The memory of supervisor and gateway."""
HEAD, EMBEDDINGS = "lm_head.weight", "embed_tokens.weight"
ITEM_BYTES = {"bfloat16": 2, "float32": 4}


class PoolNeeds(NamedTuple):
    """One pool, as its memory depends on it."""

    config: ServeConfig
    workers: int
    """The most workers that it may have."""
    path: Path
    """The folder of the pool's model."""


class MemoryUse(msgspec.Struct, frozen=True, kw_only=True):
    """The memory that a pool takes, in bytes: each field is one worker's."""

    workers: int
    process: int
    weights: int = 0
    cache: int = 0
    host: int = 0
    """The host memory for blocks that leave the cache."""

    @property
    def each(self) -> int:
        """The memory of one worker."""
        return self.process + self.weights + self.cache + self.host

    def __str__(self) -> str:
        """2 workers of 858 MiB each: process 450 MiB, KV cache 151 MiB."""
        named = {"weights": self.weights, "KV cache": self.cache, "host memory for KV": self.host}
        parts = {"process": self.process} | {name: size for name, size in named.items() if size}
        listed = ", ".join(f"{name} {size_text(size)}" for name, size in parts.items())
        each = size_text(self.each)
        many = f"{self.workers} workers of {each} each" if self.workers != 1 else f"1 worker of {each}"
        return f"{many}: {listed}"


def prepare(pools: Sequence[PoolNeeds]) -> tuple[list[int | None], str]:
    """Return each pool's KV cache memory of a worker, where that is of this host and nobody named it; and a line.

    Raises ConfigError with a remedy, where the server does not fit, or a cache is too small to serve.
    """
    free, bare = available_bytes(), []
    for config, workers, path in pools:
        kind = kind_of(config)
        weights = 0 if kind.on_gpu(config) else weight_bytes(path, kind.memory(config).dtype)
        bare.append(without_cache(config, workers, weights))
    configs = [pool.config for pool in pools]
    uses = with_caches(configs, bare, free)
    for (config, _, path), use in zip(pools, uses, strict=True):
        if config.kv_cache_bytes or use.cache:
            model = info.read(path)
            layout = info.layout(model, kind_of(config).memory(config).dtype, config.worker.block_size)
            sizes(config, layout, model.context_length, use.cache)
    check(uses, free)
    cache = [
        use.cache if use.cache and not config.kv_cache_bytes else None
        for config, use in zip(configs, uses, strict=True)
    ]
    return cache, summary(uses, free)


def weight_bytes(path: Path, dtype: str) -> int:
    """Return the size of a model's weights in memory, as numbers of `dtype`.

    A head that is tied to the embeddings counts too: it is laid out anew for the matrix kernels, as all layers are, and
    the embeddings stay.
    """
    found = safetensors.tensors(path)
    numbers = sum(math.prod(tensor.shape) for tensor in found.values())
    if HEAD not in found:
        numbers += sum(math.prod(tensor.shape) for name, tensor in found.items() if name.endswith(EMBEDDINGS))
    return numbers * ITEM_BYTES[dtype]


def without_cache(config: ServeConfig, workers: int, weights: int) -> MemoryUse:
    """Return the memory of a pool's workers without their KV caches."""
    needs = kind_of(config).memory(config)
    if not needs.holds_data:
        return MemoryUse(workers=workers, process=needs.process_bytes)
    host = config.kv_host_bytes or 0
    return MemoryUse(workers=workers, process=needs.process_bytes, weights=weights, host=host)


def with_caches(configs: Sequence[ServeConfig], bare: Sequence[MemoryUse], free: int) -> list[MemoryUse]:
    """Return the memory of all pools.

    A cache of no set size is a share of what is free, and of what the rest leaves.
    """
    workers = max(sum(use.workers for use in bare), 1)
    share = max(int((free - total(bare)) * MOST_SHARE / workers), LEAST_BYTES)
    found = []
    for config, use in zip(configs, bare, strict=True):
        kind = kind_of(config)
        if kind.memory(config).holds_data and not kind.on_gpu(config):
            use = msgspec.structs.replace(use, cache=config.kv_cache_bytes or min(host_share(free), share))
        found.append(use)
    return found


def total(uses: Sequence[MemoryUse]) -> int:
    """Return the memory of a whole server, in bytes."""
    return SERVER_BYTES + sum(use.workers * use.each for use in uses)


def check(uses: Sequence[MemoryUse], free: int) -> None:
    """Raise ConfigError where it is more than there is."""
    if total(uses) <= free:
        return
    remedies = ["--kv-cache-bytes"] * any(use.cache > LEAST_BYTES for use in uses)
    remedies += ["--kv-host-bytes"] * any(use.host for use in uses)
    remedies += ["the number of workers (--workers)"] * (sum(use.workers for use in uses) > 1)
    remedy = f"lower {' or '.join(remedies)}" if remedies else "end other programs, or serve a smaller model"
    raise ConfigError(f"the server takes about {_text(uses)}, and {size_text(free)} are free here: {remedy}")


def summary(uses: Sequence[MemoryUse], free: int) -> str:
    """Return the line that tells people what the server takes, before it takes it."""
    changes = "; --kv-cache-bytes changes that" if any(use.cache for use in uses) else ""
    return f"takes about {_text(uses)}, of {size_text(free)} free here{changes}"


def _text(uses: Sequence[MemoryUse]) -> str:
    """1.9 GiB of memory (2 workers of 858 MiB each: process 450 MiB, KV cache 151 MiB; 200 MiB for the server)."""
    pools = "; ".join(str(use) for use in uses if use.workers)
    return f"{size_text(total(uses))} of memory ({pools}; {size_text(SERVER_BYTES)} for the server)"
