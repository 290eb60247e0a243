"""Log lines: one per event worth telling, human or JSON, to one stream. Never prompt text, never token ids."""

import json
import time
from collections.abc import Callable
from typing import Literal, TextIO

from jedlik.core.facts import Answered

Format = Literal["human", "json"]


class Log:
    """Writes lines of one process."""

    def __init__(self, process: str, form: Format, stream: TextIO, clock: Callable[[], float] = time.time) -> None:
        self._process = process
        self._form = form
        self._stream = stream
        self._clock = clock
        self._second = -1
        self._second_text = ""
        """How that second of the day is written: asked of the time zone once a second."""

    def line(self, event: str, **values: object) -> None:
        """One line, written at once. Values that are None are left out."""
        known = {key: value for key, value in values.items() if value is not None}
        now = self._clock()
        self._write(self._json(event, known, now) if self._form == "json" else self._human(event, known, now))

    def answered(self, fact: Answered) -> None:
        """The line of every request, as `line` would write it, without going by way of a table of values."""
        if self._form == "json":
            self.line("answered", **_values(fact))
            return
        ttft_s = fact.ttft_s
        choice = f" choice={fact.choice}" if fact.choice else ""
        attempts = f" attempts={fact.attempts}" if fact.attempts > 1 else ""
        ttft = "" if ttft_s is None else f" ttft_s={ttft_s:.4g}"
        self._write(
            f"{self._time(self._clock())} {self._process}: answered request_id={_short(fact.request_id)}{choice}"
            f" outcome={fact.outcome} prompt_tokens={fact.prompt_tokens} cached_tokens={fact.cached_tokens}"
            f" output_tokens={fact.output_tokens}{attempts}{ttft} duration_s={fact.duration_s:.4g}"
            + "".join([f" {name}={_short(value)}" for name, value in _who(fact) if value])
        )

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text + "\n")
            self._stream.flush()
        except BrokenPipeError:
            pass  # whoever read it has ended (with the supervisor); serving goes on

    def _json(self, event: str, values: dict[str, object], now: float) -> str:
        head = {"time": round(now, 6), "process": self._process, "event": event}
        return json.dumps(head | values, default=str, ensure_ascii=False, separators=(",", ":"))

    def _human(self, event: str, values: dict[str, object], now: float) -> str:
        return " ".join([self._time(now), f"{self._process}:", event, *(f"{k}={_short(v)}" for k, v in values.items())])

    def _time(self, now: float) -> str:
        second = int(now)
        if second != self._second:
            self._second, self._second_text = second, time.strftime("%H:%M:%S", time.localtime(second))
        return f"{self._second_text}.{int(now % 1 * 1000):03d}"


def _values(fact: Answered) -> dict[str, object]:
    return {
        "request_id": fact.request_id,
        "choice": fact.choice or None,
        "outcome": fact.outcome,
        "prompt_tokens": fact.prompt_tokens,
        "cached_tokens": fact.cached_tokens,
        "output_tokens": fact.output_tokens,
        "attempts": fact.attempts if fact.attempts > 1 else None,
        "ttft_s": fact.ttft_s,
        "duration_s": fact.duration_s,
        **{name: value for name, value in _who(fact) if value},
    }


def _who(fact: Answered) -> tuple[tuple[str, str | None], ...]:
    """Whose answer it was, and where it was made; what is not known is empty or None."""
    return (
        ("tenant", fact.tenant),
        ("model", fact.model),
        ("pool", fact.pool),
        ("worker", fact.worker),
        ("trace_id", None if fact.trace is None else fact.trace.trace_id),
    )


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    text = str(value)
    if text.isprintable() and " " not in text:  # the space is the only printable white space
        return text
    return json.dumps(text, ensure_ascii=False)
