"""The MySQL primary: found among the hosts, checked, and found again after a failover.

Requests ask for a `session`. While there is no primary they wait, in a bounded queue and until
their own deadline. Once a primary is adopted they continue as places of its pool become free.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, Self, TypeVar

import structlog

from config.model import HostPort, MySQL
from failover import metrics
from failover.loop_lag import LoopLag
from failover.mysql import shown
from failover.mysql.commit_stalls import SILENT, Commits, waits_for
from failover.mysql.connection import HostStatus, Row, Session
from failover.mysql.engine import Redundancy
from failover.mysql.errors import Fault, MySQLError, PrimaryUnavailable
from failover.mysql.fencing import Adopt, View, decide
from failover.mysql.monitor import Monitor
from failover.mysql.orphaned_statements import LeftBehind
from failover.mysql.pool import Pool
from failover.mysql.retries import retry

Result = TypeVar("Result")
log = structlog.get_logger("tapedeck.primary")

ASK_AFTER = 1.5
"""Seconds without a commit after which the primary is quiet: it is asked what it waits for, and is
checked more often."""
_GENERATION_TABLE = (
    "CREATE TABLE IF NOT EXISTS tapedeck_generation ("
    "id TINYINT UNSIGNED NOT NULL PRIMARY KEY, generation BIGINT UNSIGNED NOT NULL"
    ") ENGINE=InnoDB"
)


class Primary:
    """Sessions with the present primary.

    Args:
        on_status: called with each status of the primary, which has its clock.
        loop_lag: tells when this process is starved, and so cannot call a host silent.

    Attributes:
        database: the configured one, which no reload changes.
        generation: the highest one ever seen. While it stays the same, no committed change is lost.
        packet: most bytes of a command to the primary, as in HostStatus.
    """

    def __init__(
        self,
        config: MySQL,
        on_status: Callable[[HostStatus], object] = lambda _: None,
        loop_lag: LoopLag | None = None,
    ) -> None:
        self.commits = Commits()
        self._config = config
        self._on_status = on_status
        self._pool: Pool | None = None
        self._adopted = asyncio.Event()
        self.database = config.database
        self.generation = 0
        self._identity: str | None = None
        self._waiting = 0
        self._left = LeftBehind("")
        self._monitor = Monitor(config, self, loop_lag or LoopLag())
        self._since = 0.0
        self._problem = "not contacted yet"
        self._closed = False
        self._silent_looks = 0
        self._redundancy: Redundancy | None = None
        self._split = False
        self.packet = 1 << 20

    @property
    def adopted(self) -> bool:
        return self._pool is not None

    @property
    def quiet(self) -> bool:
        """Whether the last commit is some time ago."""
        return self.commits.quiet(asyncio.get_running_loop().time()) >= ASK_AFTER

    @property
    def address(self) -> str | None:
        """The primary's `host:port`; None without a primary."""
        return str(self._pool.host) if self._pool is not None else None

    @property
    def problem(self) -> str:
        """Why there is no primary; empty while there is one."""
        return "" if self._pool is not None else self._problem

    @property
    def denied(self) -> bool:
        """Whether there is no primary, and a host refuses this gateway's user."""
        return self._pool is None and any(view.denied for view in self._monitor.views())

    @property
    def lost_for(self) -> float | None:
        """Seconds since the primary was lost; None while there is one, and before the first."""
        if self._pool is not None or self._identity is None:
            return None
        return asyncio.get_running_loop().time() - self._since

    @property
    def redundant(self) -> bool | None:
        """Whether another host has every acknowledged change; None if that is not known."""
        return self._redundancy.held if self._redundancy is not None else None

    @property
    def redundancy(self) -> str:
        """Why `redundant` is as it is; may be empty."""
        return self._redundancy.reason if self._redundancy is not None else ""

    def configure(self, config: MySQL) -> None:
        """Use other limits from the next request, and from the next statement, on.

        Another user or password is used from the next connect on; open sessions stay.

        Args:
            config: with the same hosts, database and number of connections.
        """
        self._config = config
        self._monitor.configure(config)
        if self._pool is not None:
            self._pool.configure(config)

    def shown(self) -> shown.MySQL:
        """The hosts as `/mysql` shows them."""
        committed = None
        if self._pool is not None and self.commits.watched:
            committed = round(self.commits.quiet(asyncio.get_running_loop().time()), 3)
        return shown.MySQL(
            primary=self.address,
            generation=self.generation,
            engine=str(self._pool.status.engine) if self._pool is not None else None,
            redundant=self.redundant if self.adopted else None,
            redundancy=(self.redundancy or None) if self.adopted else None,
            split=self._split,
            lost_for=self.lost_for,
            committed=committed,
            problem=self.problem or None,
            waiting=self._waiting,
            hosts=[view.shown(self.address) for view in self._monitor.views()],
        )

    async def start(self) -> None:
        """Begin to check the hosts. Does not wait for a primary."""
        self._since = asyncio.get_running_loop().time()
        self._monitor.start()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop the checks, close every connection, and refuse the requests that wait for one."""
        self._closed = True
        await self._monitor.close()
        self._drop("closed")
        self._adopted.set()

    def deadline(self) -> float:
        """When a request that starts now gives up, on the loop's clock."""
        return asyncio.get_running_loop().time() + self._config.deadline / 1000

    @contextlib.asynccontextmanager
    async def session(self, deadline: float, *, change: bool = False) -> AsyncIterator[Session]:
        """A session with the primary, for one task.

        Args:
            deadline: until when to wait for a primary and for a place, on the loop's clock.
            change: whether it may commit something; some places are for reads only.

        Raises:
            PrimaryUnavailable: there was none until the deadline, or too many requests wait.
            MySQLError: the primary could not be reached; worth another try.
        """
        pool, session = await self._acquire(deadline, change)
        try:
            yield session
        except MySQLError as error:
            self.report(error, pool)
            raise
        except BaseException:
            # Cancelled, or a bug: the server may still run a statement.
            session.close()
            self._monitor.check_soon()
            raise
        finally:
            pool.release(session, change)

    @contextlib.asynccontextmanager
    async def session_apart(self, deadline: float) -> AsyncIterator[Session]:
        """A session that takes no place from requests, for work of minutes or under a lock.

        Raises:
            PrimaryUnavailable: there was no primary until the deadline.
            MySQLError: the primary could not be reached, or an error of the work.
        """
        try:
            async with asyncio.timeout_at(deadline):
                pool = await self._adopted_pool()
        except TimeoutError:
            raise PrimaryUnavailable(f"MySQL: {self.problem}") from None
        session = await pool.lend()
        try:
            yield session
        except MySQLError as error:
            self.report(error)
            raise
        finally:
            pool.end(session)

    async def _adopted_pool(self) -> Pool:
        while (pool := self._pool) is None:
            if self._closed:
                raise PrimaryUnavailable("the gateway stops")
            await self._adopted.wait()
        return pool

    async def fetch(self, sql: str, args: Sequence[Any] = ()) -> list[Row]:
        """Read on the primary, with tries until the deadline.

        Raises:
            PrimaryUnavailable: the deadline passed.
            MySQLError: an error that a repetition would meet again.
        """
        return await self._retry(lambda session: session.fetch(sql, tuple(args) or None))

    async def execute(self, sql: str, args: Sequence[Any] = ()) -> int:
        """Run a statement that may be repeated (DDL, idempotent writes); otherwise as `fetch`."""
        return await self._retry(
            lambda session: session.execute(sql, tuple(args) or None), change=True
        )

    async def _retry(
        self, run: Callable[[Session], Awaitable[Result]], *, change: bool = False
    ) -> Result:
        deadline = self.deadline()

        async def once() -> Result:
            async with self.session(deadline, change=change) as session:
                return await run(session)

        return await retry(once, deadline)

    async def _acquire(self, deadline: float, change: bool) -> tuple[Pool, Session]:
        if self._waiting >= self._config.waiting:
            raise PrimaryUnavailable("too many requests wait for MySQL")
        self._waiting += 1
        metrics.MYSQL_WAITING.set(self._waiting)
        try:
            async with asyncio.timeout_at(deadline):
                pool = await self._adopted_pool()
                return pool, await pool.acquire(change)
        except TimeoutError:
            reason = self.problem or "every connection is busy"
            if self.adopted and self._left:
                reason = f"it still runs {len(self._left)} statements that had no answer in time"
            raise PrimaryUnavailable(f"MySQL: {reason}") from None
        except MySQLError as error:
            if not error.passing:  # a refused sign-in, and no statement: another host may let us in
                error = MySQLError(Fault.LOST, error.code, error.reason)
            self.report(error)
            raise error from None
        finally:
            self._waiting -= 1
            metrics.MYSQL_WAITING.set(self._waiting)

    def report(self, error: MySQLError, pool: Pool | None = None) -> None:
        """Report a statement's error that no `session` block raises.

        Args:
            pool: of the statement's session; errors of a replaced primary are ignored.
        """
        metrics.MYSQL_ERRORS.labels(error.fault.name.lower()).inc()
        self.commits.failed(asyncio.get_running_loop().time(), error)
        if error.fault is Fault.READ_ONLY and pool in (None, self._pool):
            if self._pool is not None:
                self._monitor.discard_status(str(self._pool.host))
            self._drop(str(error))
        if error.fault in (Fault.READ_ONLY, Fault.LOST):
            self._monitor.check_soon()

    def _drop(self, reason: str) -> None:
        pool, self._pool = self._pool, None
        self._adopted.clear()
        self._problem = reason
        metrics.MYSQL_UP.set(0)
        if pool is not None:
            self._since = asyncio.get_running_loop().time()
            pool.close()
            if reason != "closed":
                log.warning("mysql primary lost", host=str(pool.host), reason=reason)

    async def ask_more(self, session: Session, status: HostStatus) -> None:
        """Called within the check of a writable host: ask which left statements still run, and what
        the primary waits for."""
        if status.identity == self._left.identity:
            await self._left.ask(session)
            if self._pool is not None:
                self._pool.admit_waiting()
        commits = self.commits
        if status.identity != self._identity or not self.quiet:
            return
        rows = await session.processlist()
        states = [str(state) for _, _, _, _, command, _, state, *_ in rows if command != "Sleep"]
        commits.cause = waits_for(states, commits.error)

    def refused_check(self, address: str, error: MySQLError) -> None:
        """Called when a host accepts no connection for a check, which leaves its claim as it is."""
        if address == self.address:
            self.commits.failed(asyncio.get_running_loop().time(), error)

    async def choose(self, views: list[View]) -> None:
        """Called after each check: adopt, keep or drop the primary, by the views of all hosts.

        Args:
            views: that of the host just checked first.
        """
        verdict = decide(views, self.generation, self._identity)
        self._split = not isinstance(verdict, Adopt) and verdict.split
        metrics.MYSQL_SPLIT.set(self._split)
        if isinstance(verdict, Adopt):
            self._silent_looks = 0
            try:
                await self._adopt(verdict)
            except MySQLError as error:
                self._drop(str(error))
                return
            newest = views[0]
            if newest.address == self.address and newest.status is not None:
                self._on_status(newest.status)
                self._redundancy = newest.redundancy
                metrics.MYSQL_REDUNDANT.set(math.nan if self.redundant is None else self.redundant)
        elif verdict.split:
            if self._problem != verdict.reason:
                log.error("mysql primaries refused", reason=verdict.reason)
            self._drop(verdict.reason)
        elif self._pool is None:
            self._problem = verdict.reason
        elif not self._tolerates(views):
            self._drop(verdict.reason)
        else:
            self.commits.cause = SILENT

    def _tolerates(self, views: list[View]) -> bool:
        """Whether the primary stays after a failed check, while no other host claims its place.

        One check that timed out says more about this machine than about the primary, and dropping
        every connection would make the next check slower still. (Checks of other hosts do not count
        here.)
        """
        own = next(view for view in views if view.address == self.address)
        if own is views[0]:
            self._silent_looks = self._silent_looks + 1 if own.silent else 0
        return own.busy or own.ours or (own.silent and self._silent_looks <= 1)

    async def _adopt(self, verdict: Adopt) -> None:
        status = verdict.status
        host = next(host for host in self._config.hosts if str(host) == verdict.address)
        if verdict.raise_generation or status.generation == 0:
            status = await self._raise_generation(host, status)
            self._monitor.update(verdict.address, status)
        new = status.identity != self._identity
        adopted = new or self._pool is None or status.generation != self.generation
        if adopted:
            if new and self._identity is not None:
                metrics.MYSQL_FAILOVERS.inc()
            self._drop("another primary was adopted")
            if new:
                self._left = LeftBehind(status.identity)
            self._pool = Pool(host, status, self._config, self._left)
            self.commits.begin(asyncio.get_running_loop().time())
            log.info("mysql primary adopted", host=str(host), generation=status.generation)
            if status.engine.untested:
                log.warning("mysql version not tested", reason=status.engine.untested)
        self._identity = status.identity
        self.generation = status.generation
        self.packet = status.packet
        if adopted:
            # Before any request continues: what depends on the generation must learn it first.
            # (Not for later statuses: the clock in this one may be seconds old.)
            self._on_status(status)
        metrics.MYSQL_UP.set(1)
        metrics.MYSQL_GENERATION.set(self.generation)
        self._adopted.set()

    async def _raise_generation(self, host: HostPort, status: HostStatus) -> HostStatus:
        """Raise the generation on a new primary, once: another gateway may come first."""
        session = await Session.open(host, self._config)
        try:
            # The name may have moved since the check.
            there = await session.read_status()
            if there.identity != status.identity or there.read_only:
                raise MySQLError(Fault.READ_ONLY, 0, f"{host} is not the same server any more")
            if status.generation == 0:
                await session.execute(_GENERATION_TABLE)
                await session.execute("INSERT IGNORE INTO tapedeck_generation VALUES (1, 1)")
            else:
                await session.execute(
                    "UPDATE tapedeck_generation SET generation = generation + 1"
                    f" WHERE id = 1 AND generation = {status.generation}"
                )
            now = await session.read_status()
        finally:
            session.close()
        return replace(status, generation=now.generation, clock_ms=now.clock_ms)
