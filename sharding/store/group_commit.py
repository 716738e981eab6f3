"""Changes of one key that are saved together: a machine that decides, and does no I/O.

A group is what the protocol calls a change: one operation id, one compare-and-set, acknowledged as
a whole. Its version grows by the number of members that changed something, and each member is
answered with what its own step made.

| state | what is under way | what comes | next state | what is to be done |
| --- | --- | --- | --- | --- |
| NEW | | a cached row or a presumed absence, and something to save | TRYING | save it |
| NEW | | nothing to save; or neither of these | LOADING | load |
| TRYING | the save made from it | it was committed | DONE | answer |
| TRYING | | the row has changed, or an error | LOADING | load |
| TRYING | | absence was presumed, and a row is there | LOADING | use it as read |
| TRYING | | every member gave up | DONE | |
| LOADING | a read of the row | an earlier try was committed | DONE | answer from that try |
| LOADING | | nothing to save | DONE | answer |
| LOADING | | something to save | SAVING | save it |
| SAVING | the save made from a read row | it was committed | DONE | answer |
| SAVING | | the row has changed, or an error | LOADING | load |

1. **The members of a group are fixed when its first save is sent.** A save whose answer was lost
   may still be committed, with the changes of all members. Before it is sent, members that gave up
   may leave.
2. **The same members applied to the same row make the same row.** Once a later try began from
   another row, the earlier one can no longer be committed. So the version that an operation made
   tells which try it was, and what to answer each member.
3. **A row without our operation proves that no try was committed**, unless its log may have
   dropped the entry since (`idempotency.forgotten`): then the outcome is unknown, and the change
   is not made again.
4. **No member is answered from a cached row or a presumed absence without a save**: if the members
   leave nothing to save, the row is loaded and they are applied again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from datetime import date
from enum import Enum
from typing import Any, TypeAlias

from msgspec import Struct

from failover.mysql.errors import Fault
from sharding.partitions.calendar import yesterday
from sharding.partitions.sql import TOMBSTONE, NewRow, Row
from sharding.state import Key, Outcome, Remove, Stored, Transition, Unavailable, Write
from sharding.store import idempotency
from sharding.store.plan import Loaded, Plan

MOST_TOGETHER = 32
"""Changes in one group. The next group of the key waits in line with the other keys' saves."""
MOST_CONFLICTS = 100
"""Tries of one group that lost the compare-and-set, before it gives up."""

Result: TypeAlias = "Outcome[Any] | Exception"


class State(Enum):
    """What a group does; see the table above."""

    NEW = "new"
    TRYING = "trying"
    LOADING = "loading"
    SAVING = "saving"
    DONE = "done"


class Member(Struct, eq=False):
    """One request's change.

    Attributes:
        answer: receives the outcome.
        deadline: when the request gives up, on the loop's clock.
    """

    transition: Transition[Any]
    answer: asyncio.Future[Any]
    deadline: float


class Applied(Struct):
    """What transitions made of a row.

    Attributes:
        results: for each transition its outcome, or what it raised.
        changes: how many of them changed the row; 0: there is nothing to save.
        day, version, owner, body: of the resulting row.
    """

    results: list[Result]
    changes: int
    day: date
    version: int
    owner: int
    body: bytes


class Done(Struct):
    """The members' results, in their order.

    Attributes:
        recovered: whether the results are of an earlier try, whose answer was lost.
    """

    results: list[Result]
    recovered: bool = False


