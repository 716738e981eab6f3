"""Moves as MySQL remembers them: one row for each reload that changed where keys lie.

The row outlives the gateway that made it. Whoever has the same ring can go on from its progress,
one gateway at a time: the lock is MySQL's (GET_LOCK), so a holder that dies frees it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tapedeck.failover.primary import Primary
from tapedeck.failover.session import Session
from tapedeck.sharding.placement import Placement

LOCK = "CONCAT('tapedeck_move.', MD5(DATABASE()))"
MOVING, DONE, LEFT = "moving", "done", "left"
"""A move is under way or waits for its turn; it is done; its gateway has another ring by now."""

_TABLE = (
    "CREATE TABLE IF NOT EXISTS tapedeck_moves ("
    "id CHAR(32) CHARACTER SET ascii NOT NULL PRIMARY KEY,"
    " ring CHAR(32) CHARACTER SET ascii NOT NULL,"
    " previous MEDIUMTEXT NOT NULL,"
    " state VARCHAR(8) CHARACTER SET ascii NOT NULL,"
    " progress MEDIUMTEXT NOT NULL,"
    " opened DATETIME(6) NOT NULL,"
    " began DATETIME(6) NULL,"
    " touched DATETIME(6) NOT NULL"
    ") ENGINE=InnoDB"
)
_KEPT_DAYS = 7


@dataclass(frozen=True, slots=True)
class Move:
    """A row.

    Attributes:
        id: 32 hexadecimal digits.
        previous: where the entries lie that are copied, newest ring first.
        progress: plain data, as `Haul.progress` has it.
    """

    id: str
    previous: tuple[Placement, ...]
    state: str
    progress: list[dict[str, Any]]


class Moves:
    """The table.

    All methods raise PrimaryUnavailable or MySQLError when MySQL cannot be asked.
    """

    def __init__(self, primary: Primary) -> None:
        self._primary = primary
        self._made = False

    async def open(self, move: str, ring: Placement, previous: tuple[Placement, ...]) -> None:
        """Note a move that is to be made, unless it is noted already."""
        if not self._made:
            await self._primary.execute(_TABLE)
            self._made = True
        await self._primary.execute(
            "DELETE FROM tapedeck_moves"
            f" WHERE touched < UTC_TIMESTAMP(6) - INTERVAL {_KEPT_DAYS} DAY"
        )
        await self._primary.execute(
            "INSERT IGNORE INTO tapedeck_moves VALUES"
            f" (%s, %s, %s, '{MOVING}', '[]', UTC_TIMESTAMP(6), NULL, UTC_TIMESTAMP(6))",
            (move, ring.fingerprint, json.dumps([p.as_json() for p in previous])),
        )

    async def find(self, move: str) -> Move | None:
        """One move."""
        rows = await self._primary.fetch(
            "SELECT id, previous, state, progress FROM tapedeck_moves WHERE id = %s", (move,)
        )
        return _move(rows[0]) if rows else None

    async def unfinished(self, ring: Placement) -> Move | None:
        """The newest move to a ring that is not done, whoever began it."""
        if not self._made:
            found = await self._primary.fetch(
                "SELECT 1 FROM information_schema.tables"
                " WHERE table_schema = DATABASE() AND table_name = 'tapedeck_moves'"
            )
            if not found:
                return None
            self._made = True
        rows = await self._primary.fetch(
            "SELECT id, previous, state, progress FROM tapedeck_moves"
            f" WHERE ring = %s AND state = '{MOVING}' ORDER BY opened DESC LIMIT 1",
            (ring.fingerprint,),
        )
        return _move(rows[0]) if rows else None

    async def nobody_copies(self) -> bool:
        """Whether the lock looks free: only then it is worth a connection to ask for it."""
        return bool((await self._primary.fetch(f"SELECT IS_FREE_LOCK({LOCK})"))[0][0] == 1)

    async def leave(self, move: str) -> None:
        """Its gateway has another ring by now."""
        await self._primary.execute(
            f"UPDATE tapedeck_moves SET state = '{LEFT}', touched = UTC_TIMESTAMP(6)"
            f" WHERE id = %s AND state = '{MOVING}'",
            (move,),
        )


# What follows is done by whoever holds the lock, on the connection that holds it.


async def take_lock(session: Session) -> bool:
    """Whether this connection may copy now; the lock goes with the connection."""
    return bool((await session.fetch(f"SELECT GET_LOCK({LOCK}, 0)"))[0][0] == 1)


async def free_lock(session: Session) -> None:
    """Let the next one."""
    await session.fetch(f"SELECT RELEASE_LOCK({LOCK})")


async def begin(session: Session, move: str) -> None:
    """The first page is about to be read, unless it was before."""
    await session.execute(
        "UPDATE tapedeck_moves SET began = COALESCE(began, UTC_TIMESTAMP(6)),"
        " touched = UTC_TIMESTAMP(6) WHERE id = %s",
        (move,),
    )


async def covered(session: Session, move: str) -> bool:
    """Whether another gateway has made the very same move since this one was noted."""
    rows = await session.fetch(
        "SELECT 1 FROM tapedeck_moves mine JOIN tapedeck_moves other"
        " ON other.ring = mine.ring AND other.previous = mine.previous"
        f" AND other.state = '{DONE}' AND other.began >= mine.opened"
        " WHERE mine.id = %s LIMIT 1",
        (move,),
    )
    return bool(rows)


async def save(session: Session, move: str, progress: list[dict[str, Any]], state: str) -> bool:
    """Write how far a move is; False if somebody else has ended it."""
    await session.execute(
        "UPDATE tapedeck_moves SET progress = %s, state = %s, touched = UTC_TIMESTAMP(6)"
        f" WHERE id = %s AND state = '{MOVING}'",
        (json.dumps(progress), state, move),
    )
    # Not the number of changed rows: that is 0 where nothing differs.
    rows = await session.fetch("SELECT state FROM tapedeck_moves WHERE id = %s", (move,))
    return bool(rows) and rows[0][0] == state


def _move(row: tuple[Any, ...]) -> Move:
    move, previous, state, progress = row
    placements = tuple(Placement.from_json(given) for given in json.loads(previous))
    return Move(str(move), placements, str(state), json.loads(progress))
