"""Step times where nothing was measured, from operations, bytes read and sent, and messages, at usual efficiencies.

Dense models, mixtures of experts (the weights that a batch touches) and latent attention (one compressed cache for all
heads, the same on every GPU). Against the shipped tables dense models are within some 40 %, mixtures within a factor of
2.5 (imbalance between experts is not modelled). A profile is better, and calibration corrects either.
"""

import msgspec

from jedlik.core.errors import ConfigError
from jedlik.perf.linear import Point, phases
from jedlik.perf.profile import Profile
from jedlik.perf.step import StepShape, chunk_pairs
from jedlik.perf.table import Table, TableModel

MEMORY_EFFICIENCY = 0.70
LINK_EFFICIENCY = 0.80
FIXED_S = 0.0025
"""Seconds of any step: launches, sampling, host."""
MESSAGE_S = 7.5e-6
"""An all-reduce too small for its bandwidth to matter."""
MEMORY_SHARE = 0.9
"""The share of a GPU's memory that weights, activations and KV cache may fill together."""
RUNTIME_BYTES = 3584 << 20
"""Activations, graphs and libraries, per GPU."""
VALUE_BYTES = {"bfloat16": 2.0, "fp8": 1.0, "fp4": 0.5625}
"""Bytes of a weight or cached value; four-bit formats carry a scale for every 16 values."""
TOKENS = tuple(1 << n for n in range(4, 16))
BATCHES = tuple(1 << n for n in range(11))
CONTEXTS = (1024, 8192)


class ModelShape(msgspec.Struct, frozen=True, kw_only=True):
    """The sizes of a model that a forward pass depends on. Parameters are counts, not bytes."""

    name: str
    layers: int
    hidden: int
    parameters: int
    """All that a step may read: without the input embedding, of which it reads a few rows."""
    embedding_parameters: int
    """The input embedding, unless it is the output's too."""
    expert_parameters: int = 0
    """The parameters of routed experts, of `parameters`."""
    experts: int = 0
    experts_used: int = 0
    """Experts that one token uses in one layer."""
    heads: int
    kv_heads: int
    kv_values: int
    """Cached per token and layer: 2 x kv_heads x head_dim; latent attention: its rank and its rotated part."""
    latent: bool = False
    query_dim: int
    """Multiplications per head for a query and a key, plus those for a weight and a value, halved."""
    latent_dim: int = 0
    """The same for a decode that stays in the latent space."""
    weight_dtype: str = "bfloat16"
    kv_dtype: str = "bfloat16"

    @property
    def active_parameters(self) -> float:
        """The parameters that one token multiplies with."""
        share = self.experts_used / self.experts if self.experts else 0.0
        return self.parameters - self.expert_parameters * (1 - share)

    def touched_parameters(self, tokens: int) -> float:
        """Read by a step over so many tokens, each choosing its experts by itself."""
        if not self.experts:
            return float(self.parameters)
        share = 1 - (1 - self.experts_used / self.experts) ** tokens
        return self.parameters - self.expert_parameters * (1 - share)


class Gpu(msgspec.Struct, frozen=True, kw_only=True):
    """Constants of one GPU. Rates are peaks, per second."""

    name: str
    memory_bytes: int
    memory_bytes_s: float
    flops: dict[str, float]
    """Peak operations per second by dtype, dense."""
    link_bytes_s: float
    """Bytes per second to a GPU of its scale-up domain, one direction."""
    network_bytes_s: float
    """Bytes per second to any other GPU."""
    domain: int
    """GPUs that reach each other by `link_bytes_s`."""
    collective_bytes: dict[int, int] = {}
    """Memory that communication takes, by number of GPUs."""

    def peak(self, dtype: str) -> float:
        """Return the peak for weights of this type. A GPU that can't compute in it uses the next wider one."""
        wider = {"fp4": ("fp4", "fp8", "bfloat16"), "fp8": ("fp8", "bfloat16"), "bfloat16": ("bfloat16",)}
        return next(self.flops[kind] for kind in wider[dtype] if kind in self.flops)


def compute_efficiency(shape: ModelShape) -> float:
    """Share of the peak that prefill reaches."""
    if shape.experts or shape.weight_dtype == "fp4":
        return 0.30
    return 0.45 if shape.weight_dtype == "fp8" else 0.55


def weight_bytes(shape: ModelShape) -> float:
    """Return the bytes of all weights; embeddings are kept in BF16."""
    return shape.parameters * VALUE_BYTES[shape.weight_dtype] + shape.embedding_parameters * VALUE_BYTES["bfloat16"]


