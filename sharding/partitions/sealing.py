"""Sealing: once a day is over, its partition gets no new keys, and a filter of its keys is made.

One gateway seals at a time (a lock in MySQL), day by day, each in five steps:

1. mark: the mark is set to the day. From now on MySQL's day is a later one (see `seal_mark`).
2. wait: the table's comment is changed, which needs the table's exclusive lock. Every transaction
   that wrote into the day before it could see the mark has ended by then.
3. scan: the primary keys are read in pages, and the filter is made from them. The day only loses
   rows now, so the filter has every key that the table has, whatever happens during the scan.
4. name: the table's comment gets a new random seal. A copy of the table that has this seal was made
   after the scan, so the filter has every key of the copy.
5. store: the filter is stored together with the seal, in one transaction.

A filter is used while its seal is that of the table. A day whose table has no seal, or one without
a filter, is not sealed, and all five steps are done again: a gateway may die at any step. A table
that was created anew, or restored from before its sealing, has no seal, and so no filter. All steps
of a day use one connection, and so one server.
"""

from __future__ import annotations

import asyncio
import secrets
import struct
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date

import structlog

from config.model import Partitions
from failover.mysql.connection import Session
from failover.mysql.errors import Fault, MySQLError, PrimaryUnavailable
from failover.mysql.locks import lock_name, try_lock
from failover.mysql.primary import Primary
from failover.mysql.retries import until_unlocked
from failover.tasks import Rounds
from sharding import metrics
from sharding.filters import encoding
from sharding.filters.unhurried import unhurried, with_numpy
from sharding.partitions import filter_table, import_opening, seal_mark
from sharding.partitions.calendar import (
    CLOCKS_AGREE,
    clocks_differ,
    oldest_kept,
    table,
    tomorrow,
    utc_day,
)
from sharding.partitions.days import Days
from sharding.partitions.ownership import BEING_SEALED, OPEN, Found, Table, list_tables, sealed_as
from sharding.state import Key

log = structlog.get_logger("tapedeck.sealing")

TROUBLE_AFTER = 900.0
"""Seconds for which sealing may fail before the gateway says so."""
CHECK_EVERY = 60.0
"""Seconds between checks for a day that is due."""
PAGE_KEYS = 1000
"""Keys of one page: a millisecond of MySQL's work, a fraction of one of this process's."""
TRIES = 30
"""Tries to get a lock that others hold."""
ALTER_WAIT = 1
"""Seconds that one try waits for the table's lock. Without a wait, steady readers would keep the
lock for ever."""
ALTER_PAUSE = 1.0
"""Seconds between tries, in which others can use the table."""
ALTER_SECONDS = 10.0
"""Most seconds of an ALTER: one of waiting, then the change."""
PROGRESS_SECONDS = 10.0
"""Seconds between two lines of the log during a scan."""


class CannotSeal(Exception):
    """A day cannot be sealed now; says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """A day that was sealed.

    Attributes:
        keys: of its partition.
        filter_bytes: the size of its filter.
        seconds: that sealing took.
    """

    day: date
    keys: int
    filter_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run did.

    Attributes:
        sealed: the days, in the order of sealing.
        failed: why a day was not sealed, by day; the next run tries it again.
        elsewhere: another process was sealing; nothing was done.
    """

    sealed: tuple[Sealed, ...] = ()
    failed: Mapping[date, str] = field(default_factory=dict)
    elsewhere: bool = False


def due(
    existing: Iterable[date],
    done: Collection[date],
    *,
    mysql_now: float,
    mark: date,
    seal_after: float,
    retention: int,
) -> list[date]:
    """The days to seal, oldest first.

    Args:
        existing: the days of all partitions.
        done: the days that are sealed.
        mysql_now: MySQL's clock, seconds since 1970.
        mark: the newest marked day. It is over, whatever the clock says.
        seal_after: seconds past midnight before a day is sealed.
        retention: days a state is kept.
    """
    end = max(utc_day(mysql_now - seal_after), tomorrow(mark))
    oldest = oldest_kept(utc_day(mysql_now), retention)
    return [day for day in sorted(existing) if oldest <= day < end and day not in done]


