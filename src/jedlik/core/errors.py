"""Errors by who can act on them, and `Fault`, the value in which one of them reaches the client.

Expected outcomes are return values (a `Fault` in an effect); exceptions are for callers' mistakes and our own.
"""

import difflib
from collections.abc import Iterable
from typing import Literal

import msgspec

FaultKind = Literal["invalid", "overloaded", "unavailable", "timeout", "internal"]


class JedlikError(Exception):
    """Root of everything jedlik raises on purpose. The message says what, where, and what to do."""


class RequestError(JedlikError):
    """The caller can act: the request is wrong. `param` names the parameter at fault, `code` is machine-readable."""

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.param = param
        self.code = code
        self.status = status


class ConfigError(JedlikError):
    """The operator can act: a file, flag or environment variable is wrong."""


class PeerError(JedlikError):
    """Another process failed; the work may be tried elsewhere."""


class Bug(JedlikError):
    """We are at fault: an invariant does not hold. Carries the object's recent story in its message."""


class Fault(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Why a request ended without its answer; travels in effects and on the wire."""

    kind: FaultKind
    message: str
    param: str | None = None
    code: str | None = None
    retry_after_s: float | None = None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean ...?`, if something is near."""
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else ""
