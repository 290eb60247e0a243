"""The trace context of a request: the W3C headers `traceparent` and `tracestate`, read and written.

A context that does not follow the recommendation is no context: the request is served as if it had none. jedlik makes
no spans yet, so the context goes to the worker as the client sent it. https://www.w3.org/TR/trace-context/
"""

import re
from collections.abc import Iterable

import msgspec

MAX_MEMBERS = 32
"""The most list members of a valid `tracestate`."""
_PARENT = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_MEMBER = re.compile(
    r"([a-z0-9][a-z0-9_*/@-]{0,255})=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
)
_KNOWN_FLAGS = 0x03
"""The flags of version 00 of the recommendation: sampled, and random trace id."""


class TraceContext(msgspec.Struct, frozen=True, array_like=True):
    """The trace that a request belongs to, in the two header values that the next process gets."""

    parent: str
    """The value of `traceparent`, in version 00: version, trace id, parent id and flags."""
    state: str = ""
    """The value of `tracestate`; empty: there is none."""

    @property
    def trace_id(self) -> str:
        """The 32 hexadecimal digits that all spans of the trace share."""
        return self.parent[3:35]


def trace_of(headers: Iterable[tuple[bytes, bytes]]) -> TraceContext | None:
    """Return the trace context in HTTP headers with names in lower case, or None if there is no valid one.

    More than one `traceparent` is no valid one. Several `tracestate` headers are one list. An invalid list is left out.
    """
    parents, states = [], []
    for name, value in headers:
        if name == b"traceparent":
            parents.append(value.decode("latin-1").strip(" \t"))
        elif name == b"tracestate":
            states.append(value.decode("latin-1"))
    parent = _parent(parents[0]) if len(parents) == 1 else None
    return None if parent is None else TraceContext(parent, _state(",".join(states)))


def _parent(value: str) -> str | None:
    found = _PARENT.fullmatch(value)
    if found is None:
        return None
    version, trace_id, parent_id, flags, rest = found.groups()
    if version == "00":
        return None if rest else value
    return f"00-{trace_id}-{parent_id}-{int(flags, 16) & _KNOWN_FLAGS:02x}"


def _state(value: str) -> str:
    members = [member for part in value.split(",") if (member := part.strip(" \t"))]
    found = [_MEMBER.fullmatch(member) for member in members]
    keys = {match[1] for match in found if match}
    return ",".join(members) if len(keys) == len(members) <= MAX_MEMBERS else ""
