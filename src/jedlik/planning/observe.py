"""The memory of a planner: load in bins, and recent lengths and cache hits, from the reports of gateways.

Bins are even; what covers several is spread over them, so that a report that came late is not a burst. A bin of which
nothing is known is not filled in: unknown is not zero.
"""

from jedlik.core.plans import Demand
from jedlik.core.sums import float_sum
from jedlik.planning.engine import Engine, Lengths, Mix, mix_of
from jedlik.planning.lengths import add, shares

FORGET_S = 900.0
"""Half of what is known of lengths and hits is from so long ago, at steady load."""
GUESS_OUTPUT_TOKENS = 128.0
"""Before the first answer has ended."""


class Habits:
    """Lengths, hits, and what of it all could be kept."""

    def __init__(self) -> None:
        self._prompts: dict[int, float] = {}
        self._outputs: dict[int, float] = {}
        self._arrived = self._prompt_tokens = 0.0
        self._answered = self._output_tokens = 0.0
        self._answered_prompt = self._cached = 0.0

    def take(self, demand: Demand, period_s: float) -> None:
        """Take the demand of a period."""
        keep = 0.5 ** (period_s / FORGET_S)
        for counts in (self._prompts, self._outputs):
            for bucket in counts:
                counts[bucket] *= keep
        self._arrived = keep * self._arrived + demand.arrived
        self._prompt_tokens = keep * self._prompt_tokens + demand.prompt_tokens
        self._answered = keep * self._answered + demand.answered
        self._output_tokens = keep * self._output_tokens + demand.output_tokens
        self._answered_prompt = keep * self._answered_prompt + demand.answered_prompt_tokens
        self._cached = keep * self._cached + demand.cached_tokens
        add(self._prompts, demand.prompts)
        add(self._outputs, demand.outputs)

    @property
    def cached_share(self) -> float:
        """Return the share of prompt tokens that were found in a cache."""
        return self._cached / self._answered_prompt if self._answered_prompt > 0 else 0.0

    @property
    def prompt_tokens(self) -> float:
        """Mean length of a prompt."""
        return self._prompt_tokens / self._arrived if self._arrived > 0 else 1.0

    @property
    def known(self) -> bool:
        return self._arrived > 0

    def mix(self, engine: Engine, slo_ttft_s: float | None) -> Mix:
        """Requests as they lately were."""
        prompts = Lengths(self._prompts, self._prompt_tokens / self._arrived if self._arrived > 0 else None)
        if self._answered > 0:
            answers = Lengths(self._outputs, self._output_tokens / self._answered)
        else:
            answers = Lengths({0: 1.0}, GUESS_OUTPUT_TOKENS)
        return mix_of(engine, prompts, answers, self.cached_share, slo_ttft_s)


def work_s(demand: Demand, engine: Engine, cached_share: float) -> float:
    """Engine time that the prompts of a period take."""
    mean = demand.prompt_tokens / demand.arrived if demand.arrived else None
    each = ((engine.prefill_s(length, length * cached_share), share) for length, share in shares(demand.prompts, mean))
    return demand.arrived * float_sum(own_s * share for own_s, share in each)