class Group(Struct, eq=False):
    """One group, through all its tries.

    Attributes:
        worker, number: of its operation.
        members: at least one.
        waiting: later changes of the key, which have their turn after this group.
        before: the last load of the row; None before the first one.
        found: what the first try found, until the task uses it in place of a load.
        plan: the last plan, saved or to be saved.
        trouble: the error of the first try, until the task raises it.
        task: carries the group out after its first try.
        alone: whether it is saved in no batch, because it delayed one before.
        tried: the answers of each try, by the version that it made: at most one try is committed.
        unsure: the lowest version of a try that was perhaps committed, or still may be.
    """

    key: Key
    worker: str
    number: int
    members: list[Member]
    waiting: deque[Member] | None = None
    state: State = State.NEW
    before: Loaded | None = None
    found: Loaded | None = None
    plan: Plan | None = None
    trouble: Exception | None = None
    task: asyncio.Task[None] | None = None
    conflicts: int = 0
    alone: bool = False
    tried: dict[int, list[Result]] = {}
    unsure: int | None = None

    @property
    def deadline(self) -> float:
        """When the last member gives up, on the loop's clock."""
        members = self.members
        return members[0].deadline if len(members) == 1 else max(m.deadline for m in members)

    def begin(self, presumed: Loaded, today: date, generation: int) -> Plan | None:
        """Begin without a load: from a cached row, or from the absence that filters suggest.

        Args:
            today: MySQL's day.
            generation: of the primary from which the row was read.

        Returns:
            What to save; None if the row must be loaded.
        """
        if presumed.row is not None:
            self.before = presumed
        applied = self._apply(presumed.row, today)
        if not applied.changes:
            return None
        self.state = State.TRYING
        return self._save(presumed, applied, generation, first=presumed.row is None)

    def loaded(self, loaded: Loaded, today: date, generation: int) -> Plan | Done:
        """The row was read: return what to save, or the members' results.

        Args:
            today, generation: as for `begin`, from before the read.

        Raises:
            Unavailable: an earlier try was perhaps committed, and the log may have dropped its
                entry.
        """
        self.state, self.before = State.LOADING, loaded
        if self.tried:
            landed = self._landed(loaded.row)
            if landed is not None:
                self.state = State.DONE
                return Done(landed, recovered=True)
        else:
            self.members = [m for m in self.members if not m.answer.done()] or self.members[:1]
        applied = self._apply(loaded.row, today)
        if not applied.changes:
            self.state = State.DONE
            return Done(applied.results)
        self.state = State.SAVING
        return self._save(loaded, applied, generation)

    def saved(self) -> list[Result]:
        """The plan was committed: return the members' results."""
        assert self.plan is not None
        self.state = State.DONE
        return self.tried[self.plan.row.version]

    def refused(self, trouble: Exception | None = None, found: Loaded | None = None) -> None:
        """The first try was not committed, or that is not known.

        Args:
            trouble: why; None if the row has changed.
            found: the row that was in the place of a new one, as a load would find it.
        """
        self.state, self.trouble, self.found = State.LOADING, trouble, found

    def failed(self, fault: Fault) -> None:
        assert self.plan is not None
        self.state = State.LOADING
        if fault is Fault.OVERTAKEN:
            self.alone = True  # it was rolled back: it must not hold up a batch again
        else:
            version = self.plan.row.version
            self.unsure = version if self.unsure is None else min(version, self.unsure)

    def conflict(self) -> bool:
        """Count a lost compare-and-set; return whether to try again."""
        self.conflicts += 1
        return self.conflicts < MOST_CONFLICTS

    def give_up(self) -> None:
        """No member waits any more: do not send the first try, if it was not sent yet."""
        self.state = State.DONE

    def _apply(self, row: Row | None, today: date) -> Applied:
        day = today if row is None or row.day < today else row.day
        return apply([member.transition for member in self.members], row, day)

    def _save(
        self, loaded: Loaded, applied: Applied, generation: int, *, first: bool = False
    ) -> Plan:
        """The plan that saves what the members made of a row. They are fixed now (rule 1)."""
        row = loaded.row
        self.tried[applied.version] = applied.results
        kept = b"" if row is None else idempotency.others(row.operations, self.worker)
        self.plan = Plan(
            base=row,
            day=applied.day,
            row=NewRow(
                self.key,
                row.version if row is not None else 0,
                applied.version,
                applied.owner,
                applied.body,
                idempotency.append(kept, self.worker, self.number, applied.version),
            ),
            others=kept,
            changes=applied.changes,
            alone=self.alone,
            yesterday_sealed=loaded.filters.complete(yesterday(applied.day)),
            generation=generation,
            opening=loaded.opening,
            first=first,
        )
        return self.plan

    def _landed(self, row: Row | None) -> list[Result] | None:
        """The results of an earlier try, if it was committed after all (rules 2 and 3)."""
        if row is None:
            return None
        found = idempotency.find(row.operations, self.worker)
        if found is not None and found.number == self.number:
            return self.tried[found.version]
        if self.unsure is not None and idempotency.forgotten(row.operations, self.unsure):
            raise Unavailable(
                "MySQL's answer to this change was lost, and many others changed the state since:"
                " it is not known whether the change was made"
            )
        return None


def apply(transitions: Sequence[Transition[Any]], row: Row | None, day: date) -> Applied:
    """Apply transitions one after the other.

    Args:
        transitions: in the order in which their requests came.
        row: what is stored, tombstones included; None for a key that was never written.
        day: of the partition for the result.
    """
    stored = row.stored if row is not None else None
    version = before = row.version if row is not None else 0
    results: list[Result] = []
    for transition in transitions:
        try:
            decision = transition(stored)
        except Exception as error:
            results.append(error)
            continue
        if isinstance(decision, Write):
            version += 1
            stored = Stored(decision.body, version, day, decision.owner)
            results.append(Outcome(decision.answer, version, day, True))
        elif isinstance(decision, Remove):
            version += 1
            stored = None
            results.append(Outcome(decision.answer, version, day, True))
        elif stored is None:
            results.append(Outcome(decision.answer, None, None, False))
        else:
            results.append(Outcome(decision.answer, stored.version, stored.day, False))
    if stored is None:
        return Applied(results, version - before, day, version, TOMBSTONE, b"")
    return Applied(results, version - before, day, version, int(stored.owner), stored.body)
