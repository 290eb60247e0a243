"""The engine table: for each kind of engine what it needs, how a worker's card is made, and how it starts.

Nothing outside this module asks for an engine's name. To add an engine, write a class that fulfils `EngineKind` and
enter it in `ENGINES`: then `serve`, `doctor`, `profile`, the supervisor's reckoning of memory and the choice of places
work with it, and `tests/conformance` can put its worker before the protocol's tests. An engine that has no scheduler of
its own fulfils the step contract (`core/step`) and is driven by jedlik's scheduler. One that schedules itself needs an
adapter in place of that scheduler, which speaks docs/protocol.md.

The supervisor imports this module: whatever is large (numpy, torch, the engines) is imported where it is used.
"""

import importlib.util
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import msgspec

from jedlik.core.config import ServeConfig
from jedlik.core.errors import Bug, ConfigError, did_you_mean
from jedlik.core.ids import WorkerId
from jedlik.core.protocol import SCHEMA_VERSION, Capabilities, Card, Layout, StepCosts
from jedlik.kv.hashing import hash_check
from jedlik.models import info as models
from jedlik.models.cache import home
from jedlik.serve import tiers
from jedlik.serve.sizing import Sizes, available_bytes, gpu_bytes, gpu_share, host_share, sizes, threads

if TYPE_CHECKING:
    from jedlik.engines.torch.engine import Buffer
    from jedlik.live.worker import StepEngine
    from jedlik.perf.profile import Profile
    from jedlik.serve.process import ProcessConfig
    from jedlik.transfer.arena import Arena
    from jedlik.transfer.region import Region

Status = Callable[[str], None]
"""A call with a line of progress for the supervisor to show."""
STAND_IN_BYTES = 64
"""The size of a simulated engine's block, which holds nothing: so many zeros are transferred in its place."""
WORD = re.compile("[Ġ▁]?[A-Za-z]{2,12}")
NO_TORCH = "pip install 'jedlik[torch]' (without a GPU first: pip install torch==2.13.0)"


class MemoryNeeds(NamedTuple):
    """The memory of a host that an engine needs, beside its KV cache."""

    process_bytes: int
    """The memory of a worker's process, with the engine it imports and what a step needs."""
    dtype: str
    """The type of the numbers in weights and KV blocks."""
    holds_data: bool
    """Whether weights and KV blocks are in memory; a simulated engine's are not."""


class LoadedEngine(NamedTuple):
    """An engine that is ready to start, its worker's card, and the memory of its blocks."""

    engine: "StepEngine"
    card: Card
    device: str
    """The device that computes: "cpu" or "cuda"."""
    arena: "Arena"
    """The engine's cache, where that is host memory, and the host tier."""
    cache: "Region | None" = None
    """The engine's cache, where it is not in the arena."""


class EngineKind(Protocol):
    """One kind of engine: everything that the rest of jedlik may ask of it."""

    packages: tuple[str, ...]
    """The packages that must be installed, with the one first that is looked for at start."""
    remedy: str
    """The remedy where a package is missing."""
    schedules_itself: bool
    """False: jedlik's scheduler decides each step. True: the engine has a scheduler, and its worker is an adapter."""
    loads_weights: bool
    """False: a model's configuration and tokenizer are enough to serve it."""

    def on_gpu(self, config: ServeConfig) -> bool:
        """Return whether workers compute on GPUs; asked by the supervisor, which imports no engine."""

    def memory(self, config: ServeConfig) -> MemoryNeeds:
        """Return what a worker needs of this host's memory; asked by the supervisor."""

    def step_costs(self, costs: StepCosts, config: ServeConfig) -> StepCosts:
        """Return the step costs of a worker whose profile has these costs."""

    def load(self, process: "ProcessConfig", status: Status) -> LoadedEngine:
        """Load the engine, in the worker's process, and make the worker's card; this may take long.

        Raises ConfigError with a remedy.
        """


