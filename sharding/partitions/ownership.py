"""Which tables are Tapedeck's. A name proves nothing: an application may use it too.

A table is ours if it has a day partition's name, exactly our columns and primary key, and our
comment with a known format version. The first edition created tables without that comment; they are
recognised by the comments of their columns. So an upgrade needs no extra step, and gateways of both
editions may run beside each other.

Any other table with a partition's name is foreign: it is never read, written or dropped.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import date
from typing import Any, NamedTuple

from msgspec import Struct

from failover.mysql import clock_sql
from failover.mysql.errors import Fault, MySQLError, PrimaryUnavailable
from sharding.partitions.calendar import day_of, prefix

FORMAT = 1
"""Of the tables that this edition creates; it touches no table of a later format."""
COMMENT = f"Tapedeck day partition, format {FORMAT}"
"""The beginning of a partition's comment. Sealing the day adds to it (`sealed_as`)."""
BEING_SEALED = f"{COMMENT}, being sealed"
OPEN = f"{COMMENT}, open"
"""The comment of a day that may get new keys and is not sealed: an import's, or an operator's."""
_SEALED = re.compile(rf"{COMMENT}, sealed as ([0-9a-f]{{32}})")
_COMMENT = re.compile(r"Tapedeck day partition, format ([0-9]+)(?![0-9])")
_INDEXED = "MUL"
"""The key of a column that begins an index which is not unique."""
_DISPLAY_WIDTH = re.compile(r"(int)\([0-9]+\)")


class Column(NamedTuple):
    """A column, as information_schema.columns describes it.

    Attributes:
        type: without the display width, which MariaDB shows and MySQL 8 does not.
        key: `PRI` in the primary key.
    """

    name: str
    type: str
    nullable: str
    key: str
    comment: str


COLUMNS = (
    Column("user_id", "bigint", "NO", "PRI", ""),
    Column("playlist_id", "bigint", "NO", "PRI", ""),
    Column("version", "bigint", "NO", "", ""),
    Column("owner", "tinyint unsigned", "NO", "", "0 deleted, 1 Player, 2 states API"),
    Column("state", "mediumblob", "NO", "", ""),
    Column("operations", "blob", "NO", "", "worker.operation.version; of late writers"),
)
"""The columns of a partition of format 1."""
_FIRST_EDITION = (
    *COLUMNS[:-1],
    COLUMNS[-1]._replace(comment="worker.operation.version.time; of late writers"),
)


class Table(Struct, frozen=True):
    """A table of ours.

    Attributes:
        rows, bytes: InnoDB's estimates.
        comment: the table's.
    """

    rows: int
    bytes: int
    comment: str = COMMENT

    @property
    def seal(self) -> str:
        """The seal: 32 hexadecimal digits in the comment, written after the day's keys were read
        for its filter; empty without one. A filter is used only for the table with its seal."""
        found = _SEALED.fullmatch(self.comment)
        return found[1] if found is not None else ""


class Found(Struct, frozen=True):
    """The tables that have a partition's name.

    Attributes:
        clock_ms: MySQL's clock when it was asked.
        ours: by day.
        foreign: why each foreign table is not ours, by its name.
    """

    clock_ms: int
    ours: dict[date, Table]
    foreign: dict[str, str]

    @property
    def seals(self) -> dict[date, str]:
        """The seals of the tables that have one, by day."""
        return {day: kept.seal for day, kept in self.ours.items() if kept.seal}


