"""Engines by kind: each is loaded only in the worker process that runs it, and told apart here alone.

What comes out is the same for all: something that fulfils `live/worker.Engine`, the card's facts about it, and the
memory its blocks are in.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from jedlik.cli import tiers
from jedlik.cli.process import ProcessConfig
from jedlik.cli.sizing import Sizes, available_bytes, gpu_bytes, gpu_share, host_share, sizes, threads
from jedlik.core.config import ServeConfig
from jedlik.core.errors import Bug, ConfigError
from jedlik.core.ids import WorkerId
from jedlik.core.protocol import SCHEMA_VERSION, Capabilities, Card, Layout, StepCosts
from jedlik.kv.hashing import hash_check
from jedlik.live.worker import Engine
from jedlik.models import info as models
from jedlik.models.cache import home
from jedlik.perf.model import LinearModel, StepModel
from jedlik.perf.profile import Profile
from jedlik.perf.profile import model as step_model
from jedlik.profiles.catalogue import lookup
from jedlik.transfer.arena import Arena
from jedlik.transfer.processes import host_name
from jedlik.transfer.region import Region

if TYPE_CHECKING:
    from jedlik.engines.torch.engine import Buffer

Status = Callable[[str], None]
STAND_IN_BYTES = 64
"""Of a simulated engine's block, which holds nothing: so many zeros are moved in its place, in as many moves."""
WORD = re.compile("[Ġ▁]?[A-Za-z]{2,12}")


class Loaded(msgspec.Struct, frozen=True):
    """An engine ready to start, and what its worker shows."""

    engine: Engine
    card: Card
    arena: Arena
    """Its cache, where that is host memory, and the host tier."""
    device: Region | None = None
    """Its cache elsewhere."""


def load(told: ProcessConfig, status: Status) -> Loaded:
    """Load the configured engine; may take long. Raises ConfigError with a remedy."""
    path = Path(told.model_path)
    model = models.read(path)
    if told.config.engine == "simulated":
        return _simulated(told, path, model)
    return _torch(told, path, model, status)


def profiled_costs(config: ServeConfig) -> StepCosts | None:
    """What steps are taken to take until they tell otherwise; None where no profile is named."""
    if config.profile is None:
        return None
    costs = step_model(lookup(config.profile)).costs
    if config.engine != "simulated":
        return costs
    return StepCosts(*(seconds / config.speedup for seconds in msgspec.structs.astuple(costs)))


def _simulated(told: ProcessConfig, path: Path, model: models.ModelInfo) -> Loaded:
    from jedlik.engines.simulated import CAPABILITIES, DEFAULT_COSTS, SimulatedEngine

    config = told.config
    layout = models.layout(model, "bfloat16", config.worker.block_size)
    profile = lookup(config.profile) if config.profile else None
    share = simulated_share(profile, layout) or host_share(available_bytes())
    size = sizes(config, layout, model.context_length, share)
    steps: StepModel = step_model(profile) if profile else LinearModel(DEFAULT_COSTS)
    engine = SimulatedEngine(steps, config.speedup, words(path))
    card = _card(told, model, layout, size, CAPABILITIES)
    shown = msgspec.structs.replace(card, revision=f"simulated {told.model_name}", engine="simulated")
    return Loaded(engine, shown, Arena(STAND_IN_BYTES, size.total_blocks, host_blocks(card)))


