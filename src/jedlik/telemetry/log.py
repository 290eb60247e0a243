"""Log lines: one per event worth telling, human or JSON, to one stream. Never prompt text, never token ids."""

import json
import time
from collections.abc import Callable
from typing import Literal, TextIO

Format = Literal["human", "json"]


class Log:
    """Writes lines of one process."""

    def __init__(self, process: str, form: Format, stream: TextIO, clock: Callable[[], float] = time.time) -> None:
        self._process = process
        self._form = form
        self._stream = stream
        self._clock = clock

    def line(self, event: str, **values: object) -> None:
        """One line, written at once. Values that are None are left out."""
        said = {key: value for key, value in values.items() if value is not None}
        now = self._clock()
        text = self._json(event, said, now) if self._form == "json" else self._human(event, said, now)
        self._stream.write(text + "\n")
        self._stream.flush()

    def _json(self, event: str, said: dict[str, object], now: float) -> str:
        head = {"time": round(now, 6), "process": self._process, "event": event}
        return json.dumps(head | said, default=str, ensure_ascii=False, separators=(",", ":"))

    def _human(self, event: str, said: dict[str, object], now: float) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(now)) + f".{int(now % 1 * 1000):03d}"
        return " ".join([clock, f"{self._process}:", event, *(f"{k}={_short(v)}" for k, v in said.items())])


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if any(c.isspace() or not c.isprintable() for c in text) else text
