"""The state machine that saves changes of one key together."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from failover.mysql.errors import Fault
from sharding.partitions.sql import Row
from sharding.state import Keep, Key, Stored, Unavailable
from sharding.store import idempotency
from sharding.store.group_commit import MOST_CONFLICTS, Done, Group, Member, State
from sharding.store.plan import Loaded, Plan
from tests.support.states import bump

TODAY = date(2026, 1, 2)
KEY = Key(1, 2)


def read(stored: Stored | None) -> Keep[int | None]:
    return Keep(None if stored is None else stored.version)


class Answer:
    """A member's future, without an event loop."""

    def __init__(self) -> None:
        self.gone = False

    def done(self) -> bool:
        return self.gone


def group(*transitions: Any, number: int = 1) -> Group:
    members: list[Any] = [Member(each, Answer(), 0.0) for each in transitions]  # type: ignore[arg-type]
    return Group(KEY, "w", number, members)


def written(plan: Plan) -> Row:
    row = plan.row
    return Row(plan.day, row.version, row.owner, row.body, row.operations)


def versions(results: list[Any]) -> list[int]:
    return [result.version for result in results]


def test_changes_of_a_cached_row_are_saved_without_a_load() -> None:
    one = group(bump, bump)
    plan = one.begin(Loaded(Row(TODAY, 4, 1, b"4", b"")), TODAY, 7)

    assert plan is not None
    assert (one.state, plan.row.version, plan.changes, plan.generation) == (State.TRYING, 6, 2, 7)
    assert versions(one.saved()) == [5, 6]
    assert one.state is State.DONE


def test_without_a_change_to_save_the_answer_comes_from_a_loaded_row_not_from_the_cache() -> None:
    one = group(read)
    assert one.begin(Loaded(Row(TODAY, 4, 1, b"4", b"")), TODAY, 1) is None
    done = one.loaded(Loaded(Row(TODAY, 9, 1, b"9", b"")), TODAY, 1)
    assert isinstance(done, Done)
    assert versions(done.results) == [9]


def test_a_create_comes_first_and_a_row_that_it_finds_counts_as_loaded() -> None:
    one = group(bump)
    plan = one.begin(Loaded(None), TODAY, 1)
    assert plan is not None
    assert plan.first
    assert plan.row.version == 1

    one.refused(found=Loaded(Row(TODAY, 7, 1, b"7", b"")))
    assert one.found is not None
    again = one.loaded(one.found, TODAY, 1)
    assert isinstance(again, Plan)
    assert (again.first, again.in_place, again.row.version) == (False, True, 8)
    assert versions(one.saved()) == [8]


def test_without_a_change_to_save_no_create_comes_first() -> None:
    assert group(read).begin(Loaded(None), TODAY, 1) is None


def test_members_that_gave_up_leave_the_group_only_before_its_first_save() -> None:
    one = group(bump, bump)
    one.members[0].answer.gone = True  # type: ignore[attr-defined]
    plan = one.loaded(Loaded(None), TODAY, 1)
    assert isinstance(plan, Plan)
    assert plan.changes == 1

    other = group(bump, bump)
    other.loaded(Loaded(None), TODAY, 1)
    other.failed(Fault.LOST)
    other.members[0].answer.gone = True  # type: ignore[attr-defined]
    again = other.loaded(Loaded(None), TODAY, 1)
    assert isinstance(again, Plan)
    assert again.changes == 2


def test_a_group_that_failed_in_a_batch_is_saved_by_itself() -> None:
    one = group(bump)
    one.loaded(Loaded(None), TODAY, 1)
    one.failed(Fault.OVERTAKEN)
    plan = one.loaded(Loaded(None), TODAY, 1)
    assert isinstance(plan, Plan)
    assert plan.alone


def test_after_a_lost_answer_a_change_that_the_log_may_have_dropped_is_not_made_again() -> None:
    one = group(bump)
    one.loaded(Loaded(None), TODAY, 1)
    one.failed(Fault.LOST)
    log = b""
    for version in range(2, 2 + idempotency.KEPT):
        log = idempotency.append(log, f"other{version}", 1, version)
    with pytest.raises(Unavailable, match="not known whether the change was made"):
        one.loaded(Loaded(Row(TODAY, 9, 1, b"9", log)), TODAY, 1)


def test_a_group_gives_up_after_too_many_conflicts() -> None:
    one = group(bump)
    assert [one.conflict() for _ in range(MOST_CONFLICTS)] == [True] * (MOST_CONFLICTS - 1) + [
        False
    ]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["commits", "commits unheard", "fails", "other first"]),
            st.integers(0, 3),
        ),
        max_size=6,
    ),
    st.integers(1, 3),
)
def test_a_group_is_applied_once_and_answers_its_versions_whatever_its_saves_meet(
    tries: list[tuple[str, int]], members: int
) -> None:
    one, row, others = group(*[bump] * members), None, 0
    for what, changes in [*tries, ("commits", 0)]:
        for _ in range(changes):  # by others, between the tries
            other = group(bump, number=99)
            other.worker = "other"
            plan = other.loaded(Loaded(row), TODAY, 1)
            assert isinstance(plan, Plan)
            row, others = written(plan), others + 1
        step = one.loaded(Loaded(row), TODAY, 1)
        if isinstance(step, Done):
            assert step.recovered
            results = step.results
            break
        if what.startswith("commits"):
            row = written(step)
        if what == "commits":
            results = one.saved()
            break
        if what == "other first":
            assert one.conflict()
        else:
            one.failed(Fault.LOST)

    assert row is not None
    assert row.version == others + members, "each change counts once"
    made = versions(results)
    assert made == list(range(made[0], made[0] + members))
    found = idempotency.find(row.operations, "w")
    assert found is not None
    assert found.version == made[-1]
