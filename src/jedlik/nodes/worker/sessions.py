"""The sessions of a worker with its clients: what the worker protocol asks of any worker, whatever schedules behind it.

A session owns the attempts of one client and collects the columns of its next `Tokens` message. `Sessions` checks
submits, follows the worker's state (role, draining), numbers cache facts and times load reports. It decides nothing
about batches or memory: an adapter before an engine with its own scheduler uses this module alone.
"""

from collections.abc import Callable, Iterable, Sequence
from math import inf
from typing import Generic, Protocol, TypeVar

import numpy as np

from jedlik.core.config import Role, WorkerConfig
from jedlik.core.effects import ToClient, WorkerEffect
from jedlik.core.errors import Fault
from jedlik.core.ids import ClientId, Handle, RequestId
from jedlik.core.protocol import Card, Finished, FinishReason, Load, Started, State, Submit, Tokens
from jedlik.core.step import TokenLogprobs
from jedlik.core.tokens import TOKEN_BYTES, count
from jedlik.kv.cache_report import CacheReport


class Attempt(Protocol):
    """One attempt, as far as a session needs to know it."""

    submit: Submit
    client: ClientId
    handle: Handle
    cached_tokens: int
    """The number of prompt tokens whose KV was found in a cache."""
    queued_s: float
    """The seconds that the attempt waited for its first step."""
    prompt_logprobs: list[TokenLogprobs] | None
    """The log-probabilities of the prompt, where they were asked for and are not sent yet."""
    started: bool
    """Whether `Started` is sent or in the columns."""


A = TypeVar("A", bound=Attempt)


class ClientSession(Generic[A]):
    """One connected client: its attempts, and the columns of its next `Tokens` message.

    The loop that answers a step appends to `handles` and `tokens` itself.
    """

    def __init__(self, client: ClientId, follows: bool = True) -> None:
        """Open a session; a client that `follows` wants cache facts and load reports."""
        self.client, self.follows = client, follows
        self.last_submit = 0
        self.attempts: dict[Handle, A] = {}
        self.choices: dict[tuple[RequestId, int], A] = {}
        self.handles: list[Handle] = []
        self.tokens: list[int] = []
        self.each = 1
        self._started: list[Started] = []
        self._finished: list[Finished] = []
        self._logprobs: list[tuple[Handle, TokenLogprobs]] = []

    def own(self, attempt: A) -> None:
        """Take on a new attempt of this client."""
        self.attempts[attempt.handle] = attempt
        self.choices[attempt.submit.request_id, attempt.submit.choice] = attempt

    def forget(self, attempt: A) -> None:
        """Drop an attempt that has ended."""
        del self.attempts[attempt.handle]
        key = (attempt.submit.request_id, attempt.submit.choice)
        if self.choices.get(key) is attempt:
            del self.choices[key]

    def replaced(self, submit: Submit) -> tuple[A | None, Fault | None]:
        """Return the attempt that a submit replaces, or the fault of a submit that is not newer."""
        self.last_submit = max(self.last_submit, submit.number)
        older = self.choices.get((submit.request_id, submit.choice))
        if submit.handle in self.attempts or (older is not None and older.submit.attempt >= submit.attempt):
            return None, Fault(kind="invalid", message="this attempt is not newer than the one that runs")
        return older, None

    def start(self, attempt: A) -> None:
        """Report an attempt's first token, or its end without one, in the next message."""
        attempt.started = True
        started = Started(attempt.handle, attempt.cached_tokens, attempt.queued_s, attempt.prompt_logprobs)
        self._started.append(started)
        attempt.prompt_logprobs = None

    def finish(self, handle: Handle, reason: FinishReason, stop_token: int | None = None) -> None:
        """Report the end of an answer in the next message."""
        self._finished.append(Finished(handle, reason, stop_token))

    def refuse(self, handle: Handle, fault: Fault) -> None:
        """Report in the next message that an attempt ends without (the rest of) its answer."""
        self._finished.append(Finished(handle, "abort", None, fault))

    def explain(self, handle: Handle, logprobs: TokenLogprobs) -> None:
        """Report the log-probabilities of an attempt's newest token in the next message."""
        self._logprobs.append((handle, logprobs))

    def flush(self, step: int) -> Tokens | None:
        """Return everything collected since the last call, None if that is nothing."""
        if not self.handles and not self._finished:
            return None
        message = Tokens(
            step=step,
            handles=self.handles,
            tokens=self.tokens,
            started=self._started,
            finished=self._finished,
            logprobs=self._logprobs,
            each=self.each,
        )
        self.handles, self.tokens, self.each = [], [], 1
        self._started, self._finished, self._logprobs = [], [], []
        return message

    def check(self) -> None:
        """Assert that the tables agree with each other and the columns with their lengths."""
        assert all(h == a.handle and a.client == self.client for h, a in self.attempts.items())
        assert all(self.attempts.get(a.handle) is a for a in self.choices.values())
        assert len(self.handles) * self.each == len(self.tokens)


