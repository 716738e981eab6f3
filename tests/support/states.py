"""States that are counters: each change adds one and answers the new count. So the numbers show a
change that was lost, applied twice, or applied in another order."""

from __future__ import annotations

from sharding.state import Keep, Key, Owner, Remove, Stored, Write
from sharding.store.store import Store


def bump(stored: Stored | None) -> Write[int]:
    """The transition that adds one."""
    count = (int(stored.body) if stored is not None else 0) + 1
    return Write(b"%d" % count, Owner.STATES_API, count)


def forget(stored: Stored | None) -> Remove[bool] | Keep[bool]:
    """The transition that deletes the state, if there is one."""
    return Keep(False) if stored is None else Remove(True)


async def count(store: Store, key: Key) -> int:
    """The present count; 0 if there is no state."""
    stored = await store.load(key)
    return int(stored.body) if stored is not None else 0
