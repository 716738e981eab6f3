"""The mark: the newest sealed day, in a replicated table of one row. MySQL's day follows from it.

A sealed day must get no new keys: its filter would wrongly rule them out. So sealing day D first
sets the mark to D, and from then on MySQL's day is later than D, even if MySQL's clock steps back
over midnight. **Every statement of the protocol that needs MySQL's day (a load's clock, the last
statement of a move or a create) computes it from the mark itself.**

The mark only grows. It is set before the filter is made, so a marked day may have no filter yet.
`sealing` sets it; `tests/model` shows what breaks without these rules.

The row also has the opening (`import_opening`): a load and a create need both, and read one row.
"""

from __future__ import annotations

import contextlib
from datetime import date

from failover.mysql.connection import Session
from failover.mysql.errors import Fault, MySQLError
from failover.mysql.primary import Primary
from failover.mysql.retries import until_unlocked

TABLE = "tapedeck_seal_mark"
CREATE = (
    f"CREATE TABLE IF NOT EXISTS {TABLE} ("
    "id TINYINT UNSIGNED NOT NULL PRIMARY KEY, sealed DATE NOT NULL,"
    "opening BIGINT NOT NULL DEFAULT 0"
    ") ENGINE=InnoDB"
)
"""Does nothing if the table exists. (Its one row has the id 1.)"""
BEGIN = f"INSERT IGNORE INTO {TABLE} (id,sealed) VALUES (1,'1970-01-01')"
"""Inserts the row that means no sealed day and no import yet; does nothing if the row exists."""
NEWEST = f"(SELECT sealed FROM {TABLE} WHERE id=1)"
"""The newest sealed day as an SQL expression, a DATE; NULL without a row."""
MYSQL_DAY = f"GREATEST(UTC_DATE(),COALESCE({NEWEST}+INTERVAL 1 DAY,UTC_DATE()))"
"""MySQL's day as an SQL expression, a DATE: the newer of `UTC_DATE()` and the day after the mark.

Fails (1146, `Fault.NO_TABLE`) if the table is missing; `read` creates it.
"""
TRIES = 30
"""Tries to change the row, of a second each: creates that have read it with a lock must end
first."""

_READ = f"SELECT sealed,opening FROM {TABLE} WHERE id=1"
_NO_COLUMN = 1054
"""ER_BAD_FIELD_ERROR: the table was created before there were imports."""


async def read(primary: Primary | Session) -> tuple[date, int]:
    """Read the newest sealed day, 1970-01-01 if there is none, and the opening.

    Creates the table, its column and its row if they are missing.
    """
    try:
        found = await primary.fetch(_READ)
    except MySQLError as error:
        if error.code == _NO_COLUMN:
            with contextlib.suppress(MySQLError):  # another gateway may do the same
                await primary.execute(
                    f"ALTER TABLE {TABLE} ADD COLUMN opening BIGINT NOT NULL DEFAULT 0"
                )
        elif error.fault is Fault.NO_TABLE:
            await primary.execute(CREATE)
        else:
            raise
        found = await primary.fetch(_READ)
    if not found:
        await primary.execute(BEGIN)
        found = await primary.fetch(_READ)
    day, opening = found[0]
    assert isinstance(day, date)
    assert isinstance(opening, int)
    return day, opening


async def change(session: Session, statement: str) -> None:
    """Change the row, waiting a second at a time for transactions that have read it with a lock.

    Raises:
        MySQLError: it was not changed, or that is not known.
    """
    await until_unlocked(lambda: session.execute(statement), TRIES)


def raise_to(day: date) -> str:
    """The statement that sets the mark to a day, unless the mark is later."""
    return f"UPDATE {TABLE} SET sealed=GREATEST(sealed,'{day:%Y-%m-%d}') WHERE id=1"
