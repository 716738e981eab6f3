"""Where one state is: for `ring where` and `/where`, never used by a listener's request."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from msgspec import UNSET, UnsetType

from failover.mysql.errors import MySQLError, PrimaryUnavailable
from sharding.partitions.calendar import table
from sharding.shown import FoundState, Hint, Where
from sharding.state import Key, Owner

if TYPE_CHECKING:
    from sharding.backend import Backend


async def where_is(backend: Backend, key: Key, *, all_or_nothing: bool = True) -> Where:
    """Where a state is: the node that owns its key, every node's hint, and the row in MySQL.

    Args:
        all_or_nothing: False: if MySQL does not answer, return the hints all the same, and say
            why in `problem`.

    Raises:
        PrimaryUnavailable, MySQLError: MySQL could not be asked.
    """
    name = backend.lookups.layout.ring_key(key)
    order = [server.name for server in backend.lookups.ring.order(name)]
    hints = await asyncio.gather(
        *(backend.lookups.peek(key, backend.nodes[node]) for node in order)
    )
    row = None
    problem: str | UnsetType = UNSET
    try:
        row = (await backend.reader.find(key)).row
    except (PrimaryUnavailable, MySQLError) as error:
        if all_or_nothing:
            raise
        problem = str(error)
    stored = row.stored if row is not None else None
    return Where(
        problem=problem,
        user_id=key.user_id,
        playlist_id=key.playlist_id,
        lookup_key=name.decode(),
        owner=order[0] if order else None,
        order=order,
        hints=[
            Hint(node, hint.found.value, f"{hint.day:%Y%m%d}" if hint.day is not None else None)
            for node, hint in zip(order, hints, strict=True)
        ],
        state=None
        if stored is None
        else FoundState(
            table(stored.day),
            f"{stored.day:%Y%m%d}",
            stored.version,
            "player" if stored.owner == Owner.PLAYER else "states API",
            stored.body.decode("utf-8", "replace"),
        ),
    )
