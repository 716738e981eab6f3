"""The states store: load a state, change a state; no acknowledged change is lost.

A change is carried out as docs/how-it-works.md says: load, apply the transition, save by
compare-and-set, and after a conflict or a lost answer begin again. It has one operation id through
all its tries, and each reload looks for it: a commit whose answer was lost may happen at any time.

Changes of one key take turns in a worker; those that wait for the same turn are saved together
(`sharding.store.group_commit`). The first try may begin from a cached row
(`sharding.store.session_cache`) under one rule: **no request is answered from a cached row unless a
compare-and-set of its version succeeded**. If there is nothing to save, because the transitions
change nothing or raise, the row is read from MySQL and they are applied again.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from functools import partial
from typing import TypeVar

import structlog
from msgspec import Struct

from config.model import Sessions as SessionsConfig
from failover.mysql.errors import Fault, MySQLError, PrimaryUnavailable
from failover.mysql.primary import Primary
from failover.mysql.retries import passing, retry
from failover.tasks import stop
from sharding import metrics
from sharding.lookups.lookups import Lookups
from sharding.partitions.days import Days
from sharding.partitions.sql import Row
from sharding.state import Key, Outcome, Stored, Transition, Unavailable
from sharding.store import idempotency
from sharding.store.group_commit import MOST_TOGETHER, Done, Group, Member, Result, State
from sharding.store.plan import Loaded, Plan
from sharding.store.reader import Reader
from sharding.store.session_cache import SessionCache
from sharding.store.writer import Writer

A = TypeVar("A")
log = structlog.get_logger("tapedeck.store")

FEW = 2
"""Changes under way in a worker, up to which a create may come before any load (rule S5)."""
CHECK_EVERY = 0.05
"""Seconds between checks for changes whose deadline has passed."""

_counts = metrics.SESSIONS.counts


class Store:
    """States by key. A worker has one, since operation ids are numbered within a worker."""

    def __init__(
        self,
        primary: Primary,
        reader: Reader,
        writer: Writer,
        lookups: Lookups,
        days: Days,
        sessions: SessionsConfig,
    ) -> None:
        self.sessions = SessionCache(sessions)
        self._primary = primary
        self._reader = reader
        self._writer = writer
        self._lookups = lookups
        self._days = days
        self._worker = idempotency.new_worker()
        self._numbers = itertools.count(1)
        # The group under way of each key: a worker has at most one.
        self._groups: dict[Key, Group] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._timed = False
        self._closed = False

    async def now(self) -> float:
        """MySQL's time, seconds since 1970. A caller fixes a transition's time with it.

        Raises:
            Unavailable: MySQL did not answer within the deadline.
        """
        if not self._days.settled:
            try:
                async with asyncio.timeout_at(self._primary.deadline()):
                    await self._days.ready()
            except (TimeoutError, PrimaryUnavailable, MySQLError) as error:
                raise _unavailable(error) from error
        return self._days.now()

    async def load(self, key: Key) -> Stored | None:
        """The state of a key; None if there is none.

        Raises:
            Unavailable: MySQL did not answer within the deadline.
        """
        deadline, generation = self._primary.deadline(), self._primary.generation
        cached = self._cached(key)
        before = None if cached is None else Loaded(cached)
        try:
            async with asyncio.timeout_at(deadline):
                loaded = await self._read(key, before)
        except (TimeoutError, PrimaryUnavailable, MySQLError) as error:
            raise _unavailable(error) from error
        self._remember(key, loaded, generation)
        return loaded.row.stored if loaded.row is not None else None

    async def change(self, key: Key, transition: Transition[A]) -> Outcome[A]:
        """Apply a transition to a key's state, and return once the change is committed.

        Raises:
            Unavailable: it was not committed within the deadline, and still may be; or other
                changes of the key came first too often.
            TooLarge: MySQL accepts no state of this length.
            Exception: what the transition raises; nothing is stored then.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Outcome[A]] = loop.create_future()
        member = Member(transition, answer, self._primary.deadline())
        group = self._groups.get(key)
        if group is None:
            self._begin(key, [member])
            if not self._timed:
                self._timed = True
                loop.call_later(CHECK_EVERY, self._answer_overdue)
        elif group.waiting is None:
            group.waiting = deque([member])
        else:
            group.waiting.append(member)
        return await answer

    async def close(self) -> None:
        """Give up all changes under way; their requests get Unavailable."""
        self._closed = True
        await stop(*self._tasks)

    # ---- turns ---------------------------------------------------------------------------------

    def _begin(self, key: Key, members: list[Member], waiting: deque[Member] | None = None) -> None:
        """Carry changes out. Without a load, everything but the save happens in this call, and no
        task is created."""
        group = Group(key, self._worker, next(self._numbers), members, waiting)
        self._groups[key] = group
        try:
            plan = self._first_plan(group)
            if plan is None:
                self._load_and_save(group)
            else:
                save = self._writer.create if plan.first else self._writer.save
                save(plan, _FirstTry(self, group))
        except Exception as error:  # a bug must not block the key for ever
            log.exception("change not started")
            # Later, not from here: the next groups may fail too, and recursion would go too deep.
            asyncio.get_running_loop().call_soon(self._answer, group, error)

    def _first_plan(self, group: Group) -> Plan | None:
        """The plan made without a load; None if the row must be loaded."""
        members = len(group.members)
        if not self._days.settled:
            _counts["miss"] += members
            return None
        row = self._cached(group.key)
        if row is None:
            _counts["miss"] += members
            # Where many changes are under way, loads share statements: that costs less than the
            # round trip that a create without a load spares.
            few = len(self._groups) <= FEW
            presumed = self._reader.absent(group.key) if few else None
            if presumed is None:
                return None
        else:
            presumed = Loaded(row)
            if self.sessions.doubted(group.key):
                _counts["doubted"] += members
                group.before = presumed
                return None
        plan = group.begin(presumed, self._days.today(), self._primary.generation)
        if plan is None and row is not None:
            _counts["unchanged"] += members
        return plan

    def first_try_ended(
        self, group: Group, saved: bool | Row, trouble: Exception | None = None
    ) -> None:
        """The save made without a load was committed, or not, or that is not known; or this row was
        in the place of a new one."""
        first = group.plan is not None and group.plan.first
        if saved is True:
            if not first:
                _counts["hit"] += len(group.members)
            try:
                self._answer(group, self._saved(group))
            except Exception as error:  # as in `_begin`
                log.exception("change not answered")
                self._answer(group, error)
            return
        if not first:
            _counts["stale"] += len(group.members)
            self.sessions.doubt(group.key)
        group.refused(trouble, Loaded(saved) if isinstance(saved, Row) else None)
        self._load_and_save(group)

    def _load_and_save(self, group: Group) -> None:
        """Carry a group out from a read of its row, in its own task."""
        if self._closed:
            self._answer(group, Unavailable("the gateway stops"))
            return
        task = group.task = asyncio.create_task(self._carry_out(group))
        self._tasks.add(task)
        task.add_done_callback(partial(self._ended, group))

    def _ended(self, group: Group, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            # The task may have been cancelled before its first step, so it cannot answer itself;
            # without an answer the key's next change would wait for ever.
            self._answer(group, Unavailable("the gateway stops"))

    async def _carry_out(self, group: Group) -> None:
        deadline = group.deadline
        results: list[Result] | Exception
        try:
            results = await retry(
                partial(self._attempt, group), deadline, partial(self._again, group)
            )
        except Unavailable as error:
            results = error
        except (PrimaryUnavailable, MySQLError) as error:
            results = _unavailable(error)
        except _Conflict:
            results = Unavailable("too many changes of this state at once")
        except Exception as error:  # a bug: the request's handler logs it
            results = error
        self._answer(group, results)

    async def _attempt(self, group: Group) -> list[Result]:
        """Load, apply, save. `_again` decides about what it raises."""
        if group.trouble is not None:
            trouble, group.trouble = group.trouble, None
            await self._mend(group, trouble)
        if group.found is not None and group.plan is not None:
            # It is of the primary that was asked then, which may have been replaced since.
            loaded, generation, group.found = group.found, group.plan.generation, None
        else:
            generation = self._primary.generation
            loaded = await self._read(group.key, group.before)
        step = group.loaded(loaded, self._days.today(), generation)
        if isinstance(step, Done) or self.sessions.get(group.key) is not None:
            self._remember(group.key, loaded, generation)
        if isinstance(step, Done):
            if step.recovered:
                metrics.RECOVERED.inc()
            return step.results
        saving: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._writer.save(step, saving)
        try:
            saved = await saving
        except MySQLError as error:
            await self._mend(group, error)
            raise
        if not saved:
            raise _Conflict
        return self._saved(group)

    def _again(self, group: Group, error: BaseException) -> bool:
        return group.conflict() if isinstance(error, _Conflict) else passing(error)

    async def _mend(self, group: Group, error: Exception) -> None:
        """Prepare the next try after a save that failed. Always raises.

        Raises:
            _Conflict: a partition was dropped or replaced, or does not exist yet.
            Exception: `error`.
        """
        if isinstance(error, MySQLError):
            group.failed(error.fault)
            assert group.plan is not None
            if error.fault is Fault.NO_TABLE:
                await self._days.refresh()
                raise _Conflict from error
            if error.fault is Fault.FINAL and await self._days.recheck(group.plan.days):
                raise _Conflict from error
        raise error

    def _saved(self, group: Group) -> list[Result]:
        """A save was committed: cache its row, and write its hint."""
        plan = group.plan
        assert plan is not None
        if plan.generation == self._primary.generation:
            row = plan.row
            made = Row(plan.day, row.version, row.owner, row.body, plan.others)
            self.sessions.put(group.key, made)
        if plan.base is None or plan.base.day != plan.day:
            self._lookups.put(group.key, plan.day, saved=True)
        return group.saved()

    def _answer(self, group: Group, results: list[Result] | Exception) -> None:
        """Answer the members, and begin the key's next group."""
        if isinstance(results, Exception):
            results = [results] * len(group.members)
        for member, result in zip(group.members, results, strict=True):
            if member.answer.done():
                continue
            if isinstance(result, Exception):
                member.answer.set_exception(result)
            else:
                member.answer.set_result(result)
        waiting = group.waiting
        if self._closed and waiting:
            for member in waiting:
                if not member.answer.done():
                    member.answer.set_exception(Unavailable("the gateway stops"))
            waiting.clear()
        members: list[Member] = []
        while waiting and len(members) < MOST_TOGETHER:
            member = waiting.popleft()
            if not member.answer.done():
                members.append(member)
        if members:
            self._begin(group.key, members, waiting)
        else:
            self._groups.pop(group.key, None)

    def _answer_overdue(self) -> None:
        """Answer the members whose deadline has passed. One check of all groups, since a timer for
        each change would cost more time than most changes take."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        given_up: list[Group] = []
        for group in self._groups.values():
            for member in itertools.chain(group.members, group.waiting or ()):
                if member.deadline <= now and not member.answer.done():
                    member.answer.set_exception(Unavailable("MySQL: no answer in time"))
            if group.state is State.TRYING:
                if all(member.answer.done() for member in group.members):
                    given_up.append(group)
            elif group.task is not None and group.deadline <= now:
                group.task.cancel()  # repeated at the next check, in case it gets lost
        for group in given_up:
            # No member waits: its save leaves the queue, if it still is there.
            group.give_up()
            self._answer(group, Unavailable("given up"))
        self._timed = bool(self._groups)
        if self._timed:
            loop.call_later(CHECK_EVERY, self._answer_overdue)

    # ---- rows ----------------------------------------------------------------------------------

    def _cached(self, key: Key) -> Row | None:
        row = self.sessions.get(key)
        if row is not None and row.day < self._days.oldest():
            # Past retention a row is no state any more.
            self.sessions.drop(key)
            return None
        return row

    async def _read(self, key: Key, before: Loaded | None) -> Loaded:
        """Read a key's row. If an earlier load found it, no lookup node is asked."""
        if before is not None:
            return await self._reader.reload(key, before)
        return await self._reader.load(key)

    def _remember(self, key: Key, loaded: Loaded, generation: int) -> None:
        """Cache a row that was read, unless a change that ended meanwhile cached a newer one, or
        the primary was replaced since."""
        if generation != self._primary.generation:
            return
        row, known = loaded.row, self.sessions.get(key)
        if row is None:
            self.sessions.drop(key)
        elif known is None:
            self.sessions.put(key, row)
        elif known.version < row.version or known.day > row.day:
            self.sessions.put(key, row)
            self.sessions.doubt(key)
        elif known.version == row.version:
            self.sessions.confirm(key)


def _unavailable(error: TimeoutError | PrimaryUnavailable | MySQLError) -> Unavailable:
    if isinstance(error, TimeoutError):
        return Unavailable("MySQL: no answer in time")
    if isinstance(error, PrimaryUnavailable):
        return Unavailable(str(error))
    if error.fault is Fault.FULL:
        return Unavailable(f"MySQL's disk is full: {error}", retry_after=5)
    # A missing right, or a packet over the server's limit: a client cannot mend it.
    log.error("statement refused", code=error.code, reason=error.reason)
    return Unavailable(f"MySQL refused a statement (error {error.code})", retry_after=5)


class _FirstTry(Struct, eq=False):
    """Receives the result of a group's first save, without the cost of a future and a task."""

    store: Store
    group: Group

    def done(self) -> bool:
        return self.group.state is not State.TRYING

    def set_result(self, saved: bool | Row, /) -> None:
        self.store.first_try_ended(self.group, saved)

    def set_exception(self, exception: Exception, /) -> None:
        self.store.first_try_ended(self.group, False, exception)


class _Conflict(Exception):
    """Another change of the key came first."""
