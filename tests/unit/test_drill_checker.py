"""The drills' checker finds each kind of breach, and nothing in a correct history."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drills.checker import CounterHistory, Outcome, Read, Wrong, check_rows


@dataclass
class Counter:
    """A counter that works, and the history of a client that uses it."""

    history: CounterHistory = field(default_factory=lambda: CounterHistory("k"))
    changes: tuple[str, ...] = ()
    clock: float = 0.0

    def tick(self) -> float:
        self.clock += 1
        return self.clock

    def put(self, change: str, *, answered: bool = True, happens: bool = True) -> None:
        put = self.history.put(change, len(self.changes), self.tick())
        if happens:
            self.changes = (*self.changes, change)
        if answered:
            put.answered = self.tick()
            put.outcome = Outcome.OK if happens else Outcome.REFUSED
            put.version = len(self.changes) if happens else None

    def read(self) -> Read:
        read = Read(self.tick(), self.tick(), len(self.changes), self.changes)
        self.history.reads.append(read)
        return read

    def kinds(self, *changes: str, version: int | None = None) -> set[Wrong]:
        """The breaches that are found if these changes are stored at the end."""
        final = Read(
            self.tick(), self.tick(), len(changes) if version is None else version, changes
        )
        return {breach.wrong for breach in self.history.check(final)}


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("put"), st.booleans(), st.booleans()),
            st.just(("read", True, True)),
        ),
        max_size=30,
    )
)
def test_a_correct_counter_s_history_has_no_breach(
    steps: list[tuple[str, bool, bool]],
) -> None:
    counter = Counter()
    for number, (what, answered, happens) in enumerate(steps):
        if what == "read":
            counter.read()
        else:
            counter.put(f"c{number}", answered=answered, happens=happens)
    assert counter.kinds(*counter.changes) == set()


@given(st.integers(2, 8), st.data())
def test_any_acknowledged_change_that_is_missing_is_found(count: int, data: st.DataObject) -> None:
    counter = Counter()
    for number in range(count):
        counter.put(f"c{number}")
    missing = data.draw(st.sampled_from(counter.changes))
    left = tuple(change for change in counter.changes if change != missing)
    assert Wrong.LOST in counter.kinds(*left)


@given(st.integers(2, 6), st.data())
def test_changes_in_another_order_are_found(count: int, data: st.DataObject) -> None:
    counter = Counter()
    for number in range(count):
        counter.put(f"c{number}")
    order = data.draw(st.permutations(counter.changes))
    found = counter.kinds(*order)
    assert (Wrong.REORDERED in found) == (tuple(order) != counter.changes)


def test_a_change_that_was_read_and_is_missing_later_counts_as_undone() -> None:
    counter = Counter()
    counter.put("a")
    counter.put("b")
    counter.read()
    assert Wrong.UNDONE in counter.kinds("a")


def test_a_change_that_is_stored_twice_counts_as_doubled() -> None:
    counter = Counter()
    counter.put("a")
    assert Wrong.DOUBLED in counter.kinds("a", "a")


def test_a_change_without_an_answer_may_be_stored_once_or_not_but_not_twice() -> None:
    counter = Counter()
    counter.put("a")
    counter.put("b", answered=False)
    assert counter.kinds("a") == set()
    assert counter.kinds("a", "b") == set()
    assert counter.kinds("a", "b", "b") == {Wrong.DOUBLED}


def test_a_refused_change_that_is_stored_is_found() -> None:
    counter = Counter()
    counter.put("a")
    counter.put("b", happens=False)
    assert counter.kinds("a", "b") == {Wrong.UNTRUE}


def test_two_changes_acknowledged_as_one_version_are_found() -> None:
    counter = Counter()
    counter.put("a")
    for change in ("b", "c"):
        put = counter.history.put(change, 1, counter.tick())
        put.outcome, put.answered, put.version = Outcome.OK, counter.tick(), 2
    assert {Wrong.VERSION, Wrong.LOST} <= counter.kinds("a", "b")


def test_a_read_of_an_older_version_than_the_acknowledged_one_is_found() -> None:
    counter = Counter()
    counter.put("a")
    counter.put("b")
    counter.history.reads.append(Read(counter.tick(), counter.tick(), 1, ("a",)))
    assert counter.kinds("a", "b") == {Wrong.WENT_BACK}


def test_a_read_that_was_under_way_during_a_change_may_show_the_older_version() -> None:
    counter = Counter()
    counter.put("a")
    sent = counter.tick()
    counter.put("b")
    counter.history.reads.append(Read(sent, counter.tick(), 1, ("a",)))
    assert counter.kinds("a", "b") == set()


def test_a_skipped_version_is_found() -> None:
    counter = Counter()
    counter.put("a")
    assert Wrong.VERSION in counter.kinds("a", version=2)


@pytest.mark.parametrize(
    ("versions", "possible", "found"),
    [
        ([3], {3}, []),
        ([3], {3, 4}, []),
        ([], {0}, []),
        ([], {1}, [Wrong.ROWS]),
        ([3, 2], {3}, [Wrong.ROWS]),
        ([5], {3, 4}, [Wrong.VERSION]),
    ],
)
def test_a_key_must_have_one_row_with_a_version_that_its_history_allows(
    versions: list[int], possible: set[int], found: list[Wrong]
) -> None:
    assert [breach.wrong for breach in check_rows("k", versions, possible)] == found


def test_every_kind_of_breach_has_a_text_of_its_own() -> None:
    texts = [wrong.value for wrong in Wrong]
    assert all(a != b for a, b in itertools.combinations(texts, 2))