class TorchKind(EngineKind):
    """PyTorch, in this process."""

    packages = ("torch", "transformers", "safetensors")
    remedy = f"{NO_TORCH}; --engine simulated works without"
    schedules_itself = False
    loads_weights = True

    def on_gpu(self, config: ServeConfig) -> bool:
        if config.device == "cpu":
            return False
        return config.device == "cuda" or Path("/proc/driver/nvidia").exists()

    def memory(self, config: ServeConfig) -> MemoryNeeds:
        from jedlik.engines.torch.options import dtype_of

        gpu = self.on_gpu(config)
        dtype = dtype_of(config.dtype, "cuda" if gpu else "cpu")
        return MemoryNeeds(process_bytes=1 << 30 if gpu else 450 << 20, dtype=dtype, holds_data=True)

    def step_costs(self, costs: StepCosts, config: ServeConfig) -> StepCosts:
        return costs

    def load(self, process: "ProcessConfig", status: Status) -> LoadedEngine:
        from jedlik.engines.torch.options import EngineOptions, dtype_of

        config, path = process.config, Path(process.model_path)
        model = models.read(path)
        compute_threads = threads(config, os.cpu_count() or 1)
        os.environ["OMP_NUM_THREADS"] = str(compute_threads)  # read once, when torch's thread pool is made
        status("importing torch")
        try:
            from jedlik.engines.torch.engine import TorchEngine, device_of
        except ModuleNotFoundError as error:
            raise ConfigError(f"{error.name} is not installed: {self.remedy}") from error
        device = device_of(config.device)
        layout = models.layout(model, dtype_of(config.dtype, device), config.worker.block_size)
        size = sizes(config, layout, model.context_length, _share(process, model, device))
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

        card = worker_card(process, model, layout, size, Capabilities())
        status("taking memory")
        memory = _TorchMemory(card, size, on_host=device == "cpu")
        engine = TorchEngine(path, options, memory.of, progress)
        facts = engine.facts
        status("hashing weights")
        card = msgspec.structs.replace(
            card,
            layout=facts.layout,
            capabilities=facts.capabilities,
            revision=models.revision(path, facts.layout.dtype),
            total_blocks=facts.total_blocks,
            vocab_size=facts.vocab_size,
            engine=f"torch {facts.device} {facts.layout.dtype} {facts.attention}",
        )
        return LoadedEngine(engine, card, device, memory.arena, memory.cache)


class SimulatedKind(EngineKind):
    """The simulated engine: it takes the time of steps and computes nothing."""

    packages = ()
    remedy = ""
    schedules_itself = False
    loads_weights = False

    def on_gpu(self, config: ServeConfig) -> bool:
        return False

    def memory(self, config: ServeConfig) -> MemoryNeeds:
        return MemoryNeeds(process_bytes=70 << 20, dtype="bfloat16", holds_data=False)

    def step_costs(self, costs: StepCosts, config: ServeConfig) -> StepCosts:
        return costs.scaled(1 / config.speedup)

    def load(self, process: "ProcessConfig", status: Status) -> LoadedEngine:
        from jedlik.engines.simulated import CAPABILITIES, DEFAULT_COSTS, SimulatedEngine
        from jedlik.perf.model import LinearModel
        from jedlik.perf.profile import model as step_model
        from jedlik.profiles.catalogue import lookup
        from jedlik.transfer.arena import Arena

        config, path = process.config, Path(process.model_path)
        model = models.read(path)
        layout = models.layout(model, self.memory(config).dtype, config.worker.block_size)
        profile = lookup(config.profile) if config.profile else None
        share = simulated_share(profile, layout) or host_share(available_bytes())
        size = sizes(config, layout, model.context_length, share)
        steps = step_model(profile) if profile else LinearModel(DEFAULT_COSTS)
        card = msgspec.structs.replace(
            worker_card(process, model, layout, size, CAPABILITIES),
            revision=f"simulated {process.model_name}",
            engine="simulated",
        )
        engine = SimulatedEngine(steps, config.speedup, words(path))
        return LoadedEngine(engine, card, "cpu", Arena(STAND_IN_BYTES, size.total_blocks, host_blocks(card)))


ENGINES: Mapping[str, EngineKind] = {"torch": TorchKind(), "simulated": SimulatedKind()}
"""Every kind of engine, by the name that `--engine` takes."""


def kind_of(config: ServeConfig) -> EngineKind:
    """Return the kind of the configured engine. Raises ConfigError for a name that is not in the table."""
    if config.engine not in ENGINES:
        known = ", ".join(ENGINES)
        raise ConfigError(f"engine is {config.engine!r}{did_you_mean(config.engine, ENGINES)}; expected one of {known}")
    return ENGINES[config.engine]