class ForeignTable(PrimaryUnavailable):
    """A foreign table has the name of a partition that is needed."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(
            f"the table {name} has the name of a day partition, but it is not Tapedeck's ({why}). "
            "Tapedeck does not touch it, and cannot work without that name: rename the table, or "
            "give Tapedeck another partitions.prefix"
        )


def why_foreign(kind: str, comment: str, columns: Sequence[Column]) -> str:
    """Why a table with a partition's name is not ours; empty if it is.

    Args:
        kind: `BASE TABLE`, or another table_type of information_schema.tables.
        comment: the table's.
        columns: all of them, in their order.
    """
    if kind != "BASE TABLE":
        return f"it is a {kind.lower()}"
    match = _COMMENT.match(comment)
    if match is not None and int(match[1]) != FORMAT:
        return f"its comment says format {int(match[1])}, and this Tapedeck knows format {FORMAT}"
    if [column[:-1] for column in columns] != [column[:-1] for column in COLUMNS]:
        return "it has other columns"
    if match is None and (comment or tuple(columns) not in (COLUMNS, _FIRST_EDITION)):
        return f"its comment is not {COMMENT!r}"
    return ""


def sealed_as(seal: str) -> str:
    """The comment of a table of ours that has this seal."""
    return f"{COMMENT}, sealed as {seal}"


def column_list() -> str:
    """The statement that lists the columns of all tables with the prefix."""
    return (
        "SELECT table_name, column_name, column_type, is_nullable, column_key, column_comment"
        f" FROM information_schema.columns WHERE {_named()} ORDER BY table_name, ordinal_position"
    )


def name_list() -> str:
    """The statement that lists the names of these tables and no more."""
    return f"SHOW TABLES LIKE '{prefix()}%'"


def table_list() -> str:
    """The statement that lists these tables with MySQL's clock; one row, at least, has no name.

    The type of a table that MySQL could not open is NULL.
    """
    return (
        "SELECT table_name, IF(table_type = 'BASE TABLE' AND engine IS NULL, NULL, table_type),"
        " table_comment, table_rows, data_length + index_length,"
        f" {clock_sql.MILLISECONDS} FROM information_schema.tables WHERE {_named()}"
        f" UNION ALL SELECT '', '', '', 0, 0, {clock_sql.MILLISECONDS}"
    )


def _named() -> str:
    # In LIKE, `_` matches any character (escapes depend on sql_mode); `day_of` is exact.
    return f"table_schema = DATABASE() AND table_name LIKE '{prefix()}%'"


def sort_out(columns: Iterable[Sequence[Any]], tables: Sequence[Sequence[Any]]) -> Found:
    """Separate our tables from foreign ones.

    Args:
        columns: the rows of `column_list`, read first.
        tables: the rows of `table_list`. A table without columns is left out (see `list_tables`).
    """
    by_table: dict[str, list[Column]] = {}
    for name, *described in columns:
        column, kind, nullable, key, comment = map(text, described)
        width = _DISPLAY_WIDTH.sub(r"\1", kind)
        # An operator's index changes no answer.
        key = "" if key == _INDEXED else key
        by_table.setdefault(text(name), []).append(Column(column, width, nullable, key, comment))
    ours: dict[date, Table] = {}
    foreign: dict[str, str] = {}
    for value, kind, comment, rows, size, _ in tables:
        name = text(value)
        day = day_of(name)
        if day is None or name not in by_table:
            continue
        why = why_foreign(text(kind), text(comment), by_table[name])
        if why:
            foreign[name] = why
        else:
            ours[day] = Table(int(rows or 0), int(size or 0), text(comment))
    return Found(int(tables[-1][-1]), ours, dict(sorted(foreign.items())))


def incomplete(
    names: Iterable[Sequence[Any]],
    columns: Iterable[Sequence[Any]],
    tables: Iterable[Sequence[Any]],
) -> list[str]:
    """The tables with a partition's name that one of the three lists lacks.

    Args:
        names, columns, tables: the rows of `name_list`, `column_list` and `table_list`.
    """
    named, described = ({text(row[0]) for row in rows} for rows in (names, columns))
    kinds = {text(name): kind and text(kind) for name, kind, *_ in tables}
    return sorted(
        name
        for name in named | described | kinds.keys()
        if day_of(name) is not None
        # A broken view has no columns.
        and not (name in named and kinds.get(name) and (name in described or "VIEW" in kinds[name]))
    )


async def list_tables(fetch: Callable[[str], Awaitable[Sequence[Sequence[Any]]]]) -> Found:
    """Ask MySQL for the tables that have a partition's name.

    MariaDB leaves tables out of information_schema, or their engine and comment, with no more than
    a warning, if the statement is killed (1317), or if a session that holds locks (GET_LOCK too)
    meets a table that is being altered (1684). Such a partition would count as having no rows, or
    as foreign. So the lists are read again until all of them have the same tables.

    Raises:
        MySQLError: RETRY, if they never do.
    """
    for _ in range(LISTS):
        names, columns = await fetch(name_list()), await fetch(column_list())
        tables = await fetch(table_list())
        lacking = incomplete(names, columns, tables)
        if not lacking:
            return sort_out(columns, tables)
        await asyncio.sleep(LIST_AGAIN)
    raise MySQLError(
        Fault.OVERTAKEN,
        0,
        f"MySQL lists {', '.join(lacking[:MOST_NAMED])} in part only: is it being altered, or is it"
        " damaged? Try SHOW CREATE TABLE",
    )


def in_words(foreign: Mapping[str, str]) -> str:
    """The foreign tables as a sentence; empty without any."""
    if not foreign:
        return ""
    named = ", ".join(f"{name} ({why})" for name, why in list(foreign.items())[:MOST_NAMED])
    more = f" and {len(foreign) - MOST_NAMED} more" if len(foreign) > MOST_NAMED else ""
    return (
        f"tables that are not Tapedeck's have names of day partitions and are left alone: {named}"
        f"{more}; rename them, or give Tapedeck another partitions.prefix"
    )


MOST_NAMED = 5
"""Most tables that a sentence names."""
LISTS = 20
"""How often the lists are read until they agree."""
LIST_AGAIN = 0.1
"""Seconds between two tries."""


def text(value: Any) -> str:
    """A value that the driver returns as bytes or as a string."""
    return value.decode() if isinstance(value, bytes) else str(value)
