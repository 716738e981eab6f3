"""Heartbeats: a small commit in each second without another commit, to see whether MySQL commits.

Each worker has one row in a replicated table. The row also tells other workers this worker's
configuration hash and clock. A heartbeat that does not return is waited for without a limit: a
second one would only occupy another connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Iterable

import msgspec
from msgspec import Struct

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


class Said(Struct):
    """What a worker tells the others.

    Attributes:
        name: of its gateway.
        ahead: seconds by which MySQL's clock is ahead of its machine's.
        config, ring: hashes of what must be the same on all gateways.
    """

    name: str = ""
    pid: int = 0
    ahead: float = 0.0
    config: str = ""
    ring: str = ""


def read_rows(rows: Iterable[str]) -> list[Said]:
    """What workers said. A row that no worker can have written is passed over.

    >>> [said.ring for said in read_rows(['{"ring": "a1"}', "not ours", "[]"])]
    ['a1']
    """
    found = []
    for row in rows:
        with contextlib.suppress(msgspec.MsgspecError, RecursionError):
            found.append(msgspec.json.decode(row, type=Said))
    return found


class Heartbeat:
    """One worker's row.

    Args:
        say: returns what the row tells of this worker.

    Attributes:
        others: the rows of other workers, written within the last 15 seconds.
        problem: why there is no heartbeat, if MySQL refuses it for good (a missing right).
    """

    def __init__(self, primary: Primary, say: Callable[[], Said]) -> None:
        self._primary = primary
        self._say = say
        self._id = secrets.randbits(63)
        self.others: list[Said] = []
        self.problem = ""

    async def run(self) -> None:
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
        """Send heartbeats until the connection fails."""
        loop, commits = asyncio.get_running_loop(), self._primary.commits
        told = -TELL_EVERY
        while True:
            if loop.time() - told >= TELL_EVERY or commits.quiet(loop.time()) >= EVERY * 0.9:
                said = msgspec.json.encode(self._say()).decode()[:500]
                await session.execute(
                    f"REPLACE INTO {TABLE} VALUES ({self._id}, {clock_sql.MILLISECONDS}, %s)",
                    (said,),
                )
                commits.committed(loop.time(), heartbeat=True)
                self.problem, commits.watched = "", True
            if loop.time() - told >= TELL_EVERY:
                told = loop.time()
                rows = await session.fetch(_OTHERS)
                self.others = read_rows(said for number, said in rows if number != self._id)
            await asyncio.sleep(EVERY)
