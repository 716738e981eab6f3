"""The opening: it tells gateways that an older partition may get new keys.

Without an import, only today's and tomorrow's partition get new keys: filters rule older days out,
and a create checks only the days beside its own. But an import writes into the partition of a
state's own day. So the row of the mark (`seal_mark`) has the *opening*, a random number. It tells
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
from sharding.partitions import seal_mark


async def renew(session: Session) -> int:
    """Give the opening a new number, and return it.

    Waits for every transaction that required the old number.

    Raises:
        MySQLError: it was not renewed, or that is not known.
    """
    await seal_mark.read(session)  # creates it, if it is missing
    number = secrets.randbits(62) + 1
    await seal_mark.change(session, f"UPDATE {seal_mark.TABLE} SET opening={number} WHERE id=1")
    return number
