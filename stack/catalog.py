"""Writes mixes into a server's tables, for the local stack, benchmarks, drills and tests."""

from __future__ import annotations

from collections.abc import Sequence

from pymysql.cursors import Cursor

from gateway.catalog.model import Mix
from gateway.catalog.tables import writes


def write_mixes(cursor: Cursor, mixes: Sequence[Mix]) -> None:
    """Insert or replace mixes and their tracks, inside the caller's transaction."""
    for statement, rows in writes(mixes):
        if rows:
            cursor.executemany(statement, rows)
        else:
            cursor.execute(statement)
