"""Which tables with a partition's name are ours."""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharding.partitions.ownership import (
    COLUMNS,
    COMMENT,
    Column,
    ForeignTable,
    in_words,
    incomplete,
    sort_out,
    why_foreign,
)

TABLE = "BASE TABLE"
DAY = date(2026, 10, 20)
MINE = "player_state_20261020"
BARE = tuple(column._replace(comment="") for column in COLUMNS)


def test_a_table_with_our_columns_and_our_comment_is_ours() -> None:
    assert why_foreign(TABLE, COMMENT, COLUMNS) == ""
    assert why_foreign(TABLE, COMMENT + "; keep until March", BARE) == ""


def test_a_table_of_the_first_edition_is_recognised_by_its_columns_comments() -> None:
    first = "worker.operation.version.time; of late writers"
    assert why_foreign(TABLE, "", (*COLUMNS[:-1], COLUMNS[-1]._replace(comment=first))) == ""
    assert why_foreign(TABLE, "", COLUMNS) == ""
    assert COMMENT in why_foreign(TABLE, "", BARE)
    assert COMMENT in why_foreign(TABLE, "of the shop", COLUMNS)


@pytest.mark.parametrize("version", ["0", "2", "10", "11"])
def test_a_table_of_another_format_is_foreign(version: str) -> None:
    why = why_foreign(TABLE, f"Tapedeck day partition, format {version}", COLUMNS)
    assert f"format {version}" in why


@pytest.mark.parametrize("kind", ["VIEW", "SYSTEM VERSIONED", "SEQUENCE"])
def test_a_view_or_other_special_table_is_foreign(kind: str) -> None:
    assert kind.lower() in why_foreign(kind, COMMENT, COLUMNS)


columns = st.lists(
    st.one_of(
        st.sampled_from(COLUMNS),
        st.builds(Column, *[st.sampled_from(sorted({c[n] for c in COLUMNS})) for n in range(5)]),
    ),
    max_size=8,
)


@given(columns)
def test_any_other_column_type_or_key_makes_a_table_foreign(given_columns: list[Column]) -> None:
    same = [c[:4] for c in given_columns] == [c[:4] for c in COLUMNS]
    assert (why_foreign(TABLE, COMMENT, given_columns) == "") is same


@pytest.mark.parametrize("width", ["(20)", ""])
def test_the_column_lists_of_both_engines_are_read(width: str) -> None:
    """MariaDB shows a display width, MySQL 8 does not; both may answer in bytes."""

    def typed(column: Column) -> str:
        return column.type.replace("int", f"int{width}", 1)

    name = "player_state_20261020"
    listed = [(name.encode(), c.name, typed(c).encode(), *c[2:]) for c in COLUMNS]
    listed += [("player_state_20261021", "id", "int", "YES", "", "")]
    tables = [
        (name, TABLE, COMMENT.encode(), None, None, 5),
        ("player_state_20261021", TABLE, "", 1, 2, 5),
        ("player_state_20261022", TABLE, COMMENT, 1, 2, 5),  # its columns are not in the list
        ("player_state_copy", TABLE, "", 1, 2, 5),
        ("", "", "", 0, 0, 7),
    ]

    found = sort_out(listed, tables)

    assert set(found.ours) == {DAY}
    assert set(found.foreign) == {"player_state_20261021"}
    assert found.clock_ms == 7


@pytest.mark.parametrize(
    ("named", "described", "kinds", "lacking"),
    [
        ([MINE], [MINE], {MINE: TABLE}, []),
        ([MINE], [], {MINE: TABLE}, [MINE]),
        ([MINE], [MINE], {}, [MINE]),
        ([MINE], [MINE], {MINE: None}, [MINE]),
        ([], [MINE], {MINE: TABLE}, [MINE]),
        ([MINE], [], {MINE: "VIEW"}, []),
        (["player_state_copy"], [], {"player_state_copy": TABLE}, []),
    ],
)
def test_a_partition_that_mysql_lists_in_part_is_found(
    named: list[str], described: list[str], kinds: dict[str, str | None], lacking: list[str]
) -> None:
    tables = [*((name, kind, "", 1, 1, 5) for name, kind in kinds.items()), ("", "", "", 0, 0, 5)]
    found = incomplete(
        [(name,) for name in named], [(name, *COLUMNS[0]) for name in described], tables
    )
    assert found == lacking


def test_messages_about_foreign_tables_say_what_to_do() -> None:
    refused = str(ForeignTable("player_state_20261020", "it has other columns"))
    assert "player_state_20261020" in refused
    assert "rename the table" in refused
    assert "partitions.prefix" in refused
    many = in_words({f"player_state_2026100{n}": "it is a view" for n in range(1, 8)})
    assert "player_state_20261001 (it is a view)" in many
    assert "and 2 more" in many
    assert in_words({}) == ""
