"""Writes imported states into their days' partitions, and leaves states that Tapedeck changed.

A key has one row, so before a row is written, all partitions that may have the key are read:

    no row                           it is inserted into its day
    a row that only imports wrote    of an older day: it is moved; of the same day: it is replaced;
                                     of a newer day, the same state, or a state of the other
                                     API: nothing is done
    any other row                    Tapedeck has changed it since, or deleted it: it stays

Each transaction inserts rows, deletes moved rows by their version, looks for the keys where a
gateway may have created them meanwhile, and requires MySQL's day and the opening
(`sharding.partitions.import_opening`). If it fails, the keys are read again. A MySQL lock lets
one import run at a time, so no other process adds keys to older days.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from datetime import date, timedelta

from msgspec import Struct

from failover.mysql import locks
from failover.mysql.clock_sql import MILLISECONDS
from failover.mysql.connection import BEGIN, COMMIT, Session
from failover.mysql.errors import Fault, MySQLError
from failover.mysql.primary import Primary
from sharding.importing.known_keys import Known, read_known
from sharding.importing.mapping import Record
from sharding.partitions import import_opening, seal_mark, sql
from sharding.partitions.calendar import (
    CLOCKS_AGREE,
    neighbours,
    oldest_kept,
    readable,
    span,
    table,
    tomorrow,
    yesterday,
)
from sharding.partitions.ownership import COMMENT, OPEN, ForeignTable, list_tables
from sharding.partitions.sealing import set_comment
from sharding.partitions.sql import NewRow, Row
from sharding.state import Key
from sharding.store import idempotency
from sharding.store.plan import Plan, statements

NEW, REPLACED, MOVED = "imported", "replaced", "moved to a newer day"
SAME, OLDER = "imported before and unchanged", "older than what was imported"
CHANGED, EXPIRED = "changed in Tapedeck since, left alone", "past retention"
OTHER = "imported with the other kind of map before, left alone"
AHEAD, BUSY = "its day lies in the future", "changed too often while it was imported"

DIRECT = 10_000
"""With more keys than this, a filter is made first; fewer are looked for in every partition."""
WAIT = 60
"""Seconds to wait for another import to end."""
WAIT_SEALING = 1800
"""Seconds to wait while days are sealed."""
IDLE_SECONDS = 8 * 3600
"""How long the connection may be idle, while the source is read."""
TODAY_SECONDS = 1.0
"""For which MySQL's day is not asked again."""
TRIES = 5
TRANSACTION = 250
"""Most rows of one transaction: a request never waits longer than for one."""
LONGEST = 2 << 20
"""About the most bytes of one transaction."""
STATEMENT_SECONDS = 60.0


Between = Callable[[int], Awaitable[None]]


class Refused(Exception):
    """The import cannot continue; says why, and what to do."""


class Step(Struct, frozen=True):
    """What to do with a record.

    Attributes:
        outcome: one of the constants above.
        row: the key's row; None without one.
    """

    record: Record
    outcome: str
    row: Row | None = None

    @property
    def writes(self) -> bool:
        """Whether the record is to be written."""
        return self.outcome in (NEW, REPLACED, MOVED)

    @property
    def plan(self) -> Plan:
        """Writes the record into its day, in the place of the row."""
        record, base = self.record, self.row.version if self.row is not None else 0
        log = idempotency.imported(base + 1)
        row = NewRow(record.key, base, base + 1, int(record.owner), record.body, log)
        return Plan(self.row, record.day, row)


def decide(record: Record, row: Row | None, oldest: date, newest: date) -> Step:
    """Decide what to do with a record.

    Args:
        row: the key's row within retention, tombstones included; None without one.
        oldest: the first day that is kept.
        newest: MySQL's tomorrow.
    """
    if record.day < oldest:
        return Step(record, EXPIRED, row)
    if record.day > newest:
        return Step(record, AHEAD, row)
    if row is None:
        return Step(record, NEW)
    if row.operations != idempotency.imported(row.version):
        return Step(record, CHANGED, row)
    if record.owner != row.owner:
        return Step(record, OTHER, row)
    if record.day != row.day:
        return Step(record, MOVED if record.day > row.day else OLDER, row)
    return Step(record, SAME if row.body == record.body else REPLACED, row)


