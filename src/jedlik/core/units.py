"""Sizes as people write them."""

import re

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def size_bytes(text: str) -> int:
    """Return the bytes of 2GiB, 512 MB, 1.5g or 4096. Raises ValueError."""
    match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)(?: ?(?:([kmgt]i?)b?|b))?", text.lower())
    if match is None:
        raise ValueError(f"{text!r} is not a size such as 2GiB, 512MB or 4096")
    return int(float(match[1]) * UNITS[match[2] or ""])


def path_and_bytes(text: str) -> tuple[str, int]:
    """Return the two parts of PATH:BYTES. Raises ValueError."""
    path, colon, size = text.rpartition(":")
    if not path or not colon:
        raise ValueError("there is no PATH before a colon")
    return path, size_bytes(size)


def size_text(size: int) -> str:
    """Return a size such as 1.5 GiB, 512 MiB or 900 bytes."""
    for unit, name in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB")):
        if size >= unit:
            return f"{size / unit:.3g} {name}"
    return f"{size} bytes"
