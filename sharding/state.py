"""The types of the store: a state, a change of it, and the outcome.

A change is given to the store as a *transition*: a plain function from the stored state to a
decision. The store may call it several times (after a conflict it reloads the state and calls it
again), so it must be pure: same input, same decision, no I/O, a time that was fixed before.

(Structs rather than dataclasses: several are created for each request, and creating a frozen
dataclass takes microseconds.)
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from enum import IntEnum
from typing import Generic, NamedTuple, TypeAlias, TypeVar

from msgspec import Struct

Answer = TypeVar("Answer")

USER_MAX = 2**62 - 1
"""The highest id of a known user; anonymous listeners have higher ones, up to PLAYLIST_MAX."""
PLAYLIST_MAX = 2**63 - 1


class Key(NamedTuple):
    """Identifies a state: one user's in one playlist. Both ids are from 1 to 2^63-1."""

    user_id: int
    playlist_id: int


class Owner(IntEnum):
    """Which API may read and change a state. (The numbers are stored: never renumber.)"""

    PLAYER = 1
    STATES_API = 2


class Stored(Struct, frozen=True, gc=False):
    """A state as it is in MySQL.

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
    """Decision: store `body`, and return `answer` once it is committed."""

    body: bytes
    owner: Owner
    answer: Answer


class Remove(Struct, Generic[Answer], frozen=True):
    """Decision: delete the state, and return `answer` once that is committed."""

    answer: Answer


class Keep(Struct, Generic[Answer], frozen=True):
    """Decision: change nothing, and return `answer`."""

    answer: Answer


Decision: TypeAlias = Write[Answer] | Remove[Answer] | Keep[Answer]
Transition: TypeAlias = Callable[[Stored | None], Decision[Answer]]
"""Its argument is None for a key without a state. An exception from it reaches the caller, and
nothing is stored."""


class Outcome(Struct, Generic[Answer], frozen=True):
    """What became of a change.

    Attributes:
        answer: of the transition's decision.
        version: the key's version after the change; None if there was no state and none was made.
        day: the day of the partition that has the state after the change; None likewise.
        changed: whether a change was committed.
    """

    answer: Answer
    version: int | None
    day: date | None
    changed: bool


class TooLarge(Exception):
    """The statement that saves this state is longer than MySQL accepts; says what to do."""


class Unavailable(Exception):
    """MySQL did not answer within the request's deadline, or too many requests wait for it.

    The change may still have been made; repeating it with the same condition is safe.

    Attributes:
        retry_after: seconds, for the Retry-After header.
    """

    def __init__(self, reason: str, retry_after: int = 1) -> None:
        super().__init__(reason)
        self.retry_after = retry_after
