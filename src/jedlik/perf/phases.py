"""A step model with one base for steps that prefill and another for steps that only decode: six numbers an engine."""

from jedlik.perf.linear import PhaseCosts, nearest
from jedlik.perf.step import StepShape


class PhaseModel:
    """`PhaseCosts` as a model."""

    def __init__(self, costs: PhaseCosts) -> None:
        self._costs = costs
        self.costs = nearest(self.step_s)

    def step_s(self, shape: StepShape) -> float:
        costs = self._costs
        decodes_s = costs.decode_sequence_s * shape.decode_sequences + costs.context_token_s * shape.context_tokens
        if not shape.prefill_tokens:
            return costs.decode_base_s + decodes_s
        prefill_s = costs.prefill_token_s * shape.prefill_tokens + costs.prefill_pair_s * shape.prefill_pairs
        return costs.prefill_base_s + prefill_s + decodes_s

    def decode_line(self, sequences: int) -> tuple[float, float]:
        costs = self._costs
        return costs.decode_base_s + costs.decode_sequence_s * sequences, costs.context_token_s