def kv_gpu_bytes(shape: ModelShape, tp: int) -> float:
    """Return the bytes of a token's KV on one GPU: heads are divided as far as there are any, a latent cache is not."""
    parts = 1 if shape.latent else min(tp, shape.kv_heads)
    return shape.layers * shape.kv_values * VALUE_BYTES[shape.kv_dtype] / parts


def kv_tokens(shape: ModelShape, gpu: Gpu, tp: int) -> int:
    """Return how many tokens' KV fits beside the weights. 0 or less: the model does not fit."""
    taken = weight_bytes(shape) / tp + RUNTIME_BYTES + gpu.collective_bytes.get(min(tp, 8), 0)
    return int((gpu.memory_bytes * MEMORY_SHARE - taken) / kv_gpu_bytes(shape, tp))


def table(shape: ModelShape, gpu: Gpu, tp: int) -> Table:
    """Step times over powers of two of tokens and sequences."""
    peak = gpu.peak(shape.weight_dtype) * compute_efficiency(shape) * tp
    bandwidth = gpu.memory_bytes_s * MEMORY_EFFICIENCY
    value_bytes = VALUE_BYTES[shape.weight_dtype]

    def layers_s(tokens: int) -> float:
        """Everything but attention."""
        compute_s = 2 * shape.active_parameters * tokens / peak
        read_s = shape.touched_parameters(tokens) * value_bytes / (bandwidth * tp)
        return FIXED_S + max(compute_s, read_s) + all_reduces_s(shape, gpu, tp, tokens)

    dim = shape.latent_dim or shape.query_dim
    context_s = 4 * shape.layers * shape.heads * dim / (gpu.peak("bfloat16") * compute_efficiency(shape) * tp)
    context_s = max(context_s, kv_gpu_bytes(shape, tp) / bandwidth)
    return Table(
        prefill_tokens=TOKENS,
        prefill_s=tuple(layers_s(tokens) for tokens in TOKENS),
        prefill_pair_s=4 * shape.layers * shape.heads * shape.query_dim / peak,
        batches=BATCHES,
        decode_s=tuple(layers_s(batch) for batch in BATCHES),
        context_token_s=(context_s,) * len(BATCHES),
        mixed_sequence_s=(layers_s(TOKENS[-1]) - layers_s(TOKENS[-2])) / (TOKENS[-1] - TOKENS[-2]),
    )


def all_reduces_s(shape: ModelShape, gpu: Gpu, tp: int, tokens: int) -> float:
    """Two per layer, of BF16 activations. Few tokens pay for the messages, many for the bytes."""
    if tp == 1:
        return 0.0
    rate = (gpu.link_bytes_s if tp <= gpu.domain else gpu.network_bytes_s) * LINK_EFFICIENCY
    sent_bytes = 2 * (tp - 1) / tp * tokens * shape.hidden * VALUE_BYTES["bfloat16"]
    return 2 * shape.layers * (MESSAGE_S + sent_bytes / rate)


def profile(shape: ModelShape, gpu: Gpu, tp: int, ep: int = 1) -> Profile:
    """Raises ConfigError where the model does not fit. Experts divided over the same GPUs (`ep`) cost as much here."""
    if shape.heads % tp:
        raise ConfigError(f"{shape.name} has {shape.heads} attention heads: tp{tp} does not divide them")
    room = kv_tokens(shape, gpu, tp)
    if room <= 0:
        raise ConfigError(
            f"{shape.name} ({shape.weight_dtype}, {weight_bytes(shape) / 1e9:.0f} GB) does not fit on {tp} {gpu.name} "
            f"of {gpu.memory_bytes / 1e9:.0f} GB: use more GPUs (tp{2 * tp}) or narrower weights"
        )
    found = table(shape, gpu, tp)
    parallel = f"tp{tp}" + (f"ep{ep}" if ep > 1 else "")
    return Profile(
        name=f"roofline:{shape.name}/{gpu.name}/{parallel}",
        model=shape.name,
        device=gpu.name,
        backend="roofline",
        tp=tp,
        ep=ep,
        gpus=tp,
        costs=phases(_points(TableModel(found))),
        table=found,
        kv_bytes_per_token=round(kv_gpu_bytes(shape, tp) * tp),
        kv_tokens=room,
        source=f"roofline at {compute_efficiency(shape):.0%} of peak compute, {MEMORY_EFFICIENCY:.0%} of bandwidth",
    )


def _points(model: TableModel) -> list[Point]:
    shapes = [StepShape(tokens, chunk_pairs(0, tokens), 0, 0) for tokens in TOKENS]
    shapes += [StepShape(0, 0, batch, batch * context) for batch in BATCHES for context in CONTEXTS]
    return [Point(shape, model.step_s(shape)) for shape in shapes]
