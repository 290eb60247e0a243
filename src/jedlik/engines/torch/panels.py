"""bfloat16 linear layers by our own kernel (linear.c), on CPUs that multiply bfloat16 natively.

Weights are laid out in panels once, at load, and read once per step, in order: a small batch then runs near memory
bandwidth, where oneDNN's cost is several times that. A row's result does not depend on the batch.
"""

import ctypes
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from jedlik.engines.torch.native import library

SOURCE = Path(__file__).with_name("linear.c")
OUTPUTS = 32
"""The number of outputs in a panel."""

Kernel = Callable[[int, int, int, int, int, int, int, int, int], None]
"""The compiled function: pointers, sizes and threads as linear.c takes them."""


class PanelLinear(nn.Module):
    """An `nn.Linear` of bfloat16 with an even number of inputs. Inference only."""

    def __init__(self, plain: nn.Linear, kernel: Kernel, threads: int) -> None:
        super().__init__()
        self.in_features, self.out_features = plain.in_features, plain.out_features
        self.panels, self.bias = _panels(plain.weight.detach()), _padded(plain)
        self._kernel, self._threads = kernel, threads
        self._fixed = (self.panels.data_ptr(), self.bias.data_ptr())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute what nn.Linear computes: [..., in_features] to [..., out_features]."""
        rows = x.reshape(-1, self.in_features)
        if rows.stride(-1) != 1:
            rows = rows.contiguous()
        count = rows.shape[0]
        out = torch.empty((*x.shape[:-1], self.out_features), dtype=x.dtype)
        sizes = (count, self.out_features, self.in_features // 2, self._threads)
        self._kernel(rows.data_ptr(), rows.stride(0), *self._fixed, out.data_ptr(), *sizes)
        return out


def _panels(weight: torch.Tensor) -> torch.Tensor:
    """Lay out [outputs, inputs] as [panels, input pairs, 32, 2]; outputs that fill up the last panel are 0."""
    outputs, inputs = weight.shape
    panels = -(-outputs // OUTPUTS)
    filled = functional.pad(weight, (0, 0, 0, panels * OUTPUTS - outputs))
    return filled.view(panels, OUTPUTS, inputs // 2, 2).permute(0, 2, 1, 3).contiguous()


def _padded(plain: nn.Linear) -> torch.Tensor:
    outputs = plain.out_features
    bias = torch.zeros(-(-outputs // OUTPUTS) * OUTPUTS)
    if plain.bias is not None:
        bias[:outputs] = plain.bias.detach().float()
    return bias


def fits(plain: nn.Linear) -> bool:
    """Return whether a layer can be laid out in panels."""
    return plain.weight.dtype == torch.bfloat16 and plain.in_features % 2 == 0


def load(cache_dir: Path) -> Kernel | None:
    """Return the compiled kernel, or None where it can't be compiled or is wrong."""
    made = library(SOURCE, cache_dir)
    kernel = getattr(made, "linear_bf16", None)  # compiled to nothing for a CPU without AVX512-BF16
    if kernel is None:
        return None
    pointer, size = ctypes.c_void_p, ctypes.c_int64
    kernel.argtypes = (pointer, size, pointer, pointer, pointer, size, size, size, size)
    kernel.restype = None
    return kernel if _agrees(kernel) else None


@torch.inference_mode()
def _agrees(kernel: Kernel) -> bool:
    """Return whether the kernel gives what float32 gives, rounded.

    The case has more rows than a tile, outputs that don't fill a panel, and a bias.
    """
    plain = nn.Linear(64, 48).bfloat16()
    x = torch.linspace(-1, 1, 29 * 64).view(29, 64).bfloat16()
    want = functional.linear(x.float(), plain.weight.float(), plain.bias.float())
    return bool(torch.allclose(PanelLinear(plain, kernel, 1)(x).float(), want, atol=1e-3, rtol=1e-2))
