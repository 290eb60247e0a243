"""Trace files as lines of UTF-8, whatever they are packed with and encoded in; what can't be read is refused by name.

Packed: gzip, bzip2, xz, zstandard (with pyarrow). Encoded: UTF-8, or UTF-16 and UTF-32 with a byte-order mark.
"""

import bz2
import codecs
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

from jedlik.core.errors import ConfigError

DAMAGED = (EOFError, OSError, zlib.error, lzma.LZMAError)
"""The exceptions that reading a damaged file raises."""
REFUSED = {b"PK\x03\x04": "a zip archive or a spreadsheet", b"\x04\x22\x4d\x18": "packed with lz4"}
MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
"""Byte-order marks. The one of UTF-16 is the beginning of one of UTF-32, which therefore comes first."""


def head(path: Path, size: int) -> bytes:
    """The first bytes, as they are on disk. Raises ConfigError if they cannot be read."""
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "no regular file"
        raise ConfigError(f"{path}: cannot be read: it is {kind}; give a trace file")
    try:
        with path.open("rb") as file:
            return file.read(size)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; give a trace file or a generator") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}; give a trace file") from error


def lines(path: Path) -> Iterator[bytes]:
    """All lines in UTF-8, without a byte-order mark. Raises ConfigError, one of `DAMAGED`, or UnicodeError."""
    with unpacked(path) as file:
        begin = file.peek(4)[:4]
        mark = next((mark for mark in MARKS if begin.startswith(mark)), b"")
        file.read(len(mark))
        if not mark or mark == codecs.BOM_UTF8:
            yield from file
        else:
            with io.TextIOWrapper(file, MARKS[mark], newline="\n") as text:
                for line in text:
                    yield line.encode()


def unpacked(path: Path) -> io.BufferedReader:
    """The file as it was before it was packed."""
    begin = head(path, 6)
    for mark, what in REFUSED.items():
        if begin.startswith(mark):
            raise ConfigError(f"{path}: it is {what}; unpack it, and give a file of lines (JSON or CSV)")
    for mark, reader in PACKED.items():
        if begin.startswith(mark):
            return io.BufferedReader(cast("io.RawIOBase", reader(path)))
    return path.open("rb")


def zstandard(path: Path) -> BinaryIO:
    try:
        import pyarrow
    except ImportError:
        raise ConfigError(
            f"{path}: zstandard files need pyarrow, which is not installed: pip install 'jedlik[trace]', or unpack it "
            "with unzstd"
        ) from None
    return cast("BinaryIO", pyarrow.input_stream(str(path), compression="zstd"))


PACKED: dict[bytes, Callable[[Path], object]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
    b"\x28\xb5\x2f\xfd": zstandard,
}
