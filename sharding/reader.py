"""Loads: the hint, one statement over the partitions it leaves open, the hint's repair.

Whatever the hint says, the answer is what a read of every partition would give: a hint only decides
what is read first, and nothing found is believed only of a read over all partitions in one
statement (a row that moves between two statements would be missed by both).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import NamedTuple

from msgspec import Struct

from tapedeck.failover.errors import Fault, MySQLError, PrimaryUnavailable
from tapedeck.failover.primary import Primary
from tapedeck.failover.retry import persist
from tapedeck.sharding import metrics, rows
from tapedeck.sharding.batching import Batcher
from tapedeck.sharding.cluster import AnyLookups
from tapedeck.sharding.days import Days
from tapedeck.sharding.lookups import Found, Hint
from tapedeck.sharding.partitions import number_of, tomorrow, utc_day
from tapedeck.sharding.rows import Row
from tapedeck.sharding.state import Key


class Want(NamedTuple):
    """A key, and the oldest partition to look into for it."""

    key: Key
    oldest: date


class Loaded(Struct, frozen=True, gc=False):
    """What lies in MySQL for a key.

    Attributes:
        row: the row, tombstones included; None for a key that was never written.
    """

    row: Row | None


class Reader:
    """Loads rows by key."""

    def __init__(self, primary: Primary, lookups: AnyLookups, days: Days) -> None:
        self._primary = primary
        self._lookups = lookups
        self._days = days
        self.warm_up_saved = 0
        # Apart, so that a read of thirty partitions does not hold up those of one or two.
        self._near: Batcher[Want, Loaded] = Batcher("read_near", self._read, at_most=64)
        self._deep: Batcher[Want, Loaded] = Batcher("read_deep", self._read, at_most=32)

    def resize(self, batch: int) -> None:
        """From the next batch on at most so many loads share a statement; half as many where it
        reads every partition."""
        self._near.at_most, self._deep.at_most = batch, max(1, batch // 2)

    async def load(self, key: Key) -> Loaded:
        """Find a key's row.

        Raises:
            PrimaryUnavailable: MySQL did not answer within its deadline.
            MySQLError: one that repeating does not mend.
        """
        if not self._days.settled:
            await self._days.ready()
        hint = await self._lookups.ask(key)
        metrics.LOADS.counts[""] += 1
        first = self._first_look(hint)
        oldest = self._days.oldest()
        loaded = await self._look(Want(key, first))
        if loaded.row is None and first > oldest:
            loaded = await self._look(Want(key, oldest))
        self._judge(key, hint, loaded.row)
        return loaded

    async def reload(self, key: Key, before: Loaded) -> Loaded:
        """Find a key's row again, after a conflict or a lost answer.

        Asks no lookup node: a row only ever moves to a later day than it was seen in, and a change
        that meets an ill node twice would pay for it twice.

        Raises:
            PrimaryUnavailable, MySQLError: as `load`.
        """
        oldest = self._days.oldest()
        if before.row is not None and before.row.day > oldest:
            loaded = await self._look(Want(key, before.row.day))
            if loaded.row is not None:
                return loaded
        return await self._look(Want(key, oldest))

    async def find(self, key: Key) -> Loaded:
        """Find a key's row in whichever partition it lies; asks no lookup node, repairs nothing.

        Raises:
            PrimaryUnavailable, MySQLError: as `load`.
        """
        await self._days.ready()
        return await self._look(Want(key, self._days.oldest()))

    def _first_look(self, hint: Hint) -> date:
        """The oldest partition that the first statement reads."""
        if hint.day is not None and self._days.oldest() <= hint.day <= tomorrow(self._days.today()):
            return hint.day
        return self._days.oldest()

    def _judge(self, key: Key, hint: Hint, row: Row | None) -> None:
        """Count what the hint was worth, and have the hint of a row that was found repaired.

        An entry that leads to no row stays: it may be another application's.
        """
        outcome = hint.found.value
        if hint.day is not None:
            if row is None or hint.day > row.day:
                outcome = "ahead"
            else:
                outcome = "hit" if hint.day == row.day else "stale"
        metrics.LOOKUPS.counts[outcome] += 1
        if row is not None and hint.found is Found.NOTHING:
            metrics.LOST.inc()
        if row is None or hint.found is Found.NO_ANSWER:
            return
        if hint.warmed and hint.day is not None and hint.day <= row.day:
            older = sum(day < hint.day for day in self._days.readable())
            saved = older if hint.day >= self._days.oldest() else 0
            self.warm_up_saved += saved
            metrics.WARM_UP_SAVED.inc(saved)
        if hint.warmed or hint.day != row.day:
            self._lookups.repair(key, row.day)

    async def _look(self, want: Want) -> Loaded:
        near = (self._days.today() - want.oldest).days <= 1
        return await (self._near if near else self._deep).submit(want)

    async def _read(self, wants: list[Want]) -> Sequence[Loaded]:
        deadline = self._primary.deadline()

        async def once() -> Sequence[Loaded]:
            return await self._read_once(wants, deadline)

        return await persist(once, deadline, _read_again)

    async def _read_once(self, wants: list[Want], deadline: float) -> Sequence[Loaded]:
        await self._days.ready()
        today = self._days.today()
        wanted = _by_day(wants, self._days.readable())
        try:
            async with self._primary.session(deadline) as session:
                (ran,) = await session.run_script([rows.read(wanted)])
                clock = next(row for row in reversed(ran.rows) if row[0] == b"0")
                if clock[4] != b"0":
                    # Another host is, or will be, the primary: what this one holds may be old.
                    raise MySQLError(Fault.READ_ONLY, 0, "the host that was read is read-only")
        except MySQLError as error:
            if error.fault is Fault.NO_TABLE:
                await self._days.refresh()
            elif error.fault is Fault.FINAL and await self._days.recheck(wanted):
                raise _NotOurs from error
            raise
        newest: dict[Key, Row] = {}
        clock_ms = int(clock[3])
        days = {number_of(day): day for day in wanted}
        for number, user, playlist, version, owner, body, operations in ran.rows:
            if number == b"0":
                continue
            row = Row(days[int(number)], int(version), int(owner), body, operations)
            key = Key(int(user), int(playlist))
            if key not in newest or newest[key].day < row.day:
                newest[key] = row
        if not self._days.observe(clock_ms):
            # What was not read may lie in a partition that is read by the true time.
            raise PrimaryUnavailable(self._days.doubt)
        if utc_day(clock_ms / 1000) > today:
            # Midnight passed unnoticed: somebody may live in a partition that was not read.
            raise _MidnightPassed
        metrics.PARTITIONS_READ.observe(len(wanted))
        return [Loaded(newest.get(want.key)) for want in wants]


class _MidnightPassed(MySQLError):
    """MySQL's day is later than the one that a statement was made for."""

    def __init__(self) -> None:
        super().__init__(Fault.RETRY, 0, "midnight passed during a read")


class _NotOurs(MySQLError):
    """One of the tables that a statement reads is not a partition of ours any more."""

    def __init__(self) -> None:
        super().__init__(Fault.RETRY, 0, "a partition was replaced by another table")


def _by_day(wants: Sequence[Want], readable: Sequence[date]) -> dict[date, Sequence[Key]]:
    """The keys to be looked for in each partition, sorted; newest partition first."""
    oldest: dict[Key, date] = {}
    for key, day in wants:
        oldest[key] = min(day, oldest.get(key, day))
    keys = sorted(oldest)
    first, last = min(oldest.values()), max(oldest.values())
    wanted: dict[date, Sequence[Key]] = {}
    for day in readable:
        if day >= last:
            wanted[day] = keys
        elif day >= first:
            wanted[day] = [key for key in keys if oldest[key] <= day]
        else:
            break
    return wanted


def _read_again(error: BaseException) -> bool:
    return isinstance(error, MySQLError) and (error.passing or error.fault is Fault.NO_TABLE)
