"""The random numbers behind sampling: a function of (seed, choice, output position), nothing else.

A counter-based generator has no state to carry: a sequence draws the same numbers in any batch, after preemption and
at another worker. The mixing function is SplitMix64's finaliser (Steele, Lea, Flood 2014), applied per input.
"""

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]
_GAMMA, _MIX_1, _MIX_2 = (np.uint64(x) for x in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def mix(x: Words) -> Words:
    """SplitMix64's output function of state x; wraps modulo 2**64."""
    x = x + _GAMMA
    x = (x ^ (x >> np.uint64(30))) * _MIX_1
    x = (x ^ (x >> np.uint64(27))) * _MIX_2
    return x ^ (x >> np.uint64(31))


def uniform(seed: Words, choice: Words, position: Words) -> npt.NDArray[np.float64]:
    """One number in [0, 1) per row, a multiple of 2**-52."""
    word = mix(mix(mix(seed) ^ choice) ^ position)
    return (word >> np.uint64(12)).astype(np.float64) * 2.0**-52
