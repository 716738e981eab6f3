"""The states store: load a state, change a state; nothing acknowledged is lost.

A change is carried out as docs/how-it-works.md says: load, apply the transition, save under
compare-and-set, and after a conflict or a lost answer begin again. It has one operation id through
all its tries, looked for at every reload: a commit whose answer was lost may land at any time.

Changes of one key take turns in a worker; those that wait for the same turn are saved together
(`sharding.store.group_commit`). The first try may begin from a cached row
(`sharding.store.row_cache`) under one rule: **nothing is answered from it unless a compare-and-set
of its version succeeded**. Where nothing is to be saved, because the transitions keep, refuse or
raise, the row is read from MySQL and they are applied again.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from functools import partial
from typing import TypeVar

import structlog

from config.model import Sessions as SessionsConfig
from failover.mysql.errors import Fault, MySQLError, PrimaryUnavailable
from failover.mysql.primary import Primary
from failover.mysql.retry import passing, persist
from failover.tasks import stop
from sharding import metrics
from sharding.batching import Waiter
from sharding.lookups.lookups import Lookups
from sharding.partitions.calendar import yesterday
from sharding.partitions.clock import Days
from sharding.partitions.sql import NewRow, Row
from sharding.state import Contended, Key, Outcome, Stored, Transition, Unavailable
from sharding.store import idempotency
from sharding.store.group_commit import MOST_TOGETHER, Applied, Member, Result, apply
from sharding.store.reader import Loaded, Reader
from sharding.store.row_cache import Sessions
from sharding.store.writer import Plan, Writer

A = TypeVar("A")
log = structlog.get_logger("tapedeck.store")

MOST_CONFLICTS = 100
"""Tries of one change that lost the compare-and-set, before it gives up."""
LOOK_EVERY = 0.05
"""Seconds between looks for changes whose deadline has passed."""

_counts = metrics.SESSIONS.counts


class Store:
    """States by key. One for a worker: its operation ids are the worker's."""

    def __init__(
        self,
        primary: Primary,
        reader: Reader,
        writer: Writer,
        lookups: Lookups,
        days: Days,
        sessions: SessionsConfig,
    ) -> None:
        self.sessions = Sessions(sessions)
        self._primary = primary
        self._reader = reader
        self._writer = writer
        self._lookups = lookups
        self._days = days
        self._worker = idempotency.new_worker()
        self._numbers = itertools.count(1)
        # By key, the changes of it that are under way. There is no other one in this worker.
        self._groups: dict[Key, _Group] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._looking = False
        self._closed = False

    async def now(self) -> float:
        """MySQL's time, seconds since 1970: a transition's, which is fixed before the change.

        Raises:
            Unavailable: MySQL did not say it within the deadline.
        """
        if not self._days.settled:
            try:
                async with asyncio.timeout_at(self._primary.deadline()):
                    await self._days.ready()
            except TimeoutError:
                raise Unavailable("MySQL: no answer in time") from None
            except (PrimaryUnavailable, MySQLError) as error:
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
        except TimeoutError:
            raise Unavailable("MySQL: no answer in time") from None
        except (PrimaryUnavailable, MySQLError) as error:
            raise _unavailable(error) from error
        self._remember(key, loaded, generation)
        return loaded.row.stored if loaded.row is not None else None

    async def change(self, key: Key, transition: Transition[A]) -> Outcome[A]:
        """Apply a transition to a key's state, and return once that is committed.

        Raises:
            Unavailable: not within the deadline; it may still happen.
            Contended: other changes of the key came first too often.
            TooLarge: MySQL takes no state of this length.
            Exception: what the transition raises; nothing is stored then.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Outcome[A]] = loop.create_future()
        member = Member(transition, answer, self._primary.deadline())
        group = self._groups.get(key)
        if group is None:
            self._begin(_Group(self, key, [member]))
            if not self._looking:
                self._looking = True
                loop.call_later(LOOK_EVERY, self._look_for_overdue)
        elif group.waiting is None:
            group.waiting = deque([member])
        else:
            group.waiting.append(member)
        return await answer

    async def close(self) -> None:
        """Give up what is under way; whoever waits for it is told."""
        self._closed = True
        await stop(*self._tasks)

    # ---- turns ---------------------------------------------------------------------------------

    def _begin(self, group: _Group) -> None:
        """Carry a group out, from the cached row if there is one: then within this call but for
        the save, with no task of its own."""
        self._groups[group.key] = group
        try:
            self._try_cached(group)
        except Exception as error:  # a fault of ours must not stop the key for ever
            log.exception("a change could not begin")
            # Not from here: the next group may meet it too, and there may be thousands.
            asyncio.get_running_loop().call_soon(self._answer, group, error)

    def _try_cached(self, group: _Group) -> None:
        key, members = group.key, len(group.members)
        row = self._cached(key)
        if row is None or not self._days.settled:
            _counts["miss"] += members
        elif self.sessions.doubted(key):
            _counts["doubted"] += members
            group.hint = row
        else:
            loaded = Loaded(row)
            applied = group.apply(loaded)
            if applied.changes:
                group.first_try = True
                group.generation = self._primary.generation
                group.save(loaded, applied, group)
                return
            _counts["unchanged"] += members
            group.hint = row
        self._go_on(group)

    def _saved(self, group: _Group) -> None:
        """The save of a first try, made from a cached row, was committed."""
        _counts["hit"] += len(group.members)
        try:
            self._answer(group, group.landed())
        except Exception as error:  # as in `_begin`
            log.exception("a change could not be answered")
            self._answer(group, error)

    def _not_saved(self, group: _Group) -> None:
        """It was not, or that is not known."""
        _counts["stale"] += len(group.members)
        self.sessions.doubt(group.key)
        self._go_on(group)

    def _go_on(self, group: _Group) -> None:
        """Carry a group out from a read of its row."""
        if self._closed:
            self._answer(group, Unavailable("the gateway stops"))
            return
        task = group.task = asyncio.create_task(self._carry_out(group))
        self._tasks.add(task)
        task.add_done_callback(partial(self._ended, group))

    def _ended(self, group: _Group, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            # Not told by the task itself: it may have been cancelled before its first step, and
            # the key's next change would wait for ever.
            self._answer(group, Unavailable("the gateway stops"))

    async def _carry_out(self, group: _Group) -> None:
        deadline = group.deadline
        results: list[Result] | Exception
        try:
            results = await persist(group.attempt, deadline, group.again)
        except Unavailable as error:
            results = error
        except (PrimaryUnavailable, MySQLError) as error:
            results = _unavailable(error)
        except _Conflict:
            results = Contended("too many changes of this state at once")
        except Exception as error:  # a fault of ours: the request's handler logs it
            results = error
        self._answer(group, results)

    def _answer(self, group: _Group, results: list[Result] | Exception) -> None:
        """Tell the members, and let the next ones of the key have their turn."""
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
            self._begin(_Group(self, group.key, members, waiting))
        else:
            self._groups.pop(group.key, None)

    def _look_for_overdue(self) -> None:
        """Tell those whose deadline has passed. One look at all of them, as a timer for each
        costs more than most changes take."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        given_up: list[_Group] = []
        for group in self._groups.values():
            for member in itertools.chain(group.members, group.waiting or ()):
                if member.deadline <= now and not member.answer.done():
                    member.answer.set_exception(Unavailable("MySQL: no answer in time"))
            if group.first_try:
                if all(member.answer.done() for member in group.members):
                    given_up.append(group)
            elif group.task is not None and group.deadline <= now:
                group.task.cancel()  # again at the next look, should it get lost on the way
        for group in given_up:
            # Nobody waits: its save leaves the queue, if it still is there.
            group.first_try = False
            self._answer(group, Unavailable("given up"))
        self._looking = bool(self._groups)
        if self._looking:
            loop.call_later(LOOK_EVERY, self._look_for_overdue)

    # ---- rows ----------------------------------------------------------------------------------

    def _cached(self, key: Key) -> Row | None:
        row = self.sessions.get(key)
        if row is not None and row.day < self._days.oldest():
            # Past retention it is no state any more, wherever the row still lies.
            self.sessions.drop(key)
            return None
        return row

    async def _read(self, key: Key, before: Loaded | None) -> Loaded:
        """Read a key's row; where one is known that says in which partition, no lookup node is
        asked."""
        if before is not None:
            return await self._reader.reload(key, before)
        return await self._reader.load(key)

    def _remember(self, key: Key, loaded: Loaded, generation: int) -> None:
        """Cache what was read; not where a change that ended meanwhile knows better, nor what may
        come from a primary that was replaced since."""
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


