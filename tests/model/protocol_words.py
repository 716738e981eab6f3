"""The words of the model: the rules, the bounds of an exploration, and what a state is made of."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple, TypeAlias


@dataclass(frozen=True, slots=True)
class Rules:
    """The protocol's rules. True (or the first value) is the protocol; False takes the rule out."""

    # Load
    verify_empty: bool = True  # 3: nothing found by a hint is looked for in all partitions
    up_to_tomorrow: bool = True  # 2: reads go up to T+1
    one_statement: bool = True  # 2: one statement, one snapshot
    reread_all: bool = True  # 3: those already read included
    reread_on_new_day: bool = True  # a: MySQL's day is later than the T of the statement
    # Save
    compare_and_set: bool = True  # 1, d: in place only WHERE version = loaded
    upsert_count: bool = True  # 1, d: a count of 2n or roll back
    delete_checks_version: bool = True  # 1: move deletes WHERE version = loaded
    delete_count: bool = True  # 1: no row deleted, roll back
    delete_checks_day: bool = True  # e: and only while MySQL's day is W
    look_before: bool = True  # 1: create looks at W-1
    look_after: bool = True  # 1: create looks at W+1
    look_after_insert: bool = True  # 1: insert, then look
    look_locks: bool = True  # 1: FOR UPDATE
    create_checks_day: bool = True  # b: the look's clock says W, or roll back
    acknowledge_after_commit: bool = True  # 3
    look_for_operation: bool = True  # 4, c: at a reload
    at_every_reload: bool = True  # 4: not at the first one alone
    operation_kept: bool = True  # 4: one operation id through all retries
    prune: str = "age"  # 4: "age"; or "count": the newest alone; or "short": within a change
    new_worker_id: bool = True  # 4: a restarted worker is a new one
    one_change_a_worker: bool = True  # 4: of a key at a time
    tombstones: bool = True  # 5: a delete leaves a row, with its operations
    version_goes_on: bool = True  # 5: when a deleted state is created again
    insert_first: bool = True  # 1, e: move inserts, then deletes
    # Taking these out breaks nothing; they are about cost.
    from_hint_up: bool = True  # Load 2: from D up, not D alone
    reread_what_was_found: bool = True  # a: also when the statement found the row
    newer_of_both: bool = True  # Save 1: W is the newer of T and the partition loaded from


@dataclass(frozen=True, slots=True)
class Bounds:
    """How far to explore.

    `late` is how many abandoned writes may be on their way at once, `midnights` how often the day
    changes, `back` how often MySQL's clock steps back a day (a failover to a host that is a second
    behind, just after midnight), `midnights_in_transaction` how many a transaction may live
    through (None: any; the product's deadlines keep it far below one whole day), `retention` the
    number of days kept before today (None: all).
    """

    workers: int = 2
    changes: int = 2
    midnights: int = 1
    back: int = 0
    late: int = 1
    deletes: bool = False
    batches: bool = True
    start: tuple[str, ...] = ("nothing", "yesterday", "today", "tombstone")
    midnights_in_transaction: int | None = 1
    retention: int | None = None


class Row(NamedTuple):
    """A row. `content`: the changes since the last delete, where loss and order show."""

    version: int
    live: bool
    content: tuple[int, ...]
    operations: tuple[tuple[int, int, int, int], ...]  # (worker, operation, version, day written)


Found: TypeAlias = tuple[int, Row] | tuple[()]  # partition and row
Writes: TypeAlias = tuple[tuple[int, Row | tuple[()]], ...]  # () in a row's place: deleted


class Worker(NamedTuple):
    at: int  # the next statement
    id: int
    operation: int
    change: int  # even: append; odd: delete
    floor: int
    today: int  # READ: T, 0 any; saving: W
    clock: int  # the day when the next statement was sent
    loaded: Found
    writes: Writes  # of the open transaction; a written row is locked
    reloads: int  # counted only where a rule was taken out
    midnights: int  # since the transaction's first write, if it matters
    aside: int  # what a mutant must remember


class Late(NamedTuple):
    """A write whose client saw an error, and which may still take effect."""

    change: int
    expects: int  # an UPDATE on its way, for this version; 0: a COMMIT on its way
    writes: Writes
    denied: bool  # somebody was told that it changed nothing
    midnights: int


class State(NamedTuple):
    day: int
    top: int  # the latest day that there was
    steps_back: int
    started: int
    rows: tuple[Row | tuple[()], ...]
    log: tuple[int, ...]
    workers: tuple[Worker, ...]  # sorted: workers are alike, and named in the order they start in
    late: tuple[Late, ...]


Step: TypeAlias = tuple[tuple[object, ...], State, str]  # label, next state, violation or ""

IDLE, READ, READ_ALL, READ_ONE, UPDATE, UPSERT, INSERT, DELETE, CLOCK = range(9)
LOOK_BEFORE, LOOK_AFTER, COMMIT = range(9, 12)
NAMES = [
    *("idle", "READ", "READ_ALL", "READ_ONE", "UPDATE", "UPSERT", "INSERT", "DELETE", "CLOCK"),
    *("LOOK_BEFORE", "LOOK_AFTER", "COMMIT"),
]
FRESH = Worker(IDLE, 0, 0, 0, 0, 0, 0, (), (), 0, 0, 0)


@cache
def truth(log: tuple[int, ...]) -> tuple[int, bool, tuple[int, ...]]:
    """Version, live and content after these changes, one by one."""
    content: tuple[int, ...] = ()
    for change in log:
        content = () if change & 1 else (*content, change)
    return len(log), not log[-1] & 1, content
