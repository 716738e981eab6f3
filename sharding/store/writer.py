"""Saves: a compare-and-set in place, a move into today, a create; one row or a batch of rows.

A save is one READ COMMITTED transaction, sent as one script: MySQL stops at the first statement
that fails, so a batch costs one round trip. A batch that does not succeed whole is rolled back; the
rows that had changed since they were loaded leave it, and the others are sent again. If that fails
too, they are saved one by one, so that one row that cannot be saved does not fail the others.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from datetime import date
from typing import TypeAlias, TypeVar

from failover.mysql.connection import BEGIN, COMMIT, Session
from failover.mysql.errors import Fault, MySQLError
from failover.mysql.primary import Primary
from failover.mysql.resultset import Ran
from failover.mysql.session_variables import LOCK_SECONDS
from sharding import metrics
from sharding.batching import Batcher, Waiter
from sharding.partitions import sql
from sharding.partitions.calendar import neighbours
from sharding.partitions.days import Days
from sharding.partitions.sql import Row
from sharding.state import Key, TooLarge
from sharding.store.plan import Plan, statements

Saved = TypeVar("Saved")
Run: TypeAlias = Callable[[list[Plan]], Awaitable[Sequence[Saved | Exception]]]

_LONGEST_BATCH = 2 << 20
"""Most bytes of one script."""
_FRAME = 4096
"""Bytes of a script without its rows: begin, commit, the statements' first words."""


class _Mismatch(Exception):
    """A row has changed since it was loaded: roll back."""


