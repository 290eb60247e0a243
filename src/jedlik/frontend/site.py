"""A site says who may use this server: by host names, by the pages that browsers show, and by API keys.

A browser on the same machine reaches a server on loopback for every page that it shows. Two things keep pages out:

- `Host`. A page may have its own name lead to 127.0.0.1 (DNS rebinding); its requests then carry that name. While no
  key is asked for, only names are answered to that no stranger can have lead here: IP addresses, `localhost`, names
  without a dot and names in `.localhost` and `.internal` (none of them can be had in the public DNS), the host that was
  bound, and those listed.
- `Origin`. A request of another page's that changes something is refused, unless the page's origin is listed.

With keys neither is needed: a page does not have one. Cross-origin reading (CORS) is by the list in both cases.
Without keys everybody is the tenant "" (and `serve` binds only to loopback).
"""

import functools
import hashlib
import hmac
import ipaddress
import re
from collections.abc import Iterable, Mapping

import msgspec

from jedlik.frontend.errors import HttpRefusal

LOOPBACK = "loopback"
"""This word in a list of origins stands for pages of this machine, such as http://localhost:3000."""
CHALLENGE = b'Bearer realm="jedlik"'
_ORIGIN = re.compile(r"https?://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:\d+)?")


class Site(msgspec.Struct, frozen=True, kw_only=True):
    """The rules for callers of one port. Names and origins are in small letters."""

    keyless: bool = True
    """No key is asked for: whoever can send a request is served."""
    guarded: bool = True
    """Only the names above are answered to; where this is not set, and none are listed, any."""
    metrics_only: bool = False
    """Nothing but metrics is here, and no key is needed for them."""
    hosts: frozenset[str] = frozenset()
    origins: frozenset[str] = frozenset({LOOPBACK})

    def answers_to(self, host: str) -> bool:
        """`host` is a Host header; empty for a client of HTTP/1.0 that sent none, which is no browser."""
        if not host or not (self.guarded or self.hosts):
            return True
        name, own = _known(host)
        return own or name in self.hosts or "*" in self.hosts

    def lets_in(self, origin: str) -> bool:
        """Whether pages of this origin may send requests and read answers."""
        origin = origin.lower()
        if "*" in self.origins or origin in self.origins:
            return True
        found = _ORIGIN.fullmatch(origin)
        return LOOPBACK in self.origins and found is not None and is_loopback(found[1])

    def may_change(self, origin: str, host: str, fetch_site: str) -> bool:
        """Whether a request may change something: not one that a browser sends for a page of somebody else's."""
        if not self.keyless:
            return True
        if origin:
            own = "://" in origin and origin.lower().partition("://")[2] == host.lower()
            return own or self.lets_in(origin)
        return fetch_site.lower() not in ("cross-site", "same-site") or "*" in self.origins


@functools.lru_cache(1024)
def _known(host: str) -> tuple[str, bool]:
    """The name, without the port and in small letters (an IPv6 address stays in brackets), and `is_own` of it."""
    name = re.sub(r":\d*$", "", host.lower())
    return name, is_own(name)


def is_own(name: str) -> bool:
    """Whether no stranger can have this name lead to this machine."""
    return is_address(name) or "." not in name or name.endswith((".localhost", ".internal"))


def is_loopback(name: str) -> bool:
    if name == "localhost" or name.endswith(".localhost"):
        return True
    return is_address(name) and ipaddress.ip_address(name.strip("[]")).is_loopback


def is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def listed(names: Iterable[str]) -> frozenset[str]:
    """The set of host names or origins that somebody listed. It is in small letters, without slashes at the end."""
    return frozenset(name.strip().lower().rstrip("/") for name in names)


# --- API keys ---


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


class Keys:
    """The known keys, as digests only: a look-up tells a prober nothing, and the comparison is constant-time."""

    def __init__(self, keys: Mapping[str, str]) -> None:
        self._tenants = {_digest(key.encode()): tenant for key, tenant in keys.items()}

    def tenant(self, headers: Mapping[bytes, bytes]) -> str:
        """Return the tenant of a request's key. Raises RequestError (401) for a missing or wrong key."""
        if not self._tenants:
            return ""
        scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
        presented = _digest(key.strip())
        for known, tenant in self._tenants.items():
            if hmac.compare_digest(known, presented) and scheme.lower() == b"bearer":
                return tenant
        wrong = b', error="invalid_token"' if b"authorization" in headers else b""
        raise HttpRefusal(
            "A valid API key is needed: send `Authorization: Bearer KEY`.",
            code="invalid_api_key", status=401, headers=((b"www-authenticate", CHALLENGE + wrong),),
        )  # fmt: skip
