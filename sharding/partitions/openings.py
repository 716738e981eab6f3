"""The opening: it tells gateways that an older partition may get new keys.

Without an import, only today's and tomorrow's partition get new keys: filters rule older days out,
and a create checks only the days beside its own. But an import writes into the partition of a
state's own day. So a replicated table of one row has the *opening*, a random number. It tells
whether a list of partitions is still valid:

1. open: the comment of the day's table says that it is open (`ownership.OPEN`). A gateway that
   lists the partitions from now on uses no filter of the day, and its creates check the day.
2. renew: the opening gets a new number. Each load reads it in its one statement. If the number is
   not the one that was read before the partitions were listed, they are listed again, and the load
   is repeated. Each create requires, with a shared lock, the number of its load.
3. write: each transaction inserts, then checks today and the days beside it, as a create does, and
   requires that the opening still has the number of step 2.
4. renew again: earlier writes are committed by now, and later ones fail.
5. close: the comment becomes that of any partition, and the day is sealed again.

If an import dies at any step, its days stay open at worst, which only costs reads. `tests/model`
shows what breaks without these steps. (The number is random, because a failover might lose a
counter's last value and use it twice.)
"""

from __future__ import annotations

import secrets

from failover.mysql.connection import Session
from sharding.partitions import one_row
from sharding.partitions.one_row import Asks

TABLE = "tapedeck_opening"
CREATE = (
    f"CREATE TABLE IF NOT EXISTS {TABLE} ("
    "id TINYINT UNSIGNED NOT NULL PRIMARY KEY, number BIGINT NOT NULL"
    ") ENGINE=InnoDB"
)
"""Does nothing if the table exists. (Its one row has the id 1.)"""
BEGIN = f"INSERT IGNORE INTO {TABLE} VALUES (1, 0)"
"""Inserts the row that means no import yet; does nothing if the row exists."""
NUMBER = f"(SELECT number FROM {TABLE} WHERE id=1)"
"""The opening as an SQL expression; NULL without a row.

Fails (1146, `Fault.NO_TABLE`) if the table is missing; `newest` creates it.
"""
LOCKED = f"(SELECT number FROM {TABLE} WHERE id=1 LOCK IN SHARE MODE)"
"""The same with a shared lock: the opening cannot be renewed while this transaction is open."""


async def newest(primary: Asks) -> int:
    """Read the opening. Creates the table and its row if they are missing.

    Raises:
        PrimaryUnavailable, MySQLError: MySQL could not be asked.
    """
    return int(str(await one_row.read(primary, NUMBER, CREATE, BEGIN)))


async def renew(session: Session) -> int:
    """Give the opening a new number, and return it.

    Waits for every transaction that required the old number.

    Raises:
        MySQLError: it was not renewed, or that is not known.
    """
    await newest(session)
    number = secrets.randbits(62) + 1
    await one_row.change(session, f"UPDATE {TABLE} SET number={number} WHERE id=1")
    return number
