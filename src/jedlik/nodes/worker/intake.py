"""Which submits a worker takes: the checks that need no state, and what ends a sequence here."""

import numpy as np

from jedlik.core.errors import Fault
from jedlik.core.protocol import Card, Submit
from jedlik.core.tokens import TOKEN_BYTES, count


class Intake:
    """The limits of one worker's card, applied."""

    def __init__(self, card: Card) -> None:
        cache_tokens = (card.total_blocks - 1) * card.layout.block_size
        self.max_length = min(card.max_model_len, cache_tokens)
        """Longest history, prompt and output together, tokens."""
        self._card = card
        self._eos = frozenset(card.eos_token_ids)

    def fault(self, submit: Submit) -> Fault | None:
        """Why this submit can never be served here; None if it can."""
        prompt = count(submit.prompt)
        if not prompt or len(submit.prompt) % TOKEN_BYTES or len(submit.output) % TOKEN_BYTES:
            return Fault("invalid", "the prompt must hold at least one token", "prompt", "invalid_prompt")
        needed = prompt + min(submit.stopping.max_tokens, 1)
        if max(needed, prompt + count(submit.output)) > self.max_length:
            return Fault(
                "invalid",
                f"{prompt} prompt tokens and at least one of output exceed this model's context of {self.max_length}",
                "prompt",
                "context_length_exceeded",
            )
        largest = max(int(np.frombuffer(part, np.uint32).max()) for part in (submit.prompt, submit.output) if part)
        if largest >= self._card.vocab_size:
            return Fault("invalid", f"token id {largest} is not in the vocabulary", "prompt", "invalid_token")
        return None

    def stops(self, submit: Submit) -> frozenset[int]:
        """Token ids that end this sequence."""
        named = submit.stopping.stop_token_ids
        if submit.stopping.ignore_eos:
            return frozenset(named)
        return self._eos.union(named) if named else self._eos
