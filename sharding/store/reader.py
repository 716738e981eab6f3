"""Loads: ask for the hint, read the partitions that may have the row, repair the hint.

If the filters leave few partitions, these are read at once without a hint. Otherwise the hint
decides what is read first; the result is the same as that of a read of every partition. A row
counts as absent only after one statement has read every partition that may have it: two statements
would both miss a row that moves between them. A sealed partition whose filter rules the key out
cannot have it (`sharding.filters.filters`), so it is not read.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import date
from functools import partial
from typing import NamedTuple

from failover.mysql.errors import Fault, MySQLError, PrimaryUnavailable
from failover.mysql.primary import Primary
from failover.mysql.retries import retry
from sharding import metrics
from sharding.batching import Batcher
from sharding.filters.filters import Filters, FilterSet
from sharding.lookups.hint_rules import Hint, HintKind
from sharding.lookups.lookups import Lookups
from sharding.partitions import sql
from sharding.partitions.calendar import mysql_day, parse_day, tomorrow
from sharding.partitions.days import Days
from sharding.partitions.sql import Row
from sharding.state import Key
from sharding.store.plan import Loaded

NEAR = 4
"""A read of at most this many partitions needs no hint, and has a queue of its own, so that it does
not wait for reads of a whole month."""


class Want(NamedTuple):
    """A key, and where to look for it.

    Attributes:
        first: the oldest day that may be read.
        readable: the days of all partitions that existed then, newest first.
        filters: the filters at that moment.
        days: of the partitions to read, newest first.
        whole: whether these are all that may have the key.
    """

    key: Key
    first: date
    readable: Sequence[date]
    filters: FilterSet
    days: Sequence[date]
    whole: bool


class Reader:
    """Loads rows by key.

    Args:
        filters: of the sealed days.
    """

    def __init__(self, primary: Primary, lookups: Lookups, days: Days, filters: Filters) -> None:
        self._primary = primary
        self._lookups = lookups
        self._days = days
        self._filters = filters
        self._near: Batcher[Want, Loaded] = Batcher("read_near", self._read, at_most=64)
        self._deep: Batcher[Want, Loaded] = Batcher("read_deep", self._read, at_most=32)

    def resize(self, batch: int) -> None:
        """Let at most this many loads share a statement, from the next batch on; half as many
        where a statement reads every partition."""
        self._near.at_most, self._deep.at_most = batch, max(1, batch // 2)

    async def load(self, key: Key) -> Loaded:
        """Find a key's row.

        Raises:
            PrimaryUnavailable: MySQL did not answer within its deadline.
            MySQLError: an error that a repetition would meet again.
        """
        if not self._days.settled:
            await self._days.ready()
        metrics.LOADS.counts[""] += 1
        want = self._want(key, date.min)
        if len(want.days) <= NEAR < len(want.readable):
            # The filters leave so few partitions that a hint could save nothing.
            return await self._submit(want)
        hint = await self._lookups.ask(key)
        loaded = await self._read_from(key, date.min if hint.day is None else hint.day)
        self._count_hint(key, hint, loaded.row)
        return loaded

    def absent(self, key: Key) -> Loaded | None:
        """What a load would find if only today's partition could have the key, and has it not.

        None if an older partition may have the key: then it must be loaded (rule S5).
        """
        want = self._want(key, date.min)
        today = self._days.today()
        if any(day < today for day in want.days):
            return None
        return Loaded(None, True, want.filters, self._days.opening)

    async def reload(self, key: Key, before: Loaded) -> Loaded:
        """Find a key's row again, after a conflict or a lost answer.

        It asks no lookup node: a row only ever moves to a later day, so the day where it was found
        is enough, and a change does not wait for a slow node twice.
        """
        return await self._read_from(key, date.min if before.row is None else before.row.day)

    async def find(self, key: Key) -> Loaded:
        """Find a key's row among all partitions, without asking a node or repairing a hint."""
        await self._days.ready()
        return await self._read_from(key, date.min)

    def _count_hint(self, key: Key, hint: Hint, row: Row | None) -> None:
        """Count whether the hint was right, and repair it if a row was found.

        If no row was found, the entry stays: it may be another application's.
        """
        outcome = hint.found.value
        if hint.day is not None:
            if row is None or hint.day > row.day:
                outcome = "ahead"
            else:
                outcome = "hit" if hint.day == row.day else "stale"
        metrics.LOOKUPS.counts[outcome] += 1
        if row is None:
            return
        if hint.found is HintKind.NOTHING:
            metrics.LOST.inc()
        if hint.found is not HintKind.NO_ANSWER and hint.day != row.day:
            self._lookups.put(key, row.day, saved=False)

    async def _read_from(self, key: Key, first: date) -> Loaded:
        """Read the partitions from `first` on. If the row is not there, read all that may have it,
        including those from `first` on: the row may have moved there meanwhile."""
        if first > tomorrow(self._days.today()):
            first = date.min
        loaded = await self._submit(self._want(key, first))
        if loaded.row is None and not loaded.whole:
            loaded = await self._submit(self._want(key, date.min))
        return loaded

    def _want(self, key: Key, first: date) -> Want:
        readable, filters = self._days.readable(), self._filters.now
        maybe = filters.maybe(key, readable)
        days = [day for day in maybe if day >= first] if first > date.min else maybe
        return Want(key, first, readable, filters, days, len(days) == len(maybe))

    async def _submit(self, want: Want) -> Loaded:
        return await (self._near if len(want.days) <= NEAR else self._deep).submit(want)

    async def _read(self, wants: list[Want]) -> Sequence[Loaded]:
        deadline = self._primary.deadline()
        return await retry(partial(self._read_once, wants, deadline), deadline, _may_pass)

    async def _read_once(self, wants: list[Want], deadline: float) -> Sequence[Loaded]:
        await self._days.ready()
        today, readable = self._days.today(), self._days.readable()
        opening = self._days.opening
        wants = [
            want if want.readable is readable else self._want(want.key, want.first)
            for want in wants
        ]
        wanted = _by_day(wants)
        try:
            async with self._primary.session(deadline) as session:
                (ran,) = await session.run_script([sql.read(wanted)])
                clock = next((row for row in reversed(ran.rows) if row[0] == b"0"), None)
                if clock is None:
                    raise MySQLError(Fault.NO_TABLE, 0, "the mark has no row")
                if clock[4] != b"0":
                    # Another host is, or will be, the primary: this one's rows may be old.
                    raise MySQLError(Fault.READ_ONLY, 0, "the host that was read is read-only")
        except MySQLError as error:
            if error.fault is Fault.NO_TABLE:
                await self._days.refresh()
            elif error.fault is Fault.FINAL and await self._days.recheck(wanted):
                raise _read_again("a partition was replaced by another table") from error
            raise
        clock_ms, mark = int(clock[3]), parse_day(clock[1].decode()) or date.min
        newest = sql.newest(ran.rows, wanted)
        if not self._days.observe(clock_ms, mark=mark):
            # By the true time, partitions that were not read may be due to be read.
            raise PrimaryUnavailable(self._days.doubt)
        if mysql_day(clock_ms / 1000, mark) > today:
            # Midnight passed: the row may be in a new partition that was not read.
            raise _read_again("midnight passed during a read")
        if int(clock[2]) != opening:
            # An import may have written the key into a day whose filter rules it out.
            await self._days.refresh()
            raise _read_again("partitions were opened for an import, or closed")
        metrics.PARTITIONS_READ.observe(len(wanted))
        return [self._loaded(want, newest.get(want.key), opening) for want in wants]

    def _loaded(self, want: Want, row: Row | None, opening: int) -> Loaded:
        filters = want.filters
        for day in want.days:
            if filters.complete(day) and (row is None or row.day != day):
                self._filters.in_vain[day] = self._filters.in_vain.get(day, 0) + 1
                metrics.FILTER_IN_VAIN.counts[""] += 1
        return Loaded(row, want.whole, filters, opening)


def _read_again(why: str) -> MySQLError:
    """What a statement read does not count: it is repeated."""
    return MySQLError(Fault.OVERTAKEN, 0, why)


def _by_day(wants: Sequence[Want]) -> dict[date, Sequence[Key]]:
    """The keys to read from each partition, sorted; newest partition first."""
    days: dict[Key, Collection[date]] = {}
    for want in wants:
        before = days.get(want.key)
        days[want.key] = want.days if before is None else {*before, *want.days}
    keys: dict[date, list[Key]] = {}
    for key in sorted(days):
        for day in days[key]:
            keys.setdefault(day, []).append(key)
    return {day: keys[day] for day in sorted(keys, reverse=True)}


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, MySQLError) and (error.passing or error.fault is Fault.NO_TABLE)