def check_installed(config: ServeConfig) -> None:
    """Check that the engine's first package is installed. Raises ConfigError with a remedy."""
    kind = kind_of(config)
    for package in kind.packages[:1]:
        if importlib.util.find_spec(package) is None:
            raise ConfigError(f"{package} is not installed: {kind.remedy}")


def load(process: "ProcessConfig", status: Status) -> LoadedEngine:
    """Load the configured engine; this may take long. Raises ConfigError with a remedy."""
    return kind_of(process.config).load(process, status)


def profiled_costs(config: ServeConfig) -> StepCosts | None:
    """Return the step costs that a worker assumes until it has learnt its own; None where no profile is named."""
    from jedlik.perf.profile import model as step_model
    from jedlik.profiles.catalogue import lookup

    if config.profile is None:
        return None
    return kind_of(config).step_costs(step_model(lookup(config.profile)).costs, config)


def simulated_share(profile: "Profile | None", layout: Layout) -> int | None:
    """Return the size, in this model's blocks, of as many tokens as the profiled engine's cache holds.

    No memory is taken. None: the profile does not say.
    """
    if profile is None or profile.kv_tokens is None:
        return None
    return (profile.kv_tokens // layout.block_size + 1) * models.block_bytes(layout)


class _TorchMemory:
    """The memory of a torch engine's cache: in the arena, or in a GPU's memory beside it."""

    def __init__(self, card: Card, size: Sizes, *, on_host: bool) -> None:
        from jedlik.transfer.arena import Arena

        self._size_bytes = size.kv_cache_bytes
        self.arena = Arena(card.layout.block_bytes, size.total_blocks if on_host else 0, host_blocks(card))
        self.cache: Region | None = None

    def of(self, layout: Layout, where: str) -> "Buffer":
        from jedlik.engines.torch.device_region import DeviceRegion
        from jedlik.engines.torch.pool import allocate

        if layout.block_bytes != self.arena.block_bytes:
            raise Bug(f"the engine's blocks are {layout}, of another size than the arena's")
        if where == "cpu":
            return self.arena.device.array.data
        cache = allocate(self._size_bytes, where)
        self.cache = DeviceRegion(cache, layout.block_bytes)
        return cache


def host_blocks(card: Card) -> int:
    """Return the number of blocks in the host tier; 0 where there is none."""
    return next((tier.blocks for tier in card.tiers if tier.tier == "host"), 0)


def _share(process: "ProcessConfig", model: models.ModelInfo, device: str) -> int:
    """Return the size of the KV cache where no setting names it."""
    if process.config.kv_cache_bytes or device == "cpu":
        return host_share(available_bytes())
    sharing = len(process.config.roles) if process.device is None else 1
    return gpu_share(gpu_bytes(), model.weight_bytes, sharing)


def worker_card(
    process: "ProcessConfig", model: models.ModelInfo, layout: Layout, size: Sizes, capabilities: Capabilities
) -> Card:
    """Return the card of a worker, as far as it does not depend on its engine."""
    from jedlik.transfer.processes import host_name

    config = process.config
    return Card(
        schema=SCHEMA_VERSION,
        worker=WorkerId(process.id),
        name=process.name,
        model=process.model_name,
        revision="",
        layout=layout,
        total_blocks=size.total_blocks,
        max_model_len=size.max_model_len,
        max_sequences=config.worker.max_sequences,
        max_step_tokens=config.worker.max_step_tokens,
        vocab_size=model.vocab_size,
        eos_token_ids=model.eos_token_ids,
        hash_check=hash_check(process.cluster_key),
        capabilities=capabilities,
        handoffs=("slots",),
        host=host_name(),
        tiers=tiers.sizes(config, layout),
        pool=process.pool,
    )


def words(path: Path) -> list[int]:
    """Return token ids that read as plain words, for simulated text; any that are not special where there are none."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    special = set(tokenizer.get_added_tokens_decoder())
    plain = sorted((index, text) for text, index in tokenizer.get_vocab().items() if index not in special)
    return [index for index, text in plain if WORD.fullmatch(text)] or [index for index, _ in plain]
