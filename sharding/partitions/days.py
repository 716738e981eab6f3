"""What a worker knows of MySQL's day and of the day partitions that exist."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Collection, Iterable
from datetime import UTC, date, datetime

import structlog

from failover.mysql.errors import MySQLError, PrimaryUnavailable
from failover.mysql.primary import Primary
from sharding import metrics
from sharding.partitions import seal_mark, sql
from sharding.partitions.calendar import mysql_day, oldest_kept, readable, table, tomorrow
from sharding.partitions.clock import Clock
from sharding.partitions.ownership import OPEN, ForeignTable, list_tables
from sharding.partitions.shown import BelievedClock

log = structlog.get_logger("tapedeck.days")

_EPOCH = date(1970, 1, 1)
CLOSE_TO_MIDNIGHT = 60.0
"""Seconds before midnight from which another gateway's day may be tomorrow; far beyond any skew."""
FRESH = 0.5
"""Seconds for which a list of the partitions may be used then."""
MAKE_EVERY = 5.0
"""Seconds between tries to create tomorrow's partition."""
RELIST_SECONDS = 2.0
"""How long a reload waits for the list."""
LIST_EVERY = 25.0
"""Seconds between reads of the list: a table that others make is found within 30. Before MySQL's
clock is trusted, `FRESH` seconds: the partitions are the other witness, and no request may come."""


