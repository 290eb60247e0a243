"""Linear layers whose weights are laid out once, at load, as the CPU's matrix kernels need them.

PyTorch's plain `linear` on a CPU hands oneDNN row-major weights, and small batches then pay for a slow path or a
rearrangement at every call; packed once, decode steps of a small model run about 1.5 to 2 times faster
(bench/engine_speed.py). The layers use the operators torch.compile itself emits for frozen weights; where they are
missing or disagree, layers stay as they are. bfloat16 goes to our own kernel where the CPU has the instructions
(`panels`).
"""

from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from jedlik.engines.torch import panels

ROWS = 32
"""The batch size that the layout is chosen for; any may be used."""


class PackedLinear(nn.Module):
    """An `nn.Linear` with packed weights. Inference only."""

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = plain.in_features, plain.out_features
        self.packed = torch.ops.mkldnn._reorder_linear_weight(plain.weight.detach(), ROWS)
        self.bias = plain.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute what nn.Linear computes: [..., in_features] to [..., out_features]."""
        done: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")
        return done


def pack(model: nn.Module, cache_dir: Path, threads: int) -> int:
    """Replace a model's linear layers in place; return how many were replaced, 0 where packing does not work.

    They are replaced one after the other: each plain layer goes before the next is packed, so that memory is taken
    once, not twice.
    """
    plain = [
        (parent, name)
        for parent in model.modules()
        for name, child in parent.named_children()
        if type(child) is nn.Linear
    ]
    kernel = panels.load(cache_dir) if any(panels.fits(getattr(parent, name)) for parent, name in plain) else None
    packs = _works()
    for parent, name in plain:
        child = getattr(parent, name)
        if kernel is not None and panels.fits(child):
            setattr(parent, name, panels.PanelLinear(child, kernel, threads))
        elif packs:
            setattr(parent, name, PackedLinear(child))
    return sum(type(module) in (PackedLinear, panels.PanelLinear) for module in model.modules())


def _works() -> bool:
    """Return whether the operators exist and give what `linear` gives."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    plain = nn.Linear(48, 64)
    x = torch.linspace(-1, 1, 5 * 48).view(5, 48)
    try:
        with torch.inference_mode():
            want = functional.linear(x, plain.weight, plain.bias)
            return bool(torch.allclose(PackedLinear(plain)(x), want, atol=1e-5))
    except (RuntimeError, AttributeError):
        return False