class Writer:
    """Commits plans."""

    def __init__(self, primary: Primary, days: Days) -> None:
        self._primary = primary
        self._days = days
        self._updates = self._batcher("save_in_place", self._save)
        self._shifts = self._batcher("save_shift", self._save)
        self._firsts: Batcher[Plan, bool | Row] = self._batcher("save_first", self._create)
        # For rows that others have locked: they may occupy only a few connections.
        self._lone: Batcher[Plan, bool] = Batcher("save_alone", self._save, at_most=1, in_flight=4)

    def resize(self, batch: int) -> None:
        """Save at most this many changes in one transaction, from the next batch on."""
        for batcher in (self._updates, self._shifts, self._firsts):
            batcher.at_most = batch

    def save(self, plan: Plan, waiter: Waiter[bool]) -> None:
        """Commit a plan.

        The waiter gets True once it is committed, False if the key had changed since it was loaded,
        PrimaryUnavailable or MySQLError if it was not committed or that is not known, or TooLarge
        if it was not committed.
        """
        self._queue(plan).put(plan, waiter)

    def create(self, plan: Plan, waiter: Waiter[bool | Row]) -> None:
        """Commit a plan that was made before any load (rule S5).

        The waiter gets what `save` says; or, if the key is in the partition already, its row.
        """
        self._firsts.put(plan, waiter)

    def _queue(self, plan: Plan) -> Batcher[Plan, bool]:
        if plan.alone:
            return self._lone
        return self._updates if plan.in_place else self._shifts

    def _batcher(self, kind: str, run: Run[Saved]) -> Batcher[Plan, Saved]:
        return Batcher(
            kind,
            run,
            at_most=64,
            in_flight=4,
            crowd=16,
            size=lambda plan: plan.size,
            max_bytes=lambda: min(_LONGEST_BATCH, self._primary.packet) - _FRAME,
        )

    async def _save(self, plans: list[Plan]) -> Sequence[bool | Exception]:
        return await self._carry_out(plans, self._save_in)

    async def _create(self, plans: list[Plan]) -> Sequence[bool | Row | Exception]:
        return await self._carry_out(plans, self._create_in)

    async def _carry_out(
        self, plans: list[Plan], save: Callable[[Session, list[Plan]], Awaitable[Sequence[Saved]]]
    ) -> Sequence[Saved | bool]:
        """Save the plans that may be saved, on one connection; False for the others."""
        async with self._primary.session(self._primary.deadline(), change=True) as session:
            generation = self._primary.generation
            fresh = [
                plan
                for plan in plans
                if plan.generation == generation and all(map(self._days.exists, plan.days))
            ]
            done = await save(session, fresh) if fresh else ()
        results = dict(zip((plan.key for plan in fresh), done, strict=True))
        saved = [results.get(plan.key, False) for plan in plans]
        counts: Counter[str] = Counter()
        for plan, result in zip(plans, saved, strict=True):
            if result is True:
                counts[plan.kind] += plan.changes
                if plan.changes > 1:
                    metrics.GROUPED.inc(plan.changes)
            elif result is False:
                metrics.CONFLICTS.inc()
        if counts:
            self._primary.commits.committed(asyncio.get_running_loop().time())
        for kind, changes in counts.items():
            metrics.SAVES.labels(kind).inc(changes)
        return saved

    async def _create_in(self, session: Session, plans: list[Plan]) -> Sequence[bool | Row]:
        """Insert the keys that are not in today's partition, and read the rows of the others.

        If it fails for one of them, it is False for all: then each is loaded and saved.
        """
        day, opening = self._days.today(), self._days.opening
        longest = self._primary.packet - _FRAME
        mine = sorted(
            (p for p in plans if p.day == day and p.opening == opening and p.size <= longest),
            key=lambda plan: plan.key,
        )
        if not mine:
            return [False] * len(plans)
        keys = [plan.key for plan in mine]
        script = [
            BEGIN,
            sql.insert_absent(day, [plan.row for plan in mine]),
            sql.rows(day, keys),
            sql.require_absent(day, self._beside(day, mine), opening),
            COMMIT,
        ]
        ran = await self._unless_rolled_back(session, self._run(session, script))
        if ran is None:
            return [False] * len(plans)
        results: dict[Key, bool | Row] = {}
        made = {plan.key: plan.row.operations for plan in mine}
        for user, playlist, version, owner, body, operations in ran[2].rows:
            key = Key(int(user), int(playlist))
            row = Row(day, int(version), int(owner), body, operations)
            # Operation ids are unique, so this is the row that was inserted.
            results[key] = operations == made[key] or row
        return [results.get(plan.key, False) for plan in plans]

    async def _save_in(self, session: Session, plans: list[Plan]) -> Sequence[bool | Exception]:
        if len(plans) == 1:
            return await self._save_each(session, plans, impatient=plans[0].alone)
        if await self._save_together(session, plans):
            return [True] * len(plans)
        # A key is in a batch at most once: a worker has one change of it under way.
        results: dict[Key, bool | Exception] = {}
        unchanged = await self._unchanged(session, plans)
        rest = [plan for plan in plans if plan.key in unchanged]
        if 1 < len(rest) < len(plans) and await self._save_together(session, rest):
            results = {plan.key: True for plan in rest}
        elif rest:
            saved = await self._save_each(session, rest, impatient=True)
            results = {plan.key: one for plan, one in zip(rest, saved, strict=True)}
        return [results.get(plan.key, False) for plan in plans]

    async def _save_together(self, session: Session, plans: list[Plan]) -> bool:
        """Save all plans in one transaction, or none of them."""
        saved = await self._unless_rolled_back(session, self._write(session, plans))
        return saved is not None

    async def _unless_rolled_back(
        self, session: Session, transaction: Awaitable[list[Ran]]
    ) -> list[Ran] | None:
        """The answers of a batch's transaction; None if it was rolled back."""
        try:
            return await transaction
        except _Mismatch:
            return None
        except MySQLError as error:
            if session.broken:
                raise
            metrics.MYSQL_BATCH_FALLBACKS.labels(error.fault.name.lower()).inc()
            return None

    async def _unchanged(self, session: Session, plans: list[Plan]) -> set[Key]:
        """The keys of plans whose rows have not changed yet. (The compare-and-set decides.)"""
        by_day: dict[date, list[Key]] = {}
        for plan in plans:
            if plan.in_place:
                by_day.setdefault(plan.day, []).append(plan.key)
        if not by_day:
            return {plan.key for plan in plans}
        try:
            found = await session.fetch(sql.versions(by_day))
        except MySQLError:
            if session.broken:
                raise
            return {plan.key for plan in plans}
        there = {Key(user, playlist): version for user, playlist, version in found}
        return {
            plan.key for plan in plans if not plan.in_place or there.get(plan.key) == plan.row.base
        }

    async def _save_each(
        self, session: Session, plans: list[Plan], *, impatient: bool
    ) -> Sequence[bool | Exception]:
        """Save plans one by one. If `impatient`, fail at once on rows that others have locked."""
        impatient = impatient and session.engine.shortest_wait == 0
        if impatient:
            await session.execute("SET SESSION innodb_lock_wait_timeout = 0")
        results: list[bool | Exception] = []
        for plan in plans:
            waited = next((r for r in results if isinstance(r, MySQLError)), None)
            if waited is not None and not impatient:
                # The next row could wait as long: from now on each row has its own transaction.
                results.append(waited)
            else:
                results.append(await self._save_one(session, plan))
        if impatient and not session.broken:
            await session.execute(f"SET SESSION innodb_lock_wait_timeout = {LOCK_SECONDS}")
        return results

    async def _save_one(self, session: Session, plan: Plan) -> bool | Exception:
        if plan.size + _FRAME > self._primary.packet:
            return TooLarge(
                f"The state has {len(plan.row.body)} bytes. MySQL's max_allowed_packet is "
                f"{self._primary.packet}, and a save takes two bytes for each, and 6000 more."
            )
        try:
            if plan.in_place:
                return await session.execute(sql.update(plan.day, plan.row)) == 1
            await self._write(session, [plan])
        except _Mismatch:
            return False
        except MySQLError as error:
            if error.fault is Fault.DUPLICATE:
                return False
            self._primary.report(error)
            return error
        return True

    async def _write(self, session: Session, plans: list[Plan]) -> list[Ran]:
        """Save all plans in one transaction; if it raises, none of them is saved.

        Raises:
            _Mismatch: a row has changed since it was loaded.
            MySQLError: after a rollback, or with the session closed.
        """
        last = [
            self._last(day, [plan for plan in plans if plan.day == day])
            for day in sorted({plan.day for plan in plans if not plan.in_place})
        ]
        return await self._run(session, [BEGIN, *statements(plans), *last, COMMIT])

    async def _run(self, session: Session, script: list[str]) -> list[Ran]:
        """Run a transaction's statements; if it raises, nothing of it is committed.

        Raises:
            _Mismatch: one of its requirements failed.
            MySQLError: after a rollback, or with the session closed.
        """
        try:
            return await session.run_script(script)
        except MySQLError as error:
            if not session.broken:
                await session.rollback()
            if error.code == sql.REQUIREMENT_FAILED:
                raise _Mismatch from None
            raise

    def _last(self, day: date, plans: list[Plan]) -> str:
        """The last statement of a transaction that brings keys into a partition.

        Raises:
            _Mismatch: partitions were opened or closed since a key was looked for.
        """
        created = [plan for plan in plans if plan.base is None]
        if any(plan.opening != self._days.opening for plan in created):
            raise _Mismatch
        if created:
            return sql.require_absent(day, self._beside(day, created), self._days.opening)
        return sql.require_day(day)

    def _beside(self, day: date, created: list[Plan]) -> dict[date, list[Key]]:
        """The keys that another gateway, or an import, may just have created, by partition."""
        before, after = neighbours(day)
        beside = {
            before: [plan.key for plan in created if not plan.yesterday_sealed],
            after: [plan.key for plan in created],
        }
        beside |= {other: beside[after] for other in self._days.open if other != day}
        return {other: keys for other, keys in beside.items() if keys and self._days.exists(other)}