class Days:
    """MySQL's day and the list of partitions. Each answer of MySQL corrects the time.

    What asks MySQL raises PrimaryUnavailable or MySQLError, also while its clock is not trusted.

    Args:
        primary: where partitions are listed and created.
        retention: days a state is kept after its last write.
        monotonic: seconds on a clock that never jumps, to count from MySQL's last answer.
        wall: this machine's clock, seconds since 1970, to check MySQL's clock.

    Attributes:
        foreign: why each foreign table is not ours, by its name.
        mark: the newest sealed day, when it was last read (see `seal_mark`).
        opening: the one that was read before the partitions were listed (see `import_opening`).
        open: the days that may get new keys besides today and tomorrow.
        seals: the seals of the listed tables, by day (see `ownership.Table`).
        on_list: called after the partitions were listed.
    """

    def __init__(
        self,
        primary: Primary,
        retention: int,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._primary = primary
        self.retention = retention
        self._monotonic = monotonic
        self._wall = wall
        self._clock = Clock()
        self._doubted = False
        self._existing: frozenset[date] = frozenset()
        # Today's end on the monotonic clock: until then `today` needs no arithmetic.
        self._ends = -math.inf
        self._today = self._oldest = self._tomorrow = date.min
        self._readable: tuple[date, tuple[date, ...]] | None = None
        self._refreshing: asyncio.Task[None] | None = None
        self._making: asyncio.Task[None] | None = None
        self._make_at = 0.0
        self._listed_at = -math.inf
        self.foreign: dict[str, str] = {}
        self.mark = date.min
        self.opening = 0
        self.open: frozenset[date] = frozenset()
        self.seals: dict[date, str] = {}
        self.on_list: Callable[[], None] = lambda: None

    def configure(self, retention: int) -> None:
        self.retention = retention
        self._readable = None
        self._ends = -math.inf

    def observe(
        self,
        clock_ms: int,
        partitions: Collection[date] | None = None,
        mark: date | None = None,
    ) -> bool:
        """Check a reading of MySQL's clock; return whether it is trusted.

        Args:
            clock_ms: milliseconds since 1970.
            partitions: as in `Clock.check`.
            mark: the newest sealed day, if it was read with the time.
        """
        if mark is not None:
            self.mark = mark
        first = not self.known
        believed = self._clock.check(clock_ms / 1000, self._wall(), self._monotonic(), partitions)
        self._ends = -math.inf
        if believed or not first or partitions is not None:
            self._tell()
        return believed

    def believe(self) -> BelievedClock:
        """Trust MySQL's clock on an operator's word, if it is doubted.

        Returns:
            What `partitions believe-clock` prints.

        Raises:
            PrimaryUnavailable: MySQL has not answered yet.
        """
        changed = self._clock.believe()
        self._ends = -math.inf
        self._tell()
        if not self.known:
            raise PrimaryUnavailable("MySQL was not heard yet")
        now = datetime.fromtimestamp(self.now(), UTC)
        return BelievedClock(changed, f"{now:%Y-%m-%dT%H:%M:%SZ}")

    def _tell(self) -> None:
        doubted = bool(self._clock.doubt)
        if doubted == self._doubted:
            return
        self._doubted = doubted
        metrics.CLOCK_DOUBTED.set(doubted)
        if doubted:
            log.error("mysql clock doubted", reason=self._clock.doubt)
        else:
            log.warning("mysql clock trusted", ahead_of_ours=round(self._clock.apart))

    @property
    def doubt(self) -> str:
        """Why MySQL's clock is not trusted; empty while it is. No state may be read or written
        while it is doubted."""
        return self._clock.doubt

    @property
    def apart(self) -> float:
        """By how many seconds MySQL's clock was ahead of this machine's at its last reading."""
        return self._clock.apart

    @property
    def known(self) -> bool:
        """Whether MySQL's clock was ever trusted, so that `today` can be computed."""
        return self._clock.offset is not None

    def now(self) -> float:
        """MySQL's time, seconds since 1970, as far as this worker knows.

        Raises:
            RuntimeError: MySQL has not answered yet (see `ready`).
        """
        if self._clock.offset is None:
            raise RuntimeError("MySQL's clock is not known yet")
        return self._monotonic() + self._clock.offset

    def today(self) -> date:
        """T: MySQL's day (`sharding.partitions.seal_mark`), as far as this worker knows."""
        if self._monotonic() >= self._ends:
            self._today = mysql_day(self.now(), self.mark)
            self._tomorrow = tomorrow(self._today)
            self._oldest = oldest_kept(self._today, self.retention)
            assert self._clock.offset is not None
            self._ends = (self._tomorrow - _EPOCH).days * 86400 - self._clock.offset
        return self._today

    def oldest(self) -> date:
        """The first day that is read."""
        self.today()
        return self._oldest

    def readable(self) -> tuple[date, ...]:
        """The days that a load may read, newest first; T+1 among them once its partition exists."""
        today = self.today()
        if self._readable is None or self._readable[0] != today:
            self._readable = (today, readable(self._existing, today, self.retention))
        return self._readable[1]

    def exists(self, day: date) -> bool:
        """Whether the last list had this day's partition, as a table of ours."""
        return day in self._existing

    @property
    def blocked(self) -> str:
        """Why today's partition cannot exist: a foreign table has its name; empty otherwise."""
        return str(self._foreign(self.today()) or "")

    async def start_refusal(self) -> str:
        """Why a gateway must not start: a foreign table has today's or tomorrow's name.

        Returns once MySQL has answered; empty if no such table exists.
        """
        while True:
            try:
                await self.refresh()
            except ForeignTable as refused:
                return str(refused)
            except (PrimaryUnavailable, MySQLError):
                await asyncio.sleep(MAKE_EVERY)
                continue
            return str(self._foreign(tomorrow(self.today())) or "")

    async def relist(self) -> None:
        """List the partitions now. Without an answer within two seconds the list stays as it is."""
        with contextlib.suppress(PrimaryUnavailable, MySQLError, TimeoutError):
            async with asyncio.timeout(RELIST_SECONDS):
                await self._list()

    async def recheck(self, days: Iterable[date]) -> bool:
        """Whether a statement failed because one of these partitions is no longer ours.

        A foreign table may have replaced it since the list was read. The list is read again, unless
        that was done a moment ago.
        """
        if self._monotonic() - self._listed_at > FRESH:
            await self._list()
        return not all(day in self._existing for day in days)

    async def run(self) -> None:
        """List the partitions at intervals, so that restored and imported ones are found."""
        while True:
            while not self.known:
                if self._primary.adopted:
                    with contextlib.suppress(PrimaryUnavailable, MySQLError):
                        await self._list()
                await asyncio.sleep(FRESH)
            await asyncio.sleep(LIST_EVERY)
            try:
                await self._list()
            except (PrimaryUnavailable, MySQLError) as error:
                log.info("partitions not listed", reason=str(error))

    @property
    def settled(self) -> bool:
        """Whether `ready` has nothing to do."""
        if not self.known or self._clock.doubt:
            return False
        return self.today() in self._existing and self._tomorrow in self._existing

    async def ready(self) -> None:
        """Return once MySQL's clock is known and today's partition exists.

        Tomorrow's is created in the background: what delays DDL (a backup, a full disk) must not
        delay requests a day before that partition is needed. Shortly before midnight another
        gateway may already write into it, so the list is read again.
        """
        if self.known and self._clock.doubt:
            # The clock is read each second: no request has to ask.
            raise PrimaryUnavailable(self._clock.doubt)
        if not self.known or self.today() not in self._existing:
            if self.known and self._monotonic() - self._listed_at < FRESH:
                self._check_name(self.today())
            await self.refresh()
        elif tomorrow(self.today()) not in self._existing:
            close = 86400 - self.now() % 86400 < CLOSE_TO_MIDNIGHT
            if close and self._monotonic() - self._listed_at > FRESH:
                await self.refresh()
            self._start_making_tomorrow()

    async def refresh(self) -> None:
        """List the partitions, and create today's and tomorrow's if they are missing.

        Concurrent calls share one list; each waits until its own deadline.
        """
        while True:
            joined = self._refreshing is not None
            if self._refreshing is None:
                self._refreshing = asyncio.create_task(self._refresh(), name="days")
                self._refreshing.add_done_callback(self._refreshed)
            try:
                return await asyncio.shield(self._refreshing)
            except PrimaryUnavailable:
                if not joined:
                    raise

    async def complete(self) -> None:
        """Return once tomorrow's partition exists too."""
        await self.refresh()
        await self._create(tomorrow(self.today()))

    def close(self) -> None:
        for task in (self._refreshing, self._making):
            if task is not None:
                task.cancel()

    def _refreshed(self, task: asyncio.Task[None]) -> None:
        self._refreshing = None
        if not task.cancelled():
            task.exception()  # the callers that waited have got it

    async def _refresh(self) -> None:
        await self._list()
        await self._create(self.today())
        if tomorrow(self.today()) not in self._existing:
            self._start_making_tomorrow()

    async def _list(self) -> None:
        while True:
            generation = self._primary.generation
            # First, so that its table exists before any statement that needs MySQL's day.
            self.mark, opening = await seal_mark.read(self._primary)
            found = await list_tables(self._primary.fetch)
            if generation == self._primary.generation:
                break  # else some of it may be from another primary
        for name, why in found.foreign.items():
            if name not in self.foreign:
                log.warning("foreign table ignored", table=name, reason=why)
        self.foreign = found.foreign
        if not self.observe(found.clock_ms, found.ours):
            raise PrimaryUnavailable(self._clock.doubt)
        self._listed_at = self._monotonic()
        self._know(found.ours)
        self.opening = opening
        self.open = frozenset(day for day, kept in found.ours.items() if kept.comment == OPEN)
        self.seals = found.seals
        self.on_list()

    async def _create(self, day: date) -> None:
        if day in self._existing:
            return
        self._check_name(day)
        # DDL commits the open transaction of its connection, so it goes through one of its own.
        await self._primary.execute(sql.create_table(day))
        # Another table with this name may have come first: then nothing was created.
        await self._list()
        self._check_name(day)
        if day not in self._existing:
            raise ForeignTable(table(day), "it does not show among the tables of this user")
        log.info("partition created", partition=table(day))

    def _foreign(self, day: date) -> ForeignTable | None:
        name = table(day)
        return ForeignTable(name, self.foreign[name]) if name in self.foreign else None

    def _check_name(self, day: date) -> None:
        if foreign := self._foreign(day):
            raise foreign

    def _know(self, existing: Iterable[date]) -> None:
        self._existing = frozenset(existing)
        self._readable = None

    def _start_making_tomorrow(self) -> None:
        if self._making is None and self._monotonic() >= self._make_at:
            self._making = asyncio.create_task(self._make_tomorrow(), name="tomorrow")

    async def _make_tomorrow(self) -> None:
        try:
            await self._list()
            await self._create(tomorrow(self.today()))
        except (MySQLError, PrimaryUnavailable) as error:
            log.warning("partition not created", day="tomorrow", reason=str(error))
        finally:
            self._making = None
            self._make_at = self._monotonic() + MAKE_EVERY
