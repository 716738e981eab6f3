"""Values that were read, kept for a while: so many of them, those used last."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

PATIENCE = 0.5
"""Seconds that a request waits for a newer edition before it takes the one at hand."""
RETRY_AFTER = 5.0
"""Seconds that an old edition is then good for, before MySQL is asked again."""
UNKNOWN_AGE = 5.0
"""Seconds, at most, that something is taken for unknown: it may be imported just now."""

Id = TypeVar("Id", bound=Hashable)
Value = TypeVar("Value")


@dataclass(slots=True)
class Entry(Generic[Value]):
    """A value, and until when it is good, on the clock of who keeps it."""

    value: Value
    good_until: float


class Kept(Generic[Id, Value]):
    """The values used last, by id; the oldest use goes first when there are too many."""

    def __init__(self, entries: int) -> None:
        self._entries: OrderedDict[Id, Entry[Value]] = OrderedDict()
        self._bound = entries

    def get(self, key: Id) -> Entry[Value] | None:
        """What is kept under it; counts as a use."""
        entry = self._entries.get(key)
        if entry is not None:
            self._entries.move_to_end(key)
        return entry

    def put(self, key: Id, value: Value, good_until: float) -> None:
        """Keep it."""
        self._entries[key] = Entry(value, good_until)
        self._entries.move_to_end(key)
        if len(self._entries) > self._bound:
            self._entries.popitem(last=False)

    def drop(self, key: Id) -> None:
        """Keep it no longer."""
        self._entries.pop(key, None)
