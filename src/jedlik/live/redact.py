"""Takes what users wrote out of events and effects before they are kept: token ids go, lengths and sharing stay.

Packed tokens are replaced block by block with a keyed digest chained over the blocks before, so two records share a
prefix exactly where the originals did, and nobody without the key can tell what it was. Single tokens become 0. A
redacted log serves for studying and for workloads; exact replay needs `event_log_tokens`.
"""

import hashlib
from typing import TypeVar

import msgspec

from jedlik.core.effects import Deliver, GatewayEffect, RunStep, ToClient, ToWorkerEffect, WorkerEffect
from jedlik.core.events import Arrived, FromClient, FromWorker, GatewayEvent, StepEnded, WorkerEvent
from jedlik.core.protocol import Submit, Tokens
from jedlik.core.step import Step
from jedlik.core.tokens import TOKEN_BYTES

T = TypeVar("T", bound=GatewayEvent | GatewayEffect | WorkerEvent | WorkerEffect)


class Redactor:
    """A redactor for one cluster key and block size."""

    def __init__(self, key: bytes, block_size: int) -> None:
        self._keyed = hashlib.blake2b(b"event log", key=key[:64], digest_size=16)
        self._block_bytes = block_size * TOKEN_BYTES

    def __call__(self, what: T) -> T:
        """Return the same event or effect without token ids."""
        replace = msgspec.structs.replace
        match what:
            case Arrived():
                request = what.request
                return replace(what, request=replace(request, prompt=self.packed(request.prompt)))
            case FromWorker(message=Tokens() as tokens):
                return replace(what, message=self._tokens(tokens))
            case FromClient(message=Submit() as submit) | ToWorkerEffect(message=Submit() as submit):
                return replace(what, message=self._submit(submit))
            case ToClient(message=Tokens() as tokens):
                return replace(what, message=self._tokens(tokens))
            case Deliver():
                started = [replace(s, prompt_logprobs=None) for s in what.started]
                ended = [replace(e, stop_token=None) for e in what.ended]
                return replace(what, tokens=[0] * len(what.tokens), logprobs=[], started=started, ended=ended)
            case StepEnded(done=done):
                blank = [0] * len(done.tokens)
                return replace(what, done=replace(done, tokens=blank, logprobs={}, prompt_logprobs={}))
            case RunStep(step=step):
                return replace(what, step=self._step(step))
        return what

    def packed(self, tokens: bytes) -> bytes:
        """Return bytes as long as `tokens`, equal for equal prefixes of whole blocks."""
        out, parent = [], b""
        for at in range(0, len(tokens), self._block_bytes):
            block = tokens[at : at + self._block_bytes]
            state = self._keyed.copy()
            state.update(parent + block)
            parent = state.digest()
            out.append((parent * (len(block) // len(parent) + 1))[: len(block)])
        return b"".join(out)

    def _submit(self, submit: Submit) -> Submit:
        prompt, output = self.packed(submit.prompt), bytes(len(submit.output))
        return msgspec.structs.replace(submit, prompt=prompt, output=output)

    def _tokens(self, tokens: Tokens) -> Tokens:
        replace = msgspec.structs.replace
        started = [replace(s, prompt_logprobs=None) for s in tokens.started]
        finished = [replace(f, stop_token=None) for f in tokens.finished]
        return replace(tokens, tokens=[0] * len(tokens.tokens), started=started, finished=finished, logprobs=[])

    def _step(self, step: Step) -> Step:
        replace = msgspec.structs.replace
        opened = [replace(o, prompt=self.packed(o.prompt), output=bytes(len(o.output))) for o in step.opened]
        return replace(step, opened=opened)
