"""What tells that requests belong to one conversation, for routing.

`prompt_cache_key`, else the header `x-session-id`, else `user`. What is kept is a digest with the tenant in it: the
values are the client's own (a user name may be an address), of any length, and mean nothing across tenants.
"""

from collections.abc import Mapping
from hashlib import blake2b

from jedlik.frontend.openai.schema import Body

HEADER = b"x-session-id"


def session_of(body: Body, headers: Mapping[bytes, bytes], tenant: str) -> str:
    """Empty where the request says nothing."""
    named = body.prompt_cache_key or headers.get(HEADER, b"").decode("latin-1") or body.user
    if not named:
        return ""
    text = f"{len(tenant)}/{tenant}/{named}".encode(errors="replace")
    return blake2b(text, digest_size=8).hexdigest()
