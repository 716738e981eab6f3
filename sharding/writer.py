"""Saves: compare-and-set in place, the move into today, the create; alone or by the batch.

One transaction each, READ COMMITTED. A batch that does not succeed whole is rolled back and its
rows are settled one by one, so a row that cannot be saved fails alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import date

from tapedeck.failover.errors import Fault, MySQLError
from tapedeck.failover.primary import Primary
from tapedeck.failover.session import LOCK_SECONDS, Session
from tapedeck.sharding import metrics, rows
from tapedeck.sharding.batching import Batcher
from tapedeck.sharding.days import Days
from tapedeck.sharding.partitions import neighbours, utc_day
from tapedeck.sharding.rows import NewRow, Row
from tapedeck.sharding.state import Key


@dataclass(frozen=True, slots=True)
class Plan:
    """One change, ready to be written.

    Attributes:
        base: the row it was made from; None creates the key.
        day: W, the partition to write into: the newer of today and the base's.
        row: what to write.
        strays: older rows of the key, to be removed with it.
        alone: not in a batch, because it held one up before.
    """

    base: Row | None
    day: date
    row: NewRow
    strays: tuple[Row, ...] = ()
    alone: bool = False

    @property
    def key(self) -> Key:
        """Whose state."""
        return self.row.key

    @property
    def in_place(self) -> bool:
        """Whether the row stays in its partition."""
        return self.base is not None and self.base.day == self.day


class _Mismatch(Exception):
    """A row was not as it was loaded: roll back."""


class Writer:
    """Commits plans."""

    def __init__(self, primary: Primary, days: Days) -> None:
        self._primary = primary
        self._days = days
        self._updates = self._batcher("save_in_place")
        self._shifts = self._batcher("save_shift")
        # Rows that somebody else holds: a few connections are all that they may occupy.
        self._lone: Batcher[Plan, bool] = Batcher("save_alone", self._save, at_most=1, in_flight=4)

    async def save(self, plan: Plan) -> bool:
        """Commit a plan.

        Returns:
            Whether it was committed; False if the key had changed since it was loaded.

        Raises:
            PrimaryUnavailable, MySQLError: not committed, or not known to be.
        """
        saved = await self._queue(plan).submit(plan)
        if saved:
            metrics.SAVES.labels(_kind(plan)).inc()
        else:
            metrics.CONFLICTS.inc()
        return saved

    def _queue(self, plan: Plan) -> Batcher[Plan, bool]:
        if plan.alone or plan.strays:
            return self._lone
        return self._updates if plan.in_place else self._shifts

    def _batcher(self, kind: str) -> Batcher[Plan, bool]:
        return Batcher(
            kind, self._save, at_most=64, size=lambda plan: len(plan.row.body), max_bytes=1 << 20
        )

    async def _save(self, plans: list[Plan]) -> Sequence[bool | Exception]:
        async with self._primary.session(self._primary.deadline()) as session:
            if len(plans) > 1:
                try:
                    async with _transaction(session):
                        await self._write(session, plans)
                    return [True] * len(plans)
                except _Mismatch:
                    pass
                except MySQLError as error:
                    if session.broken:
                        raise
                    metrics.MYSQL_BATCH_FALLBACKS.labels(error.fault.name.lower()).inc()
            return await self._settle_all(session, plans)

    async def _settle_all(self, session: Session, plans: list[Plan]) -> Sequence[bool | Exception]:
        """One by one; none of them waits for a lock that another of them would wait behind."""
        impatient = self._primary.mariadb and (len(plans) > 1 or plans[0].alone)
        if impatient:
            await session.execute("SET SESSION innodb_lock_wait_timeout = 0")
        settled: list[bool | Exception] = []
        for plan in plans:
            waited = next((r for r in settled if isinstance(r, MySQLError)), None)
            if waited is not None and not impatient:
                settled.append(waited)  # the next one could wait as long: each goes alone now
            else:
                settled.append(await self._settle(session, plan))
        if impatient and not session.broken:
            await session.execute(f"SET SESSION innodb_lock_wait_timeout = {LOCK_SECONDS}")
        return settled

    async def _settle(self, session: Session, plan: Plan) -> bool | Exception:
        try:
            if plan.in_place and not plan.strays:
                return await session.execute(rows.update(plan.day, plan.row)) == 1
            async with _transaction(session):
                await self._write(session, [plan])
        except _Mismatch:
            return False
        except MySQLError as error:
            if error.fault is Fault.DUPLICATE:
                return False
            self._primary.report(error)
            return error
        return True

    async def _write(self, session: Session, plans: list[Plan]) -> None:
        """The statements of a transaction that saves all plans.

        Rows are locked in one order, by day and key, whoever writes them: no deadlock among
        batches of one day.
        """
        plans = sorted(plans, key=lambda plan: (plan.day, plan.key))
        for day in sorted({plan.day for plan in plans}):
            mine = [plan for plan in plans if plan.day == day]
            stay = [plan.row for plan in mine if plan.in_place]
            come = [plan.row for plan in mine if not plan.in_place]
            if stay and await session.execute(rows.upsert(day, stay)) != 2 * len(stay):
                raise _Mismatch
            if come:
                await session.execute(rows.insert(day, come))
        await self._leave(session, plans)
        for day in sorted({plan.day for plan in plans}):
            created = [plan.key for plan in plans if plan.day == day and plan.base is None]
            if created:
                await self._look_beside(session, day, created)

    async def _leave(self, session: Session, plans: list[Plan]) -> None:
        """Delete moved rows where they were, each only in the version that was loaded.

        After the insert, and only while MySQL's day is the one moved into (see rows.delete).
        """
        moved: dict[tuple[date, date], dict[Key, int]] = {}
        strays: dict[date, dict[Key, int]] = {}
        for plan in plans:
            if plan.base is not None and not plan.in_place:
                versions = moved.setdefault((plan.base.day, plan.day), {})
                versions[plan.key] = plan.base.version
            for stray in plan.strays:
                strays.setdefault(stray.day, {})[plan.key] = stray.version
        for (day, into), versions in sorted(moved.items()):
            if await session.execute(rows.delete(day, versions, into)) != len(versions):
                raise _Mismatch
        for day in sorted(strays):
            removed = await session.execute(rows.delete(day, strays[day]))
            metrics.STRAYS.inc(removed)

    async def _look_beside(self, session: Session, day: date, keys: list[Key]) -> None:
        """After the insert: has a gateway on the other side of midnight made the same key?

        Both insert before they look, so at least one of them sees the other's row, or waits for it.
        """
        beside = [other for other in neighbours(day) if self._days.exists(other)]
        found = await session.fetch(rows.look_beside(beside, keys))
        clock_ms = next(int(value) for number, value in found if number == 0)
        self._days.observe(clock_ms)
        if len(found) > 1 or day != utc_day(clock_ms / 1000):
            raise _Mismatch


@contextlib.asynccontextmanager
async def _transaction(session: Session) -> AsyncIterator[None]:
    await session.execute("START TRANSACTION")
    try:
        yield
    except (_Mismatch, MySQLError):
        if not session.broken:
            await session.rollback()
        raise
    try:
        await session.execute("COMMIT")
    except MySQLError:
        session.close()  # its transaction may be open: nothing else may be written in it
        raise


def _kind(plan: Plan) -> str:
    if plan.base is None:
        return "create"
    return "in_place" if plan.in_place else "move"
