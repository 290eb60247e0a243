"""What a worker node keeps per gateway: the attempts it owns and the columns of the next `Tokens` message."""

import numpy as np

from jedlik.core.errors import Fault
from jedlik.core.ids import ClientId, Handle, RequestId
from jedlik.core.protocol import Card, Finished, FinishReason, Started, Submit, Tokens
from jedlik.core.step import TokenLogprobs
from jedlik.core.tokens import TOKEN_BYTES, count
from jedlik.scheduling.sequence import Sequence


class Peer:
    """One connected gateway, or another worker that hands off prefills. `follows`: it wants facts and load reports."""

    def __init__(self, client: ClientId, follows: bool = True) -> None:
        self.client, self.follows = client, follows
        self.last_submit = 0
        self.sequences: dict[Handle, Sequence] = {}
        self.choices: dict[tuple[RequestId, int], Sequence] = {}
        self.handles: list[Handle] = []
        self.tokens: list[int] = []
        self.each = 1
        self._started: list[Started] = []
        self._finished: list[Finished] = []
        self._logprobs: list[tuple[Handle, TokenLogprobs]] = []

    def own(self, sequence: Sequence) -> None:
        """A new attempt of this gateway."""
        self.sequences[sequence.handle] = sequence
        self.choices[sequence.submit.request_id, sequence.submit.choice] = sequence

    def forget(self, sequence: Sequence) -> None:
        """The attempt has ended."""
        del self.sequences[sequence.handle]
        key = (sequence.submit.request_id, sequence.submit.choice)
        if self.choices.get(key) is sequence:
            del self.choices[key]

    def start(self, sequence: Sequence) -> None:
        """Its first token (or its end without one) goes out now."""
        sequence.started = True
        self._started.append(
            Started(sequence.handle, sequence.cached_tokens, sequence.queued_s, sequence.prompt_logprobs)
        )
        sequence.prompt_logprobs = None

    def finish(self, handle: Handle, reason: FinishReason, stop_token: int | None = None) -> None:
        self._finished.append(Finished(handle, reason, stop_token))

    def refuse(self, handle: Handle, fault: Fault) -> None:
        """It ends without (the rest of) its answer."""
        self._finished.append(Finished(handle, "abort", None, fault))

    def explain(self, handle: Handle, logprobs: TokenLogprobs) -> None:
        self._logprobs.append((handle, logprobs))

    def flush(self, step: int) -> Tokens | None:
        """Everything gathered since the last call, None if nothing."""
        if not self.handles and not self._finished:
            return None
        message = Tokens(step, self.handles, self.tokens, self._started, self._finished, self._logprobs, self.each)
        self.handles, self.tokens, self.each = [], [], 1
        self._started, self._finished, self._logprobs = [], [], []
        return message

    def check(self) -> None:
        assert all(h == s.handle and s.client == self.client for h, s in self.sequences.items())
        assert all(self.sequences.get(s.handle) is s for s in self.choices.values())
        assert len(self.handles) * self.each == len(self.tokens)


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
