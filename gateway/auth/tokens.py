"""Play tokens: a signed listener's id, which only the client stores.

A token is 33 bytes in base64url, 44 characters without padding:

    | bytes | what |
    | ----- | ---- |
    | 1     | format version, 1 |
    | 3     | key id: which key signed (derived from the key, so that rotation needs no numbering) |
    | 8     | user id |
    | 5     | expiry, epoch seconds |
    | 16    | HMAC-SHA256 over a label and all of the above, its first 16 bytes |

All integers are big-endian. 33 bytes use every bit of 44 characters, so each token has exactly one
text: a changed, missing or additional character is refused.

>>> keys = TokenKeys([b"k" * 32], lifetime_seconds=3600)
>>> keys.verify(keys.issue(7, now=1000.0), now=1001.0)
Listener(user_id=7, logged_in=True)
"""

from __future__ import annotations

import hmac
import math
import re
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from functools import lru_cache

from msgspec import Struct

from sharding.state import PLAYLIST_MAX, USER_MAX

_VERSION = 1
_KEY_ID_BYTES = 3
_EXPIRY_BYTES = 5
_MAC_BYTES = 16
_SIGNED_BYTES = 1 + _KEY_ID_BYTES + 8 + _EXPIRY_BYTES
_LATEST_EXPIRY = 256**_EXPIRY_BYTES - 1
_NEVER = _LATEST_EXPIRY + 1
"""When a token of nine digits expires."""

# The decoder of the standard library ignores characters that are not base64, and accepts `+/` for
# `-_`: the alphabet and the length are checked before.
_TOKEN = re.compile(r"[A-Za-z0-9_-]{44}")
_ADOPTED = re.compile(r"[0-9]{9}")

# A label makes these MACs different from those of any other use of the same key.
_TOKEN_LABEL = b"tapedeck play token v1\0"
_KEY_LABEL = b"tapedeck play token key id v1\0"

KNOWN_TOKENS = 20_000
"""Most verified tokens that are cached, about 300 bytes each."""


class BadToken(Exception):
    """A play token that names no listener. Its sentence has no part of the token or of a key."""


MALFORMED = "The play token is malformed: ask /sets/new for another."
NOT_OURS = "The play token was not issued by this service: ask /sets/new for another."
EXPIRED = "The play token has expired: ask /sets/new for another."


class Listener(Struct, frozen=True, gc=False):
    """The listener that a token was issued for; anonymous ones have ids above 2^62-1."""

    user_id: int
    logged_in: bool


class TokenKeys:
    """The keys that sign and verify play tokens.

    Args:
        keys: newest first; the first signs and all of them verify. At least one.
        lifetime_seconds: how long a token is valid after its issue.
        adopt: whether to accept tokens of nine digits too, as the original service issued them.
            Each is an anonymous listener. They are not signed, so they can be guessed.

    Attributes:
        read: as `_read`, cached.
    """

    def __init__(
        self, keys: Sequence[bytes], lifetime_seconds: float, *, adopt: bool = False
    ) -> None:
        self._keys = [(_key_id(key), key) for key in keys]
        self._lifetime = lifetime_seconds
        self._adopt = adopt
        # A session sends the same token with each request.
        # When the keys change, a new object replaces this one, with its cache.
        self.read = lru_cache(KNOWN_TOKENS)(self._read)

    def issue(self, user_id: int, now: float) -> str:
        """A token for a user, 1 to 2^63-1, that expires a lifetime after `now` (epoch seconds)."""
        key_id, key = self._keys[0]
        expiry = min(math.ceil(now + self._lifetime), _LATEST_EXPIRY)
        rest = user_id.to_bytes(8, "big") + expiry.to_bytes(_EXPIRY_BYTES, "big")
        signed = bytes((_VERSION,)) + key_id + rest
        return urlsafe_b64encode(signed + _mac(key, signed)).decode("ascii")

    def verify(self, token: str, now: float) -> Listener:
        """The listener that `token` was issued for. A BadToken says why it is refused."""
        listener, expiry = self.read(token)
        if now >= expiry:
            raise BadToken(EXPIRED)
        return listener

    def _read(self, token: str) -> tuple[Listener, int]:
        """The listener that `token` was issued for, and when it expires or has expired. A BadToken
        says that it is malformed, or not signed by one of the keys.
        """
        if self._adopt and _ADOPTED.fullmatch(token) is not None:
            return Listener(USER_MAX + 1 + int(token), logged_in=False), _NEVER
        if _TOKEN.fullmatch(token) is None:
            raise BadToken(MALFORMED)
        raw = urlsafe_b64decode(token)
        signed, mac = raw[:_SIGNED_BYTES], raw[_SIGNED_BYTES:]
        if signed[0] != _VERSION:
            raise BadToken(NOT_OURS)
        key_id = signed[1 : 1 + _KEY_ID_BYTES]
        # Two keys may have the same id by chance, so each key with this id is tried.
        for known_id, key in self._keys:
            if known_id == key_id and hmac.compare_digest(_mac(key, signed), mac):
                break
        else:
            raise BadToken(NOT_OURS)
        user_id = int.from_bytes(signed[1 + _KEY_ID_BYTES : -_EXPIRY_BYTES], "big")
        listener = Listener(user_id, logged_in=user_id <= USER_MAX)
        return listener, int.from_bytes(signed[-_EXPIRY_BYTES:], "big")


def anonymous_user_id() -> int:
    """An id for a new anonymous listener, 2^62 to 2^63-1, that cannot be guessed."""
    return USER_MAX + 1 + secrets.randbelow(PLAYLIST_MAX - USER_MAX)


def _mac(key: bytes, signed: bytes) -> bytes:
    return hmac.digest(key, _TOKEN_LABEL + signed, "sha256")[:_MAC_BYTES]


def _key_id(key: bytes) -> bytes:
    return hmac.digest(key, _KEY_LABEL, "sha256")[:_KEY_ID_BYTES]


assert (_SIGNED_BYTES + _MAC_BYTES) % 3 == 0, "base64 would leave spare bits"
