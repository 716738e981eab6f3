"""The SQL of states: the table, the statement of a load, the statements of a save.

Only what MariaDB 10.6+ and MySQL 8 both have. Every value is an integer, a hexadecimal literal or
the checked name of a partition, so nothing is escaped and nothing can be injected.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import Any

from msgspec import Struct

from failover.mysql.clock_sql import MILLISECONDS
from failover.mysql.connection import READ_ONLY
from sharding.partitions.calendar import number_of, table
from sharding.partitions.ownership import COLUMNS, COMMENT
from sharding.partitions.seal_mark import TABLE as MARK
from sharding.state import Key, Owner, Stored

TOMBSTONE = 0
"""The owner of a deleted state. Its row reads as absent, and keeps version and operations."""


class Row(Struct, frozen=True, gc=False):
    """A row of a day partition.

    Attributes:
        day: of its partition.
        version: as in Stored.
        owner: an Owner, or TOMBSTONE.
        body: the state's bytes.
        operations: the log of `sharding.store.idempotency`.
    """

    day: date
    version: int
    owner: int
    body: bytes
    operations: bytes

    @property
    def stored(self) -> Stored | None:
        """The state in the row; None for a tombstone."""
        if self.owner == TOMBSTONE:
            return None
        return Stored(self.body, self.version, self.day, Owner(self.owner))


class NewRow(Struct, frozen=True, gc=False):
    """A row to be written.

    Attributes:
        base: the version that it was made from; 0 for a new key.
        version: the base's, plus one for each change.
        owner, body, operations: as in Row.
    """

    key: Key
    base: int
    version: int
    owner: int
    body: bytes
    operations: bytes

    @property
    def sql(self) -> str:
        return (
            f"({self.key.user_id},{self.key.playlist_id},{self.version},{self.owner},"
            f"x'{self.body.hex()}',x'{self.operations.hex()}')"
        )

    @property
    def assignments(self) -> str:
        return (
            f"version={self.version},owner={self.owner},state=x'{self.body.hex()}',"
            f"operations=x'{self.operations.hex()}'"
        )


_COLUMNS = "user_id,playlist_id,version,owner,state,operations"


def create_table(day: date) -> str:
    """The DDL of a partition; it does nothing if a table has this name, ours or not."""
    columns = "".join(f"{one.name} {one.type} NOT NULL COMMENT '{one.comment}'," for one in COLUMNS)
    return (
        f"CREATE TABLE IF NOT EXISTS {table(day)} ({columns} PRIMARY KEY (user_id, playlist_id))"
        f" ENGINE=InnoDB COMMENT='{COMMENT}'"
    )


def _among(keys: Sequence[Key]) -> str:
    if len(keys) == 1:
        return f"user_id={keys[0].user_id} AND playlist_id={keys[0].playlist_id}"
    pairs = ",".join([f"({user},{playlist})" for user, playlist in keys])
    return f"(user_id,playlist_id) IN ({pairs})"


def read(wanted: Mapping[date, Sequence[Key]]) -> str:
    """The statement that reads keys from several partitions in one snapshot, with MySQL's clock.

    Rows are `(YYYYMMDD, user_id, playlist_id, version, owner, state, operations)`. The row of day 0
    is the clock: its user_id is the newest sealed day (YYYYMMDD), its playlist_id the opening, its
    version the milliseconds, its owner whether the host is read-only (0 or 1).
    """
    branches = []
    before: Sequence[Key] = ()
    for day, keys in wanted.items():
        # Mostly the same keys are read from all partitions.
        if keys is not before:
            before, among = keys, _among(keys)
        branches.append(f"SELECT {number_of(day)},{_COLUMNS} FROM {table(day)} WHERE {among}")
    branches.append(
        f"SELECT 0,sealed+0,opening,{MILLISECONDS},{READ_ONLY},x'',x'' FROM {MARK} WHERE id=1"
    )
    return " UNION ALL ".join(branches)


def newest(rows: Iterable[Sequence[Any]], wanted: Iterable[date]) -> dict[Key, Row]:
    """The newest row of each key among what `read` returned for these days."""
    days = {number_of(day): day for day in wanted}
    found: dict[Key, Row] = {}
    for number, user, playlist, version, owner, body, operations in rows:
        if number == b"0":
            continue
        key = Key(int(user), int(playlist))
        row = Row(days[int(number)], int(version), int(owner), body, operations)
        if key not in found or found[key].day < row.day:
            found[key] = row
    return found


def versions(wanted: Mapping[date, Sequence[Key]]) -> str:
    """The statement that reads keys' versions: rows `(user_id, playlist_id, version)`."""
    return " UNION ALL ".join(
        f"SELECT user_id,playlist_id,version FROM {table(day)} WHERE {_among(keys)}"
        for day, keys in wanted.items()
    )


REQUIREMENT_FAILED = 1242
"""ER_SUBQUERY_NO_1_ROW, which nothing but `require` and `require_absent` can raise here."""
_FAILS = "(SELECT 1 UNION ALL SELECT 2)"