def _unavailable(error: PrimaryUnavailable | MySQLError) -> Unavailable:
    if isinstance(error, PrimaryUnavailable):
        return Unavailable(str(error), error.retry_after)
    # A full disk, a missing right, a packet over the server's limit: nothing a client can mend.
    log.error("mysql refused a statement", code=error.code, reason=error.reason)
    return Unavailable(f"MySQL refused a statement (error {error.code})", retry_after=5)


class _Conflict(Exception):
    """Another change of the key came first."""


class _Group:
    """Members that are saved together, through all their tries, and who waits for their end."""

    __slots__ = (
        *("_alone", "_conflicts", "_failure", "_loaded", "_number", "_plan", "_store", "_tried"),
        "_unsure",
        *("first_try", "generation", "hint", "key", "members", "task", "waiting"),
    )

    def __init__(
        self,
        store: Store,
        key: Key,
        members: list[Member],
        waiting: deque[Member] | None = None,
    ) -> None:
        self.key = key
        self.members = members
        self.waiting = waiting
        self.hint: Row | None = None
        self.first_try = False
        self.task: asyncio.Task[None] | None = None
        self.generation = 0
        self._store = store
        self._number = next(store._numbers)
        self._loaded: Loaded | None = None
        self._conflicts = 0
        self._alone = False
        self._failure: Exception | None = None
        # What each try would have answered, by the version that it made: at most one of them lands.
        self._tried: dict[int, list[Result]] = {}
        self._plan: Plan | None = None
        # The lowest version that a try made which may have landed, or may land yet.
        self._unsure: int | None = None

    @property
    def deadline(self) -> float:
        """When its last member gives up, on the loop's clock."""
        members = self.members
        return members[0].deadline if len(members) == 1 else max(m.deadline for m in members)

    def apply(self, loaded: Loaded) -> Applied:
        """Apply the members to a row."""
        row, today = loaded.row, self._store._days.today()
        day = today if row is None or row.day < today else row.day
        return apply([member.transition for member in self.members], row, day)

    def save(self, loaded: Loaded, applied: Applied, waiter: Waiter[bool]) -> None:
        """Send what was made of a loaded row.

        From here on the group's members are settled: this save stands for all of them.
        """
        store, row = self._store, loaded.row
        self._loaded = loaded
        self._tried[applied.version] = applied.results
        kept = b""
        if row is not None:
            kept = idempotency.others(row.operations, store._worker)
        self._plan = Plan(
            base=row,
            day=applied.day,
            row=NewRow(
                self.key,
                row.version if row is not None else 0,
                applied.version,
                applied.owner,
                applied.body,
                idempotency.append(kept, store._worker, self._number, applied.version),
            ),
            others=kept,
            changes=applied.changes,
            alone=self._alone,
            yesterday_sealed=loaded.filters.complete(yesterday(applied.day)),
            generation=self.generation,
            opening=loaded.opening,
        )
        store._writer.save(self._plan, waiter)

    def landed(self) -> list[Result]:
        """The last save was committed: remember its row, and have the hint follow it."""
        store, plan = self._store, self._plan
        assert plan is not None
        row = plan.row
        if plan.generation == store._primary.generation:
            made = Row(plan.day, row.version, row.owner, row.body, plan.others)
            store.sessions.put(self.key, made)
        if plan.base is None or plan.base.day != plan.day:
            store._lookups.put(self.key, plan.day)
        return self._tried[row.version]

    # The group is itself the waiter of its first try, which spares a future and a turn of the loop.

    def done(self) -> bool:
        """Whether the first try was given up."""
        return not self.first_try

    def set_result(self, saved: bool, /) -> None:
        """The first try was saved, or the row is another one by now."""
        self.first_try = False
        if saved:
            self._store._saved(self)
        else:
            self._store._not_saved(self)

    def set_exception(self, exception: Exception, /) -> None:
        """The first try failed, or may land later."""
        self.first_try = False
        self._failure = exception
        self._store._not_saved(self)

    async def attempt(self) -> list[Result]:
        """Load, decide, save. Raises what `again` judges."""
        store = self._store
        if self._failure is not None:
            failure, self._failure = self._failure, None
            await self._judge(failure)
        self.generation = store._primary.generation
        before = self._loaded or (None if self.hint is None else Loaded(self.hint))
        loaded = await store._read(self.key, before)
        self._loaded = loaded
        landed = self._found(loaded)
        if landed is not None:
            store._remember(self.key, loaded, self.generation)
            metrics.RECOVERED.inc()
            return landed
        if not self._tried:
            self.members = [m for m in self.members if not m.answer.done()] or self.members[:1]
        applied = self.apply(loaded)
        if not applied.changes or store.sessions.get(self.key) is not None:
            store._remember(self.key, loaded, self.generation)
        if not applied.changes:
            return applied.results
        try:
            saving: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
            self.save(loaded, applied, saving)
            saved = await saving
        except MySQLError as error:
            await self._judge(error)
            raise
        if not saved:
            raise _Conflict
        return self.landed()

    def again(self, error: BaseException) -> bool:
        """Whether another try is due."""
        if isinstance(error, _Conflict):
            self._conflicts += 1
            return self._conflicts < MOST_CONFLICTS
        return passing(error)

    def _found(self, loaded: Loaded) -> list[Result] | None:
        """What an earlier try answers, if it landed after all.

        Raises:
            Unavailable: it may have landed, and its entry may be gone from the row's log.
        """
        if not self._tried or loaded.row is None:
            return None
        log_of_row = loaded.row.operations
        found = idempotency.find(log_of_row, self._store._worker)
        if found is not None and found.number == self._number:
            return self._tried[found.version]
        if self._unsure is not None and idempotency.forgotten(log_of_row, self._unsure):
            raise Unavailable(
                "MySQL's answer to this change was lost, and many others changed the state since:"
                " it is not known whether the change was made"
            )
        return None

    async def _judge(self, error: Exception) -> None:
        """Raise what a save failed with, as the next try needs it."""
        if isinstance(error, MySQLError):
            assert self._plan is not None
            if error.fault is not Fault.RETRY:
                version = self._plan.row.version
                self._unsure = version if self._unsure is None else min(version, self._unsure)
            if error.fault is Fault.NO_TABLE:
                # The partition was dropped since, or today's is not there yet.
                await self._store._days.refresh()
                raise _Conflict from error
            if error.fault is Fault.FINAL and await self._store._days.recheck(self._plan.days):
                # Something else took a partition's place.
                raise _Conflict from error
            if error.fault is Fault.RETRY:
                self._alone = True
        raise error
