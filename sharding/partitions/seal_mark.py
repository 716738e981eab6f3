"""The mark: the newest sealed day, in a replicated table of one row. MySQL's day follows from it.

A sealed day must get no new keys: its filter would wrongly rule them out. So sealing day D first
sets the mark to D, and from then on MySQL's day is later than D, even if MySQL's clock steps back
over midnight. **Every statement of the protocol that needs MySQL's day (a load's clock, the DELETE
of a move, the check of a create) computes it as `MYSQL_DAY` itself.**

The mark only grows. It is set before the filter is made, so a marked day may have no filter yet.
`sealing` sets it; `tests/model` shows what breaks without these rules.
"""

from __future__ import annotations

from datetime import date

from sharding.partitions import one_row
from sharding.partitions.one_row import Asks

TABLE = "tapedeck_seal_mark"
CREATE = (
    f"CREATE TABLE IF NOT EXISTS {TABLE} ("
    "id TINYINT UNSIGNED NOT NULL PRIMARY KEY, sealed DATE NOT NULL"
    ") ENGINE=InnoDB"
)
"""Does nothing if the table exists. (Its one row has the id 1.)"""
BEGIN = f"INSERT IGNORE INTO {TABLE} VALUES (1, '1970-01-01')"
"""Inserts the row that means no sealed day yet; does nothing if the row exists."""
NEWEST = f"(SELECT sealed FROM {TABLE} WHERE id=1)"
"""The newest sealed day as an SQL expression, a DATE; NULL without a row."""
MYSQL_DAY = f"GREATEST(UTC_DATE(),COALESCE({NEWEST}+INTERVAL 1 DAY,UTC_DATE()))"
"""MySQL's day as an SQL expression, a DATE: the newer of `UTC_DATE()` and the day after the mark.

Fails (1146, `Fault.NO_TABLE`) if the table is missing; `newest` creates it.
"""


async def newest(primary: Asks) -> date:
    """Read the newest sealed day; 1970-01-01 if there is none. Creates a missing table.

    Raises:
        PrimaryUnavailable, MySQLError: MySQL could not be asked.
    """
    day = await one_row.read(primary, NEWEST, CREATE, BEGIN)
    assert isinstance(day, date)
    return day


def raise_to(day: date) -> str:
    """The statement that sets the mark to a day, unless the mark is later."""
    return f"UPDATE {TABLE} SET sealed=GREATEST(sealed,'{day:%Y-%m-%d}') WHERE id=1"
