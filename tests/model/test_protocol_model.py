"""The load and save protocol keeps its promises in every reachable state, and needs its rules.

Each exploration is complete within its bounds: every order of statements, every hint, every
failure. See README.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from explore import explore
from protocol_model import Model
from protocol_words import GROUPS, Bounds, Rules

VERSIONS = ("I3 (version)", "I3 (load)")

GROUPED = tuple(GROUPS)

IMPORT = Bounds(imports=True, seals=1, changes=1, batches=False, start=("nothing",), late=0)
IMPORT_SEALED = replace(IMPORT, seals=2, workers=1)

HOLDS = {
    "two workers, one midnight": Bounds(),
    "deletes": Bounds(deletes=True),
    "two late writes": Bounds(late=2),
    "two midnights, nothing there": Bounds(midnights=2, start=("nothing",)),
    "two midnights, something there": Bounds(midnights=2, batches=False, start=("yesterday",)),
    "the clock steps back": Bounds(back=1, batches=False),
    "a state about to expire": Bounds(
        retention=1, start=("yesterday", "nothing"), deletes=True, batches=False
    ),
    "a state about to expire, two midnights": Bounds(
        retention=2, midnights=2, start=("yesterday",), batches=False
    ),
    "three changes on one day": Bounds(
        changes=3, midnights=0, deletes=True, start=("nothing", "tombstone")
    ),
    "three workers on one day": Bounds(workers=3, changes=3, midnights=0, deletes=True, late=0),
    "three workers write a row that keeps two entries": Bounds(
        entries=2, workers=3, changes=3, midnights=0, batches=False, start=("today",)
    ),
    "cached rows": Bounds(cache=True, deletes=True),
    "cached rows, the clock steps back": Bounds(cache=True, back=1, batches=False),
    "cached rows, three changes on one day": Bounds(
        cache=True, changes=3, midnights=0, deletes=True, start=("nothing", "tombstone")
    ),
    "cached rows about to expire": Bounds(
        cache=True, retention=2, midnights=2, start=("yesterday",), batches=False
    ),
    "changes saved together, from cached rows": Bounds(cache=True, groups=GROUPED, batches=False),
    "sealed days": Bounds(seals=2, batches=False, start=("nothing", "yesterday"), late=0),
    "sealed days, late writes": Bounds(seals=2, batches=False, start=("nothing",)),
    "sealed days, deletes": Bounds(
        seals=2, batches=False, start=("tombstone",), deletes=True, late=0
    ),
    "sealed days, two midnights": Bounds(
        seals=2, midnights=2, batches=False, start=("nothing",), late=0
    ),
    "sealed days, the clock steps back": Bounds(
        seals=2, back=1, batches=False, start=("nothing",), late=0
    ),
    "sealed days about to expire": Bounds(
        seals=2, retention=1, batches=False, start=("yesterday", "nothing"), late=0
    ),
    "sealed days, cached rows": Bounds(
        seals=2, cache=True, batches=False, start=("yesterday",), late=0
    ),
    "an import into an older day": IMPORT,
    "an import into an older day, yesterday sealed": IMPORT_SEALED,
}

HOLDS_LONG = {
    "an import into an older day, two midnights": Bounds(
        imports=True, seals=2, midnights=2, changes=1, batches=False, start=("nothing",), late=0
    ),
    "three changes": Bounds(changes=3),
    "three changes with deletes": Bounds(changes=3, deletes=True, batches=False),
    "three workers, one midnight": Bounds(
        workers=3, changes=3, batches=False, start=("nothing", "yesterday")
    ),
    "two midnights and a step back": Bounds(midnights=2, back=1),
    "two midnights and a step back, deletes": Bounds(
        midnights=2, back=1, deletes=True, batches=False
    ),
    "two midnights, two late writes": Bounds(midnights=2, late=2),
    "cached rows, three changes": Bounds(cache=True, changes=3, deletes=True, batches=False),
    "cached rows, two midnights and a step back": Bounds(cache=True, midnights=2, back=1),
    "changes saved together, two midnights": Bounds(
        cache=True, groups=GROUPED, midnights=2, deletes=True, batches=False
    ),
    "sealed days": Bounds(seals=2),
    "sealed days, deletes": Bounds(seals=2, deletes=True, batches=False),
    "sealed days, two midnights": Bounds(
        seals=2, midnights=2, batches=False, start=("nothing", "yesterday")
    ),
    "three sealed days, two midnights": Bounds(
        seals=3, midnights=2, batches=False, start=("nothing",)
    ),
    "sealed days, the clock steps back": Bounds(seals=2, back=1, batches=False),
    "sealed days about to expire": Bounds(
        seals=2, retention=1, start=("yesterday", "nothing"), deletes=True, batches=False
    ),
    "sealed days, cached rows": Bounds(seals=2, cache=True, batches=False),
    "sealed days, three changes": Bounds(seals=2, changes=3, batches=False, start=("nothing",)),
    "changes saved together, three of them": Bounds(
        cache=True,
        groups=GROUPED,
        changes=3,
        midnights=0,
        late=0,
        deletes=True,
        batches=False,
    ),
}

NEW_KEY = ("nothing",)
SEALED = Bounds(seals=2, batches=False, start=NEW_KEY, late=0)
SEALED_BACK = Bounds(seals=2, back=1, batches=False, start=NEW_KEY, late=0)
QUIET = Bounds(changes=3, deletes=True, midnights=0, late=0, batches=False, start=("today",))
# A retention of a day and two midnights in one change: only that a key has one row holds there.
EXPIRING = Bounds(cache=True, retention=1, midnights=2, start=("yesterday",), batches=False, late=0)

# By what happens without a rule: the rule, bounds within which it is missed, and what breaks then.
NEEDED: dict[str, tuple[dict[str, Any], Bounds, str]] = {
    "Load 2: the hint is trusted, its partition answers": (
        {"from_hint_up": False, "verify_empty": False},
        Bounds(),
        "I3",
    ),
    "Load 3: no row where the hint points counts as no row": (
        {"verify_empty": False},
        Bounds(),
        "I3",
    ),
    "Load 3: only the partitions not yet read are read": ({"reread_all": False}, Bounds(), "I3"),
    "Load 2: T+1 is not read": ({"up_to_tomorrow": False}, Bounds(), "I3"),
    "Load 2: one statement a partition": ({"one_statement": False}, Bounds(), "I3"),
    "Load a: not read again when the day has changed": (
        {"reread_on_new_day": False},
        Bounds(midnights=2),
        "I3",
    ),
    "Save 1, in place: no compare-and-set": ({"compare_and_set": False}, Bounds(), "I3"),
    "Save 1, in place: a count below 2n is accepted": ({"upsert_count": False}, Bounds(), "I2"),
    "Save 1, move: deletes any version": ({"delete_checks_version": False}, Bounds(), "I3"),
    "Save 1, move: no row deleted is accepted": ({"delete_count": False}, Bounds(), "I2"),
    "Save e, move: commits on any day": (
        {"move_checks_day": False},
        Bounds(retention=1, start=("yesterday",)),
        "I2",
    ),
    "Save e, move: looks at the clock, then inserts": (
        {"insert_first": False},
        Bounds(retention=1, start=("yesterday",)),
        "I2",
    ),
    "Save 1, create: does not look at its neighbours": (
        {"look_before": False, "look_after": False},
        Bounds(start=NEW_KEY),
        "I2",
    ),
    "Save 1, create: looks only at W+1": ({"look_before": False}, Bounds(start=NEW_KEY), "I2"),
    "Save 1, create: looks only at W-1": (
        {"look_after": False},
        Bounds(back=1, start=NEW_KEY),
        "I2",
    ),
    "Save 1, b, create: looks only at W-1 and not at the day": (
        {"look_after": False, "create_checks_day": False},
        Bounds(start=NEW_KEY),
        "I2",
    ),
    "Save 1, create: looks, then inserts": ({"look_after_insert": False}, Bounds(), "I2"),
    "Save 1, create: looks without a lock": ({"look_locks": False}, Bounds(), "I2"),
    "Save b, create: does not look at the day": (
        {"create_checks_day": False},
        Bounds(midnights=2, start=NEW_KEY),
        "I2",
    ),
    "Seal 1: MySQL's day is its clock's, whatever the mark says": (
        {"day_follows_mark": False},
        SEALED_BACK,
        "I3 (load)",
    ),
    "Seal 2: the mark is set after the scan": (
        {"seal_order": "wait scan mark"},
        SEALED_BACK,
        "I3 (load)",
    ),
    "Seal 2: the mark is set after the wait": (
        {"seal_order": "wait mark scan"},
        SEALED_BACK,
        "I3 (load)",
    ),
    "Seal 3: the scan does not wait for open transactions": (
        {"scan_waits": False},
        SEALED,
        "I3 (load)",
    ),
    "Seal 4: the mark at the load is enough to leave out W-1": (
        {"unlooked": "mark at load"},
        SEALED,
        "I2",
    ),
    "Seal 4: the mark at the create is enough to leave out W-1": (
        {"unlooked": "mark at create"},
        SEALED,
        "I2",
    ),
    "Import 1: the opening is renewed before the day is open": (
        {"import_order": "renew open"},
        IMPORT,
        "I3 (load)",
    ),
    "Import 1: the day is closed between opening and renewal": (
        {"opens_under_lock": False},
        IMPORT,
        "I3 (load)",
    ),
    "Import 2: it does not look where a create may be": (
        {"import_looks": False},
        IMPORT,
        "I3 (load)",
    ),
    "Import 2: the mark is enough to leave out T-1": (
        {"import_unlooked": "mark"},
        IMPORT_SEALED,
        "I2",
    ),
    "Import 2: it writes whatever the opening is": (
        {"import_requires_opening": False},
        IMPORT,
        "I3 (load)",
    ),
    "Import 2: it writes whatever day it is": (
        {"import_checks_day": False},
        Bounds(imports=True, seals=1, midnights=2, changes=1, batches=False, start=NEW_KEY, late=0),
        "I2",
    ),
    "Import 3: a load does not check the opening": (
        {"load_checks_opening": False},
        IMPORT,
        "I3 (load)",
    ),
    "Import 4: a create does not require the opening of its load": (
        {"create_requires_opening": False},
        IMPORT,
        "I2",
    ),
    "Import 4: a create does not look at the open day": (
        {"create_looks_at_open": False},
        IMPORT,
        "I2",
    ),
    "Import 5: the day is closed under the same opening": (
        {"close_renews": False},
        IMPORT,
        "I3 (load)",
    ),
    "Save 3: acknowledged before the commit": ({"acknowledge_after_commit": False}, Bounds(), "I1"),
    "Save 4: operation not looked for": ({"look_for_operation": False}, Bounds(), "I5"),
    "Save 4: looked for only at the first reload": ({"at_every_reload": False}, Bounds(), "I5"),
    "Save 4: each retry is a new operation": ({"operation_kept": False}, Bounds(), "I5"),
    "Save 4: tried again though the entry may have been dropped": (
        {"forgotten_given_up": False},
        Bounds(midnights=0),
        "I5",
    ),
    "Save 4: a restarted worker keeps its name": ({"new_worker_id": False}, Bounds(), "I1"),
    "Save 4: two changes of a key in one worker": (
        {"one_change_a_worker": False},
        Bounds(entries=2),
        "I5",
    ),
    "Save 5: a delete forgets the operations": ({"tombstones": False}, Bounds(deletes=True), "I5"),
    "Save 5: a delete forgets the version": ({"tombstones": False}, QUIET, "I3: "),
    "Save 5: the version starts over": ({"version_goes_on": False}, QUIET, "I3: "),
    "Cache f: an answer comes from it without a save": (
        {"cache_backed": False},
        Bounds(cache=True, deletes=True, start=("tombstone",)),
        "I3: it changes nothing",
    ),
    "Cache f: it holds what was not committed yet": (
        {"cache_committed": False},
        Bounds(cache=True, changes=3, midnights=0, batches=False, start=("today",)),
        "I3",
    ),
    "Cache f: a row past retention is a base": (
        {"cache_within_retention": False},
        EXPIRING,
        "I2",
    ),
    "Cache: no compare-and-set": ({"compare_and_set": False}, Bounds(cache=True), "I3"),
    "Together g: compares with the new version minus one": (
        {"match_base": False},
        Bounds(groups=GROUPED, start=("today",)),
        "I3",
    ),
    "Together g: a later try is answered as the first one": (
        {"tries_remembered": False},
        Bounds(groups=GROUPED, deletes=True, start=("today",)),
        "I3 (version)",
    ),
    "Sealed days S5: a create without a load, whatever the filters say": (
        {"create_first": False},
        Bounds(),
        "I2",
    ),
}

# Taking these out was found to break nothing.
ONLY_COST = ("from_hint_up", "reread_what_was_found", "newer_of_both")


@pytest.mark.parametrize("name", HOLDS)
def test_no_reachable_state_breaks_an_invariant(name: str) -> None:
    found = explore(Model(Rules(), HOLDS[name]))
    print(f"{name}: {found}")
    assert not found.violation, str(found)
    assert found.complete


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", HOLDS_LONG)
def test_no_reachable_state_within_wider_bounds_breaks_an_invariant(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def progress(line: str) -> None:
        with capsys.disabled():
            print(f"\r{name}: {line}", end="", flush=True)

    found = explore(Model(Rules(), HOLDS_LONG[name]), progress=progress)
    progress(f"{found}\n")
    assert not found.violation, str(found)


@pytest.mark.parametrize("name", NEEDED)
def test_without_the_rule_an_invariant_breaks(name: str) -> None:
    without, bounds, breaks = NEEDED[name]
    # Without Save 5 versions start over, which is a violation itself; the test wants the next one.
    ignore: tuple[str, ...] = VERSIONS if "Save 5" in name else ()
    if bounds == QUIET:
        ignore += ("I5",)
    if bounds == EXPIRING:
        ignore += ("I1", "I5")
        assert not explore(Model(Rules(), bounds), ignore=ignore).violation
    found = explore(Model(Rules(**without), bounds), ignore=ignore)
    print(f"{name}: {found}")
    assert found.violation.startswith(breaks), f"{name} breaks nothing: {found}"


@pytest.mark.parametrize("name", ONLY_COST)
@pytest.mark.parametrize(
    "bounds",
    [
        Bounds(back=1, batches=False, start=("yesterday",)),
        Bounds(retention=1, start=("yesterday", "nothing")),
    ],
    ids=["the clock steps back", "expiry"],
)
def test_without_a_rule_that_only_saves_cost_no_invariant_breaks(name: str, bounds: Bounds) -> None:
    without: dict[str, Any] = {name: False}
    found = explore(Model(Rules(**without), bounds))
    assert not found.violation, str(found)


def test_a_transaction_must_not_live_through_two_midnights() -> None:
    """The model assumes this, also of a statement; deadlines far below a day make it true."""
    bounds = Bounds(midnights=2, midnights_in_transaction=None, start=NEW_KEY)
    assert explore(Model(Rules(), bounds), ignore=("I2",)).violation.startswith("I3 (load)")
    assert explore(Model(Rules(), bounds), ignore=VERSIONS).violation.startswith("I2")


def test_entries_may_be_dropped_by_age_only_while_the_clock_does_not_jump() -> None:
    """So the protocol drops them by count: by age, a jump of MySQL's clock doubles a change."""
    by_clock = Rules(prune="clock", forgotten_given_up=False)
    assert not explore(Model(by_clock, Bounds(midnights=0))).violation
    found = explore(Model(by_clock, Bounds(midnights=1)))
    assert found.violation.startswith("I5"), str(found)