def simulated_share(profile: Profile | None, layout: Layout) -> int | None:
    """Bytes, in this model's blocks, of as many tokens as the profiled engine's cache holds; no memory is taken."""
    if profile is None or profile.kv_tokens is None:
        return None
    return (profile.kv_tokens // layout.block_size + 1) * models.block_bytes(layout)


def _torch(told: ProcessConfig, path: Path, model: models.ModelInfo, status: Status) -> Loaded:
    from jedlik.engines.torch.options import EngineOptions, dtype_of

    config = told.config
    compute_threads = threads(config, os.cpu_count() or 1)
    os.environ["OMP_NUM_THREADS"] = str(compute_threads)  # read once, when torch's thread pool is made
    status("importing torch")
    try:
        from jedlik.engines.torch.engine import TorchEngine, device_of
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{error.name} is not installed: pip install 'jedlik[torch]', or --engine simulated"
        ) from error
    device = device_of(config.device)
    layout = models.layout(model, dtype_of(config.dtype, device), config.worker.block_size)
    size = sizes(config, layout, model.context_length, _share(told, model, device))
    options = EngineOptions(
        cache_dir=str(home() / "kernels"),
        device=config.device,
        dtype=config.dtype,
        block_size=config.worker.block_size,
        max_sequences=config.worker.max_sequences,
        max_model_len=size.max_model_len,
        threads=compute_threads,
        deterministic=config.deterministic,
    )

    def progress(done: int, total: int) -> None:
        status(f"loading weights, {done / 1e6:.0f} of {total / 1e6:.0f} MB")

    card = _card(told, model, layout, size, Capabilities())
    status("taking memory")
    memory = _Memory(card, size, on_host=device == "cpu")
    engine = TorchEngine(path, options, memory.of, progress)
    facts = engine.facts
    status("hashing weights")
    shown = msgspec.structs.replace(
        card,
        layout=facts.layout,
        capabilities=facts.capabilities,
        revision=models.revision(path, facts.layout.dtype),
        total_blocks=facts.total_blocks,
        vocab_size=facts.vocab_size,
        engine=f"torch {facts.device} {facts.layout.dtype} {facts.attention}",
    )
    return Loaded(engine, shown, memory.arena, memory.device)


class _Memory:
    """Where a torch engine's cache is: in the arena, or in a GPU's memory beside it."""

    def __init__(self, card: Card, size: Sizes, *, on_host: bool) -> None:
        self._size_bytes = size.kv_cache_bytes
        self.arena = Arena(card.layout.block_bytes, size.total_blocks if on_host else 0, host_blocks(card))
        self.device: Region | None = None

    def of(self, layout: Layout, where: str) -> "Buffer":
        from jedlik.engines.torch.device_region import DeviceRegion
        from jedlik.engines.torch.pool import allocate

        if layout.block_bytes != self.arena.block_bytes:
            raise Bug(f"the engine's blocks are {layout}, of another size than the arena's")
        if where == "cpu":
            return self.arena.device.array.data
        cache = allocate(self._size_bytes, where)
        self.device = DeviceRegion(cache, layout.block_bytes)
        return cache


def host_blocks(card: Card) -> int:
    """Of the host tier; 0 where there is none."""
    return next((tier.blocks for tier in card.tiers if tier.tier == "host"), 0)


def _share(told: ProcessConfig, model: models.ModelInfo, device: str) -> int:
    """KV cache memory where nobody named a size."""
    if told.config.kv_cache_bytes or device == "cpu":
        return host_share(available_bytes())
    sharing = len(told.config.roles) if told.device is None else 1
    return gpu_share(gpu_bytes(), model.weight_bytes, sharing)


def _card(
    told: ProcessConfig, model: models.ModelInfo, layout: Layout, size: Sizes, capabilities: Capabilities
) -> Card:
    return Card(
        schema=SCHEMA_VERSION,
        worker=WorkerId(told.id),
        name=told.name,
        model=told.model_name,
        revision="",
        layout=layout,
        total_blocks=size.total_blocks,
        max_model_len=size.max_model_len,
        max_sequences=told.config.worker.max_sequences,
        max_step_tokens=told.config.worker.max_step_tokens,
        vocab_size=model.vocab_size,
        eos_token_ids=model.eos_token_ids,
        hash_check=hash_check(told.cluster_key),
        capabilities=capabilities,
        handoffs=("slots",),
        host=host_name(),
        tiers=tiers.sizes(told.config, layout),
    )


def words(path: Path) -> list[int]:
    """Token ids that read as plain words, for simulated text; any that are not special where there are none."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    special = set(tokenizer.get_added_tokens_decoder())
    plain = sorted((index, text) for text, index in tokenizer.get_vocab().items() if index not in special)
    return [index for index, text in plain if WORD.fullmatch(text)] or [index for index, _ in plain]