def require(count: int) -> str:
    """A statement that fails, and so ends a script, unless the one before it affected `count` rows.

    (SET rather than SELECT: its answer is one packet, a result set is five.)
    """
    return f"SET @tapedeck=IF(ROW_COUNT()={count},0,{_FAILS})"


def require_absent(day: date, beside: Mapping[date, Sequence[Key]], opening: int) -> str:
    """A statement that fails, and so ends a script, unless MySQL's day is `day`, these keys are
    absent, and the opening is still the load's (see `import_opening`).

    A create has it after its insert, because a gateway on the other side of midnight may create the
    same key. Both insert before they check, with a lock, so at least one of them sees the other's
    row, or waits for it. (The mark, too, is read with a shared lock: no day is marked while this
    transaction is open.)

    Args:
        day: W.
        beside: the keys by the day where they must be absent; no keys: it must have no row. The
            oldest day is checked first, because rows move from older to newer ones.
        opening: of the load.
    """
    clock = f"opening={opening} AND {_is_day(day)}"
    holds = [
        f"EXISTS(SELECT 1 FROM {MARK} WHERE id=1 AND {clock} LOCK IN SHARE MODE)",
        *(
            f"NOT EXISTS(SELECT 1 FROM {table(other)}"
            f"{f' WHERE {_among(keys)}' if keys else ' LIMIT 1'} FOR UPDATE)"
            for other, keys in sorted(beside.items())
        ),
    ]
    return f"SET @tapedeck=IF({' AND '.join(holds)},0,{_FAILS})"


def insert(day: date, rows: Sequence[NewRow]) -> str:
    """The statement that inserts rows; it fails (1062) if one of the keys exists."""
    return f"INSERT INTO {table(day)} ({_COLUMNS}) VALUES " + ",".join([row.sql for row in rows])


def insert_absent(day: date, rows: Sequence[NewRow]) -> str:
    """The statement that inserts the rows whose keys do not exist; it locks the others, unchanged.

    (INSERT IGNORE would also ignore values that MySQL does not accept.)
    """
    return f"{insert(day, rows)} ON DUPLICATE KEY UPDATE version={table(day)}.version"


def rows(day: date, keys: Sequence[Key]) -> str:
    """The statement that reads keys' rows: `(user_id, playlist_id, version, owner, state,
    operations)`."""
    return f"SELECT {_COLUMNS} FROM {table(day)} WHERE {_among(keys)}"


def update(day: date, row: NewRow) -> str:
    """The compare-and-set of one row: it affects 1 row, or none on a conflict."""
    return (
        f"UPDATE {table(day)} SET {row.assignments} WHERE user_id={row.key.user_id}"
        f" AND playlist_id={row.key.playlist_id} AND version={row.base}"
    )


def upsert(day: date, rows: Sequence[NewRow]) -> str:
    """The compare-and-set of several rows: MySQL counts 2 for each row that matched, 2n for all n.

    The version is assigned last, because assignments run left to right and each of them compares it
    (MySQL manual, "INSERT ... ON DUPLICATE KEY UPDATE"). A row that has moved away is inserted and
    counts 1: roll back on any count but 2n.
    """
    match = f"version=VALUES(version)-{_steps(rows)}"
    sets = ",".join(
        f"{column}=IF({match},VALUES({column}),{column})"
        for column in ("owner", "state", "operations", "version")
    )
    return f"{insert(day, rows)} ON DUPLICATE KEY UPDATE {sets}"


def _steps(rows: Sequence[NewRow]) -> str:
    """The SQL expression of by how much each row's version grows in an upsert."""
    cases = [
        f" WHEN user_id={row.key.user_id} AND playlist_id={row.key.playlist_id}"
        f" THEN {row.version - row.base}"
        for row in rows
        if row.version - row.base != 1
    ]
    return f"(CASE{''.join(cases)} ELSE 1 END)" if cases else "1"


def delete(day: date, versions: Mapping[Key, int]) -> str:
    """The statement that deletes rows that still have their version."""
    rows = " OR ".join(
        f"(user_id={user} AND playlist_id={playlist} AND version={version})"
        for (user, playlist), version in versions.items()
    )
    return f"DELETE FROM {table(day)} WHERE {rows}"


def require_day(day: date) -> str:
    """A statement that fails, and so ends a script, unless MySQL's day is `day`.

    The last statement of a move: after midnight, another gateway may have found the row past
    retention and created the key anew. One statement for a whole batch: the mark's row takes as
    long to read as a row to delete.
    """
    return (
        f"SET @tapedeck=IF(EXISTS(SELECT 1 FROM {MARK} WHERE id=1 AND {_is_day(day)}),0,{_FAILS})"
    )


def _is_day(day: date) -> str:
    return f"GREATEST(UTC_DATE(),sealed+INTERVAL 1 DAY)='{day:%Y-%m-%d}'"
