"""Sums of floats that are the same to the last bit on every version of Python.

The built-in `sum` adds floats one after the other up to Python 3.11 and with compensation from 3.12 on, so that the
same seed would give two simulations. `tools/float_sums.py` refuses it for floats; whole numbers may use it.
"""

from collections.abc import Iterable


def float_sum(values: Iterable[float]) -> float:
    """Add from left to right and round at each step."""
    so_far = 0.0
    for value in values:
        so_far += value
    return so_far
