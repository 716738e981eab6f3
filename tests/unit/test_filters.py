"""Filters of sealed days: they rule out no day that has the key, and most days that have not."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
from datetime import date, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sharding.filters.build import build, put, spread_all
from sharding.filters.encoding import (
    FEWEST_SLOTS,
    HEADER_BYTES,
    BadFilter,
    DayFilter,
    Size,
    decode,
    encode,
    plan,
    size_of,
    slots_for,
)
from sharding.filters.filters import PROBES, FilterSet, spread, word_bytes
from sharding.state import Key

FIRST = date(2026, 10, 1)
SEAL = bytes(range(16))

numbers = st.integers(1, 2**63 - 1) | st.integers(1, 50)
keys = st.builds(Key, numbers, numbers)


def made_of(wanted: Iterable[Key]) -> DayFilter:
    packed = b"".join(struct.pack(">QQ", *key) for key in wanted)
    steps = build([spread_all(packed)])
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: DayFilter = end.value
            return found


def days(count: int) -> list[date]:
    return [FIRST + timedelta(number) for number in range(count)]


def set_of(contents: Sequence[Iterable[Key]], slots: int = 0) -> FilterSet:
    made = [made_of(wanted) for wanted in contents]
    size = word_bytes(len(made))
    words = np.zeros((slots or max(one.slots for one in made), size), np.uint8)
    for number, one in enumerate(made):
        for _ in put(words, number, one):
            pass
    return FilterSet(days(len(made)), memoryview(words).cast("B", (words.size,)))


def many(count: int, first_user: int = 1) -> list[Key]:
    """Keys as in production: consecutive users, each with a few playlists."""
    return [Key(first_user + number // 3, 1 + number % 3) for number in range(count)]


@given(st.lists(st.sets(keys, max_size=30), min_size=1, max_size=70))
@settings(deadline=None, max_examples=60)
def test_no_day_that_has_the_key_is_ruled_out(contents: list[set[Key]]) -> None:
    filters = set_of(contents)
    asked = days(len(contents))
    for key in set().union(*contents):
        maybe = filters.maybe(key, asked)
        assert {day for day, has in zip(asked, contents, strict=True) if key in has} <= set(maybe)


@pytest.mark.parametrize("count", [1, 8, 9, 16, 30, 32, 33, 64, 65, 3650])
def test_each_day_is_asked_by_itself_however_many_days_there_are(count: int) -> None:
    asked = days(count)
    filters = set_of([[Key(day + 1, 7)] for day in range(count)])
    assert filters.bytes == FEWEST_SLOTS * word_bytes(count)
    in_vain = 0
    for number, day in list(enumerate(asked))[:: 1 + count // 100]:
        maybe = filters.maybe(Key(number + 1, 7), asked)
        assert day in maybe
        in_vain += len(maybe) - 1
    assert in_vain <= count * count * 1e-4
    assert filters.maybe(Key(10**9, 7), asked) == []


def test_filters_of_different_sizes_are_repeated_or_folded_to_one_size() -> None:
    contents = [many(10), many(3_000, 10_000), many(300, 70_000)]
    sizes = [made_of(wanted).slots for wanted in contents]
    assert sizes == [1024, 32768, 4096]
    for slots in (0, 16384, 1024):
        filters = set_of(contents, slots)
        for day, wanted in zip(days(3), contents, strict=True):
            assert all(day in filters.maybe(key, days(3)) for key in wanted)
    assert not set_of(contents).maybe(Key(123, 456), days(3))


@pytest.mark.parametrize("count", [20_000, 26_000, 13_200])
def test_absent_keys_are_ruled_out_as_often_as_the_size_promises(count: int) -> None:
    filters = set_of([many(count)])
    absent = many(60_000, 10**6)
    in_vain = sum(len(filters.maybe(key, days(1))) for key in absent) / len(absent)
    # Bloom's formula: the share of absent keys that a filter does not rule out.
    expected = (1.0 - math.exp(-PROBES * count / slots_for(count))) ** PROBES
    assert in_vain <= 1.3 * expected + 0.0005
    assert expected < 0.009


def test_a_filter_takes_less_than_one_and_a_half_bytes_for_each_key() -> None:
    assert slots_for(1_500_000) / 8 / 1_500_000 < 1.4
    assert slots_for(1_500_000) // 8 * word_bytes(30) * 8 == 64 << 20


def test_a_day_without_a_filter_may_always_have_the_key() -> None:
    filters = set_of([many(5)])
    today = FIRST + timedelta(30)
    assert filters.maybe(Key(9, 9), [today, FIRST]) == [today]
    assert filters.maybe(Key(1, 1), [today, FIRST]) == [today, FIRST]
    assert FilterSet().maybe(Key(9, 9), [today, FIRST]) == [today, FIRST]
    assert not FilterSet().complete(FIRST)
    assert filters.complete(FIRST)
    assert not filters.complete(today)


def test_only_days_that_were_asked_for_are_returned() -> None:
    filters = set_of([many(5), many(5), many(5)])
    first, second, third = days(3)
    assert filters.maybe(Key(1, 1), [third, first]) == [third, first]
    assert filters.maybe(Key(1, 1), [second]) == [second]
    assert filters.maybe(Key(1, 1), []) == []


@pytest.mark.parametrize("count", [3, 70])
def test_a_discarded_day_is_never_ruled_out(count: int) -> None:
    filters = set_of([[Key(1, day + 1)] for day in range(count)])
    asked = days(count)
    less = filters.without({asked[1]})
    assert less.maybe(Key(5, 5000), asked) == [asked[1]]
    assert less.maybe(Key(1, 3), asked) == [asked[1], asked[2]]
    assert not less.complete(asked[1])
    assert less.complete(asked[2])
    assert filters.complete(asked[1]), "a load that began before still uses the filter"
    assert filters.without({date(2020, 1, 1)}) is filters


@given(st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)), max_size=40))
def test_building_and_asking_spread_a_key_in_the_same_way(pairs: list[tuple[int, int]]) -> None:
    packed = b"".join(struct.pack(">QQ", *pair) for pair in pairs)
    assert spread_all(packed).tolist() == [spread(*pair) for pair in pairs]


def test_the_format_of_stored_filters_does_not_change() -> None:
    """Later versions must read the filters that this version wrote."""
    assert spread(1, 1) == 0x39645964174E43B3
    assert spread(2**63 - 1, 2**62) == 0x5F6307F4112AEBC
    made = made_of([Key(1, 1)])
    there = np.flatnonzero(np.unpackbits(np.frombuffer(made.bits, "u1"), bitorder="little"))
    assert there.tolist() == [17, 280, 327, 637, 684, 947, 994]


def test_a_stored_filter_is_read_back() -> None:
    made = made_of(many(100))
    stored = encode(made, SEAL)
    assert decode(stored, SEAL) == made
    assert size_of(stored[:HEADER_BYTES], SEAL) == Size(100, 1024)


@given(st.data())
def test_a_damaged_filter_is_refused(data: st.DataObject) -> None:
    stored = bytearray(encode(made_of(many(20)), SEAL))
    at = data.draw(st.integers(0, len(stored) - 1))
    stored[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(BadFilter):
        decode(bytes(stored), SEAL)


def test_a_truncated_filter_or_one_of_another_table_is_refused() -> None:
    stored = encode(made_of(many(20)), SEAL)
    for broken in (b"", stored[:10], stored[:-1], stored + b"0", stored[:HEADER_BYTES]):
        with pytest.raises(BadFilter):
            decode(broken, SEAL)
    with pytest.raises(BadFilter, match="another table"):
        decode(stored, bytes(16))


def test_a_filter_of_another_format_is_refused() -> None:
    stored = bytearray(encode(made_of(many(20)), SEAL))
    stored[8] = 2
    with pytest.raises(BadFilter, match="format is 2"):
        decode(bytes(stored), SEAL)


def sizes(*counts: int) -> dict[date, Size]:
    """Sizes of consecutive days, the newest last."""
    return {day: Size(n, slots_for(n)) for day, n in zip(days(len(counts)), counts, strict=True)}


def test_a_month_of_1_5_million_keys_a_day_fits_in_64_mib() -> None:
    chosen = plan(sizes(*[1_500_000] * 30), 64 << 20)
    assert len(chosen.days) == 30
    assert chosen.bytes == 64 << 20
    assert chosen.without == ()


def test_filters_of_a_larger_month_are_folded_and_every_day_keeps_one() -> None:
    chosen = plan(sizes(*[3_000_000] * 30), 64 << 20)
    assert len(chosen.days) == 30
    assert chosen.slots == 2**24 < slots_for(3_000_000)


def test_without_room_for_all_the_oldest_days_have_no_filter() -> None:
    chosen = plan(sizes(*[5_000_000] * 30), 64 << 20)
    assert chosen.days == tuple(days(30)[-16:])
    assert chosen.without == tuple(days(30)[:14])
    assert chosen.bytes <= 64 << 20


def test_a_day_that_is_too_large_does_not_displace_others() -> None:
    chosen = plan(sizes(1000, 10**9, 1000), 1 << 20)
    assert chosen.without == (days(3)[1],)
    assert chosen.slots == slots_for(1000)


def test_filters_of_ten_years_of_small_days_fit_in_64_mib() -> None:
    chosen = plan(sizes(*[10_000] * 3650), 64 << 20)
    assert len(chosen.days) == 3650
    assert chosen.bytes <= 64 << 20


@given(
    st.lists(st.integers(0, 4_000_000), max_size=80),
    st.integers(0, 1 << 27),
)
def test_a_plan_never_exceeds_its_limit(counts: list[int], limit: int) -> None:
    wanted = sizes(*counts)
    chosen = plan(wanted, limit)
    assert chosen.bytes <= limit
    assert set(chosen.days) | set(chosen.without) == set(wanted)
    assert not set(chosen.days) & set(chosen.without)
    assert all(5 * wanted[day].keys <= chosen.slots for day in chosen.days)


def test_words_whose_number_is_no_power_of_two_are_refused() -> None:
    with pytest.raises(ValueError, match="power of two"):
        FilterSet(days(1), memoryview(bytes(1000)))
