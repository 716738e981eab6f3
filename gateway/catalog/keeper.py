"""What a gateway does for the catalog in the background: its tables, its index, what was played."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from failover.mysql.connection import BEGIN, COMMIT, Session
from failover.mysql.errors import MySQLError, PrimaryUnavailable
from failover.mysql.locks import lock_name, try_lock
from failover.mysql.primary import Primary
from gateway.catalog.index import writes
from gateway.catalog.plays import WRITE_SECONDS, Plays
from gateway.catalog.tables import ensure_catalog, mixes_of, read_mixes

log = structlog.get_logger("tapedeck.catalog")

BATCH = 20
"""Mixes of one transaction: with their tracks they are read on the event loop."""

_MISSING = (
    "SELECT m.id FROM mixes m LEFT JOIN mix_index i ON i.mix_id = m.id"
    f" WHERE i.mix_id IS NULL AND m.id > %s ORDER BY m.id LIMIT {BATCH}"
)


async def keep(primary: Primary, plays: Plays) -> None:
    """Make the tables that are missing, index what is not, then write what is played; for ever."""
    ready, said = False, ""
    while True:
        if not ready:
            try:
                await ensure_catalog(primary)
                await fill(primary)
                ready = True
            except (PrimaryUnavailable, MySQLError) as error:
                if said != str(error):
                    said = str(error)
                    log.warning("catalog not indexed", reason=said)
        await asyncio.sleep(WRITE_SECONDS)
        await plays.write()


async def fill(primary: Primary) -> None:
    """Index the mixes that are not, unless another worker is at it.

    Raises:
        PrimaryUnavailable, MySQLError: MySQL went away; what was done stays done.
    """
    async with (
        primary.session_apart(primary.deadline()) as session,
        try_lock(session, lock_name("catalog", primary.database)) as ours,
    ):
        last = count = 0
        while ours and (ids := [row[0] for row in await session.fetch(_MISSING, (last,))]):
            await _fill(session, ids)
            last, count = ids[-1], count + len(ids)
        if count:
            log.info("mixes indexed", mixes=count)


async def _fill(session: Session, ids: Sequence[int]) -> None:
    await session.execute(BEGIN)
    # An import that is under way ends first; one that comes waits, and writes its own.
    some = ", ".join(map(str, ids))
    await session.fetch(f"SELECT id FROM mixes WHERE id IN ({some}) ORDER BY id FOR UPDATE")
    mixes = list(mixes_of(await session.fetch(read_mixes(len(ids)), tuple(ids))))
    for sql, args in writes(mixes) if mixes else ():
        await session.execute(sql, tuple(args) or None)
    await session.execute(COMMIT)
