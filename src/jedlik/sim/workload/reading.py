"""Trace files as lines and columns: opens them (gzip or not), tells formats apart, and says where a file is broken."""

import csv
import gzip
import math
import zlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from jedlik.core.errors import ConfigError
from jedlik.sim.workload.trace import ID_LIMIT, Row

GZIP = b"\x1f\x8b"
USUAL_BLOCKS = (16, 32, 64, 128, 256, 512, 1024)
MOST_TOKENS = 10**9
REPAIR = "correct the line or remove it"
T = TypeVar("T")


class Source(msgspec.Struct, frozen=True):
    """One file."""

    path: Path

    def broken(self, line: int, what: str, remedy: str = REPAIR) -> ConfigError:
        return ConfigError(f"{self.path}:{line}: {what}; {remedy}")

    def head(self, size: int) -> bytes:
        """The first bytes, as they are on disk. Raises ConfigError if it cannot be opened."""
        try:
            with self.path.open("rb") as file:
                return file.read(size)
        except FileNotFoundError:
            raise ConfigError(f"{self.path}: no such file; give a trace file or a generator") from None
        except OSError as error:
            raise ConfigError(f"{self.path}: cannot be read: {error.strerror}; give a trace file") from error

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Lines that are not empty, with their numbers from 1."""
        packed = self.head(2) == GZIP
        number = 0
        try:
            with gzip.open(self.path) if packed else self.path.open("rb") as file:
                for number, line in enumerate(file, 1):
                    if not line.isspace():
                        yield number, line
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise self.broken(number + 1, f"the gzip file is damaged here ({error})", "fetch it again") from error

    def first_line(self) -> bytes:
        for _, line in self.lines():
            return line
        raise ConfigError(f"{self.path}: the file is empty; give a trace with at least one request")

    def records(self, kind: type[T]) -> Iterator[tuple[int, T]]:
        """One JSON object of `kind` per line."""
        decode = msgspec.json.Decoder(kind).decode
        for number, line in self.lines():
            try:
                yield number, decode(line)
            except msgspec.MsgspecError as error:
                raise self.broken(number, str(error)) from error

    def columns(self, names: Sequence[str], optional: Sequence[str] = ()) -> Iterator[tuple[int, list[str]]]:
        """Of a CSV file: the fields under `names`, then those under `optional` ("" where there is no such column)."""
        rows = csv.reader(self._text())
        header = [name.strip().lstrip("\ufeff") for name in next(filter(None, rows), [])]
        for name in names:
            if name not in header:
                raise self.broken(1, f"no column {name!r} among {', '.join(header)}", "add it")
        places = [header.index(name) if name in header else -1 for name in (*names, *optional)]
        try:
            for row in filter(None, rows):
                if len(row) != len(header):
                    raise self.broken(rows.line_num, f"{len(row)} fields under {len(header)} columns")
                yield rows.line_num, [row[place] if place >= 0 else "" for place in places]
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

    def number(self, line: int, name: str, text: str) -> float:
        """Finite. Raises ConfigError."""
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise self.broken(line, f"{name} is {text!r}, not a number")
        return value

    def length(self, line: int, name: str, text: str) -> int:
        """A whole number. Raises ConfigError."""
        value = self.number(line, name, text)
        if value != int(value):
            raise self.broken(line, f"{name} is {text!r}, not a whole number")
        return int(value)

    def row(self, line: int, at_s: float, lengths: tuple[int, int], ids: Sequence[int], session: str = "") -> Row:
        """A request. An answer of no tokens is simulated as one token. Raises ConfigError for what cannot be."""
        tokens, output_tokens = lengths
        if at_s < 0:
            raise self.broken(line, f"the time is negative ({at_s} s)", "times count from the start of the trace")
        if tokens < 1:
            raise self.broken(line, f"the prompt has {tokens} tokens; it needs at least 1")
        if output_tokens < 0:
            raise self.broken(line, f"the answer has {output_tokens} tokens; it needs at least 1")
        if max(lengths) > MOST_TOKENS:
            raise self.broken(line, f"{max(lengths)} tokens are more than any model takes")
        return Row(at_s, tokens, max(output_tokens, 1), ids, session)

    def whole(self, line: int, ids: Sequence[int], tokens: int, block_tokens: int) -> Sequence[int]:
        """`ids`; where the last, partial block has none: one more that nobody shares. Raises ConfigError."""
        count, full, begun = len(ids), tokens // block_tokens, -(-tokens // block_tokens)
        if count == begun:
            return array("q", ids)
        if count == full:
            return array("q", [*ids, ID_LIMIT + line])
        sizes = [size for size in USUAL_BLOCKS if -(-tokens // size) == count]
        raise self.broken(
            line,
            f"{tokens} tokens make {begun} blocks of {block_tokens}, but there are {count} block ids",
            f"{REPAIR}{f', or say trace_block = {sizes[0]} if that is the block size' if sizes else ''}",
        )

    def ordered(self, rows: Iterable[Row]) -> list[Row]:
        """By time, and by line where times are equal. Raises ConfigError if there are none."""
        found = sorted(rows, key=lambda row: row.at_s)
        if not found:
            raise ConfigError(f"{self.path}: no request in it; give a trace with at least one")
        return found
