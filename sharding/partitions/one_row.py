"""Replicated tables that have one value: the mark of sealing, and the opening of an import.

Their one row has the id 1. The first read creates the table and the row.
"""

from __future__ import annotations

from typing import Protocol

from failover.mysql.connection import Session
from failover.mysql.errors import Fault, MySQLError

TRIES = 30
"""Tries to change a row, of a second each: creates that have read it with a lock must end first."""


class Asks(Protocol):
    """Runs statements on the primary: `Primary`, or a session with it."""

    async def fetch(self, sql: str) -> list[tuple[object, ...]]: ...

    async def execute(self, sql: str) -> int: ...


async def read(primary: Asks, value: str, create: str, begin: str) -> object:
    """Read the value. Creates the table and its row if they are missing.

    Args:
        value: an SQL expression, NULL without a row.
        create, begin: the statements that create the table and the row, if they do not exist.

    Raises:
        PrimaryUnavailable, MySQLError: MySQL could not be asked.
    """
    try:
        found = await primary.fetch(f"SELECT {value}")
    except MySQLError as error:
        if error.fault is not Fault.NO_TABLE:
            raise
        await primary.execute(create)
        found = []
    if not found or found[0][0] is None:
        await primary.execute(begin)
        found = await primary.fetch(f"SELECT {value}")
    return found[0][0]


async def change(session: Session, statement: str) -> None:
    """Change a row, waiting a second at a time for transactions that have read it with a lock.

    Raises:
        MySQLError: it was not changed, or that is not known.
    """
    for tried in range(1, TRIES + 1):
        try:
            await session.execute(statement)
            return
        except MySQLError as error:
            if error.fault is not Fault.RETRY or tried == TRIES:
                raise
