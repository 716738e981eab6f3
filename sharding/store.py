"""The states store: load a state, change a state; nothing acknowledged is lost.

A change is carried out as DESIGN's protocol says: load, apply the transition, save under
compare-and-set, and after a conflict or a lost answer begin again. It has one operation id through
all its tries, looked for at every reload: a commit whose answer was lost may land at any time.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from typing import Any, TypeVar

import structlog

from tapedeck.failover.errors import Fault, MySQLError, PrimaryUnavailable
from tapedeck.failover.primary import Primary
from tapedeck.failover.retry import passing, persist
from tapedeck.sharding import metrics, operations
from tapedeck.sharding.days import Days
from tapedeck.sharding.lookups import Lookups
from tapedeck.sharding.reader import Loaded, Reader
from tapedeck.sharding.rows import TOMBSTONE, NewRow
from tapedeck.sharding.state import (
    Contended,
    Key,
    Outcome,
    Remove,
    Stored,
    Transition,
    Unavailable,
    Write,
)
from tapedeck.sharding.writer import Plan, Writer

A = TypeVar("A")
log = structlog.get_logger("tapedeck.store")

MOST_CONFLICTS = 100
"""Tries of one change that lost the compare-and-set, before it gives up."""


class Store:
    """States by key. One for a worker: its operation ids are the worker's."""

    def __init__(
        self, primary: Primary, reader: Reader, writer: Writer, lookups: Lookups, days: Days
    ) -> None:
        self._primary = primary
        self._reader = reader
        self._writer = writer
        self._lookups = lookups
        self._days = days
        self._worker = operations.new_worker()
        self._numbers = itertools.count(1)
        self._turns: dict[Key, _Turn] = {}

    async def load(self, key: Key) -> Stored | None:
        """The state of a key; None if there is none.

        Raises:
            Unavailable: MySQL did not answer within the deadline.
        """
        deadline = self._primary.deadline()
        try:
            async with asyncio.timeout_at(deadline):
                row = (await self._reader.load(key, deadline)).row
        except TimeoutError:
            raise Unavailable("MySQL: no answer in time") from None
        except (PrimaryUnavailable, MySQLError) as error:
            raise _unavailable(error) from error
        return row.stored if row is not None else None

    async def change(self, key: Key, transition: Transition[A]) -> Outcome[A]:
        """Apply a transition to a key's state, and return once that is committed.

        Raises:
            Unavailable: not within the deadline; it may still happen.
            Contended: other changes of the key came first too often.
            Exception: what the transition raises; nothing is stored then.
        """
        deadline = self._primary.deadline()
        try:
            async with asyncio.timeout_at(deadline), self._turn(key):
                change = _Change(self, key, transition, deadline)
                return await persist(change.attempt, deadline, change.again)
        except TimeoutError:
            raise Unavailable("MySQL: no answer in time") from None
        except (PrimaryUnavailable, MySQLError) as error:
            raise _unavailable(error) from error
        except _Conflict as error:
            raise Contended("too many changes of this state at once") from error

    @contextlib.asynccontextmanager
    async def _turn(self, key: Key) -> AsyncIterator[None]:
        """One change of a key at a time in this worker, first come first served."""
        turn = self._turns.get(key)
        if turn is None:
            turn = self._turns[key] = _Turn()
        turn.wanted += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.wanted -= 1
            if not turn.wanted:
                del self._turns[key]


def _unavailable(error: PrimaryUnavailable | MySQLError) -> Unavailable:
    if isinstance(error, PrimaryUnavailable):
        return Unavailable(str(error), error.retry_after)
    # A full disk, a missing right, a packet over the server's limit: nothing a client can mend.
    log.error("mysql refused a statement", code=error.code, reason=error.reason)
    return Unavailable(f"MySQL refused a statement (error {error.code})", retry_after=5)


class _Turn:
    """The queue of one key."""

    __slots__ = ("lock", "wanted")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.wanted = 0


class _Conflict(Exception):
    """Another change of the key came first."""


class _Change:
    """One change through all its tries."""

    def __init__(
        self, store: Store, key: Key, transition: Transition[Any], deadline: float
    ) -> None:
        self._store = store
        self._deadline = deadline
        self._key = key
        self._transition = transition
        self._number = next(store._numbers)
        self._loaded: Loaded | None = None
        self._conflicts = 0
        self._alone = False
        # What each try would have answered, by the version that it made: at most one of them lands.
        self._tried: dict[int, Outcome[Any]] = {}

    async def attempt(self) -> Outcome[Any]:
        """Load, decide, save. Raises what `again` judges."""
        store = self._store
        if self._loaded is None:
            loaded = await store._reader.load(self._key, self._deadline)
        else:
            loaded = await store._reader.reload(self._key, self._loaded)
        self._loaded = loaded
        landed = self._landed(loaded)
        if landed is not None:
            metrics.RECOVERED.inc()
            return landed
        row = loaded.row
        decision = self._transition(row.stored if row is not None else None)
        if not isinstance(decision, (Write, Remove)):
            stored = row.stored if row is not None else None
            if stored is None:
                return Outcome(decision.answer, None, None, changed=False)
            return Outcome(decision.answer, stored.version, stored.day, changed=False)
        plan = self._plan(loaded, decision)
        outcome = Outcome(decision.answer, plan.row.version, plan.day, changed=True)
        self._tried[plan.row.version] = outcome
        try:
            saved = await store._writer.save(plan)
        except MySQLError as error:
            if error.fault is Fault.NO_TABLE:
                # The partition was dropped since, or today's is not there yet.
                await store._days.refresh()
                raise _Conflict from error
            if error.fault is Fault.RETRY:
                self._alone = True
            raise
        if not saved:
            raise _Conflict
        if row is None or row.day != plan.day:
            store._lookups.put(self._key, plan.day)
        return outcome

    def again(self, error: BaseException) -> bool:
        """Whether another try is due."""
        if isinstance(error, _Conflict):
            self._conflicts += 1
            return self._conflicts < MOST_CONFLICTS
        return passing(error)

    def _landed(self, loaded: Loaded) -> Outcome[Any] | None:
        if not self._tried or loaded.row is None:
            return None
        found = operations.find(loaded.row.operations, self._store._worker)
        if found is None or found.number != self._number:
            return None
        return self._tried[found.version]

    def _plan(self, loaded: Loaded, decision: Write[Any] | Remove[Any]) -> Plan:
        store, row = self._store, loaded.row
        today = store._days.today()
        version = row.version + 1 if row is not None else 1
        if isinstance(decision, Write):
            owner, body = int(decision.owner), decision.body
        else:
            owner, body = TOMBSTONE, b""
        return Plan(
            base=row,
            day=max(today, row.day) if row is not None else today,
            row=NewRow(
                key=self._key,
                version=version,
                owner=owner,
                body=body,
                operations=operations.append(
                    row.operations if row is not None else b"",
                    store._worker,
                    self._number,
                    version,
                    store._days.now(),
                ),
            ),
            strays=loaded.strays,
            alone=self._alone,
        )
