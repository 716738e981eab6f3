"""What a reload changes, in the words of its answer."""

from __future__ import annotations

import asyncio

from msgspec import UNSET, Struct, UnsetType

from config.load import ConfigError
from sharding.ring import placement
from sharding.ring.placement import Placement


class RingChange(Struct):
    """What happens to the ring.

    Attributes:
        moved: the share of the keys that move to another node, as `placement.moved` says.
        changes: what is done to the nodes, a phrase each.
        generation: that it becomes.
    """

    moved: float
    changes: list[str]
    generation: int | UnsetType = UNSET


class Outcome(Struct):
    """What a reload changes: the names of values, `section.key`, and what that does to the ring."""

    changed: list[str]
    needs_restart: list[str]
    ring: RingChange | UnsetType = UNSET


async def ring_change(before: Placement, after: Placement) -> RingChange:
    """What other servers, weights or hashes do to the keys.

    Raises:
        ConfigError: no ring can be made of one of them.
    """
    try:
        # In a thread: it takes some hashing, and listeners wait for nothing.
        share = await asyncio.to_thread(placement.moved, before, after)
    except ValueError as error:
        raise ConfigError("configuration", [f"lookup.servers: {error}"]) from None
    return RingChange(round(share, 4), placement.differences(before, after))
