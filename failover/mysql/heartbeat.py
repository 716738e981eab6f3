"""Heartbeats: a small commit in each second without another commit, to see whether MySQL commits.

Each worker has one row in a replicated table. The row also tells other workers this worker's
configuration hash and clock. A heartbeat that does not return is waited for without a limit: a
second one would only occupy another connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from collections.abc import Callable, Iterable
from typing import Any

from failover.mysql import clock_sql
from failover.mysql.connection import Session
from failover.mysql.errors import Fault, MySQLError, PrimaryUnavailable
from failover.mysql.primary import Primary

TABLE = "tapedeck_heartbeat"
_CREATE = (
    f"CREATE TABLE IF NOT EXISTS {TABLE} (id BIGINT UNSIGNED NOT NULL PRIMARY KEY,"
    " at_ms BIGINT UNSIGNED NOT NULL, said VARCHAR(500) NOT NULL) ENGINE=InnoDB"
)
_CLEAN = f"DELETE FROM {TABLE} WHERE at_ms < {clock_sql.MILLISECONDS} - 86400000"
_OTHERS = f"SELECT id, said FROM {TABLE} WHERE at_ms > {clock_sql.MILLISECONDS} - 15000"
EVERY = 1.0
"""Seconds without a commit after which a heartbeat is sent."""
TELL_EVERY = 5.0
"""Seconds after which the row is written even if requests commit, and other workers' rows are
read."""
_PATIENCE = 86_400.0


def heard(rows: Iterable[str]) -> list[dict[str, Any]]:
    """What workers said; a row that is no JSON object was not written by one, and is passed over.

    >>> heard(['{"ring": "a1"}', "not ours", "[]"])
    [{'ring': 'a1'}]
    """
    found = []
    for said in rows:
        with contextlib.suppress(ValueError):
            found.append(json.loads(said))
    return [said for said in found if isinstance(said, dict)]


class Heartbeat:
    """One worker's row.

    Args:
        say: returns what the row tells of this worker, as short text values.

    Attributes:
        others: the rows of other workers, written within the last 15 seconds.
        problem: why there is no heartbeat, if MySQL refuses it for good (a missing right).
    """

    def __init__(self, primary: Primary, say: Callable[[], dict[str, Any]]) -> None:
        self._primary = primary
        self._say = say
        self._id = secrets.randbits(63)
        self.others: list[dict[str, Any]] = []
        self.problem = ""

    async def keep(self) -> None:
        """Send heartbeats until cancelled."""
        commits, loop = self._primary.commits, asyncio.get_running_loop()
        commits.begin(loop.time())
        commits.watched = True
        while True:
            try:
                deadline = loop.time() + _PATIENCE
                async with self._primary.session_apart(deadline) as session:
                    session.statement_seconds = _PATIENCE
                    await self._prepare(session)
                    await self._beat(session)
            except MySQLError as error:
                self.problem = "" if error.passing or error.fault is Fault.FULL else str(error)
                commits.error, commits.watched = error, not self.problem
            except PrimaryUnavailable:
                pass
            await asyncio.sleep(EVERY)

    async def _prepare(self, session: Session) -> None:
        try:
            await session.execute(_CLEAN)
        except MySQLError as error:
            if error.fault is not Fault.NO_TABLE:
                raise
            await session.execute(_CREATE)

    async def _beat(self, session: Session) -> None:
        """Send heartbeats until the connection fails.

        Raises:
            MySQLError: it failed.
        """
        loop, commits = asyncio.get_running_loop(), self._primary.commits
        told = -TELL_EVERY
        while True:
            if loop.time() - told >= TELL_EVERY or commits.quiet(loop.time()) >= EVERY * 0.9:
                said = json.dumps(self._say())[:500]
                await session.execute(
                    f"REPLACE INTO {TABLE} VALUES ({self._id}, {clock_sql.MILLISECONDS}, %s)",
                    (said,),
                )
                commits.committed(loop.time(), ours=True)
                self.problem, commits.watched = "", True
            if loop.time() - told >= TELL_EVERY:
                told = loop.time()
                rows = await session.fetch(_OTHERS)
                self.others = heard(said for number, said in rows if number != self._id)
            await asyncio.sleep(EVERY)
