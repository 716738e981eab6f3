"""The opening: by which gateways hear that an older partition may get new keys.

Otherwise only today's and tomorrow's partition get any: filters rule the others out, and a create
looks at the days beside its own only. An import writes into the partition of a state's own day. So
a replicated table of one row holds the *opening*, a random number that tells which list of
partitions is good still:

1. open: the comment of the day's table says that it is open (`ownership.OPEN`). Who lists the
   partitions from now on believes no filter of the day, and has creates look at it.
2. renew: the opening gets another number. Each load reads it in its one statement; where it is not
   the one that was read before the partitions were listed, they are listed again and the load is
   made again. Each create requires, with a shared lock, the number that its load had.
3. write: each transaction inserts, then looks at today and the days beside it, as a create does,
   and requires that the opening still is the one of step 2.
4. renew again: what was to be written by then is committed, and what comes later fails.
5. close: the comment is that of any partition, and the day is sealed again like any other.

At whichever step an import dies, its days stay open at worst: that costs reads and nothing else.
`tests/model` shows what breaks without these steps. (A random number, because a failover that loses
a count would have it mean two things.)
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
"""Harmless where it is there already. (Its one row has the id 1.)"""
BEGIN = f"INSERT IGNORE INTO {TABLE} VALUES (1, 0)"
"""The row of a database into which nothing was imported yet. Harmless likewise."""
NUMBER = f"(SELECT number FROM {TABLE} WHERE id=1)"
"""The opening as an SQL expression; NULL without a row.

Fails (1146, `Fault.NO_TABLE`) where the table is missing; `newest` makes it.
"""
LOCKED = f"(SELECT number FROM {TABLE} WHERE id=1 LOCK IN SHARE MODE)"
"""The same with a shared lock: it is not renewed while this transaction is open."""


async def newest(primary: Asks) -> int:
    """The opening. Makes the table, and its row, where they are missing.

    Raises:
        PrimaryUnavailable, MySQLError: MySQL could not be asked.
    """
    return int(str(await one_row.read(primary, NUMBER, CREATE, BEGIN)))


async def renew(session: Session) -> int:
    """Give the opening another number, and return that.

    Waits for every transaction that required the old one.

    Raises:
        MySQLError: it was not renewed, or that is not known.
    """
    await newest(session)
    number = secrets.randbits(62) + 1
    await one_row.change(session, f"UPDATE {TABLE} SET number={number} WHERE id=1")
    return number
