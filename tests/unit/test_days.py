"""Today by MySQL's clock, counted on between its answers."""

from __future__ import annotations

from datetime import date

from tapedeck.sharding.days import Days
from tapedeck.sharding.partitions import tomorrow

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
    days = Days(retention, clock)
    days.observe(int(mysql * 1000))
    return days, clock


def test_the_day_changes_at_midnight_without_a_word_from_mysql() -> None:
    days, clock = days_at(NOON)
    assert days.today() == DAY
    clock.seconds += 43_199.5
    assert days.today() == DAY

    clock.seconds += 0.5

    assert days.today() == date(2027, 1, 16)
    assert days.oldest() == date(2026, 12, 17)
    clock.seconds += 86_400
    assert days.today() == date(2027, 1, 17)


def test_a_clock_that_mysql_sets_is_believed_at_once_in_both_directions() -> None:
    days, _ = days_at(NOON)
    assert days.today() == DAY

    days.observe(int((NOON + 86_400) * 1000))
    assert days.today() == date(2027, 1, 16)
    days.observe(int((NOON - 86_400) * 1000))
    assert days.today() == date(2027, 1, 14)


def test_another_retention_holds_at_once() -> None:
    days, _ = days_at(NOON)
    assert days.oldest() == date(2026, 12, 16)

    days.configure(2)

    assert days.oldest() == date(2027, 1, 13)


def test_it_is_settled_while_both_partitions_that_are_written_are_known() -> None:
    days, clock = days_at(NOON)
    assert not days.settled
    days._know({DAY, tomorrow(DAY)})
    assert days.settled

    clock.seconds += 86_400

    assert not days.settled
