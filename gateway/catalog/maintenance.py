"""The catalog's background task: creates its tables, fills its index, writes plays."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from failover.mysql.connection import BEGIN, COMMIT, Session
from failover.mysql.errors import MySQLError, PrimaryUnavailable
from failover.mysql.locks import lock_name, try_lock
from failover.mysql.primary import Primary
from gateway.catalog.plays import WRITE_SECONDS, Plays
from gateway.catalog.tables import ensure_catalog, index_writes, mixes_of, read_mixes

_log = structlog.get_logger()

BATCH = 20
"""Mixes of one transaction. Few, because they are decoded with their tracks on the event loop."""

_MISSING = (
    "SELECT m.id FROM mixes m LEFT JOIN mix_index i ON i.mix_id = m.id"
    f" WHERE i.mix_id IS NULL AND m.id > %s ORDER BY m.id LIMIT {BATCH}"
)


async def maintain(primary: Primary, plays: Plays) -> None:
    """Create missing tables, index mixes that are not indexed, then write plays until cancelled."""
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
                    _log.warning("catalog not indexed", reason=said)
        await asyncio.sleep(WRITE_SECONDS)
        await plays.write()


async def fill(primary: Primary) -> None:
    """Index the mixes that are not indexed, unless another worker is doing so. If MySQL fails,
    mixes that were indexed stay so.
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
            _log.info("mixes indexed", mixes=count)


async def _fill(session: Session, ids: Sequence[int]) -> None:
    await session.execute(BEGIN)
    # This waits for an import under way. A later import waits for this, and writes its own rows.
    some = ", ".join(map(str, ids))
    await session.fetch(f"SELECT id FROM mixes WHERE id IN ({some}) ORDER BY id FOR UPDATE")
    mixes = list(mixes_of(await session.fetch(read_mixes(len(ids)), tuple(ids))))
    for statement, rows in index_writes(mixes) if mixes else ():
        await session.execute_many(statement, rows)
    await session.execute(COMMIT)
