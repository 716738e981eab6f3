"""What a node's figures mean for the lookups on it."""

from __future__ import annotations

from datetime import date, timedelta
from unittest.mock import AsyncMock, Mock

import pytest

from failover.redis.nodes import _Absent
from sharding.lookups.capacity import (
    SHORTEST_HISTORY,
    WINDOW,
    Capacity,
    Gauge,
    Reading,
    Sampled,
    alarms,
    full_in,
    is_ours,
    reading,
)
from sharding.lookups.layout import Layout
from sharding.lookups.survey import Survey

TODAY = date(2026, 3, 1)
NOTHING = Sampled(0, 0, None)
MB = 1_000_000


def a_reading(at: float = 0.0, **words: object) -> Reading:
    first = Reading(at, 10 * MB, 100 * MB, "volatile-ttl", 1000, 0, "run1")
    return first._replace(**words)


def seen(*readings: Reading, sampled: Sampled = NOTHING) -> Capacity:
    gauge = Gauge()
    found = [gauge.look(one, sampled, TODAY) for one in readings]
    return found[-1]


def test_days_until_full_follow_from_the_growth() -> None:
    # 1 MB an hour, 90 MB left.
    hours = [a_reading(3600.0 * n, memory=(10 + n) * MB) for n in range(5)]
    found = seen(*hours)

    assert found.growth == pytest.approx(24 * MB)
    assert found.full_in == pytest.approx(86 / 24)


def test_one_short_peak_does_not_make_the_growth() -> None:
    minutes = [a_reading(60.0 * n, memory=10 * MB) for n in range(120)]
    minutes[60] = minutes[60]._replace(memory=40 * MB)
    found = seen(*minutes)

    assert found.growth is not None
    assert abs(found.growth) < 2 * MB


def test_growth_is_not_known_from_a_few_minutes() -> None:
    found = seen(a_reading(0), a_reading(SHORTEST_HISTORY - 1, memory=50 * MB))

    assert (found.growth, found.full_in) == (None, None)


@pytest.mark.parametrize(
    ("words", "growth", "days"),
    [
        ({"maxmemory": 0}, 1.0, None),
        ({"memory": 100 * MB}, None, 0.0),
        ({"memory": 101 * MB}, -1.0, 0.0),
        ({}, None, None),
        ({}, 0.0, None),
        ({}, -5.0, None),
        ({}, 90.0 * MB, 1.0),
    ],
)
def test_full_in(words: dict[str, int], growth: float | None, days: float | None) -> None:
    assert full_in(a_reading(**words), growth) == days


def test_a_node_that_started_again_does_not_shrink() -> None:
    before = [a_reading(600.0 * n, memory=50 * MB) for n in range(4)]
    found = seen(*before, a_reading(2400, memory=1 * MB, run="run2"))

    assert found.growth is None


def test_evictions_raise_the_alarm_for_an_hour_and_those_before_the_first_look_do_not() -> None:
    gauge = Gauge()
    assert not gauge.look(a_reading(0, evicted=500), NOTHING, TODAY).evicted_lately
    found = gauge.look(a_reading(60, evicted=507), NOTHING, TODAY)
    assert found.evicted_lately == 7
    (alarm,) = alarms({"lookup1": found})
    assert alarm == (
        "lookup node lookup1 evicts entries before the retention is over (7 in the last hour,"
        " volatile-ttl): raise its maxmemory or add a node"
    )
    found = gauge.look(a_reading(60 + WINDOW, evicted=507), NOTHING, TODAY)
    assert found.evicted_lately == 7
    found = gauge.look(a_reading(61 + WINDOW, evicted=507), NOTHING, TODAY)
    assert not found.evicted_lately
    assert alarms({"lookup1": found}) == []


def test_evictions_are_counted_anew_after_the_node_started_again() -> None:
    assert seen(a_reading(0, evicted=500), a_reading(9, evicted=3, run="b")).evicted_lately == 3


def test_the_oldest_entry_and_the_number_of_entries_are_those_of_all_samples() -> None:
    gauge = Gauge()
    gauge.look(a_reading(0), Sampled(10, 30, TODAY - timedelta(days=29)), TODAY)
    found = gauge.look(a_reading(60), Sampled(10, 10, TODAY - timedelta(days=2)), TODAY)

    assert found.oldest_days == 29
    assert found.entries == 2000  # 1000 keys with two entries each
    assert found.sampled == 40


def test_without_a_sample_nothing_is_said_of_entries_and_their_age() -> None:
    found = seen(a_reading(0))

    assert (found.entries, found.oldest_days, found.sampled) == (0, None, 0)


@pytest.mark.parametrize(
    ("layout", "key", "ours"),
    [
        ("flat", b"uid:1:pid:2", True),
        ("flat", b"uid:1:pid:2:x", False),
        ("flat", b"u:1", False),
        ("packed", b"u:17", True),
        ("packed", b"tapedeck:probe", False),
        ("packed", None, False),
    ],
)
def test_only_keys_of_the_layout_are_entries(layout: str, key: object, ours: bool) -> None:
    assert is_ours(layout, key) == ours


def test_a_node_that_does_not_say_what_redis_says_is_refused() -> None:
    with pytest.raises(KeyError):
        reading(0.0, {"used_memory": 1}, 0)


async def test_a_node_that_answers_while_this_process_gets_no_cpu_time_is_looked_at_again() -> None:
    """The looks go on for ever: they must not end with this one."""

    node = Mock()
    node.look = AsyncMock(side_effect=_Absent)
    survey = Survey(60)

    await survey.look([node], Layout("flat", 30), TODAY)

    assert survey.found == {}
