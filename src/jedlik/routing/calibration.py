"""How a worker's times to first token compare with what its step model said, and the correction that follows.

Averages of both, exponential, divided by each other: seconds count, not samples, because a correction matters where
times are long, and a tenth of a second more on a prediction of next to nothing says nothing about the model. Each
sample is bounded, and nothing is corrected before there are enough. Predictions go in as the model made them,
uncorrected: otherwise a correction would be taken for a better model.
"""

from jedlik.core.errors import Bug

BOUND = 4.0
"""No sample counts as more than this many times off."""
WEIGHT = 0.05
"""Of the newest sample: about the last twenty count."""
MIN_SAMPLES = 8


class Calibration:
    """One worker's."""

    __slots__ = ("_observed_s", "_predicted_s", "samples")

    def __init__(self) -> None:
        self._observed_s = self._predicted_s = 0.0
        self.samples = 0

    def observe(self, predicted_s: float, observed_s: float) -> None:
        """Take one first token; times that can't be compared are left out."""
        if predicted_s <= 0 or observed_s <= 0:
            return
        self.samples += 1
        weight = max(WEIGHT, 1 / self.samples)
        bounded_s = min(BOUND * predicted_s, max(predicted_s / BOUND, observed_s))
        self._predicted_s += weight * (predicted_s - self._predicted_s)
        self._observed_s += weight * (bounded_s - self._observed_s)

    @property
    def ratio(self) -> float:
        """Observed over predicted, lately; 1 where nothing is known."""
        return self._observed_s / self._predicted_s if self.samples else 1.0

    @property
    def enough(self) -> bool:
        """There are samples enough to correct by."""
        return self.samples >= MIN_SAMPLES

    @property
    def correction(self) -> float:
        """What to multiply predictions by."""
        return self.ratio if self.enough else 1.0

    def check(self) -> None:
        """The average is within the bounds of what went in."""
        if not 1 / BOUND - 1e-9 <= self.ratio <= BOUND + 1e-9:
            raise Bug(f"calibration: a mean ratio of {self.ratio} out of samples within {BOUND}")
