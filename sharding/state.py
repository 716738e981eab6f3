"""The words of the store: what a state is, what a change of it is, what comes back.

A change is given to the store as a *transition*: a plain function from what is stored now to a
decision. The store may call it several times (after a conflict it reloads and asks again), so it
must be pure: same input, same decision, no I/O, the time fixed before it is handed over.

(Structs rather than dataclasses: several are made for each request, and a frozen dataclass takes
microseconds to make.)
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from enum import IntEnum
from typing import Generic, NamedTuple, TypeAlias, TypeVar

from msgspec import Struct

Answer = TypeVar("Answer")

USER_MAX = 2**62 - 1
"""The highest user id of a known user; anonymous listeners lie above, up to PLAYLIST_MAX."""
PLAYLIST_MAX = 2**63 - 1


class Key(NamedTuple):
    """Whose state in which playlist. Both are from 1 to 2^63-1."""

    user_id: int
    playlist_id: int


class Owner(IntEnum):
    """Who may read and change a state's body. (The numbers are stored: never renumber.)"""

    PLAYER = 1
    STATES_API = 2


class Stored(Struct, frozen=True, gc=False):
    """A state as it lies in MySQL.

    Attributes:
        body: the bytes that were saved.
        version: 1 for the first save of a key, then one more with each change, deletes included.
        day: the UTC day whose partition holds it.
        owner: which API wrote it.
    """

    body: bytes
    version: int
    day: date
    owner: Owner


class Write(Struct, Generic[Answer], frozen=True):
    """Decision: store `body`, and answer so once it is committed."""

    body: bytes
    owner: Owner
    answer: Answer


class Remove(Struct, Generic[Answer], frozen=True):
    """Decision: delete the state, and answer so once that is committed."""

    answer: Answer


class Keep(Struct, Generic[Answer], frozen=True):
    """Decision: nothing changes; answer so from what is stored."""

    answer: Answer


Decision: TypeAlias = Write[Answer] | Remove[Answer] | Keep[Answer]
Transition: TypeAlias = Callable[[Stored | None], Decision[Answer]]
"""`None` stands for a key without a state. What it raises reaches the caller; nothing is stored."""


class Outcome(Struct, Generic[Answer], frozen=True):
    """What became of a change.

    Attributes:
        answer: what the transition answered when it was applied.
        version: the key's version after it; None where there is no state and none was made.
        day: the partition that the state lies in after it; None likewise.
        changed: whether something was committed.
    """

    answer: Answer
    version: int | None
    day: date | None
    changed: bool


class StoreError(Exception):
    """The store could not answer."""


class TooLarge(StoreError):
    """MySQL takes no statement as long as the one that would save this state; says what to do."""


class Unavailable(StoreError):
    """MySQL did not answer within the request's deadline, or too many requests wait for it.

    A change that met this may still have happened; repeating it with the same condition is safe.

    Attributes:
        retry_after: seconds, for the Retry-After header.
    """

    def __init__(self, reason: str, retry_after: int = 1) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class Contended(Unavailable):
    """A change lost the compare-and-set more often than it may try."""
