"""How a worker's times to first token compare with what its step model said, and the correction that follows.

An exponential average of log(observed / predicted), so that twice and half cancel; each sample is bounded, and nothing
is corrected before there are enough. Predictions go in as the model made them, uncorrected: otherwise a correction
would be taken for a better model.
"""

from math import exp, log

from jedlik.core.errors import Bug

BOUND = 4.0
"""No sample counts as more than this many times off."""
WEIGHT = 0.05
"""Of the newest sample: about the last twenty count."""
MIN_SAMPLES = 8


class Calibration:
    """One worker's."""

    __slots__ = ("_log", "samples")

    def __init__(self) -> None:
        self._log = 0.0
        self.samples = 0

    def observe(self, predicted_s: float, observed_s: float) -> None:
        """Take one first token; times that can't be compared are left out."""
        if predicted_s <= 0 or observed_s <= 0:
            return
        self.samples += 1
        ratio = min(BOUND, max(1 / BOUND, observed_s / predicted_s))
        self._log += max(WEIGHT, 1 / self.samples) * (log(ratio) - self._log)

    @property
    def ratio(self) -> float:
        """Observed over predicted, lately; 1 where nothing is known."""
        return exp(self._log)

    @property
    def correction(self) -> float:
        """What to multiply predictions by."""
        return self.ratio if self.samples >= MIN_SAMPLES else 1.0

    def check(self) -> None:
        """The average is within the bounds of what went in."""
        if abs(self._log) > log(BOUND) * (1 + 1e-9):
            raise Bug(f"calibration: a mean ratio of {self.ratio} out of samples within {BOUND}")
