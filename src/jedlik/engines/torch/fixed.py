"""Matrix products whose rows don't depend on how many other rows there are: what `--deterministic` turns on.

BLAS picks its kernel, and with it the order of additions, by the shape. Here every linear layer sees blocks of exactly
`ROWS` rows, the last one padded, so a row's sum is always taken by the same kernel.
"""

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

ROWS = 32


class FixedShapes(TorchFunctionMode):
    """While entered, `functional.linear` runs in blocks of `ROWS` rows. Everything else in a decoder is row by row."""

    def __torch_function__(  # type: ignore[no-untyped-def]
        self, func, types, args=(), kwargs=None
    ):
        """torch's hook: see `torch.overrides`."""
        if func is functional.linear:
            return blocked_linear(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def blocked_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """`functional.linear`, ROWS rows at a time."""
    rows = x.reshape(-1, x.shape[-1])
    count = rows.shape[0]
    padded = rows.new_zeros(-(-count // ROWS) * ROWS, x.shape[-1])
    padded[:count] = rows
    parts = [functional.linear(part, weight, bias) for part in torch.split(padded, ROWS)]
    if not parts:
        return x.new_zeros(*x.shape[:-1], weight.shape[0])
    return torch.cat(parts)[:count].reshape(*x.shape[:-1], weight.shape[0])
