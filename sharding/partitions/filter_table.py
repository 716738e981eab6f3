"""Day filters in MySQL, beside the partitions that they were made from.

A filter is stored in chunks, in one transaction. It contains its checksum and the seal of its table
(`sharding.filters.encoding`), and is used only if both are right. What asks MySQL raises what its
`fetch` or session raises: PrimaryUnavailable, MySQLError.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import date
from typing import Any

from failover.mysql.connection import BEGIN, COMMIT, Session
from failover.mysql.errors import Fault, MySQLError
from sharding.filters import encoding
from sharding.filters.encoding import BadFilter, DayFilter, Size
from sharding.partitions.calendar import day_of, table
from sharding.partitions.ownership import text

TABLE = "tapedeck_filters"
CREATE = (
    f"CREATE TABLE IF NOT EXISTS {TABLE} ("
    "partition_name VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,"
    "chunk SMALLINT UNSIGNED NOT NULL,"
    "content MEDIUMBLOB NOT NULL,"
    "PRIMARY KEY (partition_name, chunk)"
    ") ENGINE=InnoDB"
)
CHUNK_BYTES = 256 << 10
"""Bytes of a chunk. In a statement it has twice as many, half of the least usual
max_allowed_packet."""

Fetch = Callable[[str], Awaitable[Sequence[Sequence[Any]]]]


async def save(session: Session, day: date, stored: bytes) -> None:
    """Store a day's filter, replacing the one that it had.

    Raises:
        MySQLError: nothing was stored, or, where the answer to the commit was lost, everything.
    """
    await session.execute(CREATE)
    await session.execute(BEGIN)
    try:
        await session.execute(_delete(day))
        for number, start in enumerate(range(0, len(stored), CHUNK_BYTES)):
            part = stored[start : start + CHUNK_BYTES].hex()
            await session.execute(f"INSERT INTO {TABLE} VALUES ('{table(day)}',{number},x'{part}')")
        await session.execute(COMMIT)
    except BaseException:
        session.close()
        raise


async def remove(session: Session, day: date) -> None:
    """Remove a day's filter, if it has one."""
    try:
        await session.execute(_delete(day))
    except MySQLError as error:
        if error.fault is not Fault.NO_TABLE:
            raise


async def beginnings(fetch: Fetch) -> dict[date, bytes]:
    """The header of each stored filter, by day. (Filters of another prefix are left out.)"""
    try:
        found = await fetch(
            f"SELECT partition_name, LEFT(content, {encoding.HEADER_BYTES}) FROM {TABLE}"
            " WHERE chunk = 0"
        )
    except MySQLError as error:
        if error.fault is not Fault.NO_TABLE:
            raise
        return {}
    named = {day_of(text(name)): bytes(content) for name, content in found}
    return {day: content for day, content in named.items() if day is not None}


async def usable(fetch: Fetch, seals: Mapping[date, str]) -> dict[date, Size]:
    """The days whose stored filter is of the present table, and the filter's size.

    Args:
        seals: of the present tables, by day.
    """
    found = {}
    for day, beginning in (await beginnings(fetch)).items():
        try:
            found[day] = encoding.size_of(beginning, bytes.fromhex(seals.get(day, "")))
        except BadFilter:
            continue
    return found


async def load(fetch: Fetch, day: date, seal: str) -> DayFilter:
    """Read a day's filter.

    Args:
        seal: of the day's table.

    Raises:
        BadFilter: no filter has this seal, or it is damaged.
    """
    content = bytearray()
    chunk = f"SELECT content FROM {TABLE} WHERE partition_name = '{table(day)}' AND chunk = "
    number = 0
    while found := await fetch(chunk + str(number)):
        content += found[0][0]
        number += 1
    # Of a large filter the checksum takes some milliseconds, in which requests would wait.
    return await asyncio.to_thread(encoding.decode, bytes(content), bytes.fromhex(seal))


def _delete(day: date) -> str:
    return f"DELETE FROM {TABLE} WHERE partition_name = '{table(day)}'"