def test_every_branch_of_the_protocol_is_explored() -> None:
    wanted = {
        "READ_ALL": lambda label, after: any(w.at == 2 for w in after.workers),
        "finds its operation": _says("| finds its operation"),
        "nothing to delete": _says("| nothing to delete"),
        "compare-and-set lost": _says("changes nothing"),
        "duplicate key": _says("duplicate key, rolled back"),
        "neighbour found": _says("finds a row, rolled back"),
        "too late to move": lambda label, after: (
            label[1:2] == ("MOVE: it is day",) and "rolled back" in label
        ),
        "move lost": lambda label, after: label[1:2] == ("DELETE",) and "rolled back" in label,
        "upsert created": lambda label, after: label[1:2] == ("UPSERT",) and 1 in label[3:],
        "upsert lost": lambda label, after: label[1:2] == ("UPSERT",) and 0 in label[3:],
        "too late to create": lambda label, after: (
            label[1:2] == ("LOOK: it is day",) and "rolled back" in label
        ),
        "late write lands": _says("lands"),
        "forgotten": _says("| cannot know whether it landed, gives up"),
        "killed": _says("is killed and replaced"),
        "given up": _says("gives the change up"),
        "acknowledged": _says("| ACKNOWLEDGED"),
        "begins from a cached row": _says("from a cached row"),
        "creates before any load": _says("with a create in"),
        "and finds a row": _says("finds"),
        "leaves out W-1": _says("and W-1 is sealed"),
        "a group lands in part": lambda label, after: any(
            0 in answers and any(answers) for w in after.workers for _, answers in w.tried
        ),
    }
    # Sealing together with the other features would make ten times as many states.
    _meet(wanted, SEALED)
    _meet(wanted, Bounds(start=("yesterday",)))
    _meet(wanted, Bounds(deletes=True, start=("nothing", "today"), cache=True, groups=GROUPED))
    assert not wanted


def _meet(wanted: dict[str, Callable[[Any, Any], bool]], bounds: Bounds) -> None:
    """Remove from `wanted` what happens within these bounds."""
    model = Model(Rules(), bounds)
    seen = set(model.initial())
    level = list(seen)
    while level and wanted:
        following = []
        for state in level:
            for label, after, _ in model.steps(state):
                for name in [name for name, met in wanted.items() if met(label, after)]:
                    del wanted[name]
                if after not in seen:
                    seen.add(after)
                    following.append(after)
        level = following


def _says(words: str) -> Callable[[Any, Any], bool]:
    return lambda label, after: words in label
