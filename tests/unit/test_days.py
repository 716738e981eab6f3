"""The day on MySQL's clock, which the gateway counts on between MySQL's answers."""

from __future__ import annotations

import asyncio
from datetime import date
from typing import cast

import pytest

from failover.mysql.errors import PrimaryUnavailable
from failover.mysql.primary import Primary
from sharding.partitions.calendar import tomorrow
from sharding.partitions.days import Days
from sharding.partitions.shown import BelievedClock

NOON = 1_800_014_400.0
"""2027-01-15 12:00 UTC."""
DAY = date(2027, 1, 15)


class Clock:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def days_at(mysql: float, retention: int = 30) -> tuple[Days, Clock]:
    clock = Clock()
    no_primary = cast(Primary, None)
    days = Days(no_primary, retention, clock, lambda: mysql + clock.seconds - 1000)
    days.observe(int(mysql * 1000))
    return days, clock


def test_the_day_changes_at_midnight_without_an_answer_from_mysql() -> None:
    days, clock = days_at(NOON)
    assert days.today() == DAY
    clock.seconds += 43_199.5
    assert days.today() == DAY

    clock.seconds += 0.5

    assert days.today() == date(2027, 1, 16)
    assert days.oldest() == date(2026, 12, 17)
    clock.seconds += 86_400
    assert days.today() == date(2027, 1, 17)


def test_a_clock_that_is_set_by_less_than_an_hour_is_believed_at_once() -> None:
    days, _ = days_at(NOON + 43_000)
    assert days.today() == DAY

    assert days.observe(int((NOON + 46_000) * 1000))
    assert days.today() == date(2027, 1, 16)
    assert days.observe(int((NOON + 43_000) * 1000))
    assert days.today() == DAY


@pytest.mark.parametrize("seconds", [45 * 86_400, -400 * 86_400, 7200, -7200])
def test_while_the_clock_is_doubted_the_day_is_counted_on_and_requests_are_refused(
    seconds: int,
) -> None:
    days, clock = days_at(NOON)
    days._know({DAY, tomorrow(DAY)})
    clock.seconds += 10

    assert not days.observe(int((NOON + 10 + seconds) * 1000))

    assert days.today() == DAY
    assert days.now() == NOON + 10
    assert not days.settled
    assert "is not trusted" in days.doubt
    with pytest.raises(PrimaryUnavailable, match="is not trusted"):
        asyncio.run(days.ready())

    clock.seconds += 10
    assert days.observe(int((NOON + 20) * 1000))
    assert days.doubt == ""
    assert days.settled


def test_a_doubted_clock_is_believed_when_an_operator_says_so() -> None:
    days, _ = days_at(NOON)
    assert days.believe().was_in_doubt is False
    days.observe(int((NOON + 86_400) * 1000))

    assert days.believe() == BelievedClock(True, "2027-01-16T12:00:00Z")

    assert days.today() == date(2027, 1, 16)
    assert days.observe(int((NOON + 86_401) * 1000))


def test_a_changed_retention_applies_at_once() -> None:
    days, _ = days_at(NOON)
    assert days.oldest() == date(2026, 12, 16)

    days.configure(2)

    assert days.oldest() == date(2027, 1, 13)


def test_days_are_settled_while_today_s_and_tomorrow_s_partition_are_known() -> None:
    days, clock = days_at(NOON)
    assert not days.settled
    days._know({DAY, tomorrow(DAY)})
    assert days.settled

    clock.seconds += 86_400

    assert not days.settled