class Sessions(Generic[A]):
    """All sessions of one worker."""

    def __init__(self, card: Card, config: WorkerConfig, role: Role, caches: Sequence[CacheReport]) -> None:
        """Begin without clients; `caches` report what the worker's tiers hold, the device first."""
        self.open: dict[ClientId, ClientSession[A]] = {}
        self.state = State(1, role)
        self.limits = CardLimits(card)
        self._caches = caches
        self._period_s, self._heartbeat_s = config.load_period_s, config.heartbeat_s
        self._reported_s = -inf
        self.changed = False
        """Whether the load has changed since the last report: an attempt came, ended, or had a chunk computed."""

    def join(self, client: ClientId, follows: bool, load: Callable[[int], Load], out: list[WorkerEffect]) -> None:
        """Open the session of a client that is new; one that follows gets the load and all that is cached."""
        self.open[client] = ClientSession(client, follows)
        out.append(ToClient(client, self.state))
        if follows:
            out.append(ToClient(client, load(0)))
            self.send_snapshots(client, out)

    def lose(self, client: ClientId) -> ClientSession[A] | None:
        """Close a session. The caller ends the attempts that it owned; nothing more is sent of them."""
        return self.open.pop(client, None)

    def send_snapshots(self, client: ClientId, out: list[WorkerEffect]) -> None:
        """Send a client all that is cached now."""
        out += [ToClient(client, chunk) for report in self._caches for chunk in report.snapshot()]

    def change(self, out: list[WorkerEffect], role: Role | None = None, draining: bool | None = None) -> None:
        """Change the worker's role or begin to drain, and tell every client."""
        state = self.state
        draining = state.draining if draining is None else draining
        self.state = State(state.epoch + 1, role or state.role, draining)
        out += [ToClient(client, self.state) for client in self.open]

    def fault(self, submit: Submit, engine: Fault | None = None) -> Fault | None:
        """Return why this worker takes no such submit now, None if it does; `engine`: what its engine objects to."""
        fault = self.limits.fault(submit) or engine
        if fault is not None:
            return fault
        return Fault(kind="unavailable", message="this worker is draining") if self.state.draining else None

    def flush(self, step: int, out: list[WorkerEffect]) -> None:
        """Send every client its tokens, then all followers what has changed in the caches."""
        for session in self.open.values():
            if (tokens := session.flush(step)) is not None:
                out.append(ToClient(session.client, tokens))
        for report in self._caches:
            if report.source.changes and (facts := report.facts()) is not None:
                out += [ToClient(session.client, facts) for session in self.open.values() if session.follows]

    def next_report_s(self) -> float:
        """Return when the next load report is due; inf: there is nobody to report to."""
        if not self.open:
            return inf
        return self._reported_s + (self._period_s if self.changed else self._heartbeat_s)

    def report(self, load: Callable[[int], Load], now: float, out: list[WorkerEffect]) -> None:
        """Send a load report to every follower, if it is time to."""
        if self.next_report_s() > now:
            return
        for session in self.open.values():
            if session.follows:
                out.append(ToClient(session.client, load(session.last_submit)))
        self._reported_s, self.changed = now, False

    def attempts(self) -> Iterable[A]:
        """Iterate over the attempts of all clients."""
        return (attempt for session in self.open.values() for attempt in session.attempts.values())

    def check(self) -> None:
        """Assert that every session is sound."""
        for session in self.open.values():
            session.check()


class CardLimits:
    """The limits of a worker's card: which submits the worker takes, and what ends their sequences."""

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
            return Fault(
                kind="invalid", message="the prompt must hold at least one token", param="prompt", code="invalid_prompt"
            )
        needed = prompt + min(submit.stopping.max_tokens, 1)
        if max(needed, prompt + count(submit.output)) > self.max_length:
            return Fault(
                kind="invalid",
                message=f"{prompt} prompt tokens and at least one of output exceed this model's context of "
                f"{self.max_length}",
                param="prompt",
                code="context_length_exceeded",
            )
        largest = max(int(np.frombuffer(part, np.uint32).max()) for part in (submit.prompt, submit.output) if part)
        if largest >= self._card.vocab_size:
            return Fault(
                kind="invalid",
                message=f"token id {largest} is not in the vocabulary",
                param="prompt",
                code="invalid_token",
            )
        return None

    def stops(self, submit: Submit) -> frozenset[int]:
        """Token ids that end this sequence."""
        named = submit.stopping.stop_token_ids
        if submit.stopping.ignore_eos:
            return frozenset(named)
        return self._eos.union(named) if named else self._eos
