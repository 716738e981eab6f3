"""The answer to a reload: what it changes."""

from __future__ import annotations

import asyncio

from msgspec import UNSET, Struct, UnsetType

from config.model import Lookup
from sharding.ring import placement


class RingChange(Struct):
    """A change of the ring.

    Attributes:
        moved: the share of the keys that move to another node, by `placement.moved`.
        changes: a phrase for each change of a node.
        generation: of the new ring.
    """

    moved: float
    changes: list[str]
    generation: int | UnsetType = UNSET


class Outcome(Struct):
    """What a reload changes: the names of values, `section.key`, and the ring.

    Attributes:
        warnings: what does not work and was taken all the same, since the reload was forced.
    """

    changed: list[str]
    needs_restart: list[str]
    ring: RingChange | UnsetType = UNSET
    warnings: list[str] | UnsetType = UNSET


async def ring_change(before: Lookup, after: Lookup) -> RingChange:
    """What a change of placement does to the keys."""
    # In a thread: it hashes for a while, and listeners must not wait.
    share = await asyncio.to_thread(placement.moved, before, after)
    return RingChange(round(share, 4), placement.differences(before, after))
