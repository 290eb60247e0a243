"""The memory that a server takes of this host: computed before it is taken, shown, and refused where it can't fit.

Workers fault their KV caches in when they start, so that no step waits for a page: better refused now than killed then.
"""

import math
from pathlib import Path

import msgspec

from jedlik.core.config import ServeConfig
from jedlik.core.errors import ConfigError
from jedlik.models import info, safetensors
from jedlik.serve.engines import kind_of
from jedlik.serve.sizing import LEAST_BYTES, MOST_SHARE, available_bytes, host_share, sizes
from jedlik.serve.values import size_text

SERVER_BYTES = 200 << 20
"""The memory of supervisor and gateway."""
HEAD, EMBEDDINGS = "lm_head.weight", "embed_tokens.weight"
ITEM_BYTES = {"bfloat16": 2, "float32": 4}


class MemoryUse(msgspec.Struct, frozen=True, kw_only=True):
    """The memory that a server takes, in bytes: each field is one worker's."""

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

    @property
    def total(self) -> int:
        """The memory of the whole server."""
        return SERVER_BYTES + self.workers * self.each

    def __str__(self) -> str:
        """1.9 GiB of memory (2 workers of 858 MiB each: process 450 MiB, KV cache 151 MiB; 200 MiB for the server)."""
        named = {"weights": self.weights, "KV cache": self.cache, "host memory for KV": self.host}
        parts = {"process": self.process} | {name: size for name, size in named.items() if size}
        listed = ", ".join(f"{name} {size_text(size)}" for name, size in parts.items())
        each = size_text(self.each)
        many = f"{self.workers} workers of {each} each" if self.workers != 1 else f"1 worker of {each}"
        return f"{size_text(self.total)} of memory ({many}: {listed}; {size_text(SERVER_BYTES)} for the server)"


def prepare(config: ServeConfig, path: Path) -> tuple[int | None, str]:
    """Return the KV cache memory of each worker, where that is of this host and nobody named it; and a line for people.

    Raises ConfigError with a remedy, where the server does not fit, or a cache is too small to serve.
    """
    kind, free = kind_of(config), available_bytes()
    gpu, dtype = kind.on_gpu(config), kind.memory(config).dtype
    model = info.read(path)
    use = estimate(config, 0 if gpu else weight_bytes(path, dtype), free)
    layout = info.layout(model, dtype, config.worker.block_size)
    if config.kv_cache_bytes or use.cache:
        sizes(config, layout, model.context_length, use.cache)
    check(use, free)
    return (use.cache if use.cache and not config.kv_cache_bytes else None), summary(use, free)


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


def estimate(config: ServeConfig, weights: int, free: int) -> MemoryUse:
    """Return the memory of all workers.

    A cache of no set size is a share of what is free, and of what the rest leaves.
    """
    workers, kind = config.most_workers, kind_of(config)
    needs = kind.memory(config)
    if not needs.holds_data:
        return MemoryUse(workers=workers, process=needs.process_bytes)
    host = config.kv_host_bytes or 0
    bare = MemoryUse(workers=workers, process=needs.process_bytes, weights=weights, host=host)
    if kind.on_gpu(config):
        return bare
    share = int((free - bare.total) * MOST_SHARE / max(workers, 1))
    cache = config.kv_cache_bytes or min(host_share(free), max(share, LEAST_BYTES))
    return msgspec.structs.replace(bare, cache=cache)


def check(use: MemoryUse, free: int) -> None:
    """Raise ConfigError where it is more than there is."""
    if use.total <= free:
        return
    remedies = ["--kv-cache-bytes"] * (use.cache > LEAST_BYTES) + ["--kv-host-bytes"] * bool(use.host)
    remedies += ["the number of workers (--workers)"] * (use.workers > 1)
    remedy = f"lower {' or '.join(remedies)}" if remedies else "end other programs, or serve a smaller model"
    raise ConfigError(f"the server takes about {use}, and {size_text(free)} are free here: {remedy}")


def summary(use: MemoryUse, free: int) -> str:
    """Return the line that tells people what the server takes, before it takes it."""
    changes = "; --kv-cache-bytes changes that" if use.cache else ""
    return f"takes about {use}, of {size_text(free)} free here{changes}"
