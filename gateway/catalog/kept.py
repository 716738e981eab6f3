"""A cache of values with an age and a limit of entries."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

PATIENCE = 0.5
"""Seconds that a request waits for a new value before it uses an old one."""
RETRY_AFTER = 5.0
"""Seconds that an old value is then used before MySQL is asked again."""
UNKNOWN_AGE = 5.0
"""Most seconds that "it does not exist" is cached, since an import may add it at any time."""

Id = TypeVar("Id", bound=Hashable)
Value = TypeVar("Value")


@dataclass(slots=True)
class Entry(Generic[Value]):
    """A value, and until when it is good, on its owner's clock."""

    value: Value
    good_until: float


class Kept(Generic[Id, Value]):
    """Values by id; if there are too many, the least recently used one leaves."""

    def __init__(self, entries: int) -> None:
        self._entries: OrderedDict[Id, Entry[Value]] = OrderedDict()
        self._bound = entries

    def get(self, key: Id) -> Entry[Value] | None:
        """The entry of a key; counts as a use."""
        entry = self._entries.get(key)
        if entry is not None:
            self._entries.move_to_end(key)
        return entry

    def put(self, key: Id, value: Value, good_until: float) -> None:
        """Add or replace a value."""
        self._entries[key] = Entry(value, good_until)
        self._entries.move_to_end(key)
        if len(self._entries) > self._bound:
            self._entries.popitem(last=False)

    def drop(self, key: Id) -> None:
        """Remove a value, if it is there."""
        self._entries.pop(key, None)
