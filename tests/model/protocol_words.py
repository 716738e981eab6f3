"""The words of the model: the rules, the bounds of an exploration, and what a state is made of."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple, TypeAlias


@dataclass(frozen=True, slots=True)
class Rules:
    """The protocol's rules. True (or the first value) is the protocol; False takes the rule out."""

    # Load
    verify_empty: bool = True  # 3: if a hint finds no row, all partitions are read
    up_to_tomorrow: bool = True  # 2: reads go up to T+1
    one_statement: bool = True  # 2: one statement, one snapshot
    reread_all: bool = True  # 3: those already read included
    reread_on_new_day: bool = True  # a: MySQL's day is later than the T of the statement
    # Save
    compare_and_set: bool = True  # 1, d: in place only WHERE version = loaded
    upsert_count: bool = True  # 1, d: a count of 2n or roll back
    delete_checks_version: bool = True  # 1: move deletes WHERE version = loaded
    delete_count: bool = True  # 1: no row deleted, roll back
    move_checks_day: bool = True  # e: after the delete, MySQL's day is still W, or roll back
    look_before: bool = True  # 1: create looks at W-1
    look_after: bool = True  # 1: create looks at W+1
    look_after_insert: bool = True  # 1: insert, then look
    look_locks: bool = True  # 1: FOR UPDATE
    create_checks_day: bool = True  # b: the look's clock says W, or roll back
    acknowledge_after_commit: bool = True  # 3
    look_for_operation: bool = True  # 4, c: at a reload
    at_every_reload: bool = True  # 4: not only at the first one
    operation_kept: bool = True  # 4: one operation id through all retries
    prune: str = "count"  # 4: the newest `Bounds.entries`; or "clock": by age on MySQL's clock
    forgotten_given_up: bool = True  # 4: if the entry may have been dropped, the change is given up
    new_worker_id: bool = True  # 4: a restarted worker is a new one
    one_change_a_worker: bool = True  # 4: of a key at a time
    tombstones: bool = True  # 5: a delete leaves a row, with its operations
    version_goes_on: bool = True  # 5: when a deleted state is created again
    insert_first: bool = True  # 1, e: move inserts before the clock is read
    # Sealed days
    day_follows_mark: bool = True  # S1: MySQL's day is never earlier than the day after the mark
    seal_order: str = "mark wait scan"  # S2
    scan_waits: bool = True  # S3: the scan waits for the transactions that are open in the day
    create_first: bool = True  # S5: a create without a load, if filters rule out every older day
    unlooked: str = "filter at load"  # S4: what lets a create leave out W-1; see `SKIPS`
    # The session cache, and changes that are saved together
    cache_backed: bool = True  # f: nothing is answered from a cached row without a save
    cache_committed: bool = True  # f: only what was committed is cached
    cache_within_retention: bool = True  # f: a cached row past retention is no base
    match_base: bool = True  # g: compare with the version loaded, not with the new one minus one
    tries_remembered: bool = True  # g: which try landed is told by the version it made
    # An import into an older day
    import_order: str = "open renew"  # I1: the day is open before the opening is another one
    opens_under_lock: bool = True  # I1: and no process closes the day between the two
    import_looks: bool = True  # I2: insert, then look at T-1, T and T+1 with a lock
    import_unlooked: str = "filter"  # I2: what lets it leave out T-1: that day's filter, as it was
    import_checks_day: bool = True  # I2: the look's clock says T
    import_requires_opening: bool = True  # I2: and the opening is the import's
    load_checks_opening: bool = True  # I3: a load is good if its list's opening is that of its read
    create_requires_opening: bool = True  # I4: a create, if it is that of its load
    create_looks_at_open: bool = True  # I4: it looks at the days that are open
    close_renews: bool = True  # I5: the opening is another one before the day is closed
    # Taking these out breaks nothing; they are about cost.
    from_hint_up: bool = True  # Load 2: from D up, not only D
    reread_what_was_found: bool = True  # a: also when the statement found the row
    newer_of_both: bool = True  # Save 1: W is the newer of T and the partition loaded from


