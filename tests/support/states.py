"""States that count: each change adds one and answers the new count, so that a change that was
lost, doubled or reordered shows in the numbers."""

from __future__ import annotations

from sharding.state import Keep, Key, Owner, Remove, Stored, Write
from sharding.store.store import Store


def bump(stored: Stored | None) -> Write[int]:
    """The transition: one more."""
    count = (int(stored.body) if stored is not None else 0) + 1
    return Write(b"%d" % count, Owner.STATES_API, count)


def forget(stored: Stored | None) -> Remove[bool] | Keep[bool]:
    """The transition: delete, if there is something."""
    return Keep(False) if stored is None else Remove(True)


async def count(store: Store, key: Key) -> int:
    """What the state says now; 0 without one."""
    stored = await store.load(key)
    return int(stored.body) if stored is not None else 0