class Target:
    """The partitions, for one import. Make it with `opened`.

    Args:
        session: its own connection, which holds the import's lock.
        expected: about how many rows a day will get.
        many: whether all of these come, so that a filter is worth it from the first row on.
        tell: gets a line about what it waits for.
        dry: only say what would be done.
    """

    def __init__(
        self,
        session: Session,
        database: str,
        retention: int,
        expected: int,
        tell: Callable[[str], None],
        *,
        many: bool,
        dry: bool,
    ) -> None:
        self._session = session
        self._tell = tell
        self._database = database
        self._retention = retention
        self._expected = expected
        self._dry = dry
        self._opening = 0
        self._today, self._today_until = date.min, 0.0
        self._known: Known | None = None
        self._asked = expected if many else 0
        self.open: set[date] = set()
        self._there: set[date] = set()
        self._foreign: dict[str, str] = {}
        # Gateways may add keys to the days from here on. Older ones get keys from this import only,
        # and `_known` has them all.
        self._grows_from = date.min
        self._peopled: set[date] = set()  # later days that were found to have rows
        # Whether it is left to the transactions to find what gateways made. A batch that meets some
        # fails, and is read whole; so are all, until one meets none.
        self._trusting = False

    @classmethod
    @contextlib.asynccontextmanager
    async def opened(
        cls,
        primary: Primary,
        retention: int,
        expected: int = 0,
        tell: Callable[[str], None] = lambda _: None,
        *,
        many: bool = False,
        dry: bool = False,
    ) -> AsyncIterator[Target]:
        """Connect, and wait for the end of another import.

        Raises:
            Refused: the other import does not end.
            PrimaryUnavailable, MySQLError: MySQL cannot be reached.
        """
        async with primary.session_apart(primary.deadline()) as session:
            target = cls(session, primary.database, retention, expected, tell, many=many, dry=dry)
            session.statement_seconds = STATEMENT_SECONDS
            await session.execute(f"SET SESSION wait_timeout = {IDLE_SECONDS}")
            async with target._lock("import", WAIT, "another import runs"):
                _, target._opening = await seal_mark.read(session)
                await target._list()
                yield target

    @contextlib.asynccontextmanager
    async def _lock(self, work: str, seconds: int, meanwhile: str) -> AsyncIterator[None]:
        session, name = self._session, locks.lock_name(work, self._database)
        if not await locks.take(session, name):
            self._tell(f"{meanwhile}: waiting up to {seconds} s for its end")
            usual, session.statement_seconds = session.statement_seconds, seconds + 10
            try:
                taken = await locks.take(session, name, seconds)
            finally:
                session.statement_seconds = usual
            if not taken:
                raise Refused(f"{meanwhile}, and has not ended within {seconds} s")
        try:
            yield
        finally:
            await locks.release(session, name)

    async def today(self) -> date:
        """MySQL's day.

        Raises:
            Refused: MySQL's clock and this machine's disagree, so days may be wrong.
            MySQLError: MySQL could not be asked.
        """
        ((day, clock_ms),) = await self._session.fetch(
            f"SELECT {seal_mark.MYSQL_DAY}, {MILLISECONDS}"
        )
        assert isinstance(day, date)
        apart = abs(int(clock_ms) / 1000 - time.time())
        if apart > CLOCKS_AGREE:
            raise Refused(
                f"this machine's clock and MySQL's differ by {span(apart)}: set the wrong one right"
            )
        return day

    async def _list(self) -> None:
        found = await list_tables(self._session.fetch)
        self._there = set(found.ours)
        self._foreign = found.foreign

    # ---- days that are open --------------------------------------------------------------------

    async def _open(self, days: set[date]) -> None:
        """Create the partitions that are missing, open these days, and renew the opening.

        Sealing's lock is held meanwhile: no day may be closed between opening and renewing.
        """
        async with self._lock("seal", WAIT_SEALING, "a gateway seals days"):
            await self._create(days)
            found = await list_tables(self._session.fetch)
            for day in sorted(days | self.open):
                if day not in found.ours:
                    raise Refused(f"the partition {table(day)} was dropped: try again")
                if found.ours[day].comment != OPEN:
                    await set_comment(self._session, day, OPEN)
            self._opening = await import_opening.renew(self._session)
        self.open |= days

    async def _create(self, days: set[date]) -> None:
        for day in sorted(days - self._there):
            await self._session.execute(sql.create_table(day))
        await self._list()
        for name in {table(day) for day in days} & self._foreign.keys():
            raise Refused(str(ForeignTable(name, self._foreign[name])))

    async def close(self) -> None:
        """Close every open day, so that it is sealed again, including the days of an import that
        was interrupted."""
        async with self._lock("seal", WAIT_SEALING, "a gateway seals days"):
            there = (await list_tables(self._session.fetch)).ours
            days = sorted(day for day, kept in there.items() if kept.comment == OPEN)
            if days:
                await import_opening.renew(self._session)
            for day in days:
                await set_comment(self._session, day, COMMENT)
        self.open = set()

    # ---- rows ----------------------------------------------------------------------------------

    async def steps(self, records: Sequence[Record], today: date) -> list[Step]:
        """Read the keys' rows, and decide what to do with each record.

        Raises:
            MySQLError: MySQL could not be asked.
        """
        rows = await self._rows(await self._where([record.key for record in records], today))
        kept = oldest_kept(today, self._retention), tomorrow(today)
        return [decide(one, rows.get(one.key), *kept) for one in records]

    async def _where(self, keys: list[Key], today: date) -> dict[date, list[Key]]:
        """Which keys to look for in which partitions."""
        kept = readable(self._there, today, self._retention)
        self._asked += len(keys)
        if self._known is None and self._asked > DIRECT:
            there = (await list_tables(self._session.fetch)).ours
            days = [today + timedelta(days=n) for n in range(-self._retention, 2)]
            self._known = await read_known(self._session, there, days, self._expected)
            before = yesterday(today)
            self._grows_from = today if before in self._known.sealed else before
        if self._known is None:
            return dict.fromkeys(kept, keys)
        wanted = self._known.among(keys)
        trusted = {today, *neighbours(today)} if self._trusting else set()
        for day in kept:
            if day not in trusted and (day >= self._grows_from or not self._known.knows(day)):
                wanted[day] = keys
        return {day: wanted[day] for day in kept if day in wanted}

    async def _rows(self, wanted: dict[date, list[Key]]) -> dict[Key, Row]:
        if not wanted:
            return {}
        (ran,) = await self._session.run_script([sql.read(wanted)])
        return sql.newest(ran.rows, wanted)

    async def take(
        self, records: Sequence[Record], between: Between = lambda _: asyncio.sleep(0)
    ) -> list[Step]:
        """Import records; return what became of each key, once it is committed.

        If a key has several records, the newest counts; on the same day, the last one.

        Args:
            between: is called after each transaction, with how many keys were done.

        Raises:
            Refused: a partition cannot be used.
            MySQLError: the connection was lost, or MySQL refuses; any of them may be committed.
        """
        newest: dict[Key, Record] = {}
        for record in records:
            before = newest.get(record.key)
            if before is None or before.day <= record.day:
                newest[record.key] = record
        left, done = list(newest.values()), list[Step]()
        while left:
            few = len(left) if self._known is not None and self._trusting else TRANSACTION
            done += await self._take(left[:few], TRIES, between)
            left = left[few:]
        return done

    async def _take(self, records: Sequence[Record], tries: int, between: Between) -> list[Step]:
        if time.monotonic() > self._today_until or tries < TRIES:
            self._today = await self.today()
            self._today_until = time.monotonic() + TODAY_SECONDS
        today = self._today  # the transactions require it
        if tomorrow(today) not in self._there:
            # A midnight has passed since the partitions were listed.
            await (self._list() if self._dry else self._create({tomorrow(today)}))
        steps = await self.steps(records, today)
        done = [step for step in steps if self._dry or not step.writes]
        self._trusting = not any(step.row and step.row.day >= self._grows_from for step in steps)
        if done:
            await between(len(done))
        if len(done) == len(steps):
            return done
        writing = [step for step in steps if step.writes]
        days = {step.record.day for step in writing}
        closed = {day for day in days if day < today} - self.open
        if fresh := days - self._there - closed:
            await self._create(fresh)
        if closed:
            await self._open(closed)
        for some in _transactions(writing):
            if await self._write(some, today):
                done += some
                await between(len(some))
            else:
                done += await self._take_again([step.record for step in some], tries, between)
        return done

    async def _write(self, steps: Sequence[Step], today: date) -> bool:
        """Carry the steps out in one transaction; whether they are, or are to be decided anew."""
        last = sql.require_absent(today, self._beside(steps, today), self._opening)
        script = [BEGIN, *statements([step.plan for step in steps]), last, COMMIT]
        try:
            await self._session.run_script(script)
        except MySQLError as error:
            if self._session.broken:
                raise
            await self._session.rollback()
            late = error.code == sql.REQUIREMENT_FAILED or error.fault is Fault.DUPLICATE
            if not late and error.fault is not Fault.OVERTAKEN:
                raise
            return False
        if self._known is not None:
            by_day: dict[date, list[Key]] = {}
            for step in steps:
                by_day.setdefault(step.record.day, []).append(step.record.key)
            for day, keys in by_day.items():
                self._known.add(day, keys)
        return True

    async def _take_again(
        self, records: Sequence[Record], tries: int, between: Between
    ) -> list[Step]:
        self._trusting = False
        later = tomorrow(self._today)
        if later in self._there and await self._session.fetch(
            f"SELECT 1 FROM {table(later)} LIMIT 1"
        ):
            self._peopled.add(later)
        if (await seal_mark.read(self._session))[1] != self._opening:
            await self._open(set())
        if tries:
            return await self._take(records, tries - 1, between)
        if len(records) == 1:
            return [Step(records[0], BUSY)]
        return [step for one in records for step in await self._take([one], TRIES, between)]

    def _beside(self, writing: Sequence[Step], today: date) -> dict[date, list[Key]]:
        """The keys that a gateway may be creating, by partition; no keys: it must have no row.

        A gateway may create keys in yesterday's partition until it is sealed. Tomorrow's is empty
        but around midnight.
        """
        new = [step.record for step in writing if step.outcome == NEW]
        found = {}
        for day in (yesterday(today), today, tomorrow(today)):
            keys = [record.key for record in new if record.day != day]
            if day in self._there and day >= self._grows_from and keys:
                empty = day > today and day not in self._peopled
                empty = empty and all(step.record.day != day for step in writing)
                found[day] = [] if empty else keys
        return found


def _transactions(steps: Sequence[Step]) -> Iterator[list[Step]]:
    """The steps, in parts of one transaction each."""
    part, size = list[Step](), 0
    for step in steps:
        more = step.plan.size
        if part and (len(part) == TRANSACTION or size + more > LONGEST):
            yield part
            part, size = [], 0
        part.append(step)
        size += more
    yield part


def count(steps: Sequence[Step]) -> Counter[str]:
    """How many keys had each outcome."""
    return Counter(step.outcome for step in steps)
