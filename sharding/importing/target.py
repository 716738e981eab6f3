"""Writes imported states into their days' partitions, and leaves states that Tapedeck changed.

A key has one row, so before a row is written, all partitions that may have the key are read:

    no row                           it is inserted into its day
    a row that only imports wrote    of an older day: it is moved; of the same day: it is replaced;
                                     of a newer day, or the same state: nothing is done
    any other row                    Tapedeck has changed it since, or deleted it: it stays

Each transaction inserts rows, deletes moved rows by their version, looks for the keys where a
gateway may have created them meanwhile, and requires MySQL's day and the opening
(`sharding.partitions.openings`). If it fails, the keys are read again. A MySQL lock lets one import
run at a time, so no other process adds keys to older days.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import date, timedelta

from msgspec import Struct

from failover.mysql.clock_sql import MILLISECONDS
from failover.mysql.connection import BEGIN, COMMIT, Session
from failover.mysql.errors import Fault, MySQLError
from failover.mysql.locks import lock_name
from failover.mysql.primary import Primary
from sharding.importing.known import Known, read_known
from sharding.importing.mapping import Record
from sharding.partitions import openings, seal_mark, sql
from sharding.partitions.calendar import (
    CLOCKS_AGREE,
    neighbours,
    number_of,
    oldest_kept,
    span,
    table,
    tomorrow,
)
from sharding.partitions.ownership import COMMENT, OPEN, ForeignTable, look
from sharding.partitions.sealing import set_comment
from sharding.partitions.sql import NewRow, Row
from sharding.state import Key
from sharding.store import idempotency

NEW, REPLACED, MOVED = "imported", "replaced", "moved to a newer day"
SAME, OLDER = "imported before and unchanged", "older than what was imported"
CHANGED, EXPIRED = "changed in Tapedeck since, left alone", "past retention"
AHEAD, BUSY = "its day lies in the future", "changed too often while it was imported"

DIRECT = 10_000
"""With more keys than this, a filter is made first; fewer are looked for in every partition."""
WAIT = 60
"""Seconds to wait for another import to end."""
WAIT_SEALING = 1800
"""Seconds to wait while days are sealed."""
IDLE_SECONDS = 8 * 3600
"""How long the connection may be idle, while the source is read."""
TRIES = 5
LONGEST = 2 << 20
"""About the most bytes of one transaction."""
STATEMENT_SECONDS = 60.0


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


def decide(record: Record, row: Row | None, today: date, retention: int) -> Step:
    """Decide what to do with a record.

    Args:
        row: the key's row within retention, tombstones included; None without one.
        today: MySQL's day.
        retention: days a state is kept.
    """
    if record.day < oldest_kept(today, retention):
        return Step(record, EXPIRED, row)
    if record.day > tomorrow(today):
        return Step(record, AHEAD, row)
    if row is None:
        return Step(record, NEW)
    if row.operations != idempotency.imported(row.version):
        return Step(record, CHANGED, row)
    if record.day != row.day:
        return Step(record, MOVED if record.day > row.day else OLDER, row)
    same = (row.owner, row.body) == (record.owner, record.body)
    return Step(record, SAME if same else REPLACED, row)


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
        self._known: Known | None = None
        self._asked = expected if many else 0
        self.open: set[date] = set()
        self._there: set[date] = set()
        self._foreign: dict[str, str] = {}
        self._known_from = date.max
        # Whether it is left to `script` to find what gateways made. A batch that meets some fails,
        # and is read whole; so are all, until one meets none.
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
        session, name = self._session, lock_name(work, self._database)
        if (await session.fetch("SELECT GET_LOCK(%s, 0)", (name,)))[0][0] != 1:
            self._tell(f"{meanwhile}: waiting up to {seconds} s for its end")
            usual, session.statement_seconds = session.statement_seconds, seconds + 10
            try:
                got = await session.fetch("SELECT GET_LOCK(%s, %s)", (name, seconds))
            finally:
                session.statement_seconds = usual
            if got[0][0] != 1:
                raise Refused(f"{meanwhile}, and has not ended within {seconds} s")
        try:
            yield
        finally:
            if not session.broken:
                with contextlib.suppress(MySQLError):
                    await session.fetch("SELECT RELEASE_LOCK(%s)", (name,))

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
        found = await look(self._session.fetch)
        self._there = set(found.ours)
        self._foreign = found.foreign

    def _kept(self, today: date) -> list[date]:
        days = [today + timedelta(days=n) for n in range(-self._retention, 2)]
        return [day for day in days if day in self._there]

    # ---- days that are open --------------------------------------------------------------------

    async def _open(self, days: set[date]) -> None:
        """Create the partitions that are missing, open these days, and renew the opening.

        Sealing's lock is held meanwhile: no day may be closed between opening and renewing.
        """
        async with self._lock("seal", WAIT_SEALING, "a gateway seals days"):
            await self._create(days)
            found = await look(self._session.fetch)
            for day in sorted(days | self.open):
                if day not in found.ours:
                    raise Refused(f"the partition {table(day)} was dropped: try again")
                if found.ours[day].comment != OPEN:
                    await set_comment(self._session, day, OPEN)
            self._opening = await openings.renew(self._session)
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
            there = (await look(self._session.fetch)).ours
            days = sorted(day for day, kept in there.items() if kept.comment == OPEN)
            if days:
                await openings.renew(self._session)
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
        return [decide(one, rows.get(one.key), today, self._retention) for one in records]

    async def _where(self, keys: list[Key], today: date) -> dict[date, list[Key]]:
        """Which keys to look for in which partitions."""
        kept = self._kept(today)
        self._asked += len(keys)
        if self._known is None and self._asked > DIRECT:
            there = (await look(self._session.fetch)).ours
            days = [today + timedelta(days=n) for n in range(-self._retention, 2)]
            self._known_from = neighbours(today)[0]
            self._known = await read_known(self._session, there, days, self._expected)
        if self._known is None:
            return dict.fromkeys(kept, keys)
        wanted = self._known.among(keys)
        trusted = {today, *neighbours(today)} if self._trusting else set()
        for day in kept:
            if day not in trusted and (day >= self._known_from or not self._known.knows(day)):
                wanted[day] = keys
        return {day: wanted[day] for day in kept if day in wanted}

    async def _rows(self, wanted: dict[date, list[Key]]) -> dict[Key, Row]:
        if not wanted:
            return {}
        (ran,) = await self._session.run_script([sql.read(wanted)])
        days = {number_of(day): day for day in wanted}
        found: dict[Key, Row] = {}
        for number, user, playlist, version, owner, body, operations in ran.rows:
            if number == b"0":
                continue
            key = Key(int(user), int(playlist))
            row = Row(days[int(number)], int(version), int(owner), body, operations)
            if key not in found or found[key].day < row.day:
                found[key] = row
        return found

    async def take(self, records: Sequence[Record]) -> list[Step]:
        """Import a batch of records; return what became of each key, once it is committed.

        If a key has several records, the newest counts; on the same day, the last one.

        Raises:
            Refused: a partition cannot be used.
            MySQLError: the connection was lost, or MySQL refuses; the batch may be committed.
        """
        newest: dict[Key, Record] = {}
        if not records:
            return []
        for record in records:
            before = newest.get(record.key)
            if before is None or before.day <= record.day:
                newest[record.key] = record
        return await self._take(list(newest.values()), TRIES)

    async def _take(self, records: Sequence[Record], tries: int) -> list[Step]:
        if len(records) > 1 and sum(2 * len(one.body) + 700 for one in records) > LONGEST:
            half = len(records) // 2
            parts = records[:half], records[half:]
            return [step for part in parts for step in await self._take(part, TRIES)]
        today = await self.today()
        steps = await self.steps(records, today)
        writing = [step for step in steps if step.writes]
        if self._dry:
            return steps
        beside = {today, *neighbours(today)}
        self._trusting = not any(step.row and step.row.day in beside for step in steps)
        if not writing:
            return steps
        closed = {step.record.day for step in writing if step.record.day < today} - self.open
        fresh = {step.record.day for step in writing} - self._there - closed
        if fresh:
            await self._create(fresh)
        if closed:
            await self._open(closed)
        try:
            await self._session.run_script(script(writing, today, self._opening, self._there))
        except MySQLError as error:
            if self._session.broken:
                raise
            await self._session.rollback()
            late = error.code == sql.REQUIREMENT_FAILED or error.fault is Fault.DUPLICATE
            if not late and error.fault is not Fault.RETRY:
                raise
        else:
            self._learn(writing)
            return steps
        self._trusting = False
        if (await seal_mark.read(self._session))[1] != self._opening:
            await self._open(set())
        if tries:
            return await self._take(records, tries - 1)
        if len(records) == 1:
            return [Step(records[0], BUSY)]
        return [step for one in records for step in await self._take([one], TRIES)]

    def _learn(self, written: Sequence[Step]) -> None:
        if self._known is None:
            return
        by_day: dict[date, list[Key]] = {}
        for step in written:
            by_day.setdefault(step.record.day, []).append(step.record.key)
        for day, keys in by_day.items():
            self._known.add(day, keys)


def script(steps: Sequence[Step], today: date, opening: int, there: set[date]) -> list[str]:
    """The statements of one transaction that carries all steps out.

    Args:
        today: MySQL's day, which the transaction requires.
        opening: likewise.
        there: the days of the partitions that exist.
    """
    steps = sorted(steps, key=lambda step: (step.record.day, step.record.key))
    statements = [BEGIN]
    new = [step for step in steps if step.outcome == NEW]
    made = {
        beside: [step.record.key for step in new if step.record.day != beside]
        for beside in {today, *neighbours(today)} & there
    }
    moved: dict[date, dict[Key, int]] = {}
    for day in sorted({step.record.day for step in steps}):
        mine = [step for step in steps if step.record.day == day]
        stay = [_row(step) for step in mine if step.outcome == REPLACED]
        come = [_row(step) for step in mine if step.outcome != REPLACED]
        if stay:
            statements += [sql.upsert(day, stay), sql.require(2 * len(stay))]
        if come:
            statements.append(sql.insert(day, come))
        for step in mine:
            if step.row is not None and step.outcome == MOVED:
                moved.setdefault(step.row.day, {})[step.record.key] = step.row.version
    for day, versions in sorted(moved.items()):
        statements += [sql.delete(day, versions), sql.require(len(versions))]
    made = {beside: keys for beside, keys in made.items() if keys}
    return [*statements, sql.require_absent(today, made, opening), COMMIT]


def _row(step: Step) -> NewRow:
    base = step.row.version if step.row is not None else 0
    record, version = step.record, base + 1
    log = idempotency.imported(version)
    return NewRow(record.key, base, version, int(record.owner), record.body, log)


def count(steps: Sequence[Step]) -> Counter[str]:
    """How many keys had each outcome."""
    return Counter(step.outcome for step in steps)
