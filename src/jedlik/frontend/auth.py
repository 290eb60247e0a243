"""API keys to tenants. Without keys everybody is the tenant "" (and `cli` binds only to loopback)."""

import hashlib
import hmac
from collections.abc import Mapping

from jedlik.frontend.http import Web
from jedlik.frontend.openai.errors import HttpRefusal

CHALLENGE = b'Bearer realm="jedlik"'


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


class Keys:
    """Knows digests only. Looking a digest up tells a prober nothing about a key; the comparison is constant-time."""

    def __init__(self, keys: Mapping[str, str]) -> None:
        self._tenants = {_digest(key.encode()): tenant for key, tenant in keys.items()}

    def tenant(self, web: Web) -> str:
        """Raises RequestError (401) for a missing or wrong key."""
        if not self._tenants:
            return ""
        scheme, _, key = web.headers.get(b"authorization", b"").partition(b" ")
        presented = _digest(key.strip())
        for known, tenant in self._tenants.items():
            if hmac.compare_digest(known, presented) and scheme.lower() == b"bearer":
                return tenant
        wrong = b', error="invalid_token"' if b"authorization" in web.headers else b""
        raise HttpRefusal(
            "A valid API key is needed: send `Authorization: Bearer KEY`.",
            code="invalid_api_key", status=401, headers=((b"www-authenticate", CHALLENGE + wrong),),
        )  # fmt: skip
