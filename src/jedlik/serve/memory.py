"""What a server takes of this host's memory: reckoned before anything is taken, told, and refused where it can't fit.

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
from jedlik.serve.units import shown

SERVER_BYTES = 200 << 20
"""Supervisor and gateway."""
HEAD, EMBEDDINGS = "lm_head.weight", "embed_tokens.weight"
ITEM_BYTES = {"bfloat16": 2, "float32": 4}


class Takes(msgspec.Struct, frozen=True):
    """Bytes: of one worker, but for `total`."""

    workers: int
    process: int
    weights: int
    cache: int
    host: int
    """The host memory for blocks that leave the cache."""

    @property
    def each(self) -> int:
        return self.process + self.weights + self.cache + self.host

    @property
    def total(self) -> int:
        return SERVER_BYTES + self.workers * self.each


def prepare(config: ServeConfig, path: Path) -> tuple[int | None, str]:
    """KV cache memory of each worker, where that is of this host and nobody named it; and what to tell people.

    Raises ConfigError with a remedy, where the server does not fit, or a cache is too small to serve.
    """
    kind, free = kind_of(config), available_bytes()
    gpu, dtype = kind.on_gpu(config), kind.memory(config).dtype
    model = info.read(path)
    takes = reckoned(config, 0 if gpu else weight_bytes(path, dtype), free)
    layout = info.layout(model, dtype, config.worker.block_size)
    if config.kv_cache_bytes or takes.cache:
        sizes(config, layout, model.context_length, takes.cache)
    check(takes, free)
    return (takes.cache if takes.cache and not config.kv_cache_bytes else None), told(takes, free)


def weight_bytes(path: Path, dtype: str) -> int:
    """The size of a model's weights in memory, as numbers of `dtype`.

    A head that is tied to the embeddings counts too: it is laid out anew for the matrix kernels, as all layers are, and
    the embeddings stay.
    """
    found = safetensors.tensors(path)
    numbers = sum(math.prod(tensor.shape) for tensor in found.values())
    if HEAD not in found:
        numbers += sum(math.prod(tensor.shape) for name, tensor in found.items() if name.endswith(EMBEDDINGS))
    return numbers * ITEM_BYTES[dtype]


def reckoned(config: ServeConfig, weights: int, free: int) -> Takes:
    """The memory of all workers. A cache of no set size is a share of what is free, and of what the rest leaves."""
    workers, kind = config.most_workers, kind_of(config)
    needs = kind.memory(config)
    if not needs.holds_data:
        return Takes(workers, needs.process_bytes, 0, 0, 0)
    bare = Takes(workers, needs.process_bytes, weights, 0, config.kv_host_bytes or 0)
    if kind.on_gpu(config):
        return bare
    left = int((free - bare.total) * MOST_SHARE / max(workers, 1))
    return msgspec.structs.replace(bare, cache=config.kv_cache_bytes or min(host_share(free), max(left, LEAST_BYTES)))


def check(takes: Takes, free: int) -> None:
    """Raises ConfigError where it is more than there is."""
    if takes.total <= free:
        return
    remedies = ["--kv-cache-bytes"] * (takes.cache > LEAST_BYTES) + ["--kv-host-bytes"] * bool(takes.host)
    remedies += ["the number of workers (--workers)"] * (takes.workers > 1)
    remedy = f"lower {' or '.join(remedies)}" if remedies else "end other programs, or serve a smaller model"
    raise ConfigError(f"the server takes about {_parts(takes)}, and {shown(free)} are free here: {remedy}")


def told(takes: Takes, free: int) -> str:
    """The line that tells people what the server takes, before it takes it."""
    changes = "; --kv-cache-bytes changes that" if takes.cache else ""
    return f"takes about {_parts(takes)}, of {shown(free)} free here{changes}"


def _parts(takes: Takes) -> str:
    """1.9 GiB of memory (2 workers of 858 MiB each: process 450 MiB, KV cache 151 MiB; 200 MiB for the server)."""
    named = {"weights": takes.weights, "KV cache": takes.cache, "host memory for KV": takes.host}
    parts = [f"process {shown(takes.process)}", *(f"{name} {shown(size)}" for name, size in named.items() if size)]
    many = f"{takes.workers} worker{'s' * (takes.workers != 1)} of {shown(takes.each)}{' each' * (takes.workers != 1)}"
    return f"{shown(takes.total)} of memory ({many}: {', '.join(parts)}; {shown(SERVER_BYTES)} for the server)"
