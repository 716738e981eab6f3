"""Which of the things on a node are lookup entries, and what is sent to their new owner."""

from __future__ import annotations

from datetime import date
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.exceptions import ResponseError

from tapedeck.sharding.copying import (
    FIELDS,
    Entry,
    copies,
    entries,
    holds_days,
    is_ours,
    look,
    pattern,
)
from tapedeck.sharding.entries import Layout
from tapedeck.sharding.state import PLAYLIST_MAX, Key

LAYOUTS: tuple[Literal["packed", "flat"], ...] = ("packed", "flat")
ids = st.integers(1, PLAYLIST_MAX)
DAY = date(2026, 3, 1)


@given(ids, ids)
def test_every_key_of_a_layout_is_ours_and_none_of_the_other_one(user: int, playlist: int) -> None:
    names = {name: Layout(name, 30).ring_key(Key(user, playlist)) for name in LAYOUTS}
    for name in LAYOUTS:
        assert [is_ours(name, key) for key in (names[name],)] == [True]
        other = "flat" if name == "packed" else "packed"
        assert not is_ours(other, names[name])


@pytest.mark.parametrize(
    "name",
    [
        *(b"u:0", b"u:01", b"u:-1", b"u:", b"u:1 ", b"u:1\n", b"U:1", b"u:1:2", b"xu:1"),
        *(b"uid:1", b"uid:0:pid:1", b"uid:1:pid:01", b"uid:1:pid:2:x", b"tapedeck:probe"),
        *(b"u:%d" % (PLAYLIST_MAX + 1), b"uid:1:pid:%d" % (PLAYLIST_MAX + 1), b"u:\xff"),
    ],
)
def test_what_is_spelled_otherwise_is_left_alone(name: bytes) -> None:
    assert not any(is_ours(layout, name) for layout in LAYOUTS)


def test_entries_come_from_the_replies_with_their_time_and_without_what_is_no_day() -> None:
    assert pattern("flat") == b"uid:*:pid:*"
    assert entries("flat", b"uid:4:pid:2", [b"20260301", 5000]) == (
        [Entry(Key(4, 2), DAY, 5000)],
        0,
    )
    assert entries("flat", b"uid:4:pid:2", [b"20260301", -1]) == ([Entry(Key(4, 2), DAY, 0)], 0)
    nothing: list[list[Any]] = [
        *([None, -2], [b"20260301", -2], [b"20260301", 0], [b"20261301", 9], [b"x", 9]),
        [ResponseError("WRONGTYPE"), 9],
    ]
    for replies in nothing:
        assert entries("flat", b"uid:4:pid:2", replies) == ([], 0)
    scanned = {b"7": b"20260301", b"x": b"20260301", b"8": b"garbage", b"09": b"20260301"}
    assert look("packed", b"u:4", 17)[0] == ("HSCAN", b"u:4", 17, "COUNT", FIELDS)
    assert entries("packed", b"u:4", [(33, scanned), 5000]) == ([Entry(Key(4, 7), DAY, 5000)], 33)
    assert entries("packed", b"u:4", [ResponseError("WRONGTYPE"), 9]) == ([], 0)


def test_a_large_entry_is_written_in_parts() -> None:
    found = [Entry(Key(4, playlist), DAY, 1000 + playlist) for playlist in range(1, FIELDS + 11)]
    commands = copies(Layout("packed", 30), found)
    assert [number for _, number in commands] == [FIELDS, 10]
    assert {command[3] for command, _ in commands} == {b"u:4"}
    assert commands[0][0][4] == 1000 + FIELDS  # the longest of their times
    assert len(copies(Layout("flat", 30), found)) == len(found)


@pytest.mark.parametrize(
    ("layout", "value", "left", "ours"),
    [
        ("flat", b"20261020", 9, True),
        ("flat", b"20261020", -1, False),
        ("flat", b"something else", 9, False),
        ("flat", ResponseError("WRONGTYPE"), 9, False),
        ("packed", [0, [b"1", b"20261020", b"2", b"20261021"]], 9, True),
        ("packed", [0, [b"1", b"20261020", b"name", b"20261021"]], 9, False),
        ("packed", [0, [b"1", b"20261020", b"2", b"x"]], 9, False),
        ("packed", [0, [b"1", b"20261020"]], -1, False),
        ("packed", [512, [b"1", b"20261020"]], 9, False),
        ("packed", ResponseError("WRONGTYPE"), 9, False),
    ],
)
def test_only_days_with_an_expiry_are_an_entry_that_may_be_removed(
    layout: Literal["packed", "flat"], value: object, left: int, ours: bool
) -> None:
    assert holds_days(layout, value, left) is ours
