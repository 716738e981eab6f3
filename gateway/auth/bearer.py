"""Keys in a request's `Authorization: Bearer KEY`, compared by their digests."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence


def digest_of(key: str) -> bytes:
    """The digest of a key, which is stored and compared instead of the key."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def carries_key(authorization: str | None, digests: Sequence[bytes]) -> bool:
    """Whether an Authorization header has a key with one of these digests.

    Its duration depends only on the number of keys.
    """
    scheme, _, key = (authorization or "").partition(" ")
    if scheme.lower() != "bearer":
        return False
    given = digest_of(key.strip())
    found = False
    for digest in digests:
        found |= hmac.compare_digest(given, digest)
    return found