class Sealer:
    """Seals days.

    Args:
        wall: this machine's clock, seconds since 1970.
        at_step: called before each step, with its name; for tests.
    """

    def __init__(
        self,
        primary: Primary,
        days: Days,
        config: Partitions,
        wall: Callable[[], float] = time.time,
        at_step: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._primary = primary
        self._days = days
        self._config = config
        self._wall = wall
        self._at_step = at_step
        self.rounds = Rounds("sealing", TROUBLE_AFTER, PrimaryUnavailable, MySQLError, CannotSeal)

    def configure(self, config: Partitions) -> None:
        self._config = config

    async def run(self) -> None:
        """Seal the days that are due, until cancelled. Errors are logged."""
        while True:
            await self.rounds.run(self.seal)
            await asyncio.sleep(CHECK_EVERY)

    async def seal(self, day: date | None = None, *, again: bool = False) -> Outcome:
        """Seal the days that are due; one process at a time, by a MySQL lock.

        Args:
            day: seal only this one.
            again: seal it also if it is sealed already.

        Raises:
            CannotSeal: the day is not over, has no partition, or the clocks disagree.
            PrimaryUnavailable, MySQLError: MySQL could not be asked.
        """
        async with (
            self._primary.session_apart(self._primary.deadline()) as session,
            try_lock(session, lock_name("seal", self._primary.database)) as ours,
        ):
            if not ours:
                return Outcome(elsewhere=True)
            found = await list_tables(session.fetch)
            self._check_clock(found)
            for left in await filter_table.beginnings(session.fetch):
                if left not in found.ours:  # its partition was dropped
                    await filter_table.remove(session, left)
            wanted = await self._due(session, found, day, again)
            return await self._seal_all(session, found, wanted)

    async def _due(
        self, session: Session, found: Found, day: date | None, again: bool
    ) -> list[date]:
        done: Collection[date] = await filter_table.usable(session.fetch, found.seals)
        kept_open = {one for one, kept in found.ours.items() if kept.comment == OPEN}
        wanted = due(
            found.ours if day is not None else found.ours.keys() - kept_open,
            () if again else done,
            mysql_now=found.clock_ms / 1000,
            mark=(await seal_mark.read(session))[0],
            seal_after=self._config.seal_after if day is None else 0.0,
            retention=self._config.retention_days,
        )
        if day is None:
            return wanted
        if day not in found.ours:
            raise CannotSeal(f"there is no partition {table(day)}")
        if day not in wanted and day not in done:
            raise CannotSeal(f"{day} is not over yet by MySQL's clock, or past retention")
        return [one for one in wanted if one == day]

    def _check_clock(self, found: Found) -> None:
        if self._days.doubt:
            raise CannotSeal(self._days.doubt)
        apart = found.clock_ms / 1000 - self._wall()
        if abs(apart) > CLOCKS_AGREE:
            raise CannotSeal(clocks_differ(apart))

    async def _seal_all(self, session: Session, found: Found, wanted: Iterable[date]) -> Outcome:
        sealed: list[Sealed] = []
        failed: dict[date, str] = {}
        for day in wanted:
            try:
                sealed.append(await self._seal(session, day, found.ours[day]))
            except (MySQLError, CannotSeal) as error:
                metrics.SEAL_FAILURES.inc()
                log.warning("day not sealed", partition=table(day), reason=str(error))
                failed[day] = str(error)
                final = isinstance(error, MySQLError) and error.fault is Fault.FINAL
                if session.broken or final:
                    break  # the next day would fail in the same way
        if sealed:
            await self._days.relist()
        return Outcome(tuple(sealed), failed)

    async def _seal(self, session: Session, day: date, kept: Table) -> Sealed:
        began = time.monotonic()
        log.info("sealing started", partition=table(day), rows_estimated=kept.rows)
        if kept.comment == OPEN:
            await import_opening.renew(session)  # from now on no import writes into it
        self._at_step("mark")
        if (await seal_mark.read(session))[0] < day:
            await seal_mark.change(session, seal_mark.raise_to(day))
        self._at_step("wait")
        meanwhile = f"{BEING_SEALED} {secrets.token_hex(8)}"
        await set_comment(session, day, meanwhile)
        self._at_step("scan")

        def progress(keys: int) -> None:
            log.info("sealing continued", partition=table(day), keys=keys, rows_estimated=kept.rows)

        made = await scan(session, day, self._config.seal_rate, progress)
        metrics.SEAL_KEYS.inc(made.keys)
        self._at_step("name")
        seal = secrets.token_bytes(encoding.SEAL_BYTES)
        await set_comment(session, day, sealed_as(seal.hex()), before=meanwhile)
        self._at_step("store")
        await filter_table.save(session, day, encoding.encode(made, seal))
        done = Sealed(day, made.keys, len(made.bits), round(time.monotonic() - began, 3))
        metrics.DAYS_SEALED.inc()
        log.info(
            "day sealed",
            partition=table(day),
            keys=done.keys,
            filter_bytes=done.filter_bytes,
            seconds=done.seconds,
        )
        return done


async def scan(
    session: Session, day: date, rate: float, progress: Callable[[int], None] = lambda _: None
) -> encoding.DayFilter:
    """Read a day's primary keys in pages, and make a filter from them.

    Args:
        rate: most keys a second.
        progress: called at intervals with the number of keys so far.

    Raises:
        CannotSeal, MySQLError: the keys could not all be read.
    """
    filter_build = await with_numpy()
    await session.execute(f"SET SESSION group_concat_max_len = {64 * PAGE_KEYS}")
    pages = []
    after: Key | None = None
    keys, told = 0, time.monotonic()
    while True:
        began = time.monotonic()
        ((count, text),) = await session.fetch(page(day, after))
        if not count:
            break
        packed = bytes.fromhex(text.decode() if isinstance(text, bytes) else text)
        if len(packed) != filter_build.KEY_BYTES * count:
            raise CannotSeal("a page of keys was cut by MySQL")
        after = Key(*struct.unpack(">qq", packed[-filter_build.KEY_BYTES :]))
        pages.append(filter_build.spread_all(packed))
        keys += count
        if began - told > PROGRESS_SECONDS:
            told = began
            progress(keys)
        pause = began + count / rate - time.monotonic()
        await asyncio.sleep(max(0.0, pause))
    return await unhurried(filter_build.build(pages))


async def set_comment(session: Session, day: date, comment: str, before: str | None = None) -> None:
    """Change the comment of a day's table, with tries of one second to get the table's lock.

    While an ALTER waits, every later statement on the table waits behind it.

    Args:
        before: what the comment must be before, since another table may have replaced this one.

    Raises:
        CannotSeal: the table is no longer ours, or another one.
        MySQLError: it was not changed, or that is not known.
    """
    kept = (await list_tables(session.fetch)).ours.get(day)
    if kept is None or before not in (None, kept.comment):
        raise CannotSeal(f"{table(day)} is another table than it was a moment ago")
    usual, session.statement_seconds = session.statement_seconds, ALTER_SECONDS
    alter = f"ALTER TABLE {table(day)} COMMENT='{comment}', ALGORITHM=INPLACE"
    try:
        await until_unlocked(
            lambda: session.engine.run_ddl(session, alter, wait=ALTER_WAIT), TRIES, ALTER_PAUSE
        )
    finally:
        session.statement_seconds = usual


def page(day: date, after: Key | None) -> str:
    """The statement that reads the next keys of a day.

    It returns one row: how many keys, and all of them as 32 hexadecimal digits each. That costs
    this process a hundredth of what a row for each key would.

    Args:
        after: the last key of the page before.
    """
    beyond = ""
    if after is not None:
        user, playlist = after
        beyond = f" WHERE user_id>{user} OR (user_id={user} AND playlist_id>{playlist})"
    return (
        "SELECT COUNT(*),GROUP_CONCAT(LPAD(HEX(user_id),16,'0'),LPAD(HEX(playlist_id),16,'0')"
        " ORDER BY user_id,playlist_id SEPARATOR '') FROM"
        f" (SELECT user_id,playlist_id FROM {table(day)}{beyond}"
        f" ORDER BY user_id,playlist_id LIMIT {PAGE_KEYS}) AS page"
    )
