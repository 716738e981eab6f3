"""The mark: the newest sealed day, in a replicated table of one row. And MySQL's day, by it.

A sealed day must get no new keys, or its filter would rule them out wrongly. So sealing day D first
sets the mark to D, and from then on MySQL's day is never D again, even if MySQL's clock steps back
over midnight: **wherever the protocol asks for MySQL's day (a load's clock, the DELETE of a move,
the look of a create), it is `MYSQL_DAY`, read in that very statement**.

The mark only grows. It says nothing of whether a day's filter is there: it is set first.
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
"""Harmless where it is there already. (Its one row has the id 1.)"""
BEGIN = f"INSERT IGNORE INTO {TABLE} VALUES (1, '1970-01-01')"
"""The row of a database in which no day was sealed yet. Harmless likewise."""
NEWEST = f"(SELECT sealed FROM {TABLE} WHERE id=1)"
"""The newest sealed day as an SQL expression, a DATE; NULL without a row."""
MYSQL_DAY = f"GREATEST(UTC_DATE(),COALESCE({NEWEST}+INTERVAL 1 DAY,UTC_DATE()))"
"""MySQL's day as an SQL expression, a DATE: the newer of `UTC_DATE()` and the day after the mark.

Fails (1146, `Fault.NO_TABLE`) where the table is missing; `newest` makes it.
"""


async def newest(primary: Asks) -> date:
    """The newest sealed day; long ago if there is none. Makes the table where it is missing.

    Raises:
        PrimaryUnavailable, MySQLError: MySQL could not be asked.
    """
    day = await one_row.read(primary, NEWEST, CREATE, BEGIN)
    assert isinstance(day, date)
    return day


def raise_to(day: date) -> str:
    """The statement that sets the mark to a day, unless it is there or further already."""
    return f"UPDATE {TABLE} SET sealed=GREATEST(sealed,'{day:%Y-%m-%d}') WHERE id=1"
