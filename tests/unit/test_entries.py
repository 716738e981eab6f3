"""How an entry of a lookup node is written, read and pruned, in both layouts."""

from __future__ import annotations

from datetime import date, timedelta
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.model import LayoutName
from sharding.lookups.hint_rules import GARBAGE, NOTHING, hint_of
from sharding.lookups.layout import Layout
from sharding.state import PLAYLIST_MAX, Key

KEY = Key(7, 11)
DAY = date(2026, 3, 1)
PACKED = Layout("packed", 30)
FLAT = Layout("flat", 30)
NAMES: tuple[LayoutName, ...] = get_args(LayoutName)

ids = st.integers(1, PLAYLIST_MAX)
keys = st.builds(Key, ids, ids)
days = st.dates(date(1000, 1, 1), date(9999, 12, 31))


def test_a_flat_entry_is_what_the_original_system_writes() -> None:
    assert FLAT.ask(KEY) == ("GET", b"uid:7:pid:11")
    assert FLAT.put(KEY, DAY) == [("SET", b"uid:7:pid:11", b"20260301", "EX", 32 * 86400)]


def test_a_packed_entry_is_a_hash_for_each_user_with_a_field_for_each_playlist() -> None:
    assert PACKED.ask(KEY) == ("HGET", b"u:7", b"11")
    assert PACKED.put(KEY, DAY)[:2] == [
        ("HSET", b"u:7", b"11", b"20260301"),
        ("EXPIRE", b"u:7", 32 * 86400),
    ]


@pytest.mark.parametrize("name", NAMES)
@given(key=keys, day=days)
def test_an_entry_is_read_back_as_the_day_that_was_put(
    name: LayoutName, key: Key, day: date
) -> None:
    put = Layout(name, 30).put(key, day)[0]

    assert hint_of(put[2] if name == "flat" else put[3]).day == day


@pytest.mark.parametrize("name", NAMES)
@given(key=keys, day=days)
def test_every_command_about_a_key_names_the_key_by_which_the_ring_places_it(
    name: LayoutName, key: Key, day: date
) -> None:
    layout = Layout(name, 30)

    commands = [layout.ask(key), *layout.put(key, day)]

    assert {command[1] for command in commands} == {layout.ring_key(key)}


@pytest.mark.parametrize("name", NAMES)
@given(one=keys, other=keys)
def test_two_keys_never_share_an_entry(name: LayoutName, one: Key, other: Key) -> None:
    layout = Layout(name, 30)

    assert (layout.ask(one) == layout.ask(other)) is (one == other)


@pytest.mark.parametrize("name", NAMES)
def test_an_entry_expires_later_than_its_state(name: LayoutName) -> None:
    numbers = [word for command in Layout(name, 7).put(KEY, DAY) for word in command]

    assert 9 * 86400 in numbers


def test_a_missing_entry_is_not_garbage() -> None:
    assert hint_of(None) == NOTHING


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"garbage",
        b"20261301",
        b"20260230",
        b"00000000",
        b"2026030",
        b"202603011",
        b"2026-3-1",
        b"-2026031",
        b" 2026031",
        b"\xff\xfe\x80\x81\x82\x83\x84\x85",
        b"\xb2\xb2\xb2\xb2\xb2\xb2\xb2\xb2",
        "20260301",
        20260301,
        [b"20260301"],
        True,
        {},
    ],
)
def test_a_reply_that_is_no_day_is_garbage(reply: object) -> None:
    assert hint_of(reply) == GARBAGE


@given(st.binary(max_size=16))
def test_bytes_are_read_only_as_the_day_that_they_spell(reply: bytes) -> None:
    day = hint_of(reply).day
    assert day is None or f"{day.year:04}{day:%m%d}".encode() == reply


@given(st.dictionaries(ids, st.integers(-60, 60), max_size=20))
def test_pruning_removes_exactly_the_fields_past_retention(ages: dict[int, int]) -> None:
    fields = {
        b"%d" % playlist: f"{DAY - timedelta(days=age):%Y%m%d}".encode()
        for playlist, age in ages.items()
    }
    flat = [word for pair in fields.items() for word in pair]
    oldest = DAY - timedelta(days=30)

    command = PACKED.prune(b"u:7", [0, flat], oldest)

    gone = {b"%d" % playlist for playlist, age in ages.items() if age > 30}
    if gone:
        assert command is not None
        assert command[:2] == ("HDEL", b"u:7")
        assert set(command[2:]) == gone
    else:
        assert command is None


def test_pruning_keeps_fields_that_are_no_entries() -> None:
    fields = {b"11": b"garbage", b"x": b"", b"12": b"2000010"}
    fields |= {b"born": b"20000101", b"007": b"20000101", b"0": b"20000101", b"9" * 19: b"20000101"}

    assert PACKED.prune(b"u:7", [0, fields], DAY) is None


@pytest.mark.parametrize("scanned", [None, b"OK", [], [0], [0, None], [0, [b"odd"]], (0, {}), 5])
def test_an_odd_answer_to_the_scan_prunes_nothing(scanned: object) -> None:
    assert PACKED.prune(b"u:7", scanned, DAY) is None


def test_a_hash_is_scanned_for_old_fields_after_a_field_was_added() -> None:
    assert PACKED.look_for_old(KEY, 1) == ("HSCAN", b"u:7", 0, "COUNT", 512)
    assert PACKED.look_for_old(KEY, 0) is None


def test_flat_entries_expire_by_themselves() -> None:
    assert FLAT.look_for_old(KEY, b"OK") is None
