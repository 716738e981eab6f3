"""Values read from MySQL: cached with an age, and read once for all requests that wait for one."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from failover.mysql.errors import MySQLError, PrimaryUnavailable
from sharding.state import Unavailable

PATIENCE = 0.5
"""Seconds that a request waits for a new value before it uses an old one."""
RETRY_AFTER = 5.0
"""Seconds that an old value is then used before MySQL is asked again."""
UNKNOWN_AGE = 5.0
"""Most seconds that "it does not exist" is cached, since an import may add it at any time."""

Id = TypeVar("Id", bound=Hashable)
Value = TypeVar("Value")

_AWAY = (PrimaryUnavailable, MySQLError, Unavailable)


@dataclass(slots=True)
class Entry(Generic[Value]):
    """A value, and until when it is good, on its owner's clock."""

    value: Value
    good_until: float


class Cache(Generic[Id, Value]):
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
        self._entries[key] = Entry(value, good_until)
        self._entries.move_to_end(key)
        if len(self._entries) > self._bound:
            self._entries.popitem(last=False)

    def drop(self, key: Id) -> None:
        self._entries.pop(key, None)


class Reads:
    """The reads under way."""

    def __init__(self) -> None:
        self._tasks: dict[Hashable, asyncio.Task[Any]] = {}

    async def share(
        self, key: Hashable, read: Callable[[], Awaitable[Value]], old: Entry[Value] | None
    ) -> tuple[Value, str]:
        """The result of `read`, which requests for one key at one time share, and "". If MySQL does
        not answer soon and there is an old value: that, and why.
        """
        task = self._tasks.get(key)
        if task is None:
            task = asyncio.ensure_future(read())
            self._tasks[key] = task
            task.add_done_callback(lambda done: self._finish(key, done))
        if old is None:
            # The read continues if this request is cancelled: others may wait for it.
            return await asyncio.shield(task), ""
        await asyncio.wait((task,), timeout=PATIENCE)
        if not task.done():
            return old.value, "no answer yet"
        if isinstance(task.exception(), _AWAY):
            return old.value, str(task.exception())
        return task.result(), ""

    def _finish(self, key: Hashable, read: asyncio.Task[Any]) -> None:
        del self._tasks[key]
        if not read.cancelled():
            read.exception()  # retrieved, so that asyncio does not log it
