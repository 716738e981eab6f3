"""The SQL of a state: the table, the one reading statement, the writing ones.

Only what MariaDB 10.6+ and MySQL 8 both have. Every value is an integer, a hexadecimal literal or
the checked name of a partition, so nothing is escaped and nothing can be injected.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date

from msgspec import Struct

from failover.mysql.clock_sql import MILLISECONDS
from failover.mysql.connection import READ_ONLY
from sharding.partitions.calendar import number_of, table
from sharding.partitions.openings import LOCKED, NUMBER
from sharding.partitions.ownership import COMMENT
from sharding.partitions.seal_mark import MYSQL_DAY, NEWEST
from sharding.state import Key, Owner, Stored

TOMBSTONE = 0
"""The owner of a deleted state: reads as absent, keeps the version and the operations."""


class Row(Struct, frozen=True, gc=False):
    """A row of a day partition.

    Attributes:
        day: whose partition.
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
        """What the listener has: nothing, if the state was deleted."""
        if self.owner == TOMBSTONE:
            return None
        return Stored(self.body, self.version, self.day, Owner(self.owner))


class NewRow(Struct, frozen=True, gc=False):
    """A row to be written.

    Attributes:
        base: the version that it was made from; 0 for none.
        version: the base's plus the changes that made it.
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
        """The row as a VALUES tuple."""
        return (
            f"({self.key.user_id},{self.key.playlist_id},{self.version},{self.owner},"
            f"x'{self.body.hex()}',x'{self.operations.hex()}')"
        )

    @property
    def assignments(self) -> str:
        """The row as the SET of an UPDATE."""
        return (
            f"version={self.version},owner={self.owner},state=x'{self.body.hex()}',"
            f"operations=x'{self.operations.hex()}'"
        )


_COLUMNS = "user_id,playlist_id,version,owner,state,operations"


def create_table(day: date) -> str:
    """The DDL of a partition; harmless where one is there already, ours or not.

    What it makes is what `ownership.COLUMNS` says.
    """
    return (
        f"CREATE TABLE IF NOT EXISTS {table(day)} ("
        "user_id BIGINT NOT NULL,"
        "playlist_id BIGINT NOT NULL,"
        "version BIGINT NOT NULL,"
        "owner TINYINT UNSIGNED NOT NULL COMMENT '0 deleted, 1 Player, 2 states API',"
        "state MEDIUMBLOB NOT NULL,"
        "operations BLOB NOT NULL COMMENT 'worker.operation.version; of late writers',"
        "PRIMARY KEY (user_id, playlist_id)"
        f") ENGINE=InnoDB COMMENT='{COMMENT}'"
    )


def _among(keys: Sequence[Key]) -> str:
    if len(keys) == 1:
        return f"user_id={keys[0].user_id} AND playlist_id={keys[0].playlist_id}"
    pairs = ",".join([f"({user},{playlist})" for user, playlist in keys])
    return f"(user_id,playlist_id) IN ({pairs})"


def read(wanted: Mapping[date, Sequence[Key]]) -> str:
    """One statement, and so one snapshot, over several partitions, with MySQL's clock.

    Rows are `(YYYYMMDD, user_id, playlist_id, version, owner, state, operations)`; the clock is the
    row of day 0: its user_id is the newest sealed day (YYYYMMDD), its playlist_id the opening, its
    version the milliseconds, its owner whether the host is read-only (0 or 1).
    """
    branches = []
    before: Sequence[Key] = ()
    for day, keys in wanted.items():
        # Most often all partitions are asked for the same keys.
        if keys is not before:
            before, among = keys, _among(keys)
        branches.append(f"SELECT {number_of(day)},{_COLUMNS} FROM {table(day)} WHERE {among}")
    branches.append(
        f"SELECT 0,COALESCE({NEWEST}+0,19700101),COALESCE({NUMBER},0),{MILLISECONDS},{READ_ONLY},"
        "x'',x''"
    )
    return " UNION ALL ".join(branches)


def versions(wanted: Mapping[date, Sequence[Key]]) -> str:
    """What versions keys have in partitions: rows `(user_id, playlist_id, version)`."""
    return " UNION ALL ".join(
        f"SELECT user_id,playlist_id,version FROM {table(day)} WHERE {_among(keys)}"
        for day, keys in wanted.items()
    )


REQUIREMENT_FAILED = 1242
"""ER_SUBQUERY_NO_1_ROW, which nothing but `require` and `require_absent` can raise here."""
_FAILS = "(SELECT 1 UNION ALL SELECT 2)"


def require(count: int) -> str:
    """Fails unless the statement before it affected `count` rows, so that a script ends here.

    (SET rather than SELECT: its answer is one packet, a result set is five.)
    """
    return f"SET @tapedeck=IF(ROW_COUNT()={count},0,{_FAILS})"


def require_absent(day: date, beside: Mapping[date, Sequence[Key]], opening: int) -> str:
    """Fails, so that a script ends here, unless MySQL's day is `day`, these keys are not there, and
    the partitions that get new keys are those that were listed (see `openings`).

    A create needs it behind its insert: has a gateway on the other side of midnight made the same
    key? Both insert before they look, so at least one of them sees the other's row, or waits for
    it: each key is looked for with a lock. (The mark, too, is read with a shared lock: no day is
    marked while this transaction is open.)

    Args:
        day: W.
        beside: the keys by the partition where they must not be. The oldest is looked at first, as
            rows move from older to newer ones.
        opening: the one that the load had.
    """
    holds = [f"{MYSQL_DAY}='{day:%Y-%m-%d}'", f"COALESCE({LOCKED},0)={opening}"]
    holds += [
        f"NOT EXISTS(SELECT 1 FROM {table(other)} WHERE {_among(keys)} FOR UPDATE)"
        for other, keys in sorted(beside.items())
    ]
    return f"SET @tapedeck=IF({' AND '.join(holds)},0,{_FAILS})"


def insert(day: date, rows: Sequence[NewRow]) -> str:
    """Insert rows; any that is there already fails the statement (1062)."""
    return f"INSERT INTO {table(day)} ({_COLUMNS}) VALUES " + ",".join([row.sql for row in rows])


def update(day: date, row: NewRow) -> str:
    """Compare-and-set of one row: affects 1 row, or none on a conflict."""
    return (
        f"UPDATE {table(day)} SET {row.assignments} WHERE user_id={row.key.user_id}"
        f" AND playlist_id={row.key.playlist_id} AND version={row.base}"
    )


def upsert(day: date, rows: Sequence[NewRow]) -> str:
    """Compare-and-set of several rows: affects 2 a row that matched, so 2n says all n did.

    The version is assigned last, because assignments run left to right and each of them compares it
    (MySQL manual, "INSERT ... ON DUPLICATE KEY UPDATE"). A row that has moved away is inserted and
    counts 1: any count but 2n must be rolled back.
    """
    match = f"version=VALUES(version)-{_steps(rows)}"
    sets = ",".join(
        f"{column}=IF({match},VALUES({column}),{column})"
        for column in ("owner", "state", "operations", "version")
    )
    return f"{insert(day, rows)} ON DUPLICATE KEY UPDATE {sets}"


def _steps(rows: Sequence[NewRow]) -> str:
    """How many changes made each row of an upsert: one, except where several were saved at once."""
    cases = [
        f" WHEN user_id={row.key.user_id} AND playlist_id={row.key.playlist_id}"
        f" THEN {row.version - row.base}"
        for row in rows
        if row.version - row.base != 1
    ]
    return f"(CASE{''.join(cases)} ELSE 1 END)" if cases else "1"


def delete(day: date, versions: Mapping[Key, int], today: date) -> str:
    """Delete rows that still have their version, while `today` is MySQL's day; affects as many as
    did.

    A row that leaves its partition after midnight may have been past retention for another gateway,
    which then made the key anew.
    """
    rows = " OR ".join(
        f"(user_id={user} AND playlist_id={playlist} AND version={version})"
        for (user, playlist), version in versions.items()
    )
    return f"DELETE FROM {table(day)} WHERE ({rows}) AND {MYSQL_DAY}='{today:%Y-%m-%d}'"
