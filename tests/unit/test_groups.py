"""Changes that are saved together give the same answers as changes saved one after the other."""

from __future__ import annotations

from datetime import date
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from sharding.partitions.sql import TOMBSTONE, Row
from sharding.state import Keep, Outcome, Owner, Stored, Write
from sharding.store.group_commit import apply
from tests.support.states import bump, forget

YESTERDAY, TODAY = date(2026, 1, 1), date(2026, 1, 2)


def read(stored: Stored | None) -> Keep[int | None]:
    return Keep(None if stored is None else int(stored.body))


def refuse(stored: Stored | None) -> Write[int]:
    raise ValueError(None if stored is None else int(stored.body))


TRANSITIONS: list[Any] = [bump, forget, read, refuse]
rows = st.one_of(
    st.none(),
    st.builds(
        Row,
        st.sampled_from([YESTERDAY, TODAY]),
        st.integers(1, 9),
        st.just(int(Owner.STATES_API)),
        st.integers(1, 99).map(lambda n: b"%d" % n),
        st.just(b""),
    ),
    st.builds(
        Row,
        st.just(YESTERDAY),
        st.integers(1, 9),
        st.just(TOMBSTONE),
        st.just(b""),
        st.just(b""),
    ),
)


@given(rows, st.lists(st.sampled_from(TRANSITIONS), min_size=1, max_size=12))
def test_a_group_s_result_is_that_of_its_members_one_after_the_other(
    row: Row | None, members: list[Any]
) -> None:
    together = apply(members, row, TODAY)

    one_by_one: list[Any] = []
    current, changes = row, 0
    for member in members:
        one = apply([member], current, TODAY)
        one_by_one += one.results
        changes += one.changes
        if one.changes:
            current = Row(one.day, one.version, one.owner, one.body, b"")
    assert [_plain(result) for result in together.results] == [_plain(r) for r in one_by_one]
    assert together.changes == changes
    if current is not None:
        assert (together.version, together.owner, together.body) == (
            current.version,
            current.owner,
            current.body,
        )


@given(rows, st.integers(1, 9))
def test_each_member_is_answered_with_its_own_version(row: Row | None, members: int) -> None:
    before = row.version if row is not None else 0

    results = apply([bump] * members, row, TODAY).results

    assert [r.version for r in results if isinstance(r, Outcome)] == [
        before + n for n in range(1, members + 1)
    ]


def _plain(result: Any) -> Any:
    return (type(result), result.args) if isinstance(result, Exception) else result