@dataclass(frozen=True, slots=True)
class Bounds:
    """How far to explore.

    `late` is how many abandoned writes may be on their way at once, `midnights` how often the day
    changes, `back` how often MySQL's clock steps back a day (a failover to a host that is a second
    behind, just after midnight), `midnights_in_transaction` how many a transaction may live
    through (None: any; the product's deadlines keep it far below one whole day), `retention` the
    number of days kept before today (None: all), `entries` how many workers' operations a row
    keeps. With `imports` day 0 is opened, the key imported into it, and the day closed. With
    `cache` a change may begin from any row that ever was committed, as if this worker had cached
    it. `groups` names changes that are saved together, beside single ones: "append append",
    "delete append".
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
    entries: int = 1
    cache: bool = False
    groups: tuple[str, ...] = ()
    seals: int = 0
    imports: bool = False


class Row(NamedTuple):
    """A row. `content`: the changes since the last delete, where loss and order show."""

    version: int
    live: bool
    content: tuple[int, ...]
    operations: tuple[tuple[int, int, int, int], ...]  # (worker, operation, version, day written)


Found: TypeAlias = tuple[int, Row] | tuple[()]  # partition and row
Listed: TypeAlias = tuple[int, bool, int]
"""What a list of the partitions says: the opening, whether day 0 is open, and what its filter says
of the key (-1: none is believed, 0: absent, 1: maybe there)."""
Writes: TypeAlias = tuple[tuple[int, Row | tuple[()]], ...]  # () in a row's place: deleted


class Worker(NamedTuple):
    at: int  # the next statement
    id: int
    operation: int
    change: int  # even: append; odd: delete; from GROUP on a group (see `members`)
    floor: int
    today: int  # READ: T, 0 any; saving: W
    clock: int  # MySQL's day when the next statement was sent
    loaded: Found
    writes: Writes  # of the open transaction; a written row is locked
    reloads: int  # counted only where a rule was taken out
    midnights: int  # since the transaction's first write, if it matters
    aside: int  # a number for the next statement, such as a partition; its function says which
    tried: tuple[tuple[int, tuple[int, ...]], ...] = ()  # a group's answers, by version made
    unsure: int = 0  # the lowest version that a try made whose answer did not come; 0: none
    skips: bool = False  # its create will not look at W-1
    first: bool = False  # its create comes before any load
    listed: Listed = (0, False, -1)  # of its load


class Late(NamedTuple):
    """A write whose client saw an error, and which may still take effect."""

    change: int
    changed: tuple[int, ...]  # its members that change something
    expects: int  # an UPDATE on its way, for this version; 0: a COMMIT on its way
    writes: Writes
    denied: bool  # a client was told that it changed nothing
    midnights: int


class Seal(NamedTuple):
    """How far the days are sealed. A day's filter is complete once the day was scanned."""

    mark: int  # the newest marked day; -1: no day is
    waited: int  # the newest day whose transactions were waited for
    scanned: tuple[bool, ...]  # for each scanned day whether the key was there


class Importing(NamedTuple):
    """How far the import into day 0 is, and the process that closes the day.

    The import may end at any step. The closing process does not wait for it.
    """

    at: int = 0  # the import's next step, in `World.imports`
    opening: int = 0
    open: bool = False
    closing: int = 0  # the closing process's next step
    filter: int = -2  # of day 0, as in `Listed`; -2: as sealed first
    mine: int = 0  # the opening that the import requires
    today: int = 0  # T, as the import read it
    skips: bool = False  # it will not look at T-1
    writes: Writes = ()
    lists: tuple[Listed, ...] = ()  # lists of partitions that a worker may still have


class State(NamedTuple):
    day: int
    top: int  # the latest day that there was
    steps_back: int
    started: int
    rows: tuple[Row | tuple[()], ...]
    log: tuple[int, ...]
    workers: tuple[Worker, ...]  # sorted: workers are alike, and named in the order they start in
    late: tuple[Late, ...]
    past: tuple[tuple[int, Row], ...] = ()  # what may be cached: partition and row, as committed
    seal: Seal = Seal(-1, -1, ())
    importing: Importing = Importing()


Step: TypeAlias = tuple[tuple[object, ...], State, str]  # label, next state, violation or ""

IDLE, READ, READ_ALL, READ_ONE, UPDATE, UPSERT, INSERT, DELETE, CLOCK = range(9)
LOOK_BEFORE, LOOK_AFTER, COMMIT, LOOK_OPEN = range(9, 13)
NAMES = [
    *("idle", "READ", "READ_ALL", "READ_ONE", "UPDATE", "UPSERT", "INSERT", "DELETE", "CLOCK"),
    *("LOOK_BEFORE", "LOOK_AFTER", "COMMIT", "LOOK_OPEN"),
]
FRESH = Worker(IDLE, 0, 0, 0, 0, 0, 0, (), (), 0, 0, 0)


SKIPS = ("filter at load", "mark at load", "mark at create")
"""When a create leaves out its look at W-1: if its load had that day's filter (the protocol), or if
that day was marked at the load or at the create (without the rule)."""

GROUP = 100
IMPORTED = 98
"""The import, as a change in the log."""
GROUPS = {"append append": (0, 20), "delete append": (1, 20)}


@cache
def members(change: int) -> tuple[int, ...]:
    """The changes that are saved as this one: itself, or those of a group."""
    if change < GROUP:
        return (change,)
    kind, number = divmod(change, GROUP)
    return tuple(number + each for each in list(GROUPS.values())[kind - 1])


class Effect(NamedTuple):
    """What a change, or a group, makes of a row."""

    row: Row  # without operations
    changed: tuple[int, ...]  # the members that change something
    answers: tuple[int, ...]  # for each member the version after it; 0: it changes nothing


@cache
def effect(change: int, version: int, live: bool, content: tuple[int, ...]) -> Effect:
    """Apply the members one after the other: an append always changes something, a delete only
    where there is something."""
    changed, answers = [], []
    for member in members(change):
        if member & 1 and not live:
            answers.append(0)
            continue
        version += 1
        live = not member & 1
        content = (*content, member) if live else ()
        changed.append(member)
        answers.append(version)
    return Effect(Row(version, live, content, ()), tuple(changed), tuple(answers))


@cache
def truth(log: tuple[int, ...]) -> tuple[int, bool, tuple[int, ...]]:
    """Version, live and content after these changes, one by one."""
    content: tuple[int, ...] = ()
    for change in log:
        content = () if change & 1 else (*content, change)
    return len(log), bool(log) and not log[-1] & 1, content
