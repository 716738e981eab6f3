"""MySQL locks, for work that one gateway does for all.

A lock belongs to the connection that took it, and is released when that ends. Lock names are shared
by the whole server, so a name contains the database's. It is computed here, since MySQL 9.x has no
MD5(); it is the same as in earlier editions, so that gateways of both exclude each other.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import AsyncIterator

from failover.mysql.connection import Session
from failover.mysql.errors import Fault, MySQLError


def lock_name(work: str, database: str) -> str:
    """The name of a lock, at most 64 characters (MySQL's limit).

    Args:
        work: a short word.

    >>> lock_name("prune", "tapedeck")
    'tapedeck_prune.63966f7bae367cc05197250b49724eea'
    """
    digest = hashlib.md5(database.encode(), usedforsecurity=False).hexdigest()
    return f"tapedeck_{work}.{digest}"


async def take(session: Session, name: str, seconds: int = 0) -> bool:
    """Take a lock; whether that succeeded within so many seconds.

    Raises:
        MySQLError: the wait was ended, to which some servers answer NULL and others an error.
    """
    ((answer,),) = await session.fetch("SELECT GET_LOCK(%s, %s)", (name, seconds))
    if answer is None:
        raise MySQLError(Fault.OVERTAKEN, 0, f"MySQL ended the wait for {name}: KILL, or no memory")
    return bool(answer)


async def release(session: Session, name: str) -> None:
    """Release a lock, unless the connection is lost, which releases it too."""
    if not session.broken:
        with contextlib.suppress(MySQLError):
            await session.fetch("SELECT RELEASE_LOCK(%s)", (name,))


@contextlib.asynccontextmanager
async def try_lock(session: Session, name: str) -> AsyncIterator[bool]:
    """Hold a lock during the block; yields False if another connection holds it."""
    taken = await take(session, name)
    try:
        yield taken
    finally:
        if taken:
            await release(session, name)
