"""Trace files as lines, records and columns, and requests made of them; what is wrong is said with its line.

Numbers are read strictly (no underscores, signs or words that only Python takes), from JSON as from CSV.
"""

import csv
import math
import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec

from jedlik.core.errors import ConfigError
from jedlik.sim.workload import clock, packed
from jedlik.sim.workload.trace import ID_LIMIT, BlockIds, TraceRow

USUAL_BLOCKS = (16, 32, 64, 128, 256, 512, 1024)
MOST_TOKENS = 10**9
SEPARATORS = (",", ";", "\t")
COMMENT = b"#"
REPAIR = "correct the line or remove it"
Number = int | float | str
"""A number as JSON has it. Some exporters put numbers into quotes."""
T = TypeVar("T")


class ReadRequest(NamedTuple):
    """One line of a trace, as it is written."""

    line: int
    at: clock.Moment
    lengths: tuple[int, int]
    """Tokens of prompt and answer."""
    ids: Sequence[int]
    session: str = ""


class Source(msgspec.Struct, frozen=True):
    """One file of a workload."""

    path: Path

    def broken(self, line: int, what: str, remedy: str = REPAIR) -> ConfigError:
        return ConfigError(f"{self.path}:{line}: {what}; {remedy}")

    def head(self, size: int) -> bytes:
        """The first bytes, as they are on disk. Raises ConfigError if it cannot be opened."""
        return packed.head(self.path, size)

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Lines that are neither empty nor comments, with their numbers from 1."""
        number = 0
        try:
            for number, line in enumerate(packed.lines(self.path), 1):
                if b"\0" in line:
                    raise self.broken(number, "there are zero bytes in the text", "save the file as UTF-8")
                if not line.isspace() and not line.startswith(COMMENT):
                    yield number, line
        except UnicodeError as error:
            raise self.broken(number + 1, f"the text is damaged ({error})", "save the file as UTF-8") from error
        except packed.DAMAGED as error:
            raise self.broken(number + 1, f"the file is damaged here ({error})", "fetch it again") from error

    def first_line(self) -> tuple[int, bytes]:
        """The first line, with its number."""
        for number, line in self.lines():
            return number, line
        raise ConfigError(f"{self.path}: the file is empty; give a trace with at least one request")

    def records(self, kind: type[T]) -> Iterator[tuple[int, T]]:
        """One JSON object of `kind` per line."""
        decode = msgspec.json.Decoder(kind).decode
        for number, line in self.lines():
            try:
                yield number, decode(line)
            except (msgspec.MsgspecError, RecursionError) as error:
                raise self.broken(number, str(error)) from error

    def header(self) -> tuple[int, list[str]]:
        """The line in which the columns of a CSV file are named, and the names as `plain` has them."""
        number, line = self.first_line()
        rows = csv.reader(self._text(), delimiter=separator(line))
        return number, [plain(name) for name in next(filter(None, rows), [])]

    def columns(self, names: Sequence[str], optional: Sequence[str] = ()) -> Iterator[tuple[int, list[str]]]:
        """Return rows of a CSV file: the fields under `names`, then those under `optional` ("" where there is no such
        column)."""
        first, header = self.header()
        for name in names:
            if header.count(name) != 1:
                problem = "no column" if name not in header else "more than one column"
                raise self.broken(first, f"{problem} {name!r} among {', '.join(header)}", "give it one")
        places = [header.index(name) if name in header else -1 for name in (*names, *optional)]
        rows = csv.reader(self._text(), delimiter=separator(self.first_line()[1]))
        next(filter(None, rows))
        try:
            for row in rows:
                fields = [field.strip() for field in row]
                if not any(fields):
                    continue
                if len(fields) < len(header) or any(fields[len(header) :]):
                    raise self.broken(rows.line_num, f"{len(fields)} fields under {len(header)} columns")
                yield rows.line_num, [fields[place] if place >= 0 else "" for place in places]
        except csv.Error as error:
            raise self.broken(rows.line_num, f"not a line of CSV ({error})") from error

    def _text(self) -> Iterator[str]:
        expected = 1
        for number, line in self.lines():
            try:
                yield from ["\n"] * (number - expected)  # so that csv counts lines as the file does
                yield line.decode()
            except UnicodeDecodeError:
                raise self.broken(number, "not UTF-8 text", "save the file as UTF-8") from None
            expected = number + 1

    def moment(self, line: int, name: str, value: Number) -> clock.Moment:
        """A time, as a clock wrote it. Raises ConfigError."""
        number = numeric(value)
        if number is not None:
            return number
        try:
            return clock.date(str(value).strip())
        except ValueError:
            usual = "a number or a date and time like 2023-11-16 18:15:46.68"
            raise self.broken(line, f"{name} is {value!r}, not {usual}") from None

    def lengths(
        self, line: int, prompt: Number, answer: Number, names: Sequence[str] = ("input_length", "output_length")
    ) -> tuple[int, int]:
        """Tokens of prompt and answer; an answer of none is simulated as one. Raises ConfigError for what cannot be."""
        tokens, output_tokens = [self._length(line, *pair) for pair in zip(names, (prompt, answer), strict=True)]
        if tokens < 1:
            raise self.broken(line, f"the prompt has {tokens} tokens; it needs at least 1")
        if output_tokens < 0:
            raise self.broken(line, f"the answer has {output_tokens} tokens; it needs at least 1")
        if max(tokens, output_tokens) > MOST_TOKENS:
            raise self.broken(line, f"{max(tokens, output_tokens)} tokens are more than any model takes")
        return tokens, max(output_tokens, 1)

    def _length(self, line: int, name: str, value: Number) -> int:
        number = numeric(value)
        if number is None or number != int(number):
            kind = "a number" if number is None else "a whole number"
            raise self.broken(line, f"{name} is {value!r}, not {kind}")
        return int(number)

    def whole(self, line: int, ids: BlockIds, tokens: int, block_tokens: int) -> Sequence[int]:
        """`ids`; where the last, partial block has none: one more that nobody shares. Raises ConfigError."""
        count, full, begun = len(ids), tokens // block_tokens, -(-tokens // block_tokens)
        named = self._named(line, ids)
        if count == begun:
            return named
        if count == full:
            return [*named, ID_LIMIT + line]
        sizes = [size for size in USUAL_BLOCKS if -(-tokens // size) == count]
        raise self.broken(
            line,
            f"{tokens} tokens make {begun} blocks of {block_tokens}, but there are {count} block ids",
            f"{REPAIR}{f', or say trace_block = {sizes[0]} if that is the block size' if sizes else ''}",
        )

    def _named(self, line: int, ids: BlockIds) -> Sequence[int]:
        try:
            return array("Q", msgspec.convert(ids, list[int], strict=False))
        except (msgspec.ValidationError, OverflowError):
            remedy = "of longer hashes keep 64 bits, of others number the blocks in the order in which they appear"
            raise self.broken(line, "hash_ids are not all whole numbers from 0 to 2^64 - 1", remedy) from None

    def ordered(self, requests: Iterable[ReadRequest], per_s: int) -> list[TraceRow]:
        """Requests by time, by line where times are equal. Numbers count `per_s` in a second. Raises ConfigError."""
        found = list(requests)
        if not found:
            raise ConfigError(f"{self.path}: no request in it; give a trace with at least one")
        kind = isinstance(found[0].at, datetime)
        for request in found:
            if isinstance(request.at, datetime) != kind:
                problem = f"the time is a number here and a date in line {found[0].line}, or the other way round"
                raise self.broken(request.line, problem, "use one clock for all of the file")
        found.sort(key=lambda request: clock.number(request.at))
        watch = clock.clock(found[0].at, per_s)
        rows, before, before_s = [], found[0], 0.0
        for request in found:
            at_s = watch.at_s(request.at)
            if at_s < 0:
                raise self.broken(request.line, f"the time is negative ({at_s} s)", "count from the start of the trace")
            if at_s - before_s > clock.LONGEST_PAUSE_S or at_s > clock.LONGEST_S:
                problem = f"{(at_s - before_s) / 86400:.3g} days after the one in line {before.line}"
                problem = f"the request comes {problem} and {at_s / 86400:.3g} days after the first"
                raise self.broken(
                    request.line, problem, "give all times in one unit (docs/simulator.md), or split the file"
                )
            tokens, output_tokens = request.lengths
            row = TraceRow(
                at_s=at_s, tokens=tokens, output_tokens=output_tokens, ids=request.ids, session=request.session
            )
            rows.append(row)
            before, before_s = request, at_s
        return rows


def numeric(value: Number) -> float | None:
    """A finite number, whole where it is written so; None: it is none."""
    try:
        number = msgspec.convert(value.strip(), int | float, strict=False) if isinstance(value, str) else value
    except msgspec.ValidationError:
        return None
    return number if math.isfinite(number) else None


def plain(name: str) -> str:
    """The name of a column in small letters, words joined by underscores: "Request tokens" is request_tokens."""
    return re.sub(r"[^a-z0-9]+", "_", name.casefold()).strip("_")


def separator(line: bytes) -> str:
    """Return the character that separates the columns which this line names."""
    return max(SEPARATORS, key=lambda sign: line.count(sign.encode()))
