"""Locks that MySQL keeps for us, for work that one gateway does for all.

A lock belongs to the connection that took it: it is free again when that ends. Its name holds for
the whole server, so it says which database it is for. The name is made here and not by MySQL, whose
9.x has no MD5(); the names are those that earlier editions had MySQL make, so that gateways of both
keep each other out.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import AsyncIterator

from failover.mysql.connection import Session
from failover.mysql.errors import MySQLError


def lock_name(work: str, database: str) -> str:
    """What a lock is called, at most 64 letters (MySQL's limit).

    Args:
        work: what it is for: a short word.
        database: whose work.

    >>> lock_name("prune", "tapedeck")
    'tapedeck_prune.63966f7bae367cc05197250b49724eea'
    """
    digest = hashlib.md5(database.encode(), usedforsecurity=False).hexdigest()
    return f"tapedeck_{work}.{digest}"


@contextlib.asynccontextmanager
async def try_lock(session: Session, name: str) -> AsyncIterator[bool]:
    """Hold a lock during the block, or find that another connection holds it: then False.

    Raises:
        MySQLError: MySQL could not be asked.
    """
    taken = (await session.fetch("SELECT GET_LOCK(%s, 0)", (name,)))[0][0] == 1
    try:
        yield taken
    finally:
        if taken and not session.broken:
            with contextlib.suppress(MySQLError):
                await session.fetch("SELECT RELEASE_LOCK(%s)", (name,))
