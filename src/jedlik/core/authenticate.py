"""Mutual proof that both ends of a TCP connection know the cluster key, before any frame is read.

Each side sends 8 magic bytes and a fresh 32-byte nonce; then each sends HMAC-SHA256(key, role, own nonce, peer nonce).
Roles differ, so nothing can be reflected. It authenticates; it neither encrypts nor protects what follows from somebody
who sits on the path: between hosts that aren't trusted, put TLS or a private network below.
"""

import hashlib
import hmac

from jedlik.core.errors import PeerError

MAGIC = b"JEDLIK\x00\x01"
NONCE_BYTES = 32
GREETING_BYTES = len(MAGIC) + NONCE_BYTES
PROOF_BYTES = 32


class AuthenticationError(PeerError):
    """The peer does not know the cluster key, or is no jedlik."""


class Handshake:
    """One side of it. Feed it bytes; it says what to send, and what was left over once the peer has proved itself."""

    def __init__(self, key: bytes, nonce: bytes, *, client: bool) -> None:
        self._key = key
        self._nonce = nonce
        self._role, self._peer_role = (b"client", b"server") if client else (b"server", b"client")
        self._peer_nonce: bytes | None = None
        self._buffer = b""
        self.done = False

    def greeting(self) -> bytes:
        """The first thing to send."""
        return MAGIC + self._nonce

    def feed(self, data: bytes) -> bytes:
        """Bytes to send in answer. Raises AuthenticationError."""
        self._buffer += data
        answer = b""
        if self._peer_nonce is None and len(self._buffer) >= GREETING_BYTES:
            answer = self._greeted(self._take(GREETING_BYTES))
        if self._peer_nonce is not None and not self.done and len(self._buffer) >= PROOF_BYTES:
            expected = self._proof(self._peer_role, self._peer_nonce, self._nonce)
            if not hmac.compare_digest(self._take(PROOF_BYTES), expected):
                raise AuthenticationError("peer has another cluster key")
            self.done = True
        return answer

    def rest(self) -> bytes:
        """Bytes after the peer's proof: the first frames."""
        return self._take(len(self._buffer))

    def _greeted(self, greeting: bytes) -> bytes:
        if not greeting.startswith(MAGIC):
            raise AuthenticationError("peer does not speak jedlik's protocol")
        self._peer_nonce = greeting[len(MAGIC) :]
        if self._peer_nonce == self._nonce:
            raise AuthenticationError("peer echoed our nonce")
        return self._proof(self._role, self._nonce, self._peer_nonce)

    def _proof(self, role: bytes, own: bytes, other: bytes) -> bytes:
        return hmac.digest(self._key, role + own + other, hashlib.sha256)

    def _take(self, size: int) -> bytes:
        taken, self._buffer = self._buffer[:size], self._buffer[size:]
        return taken
