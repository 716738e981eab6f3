"""The calendar of day partitions: their names, which are read, which are dropped. No I/O.

A day is a UTC day. T is MySQL's day. Partitions from T-retention to T+1 are kept. Gateways create
only T and T+1, so that a dropped partition stays dropped; an import creates any within retention.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache

PREFIX = "player_state_"
"""The default of `partitions.prefix`."""
_prefix = PREFIX
_DAY = timedelta(days=1)
CLOCKS_AGREE = 3600.0
"""Seconds by which the gateway's and MySQL's clocks may differ; beyond it nothing is dropped."""


def prefix() -> str:
    """The beginning of every partition's name."""
    return _prefix


def call_tables(prefix: str) -> None:
    """Set the prefix of all partitions' names in this process, which has one configuration."""
    global _prefix
    _prefix = prefix
    table.cache_clear()


@lru_cache(512)
def table(day: date) -> str:
    """The name of a day's table: the prefix and YYYYMMDD."""
    return f"{_prefix}{day:%Y%m%d}"


@lru_cache(512)
def number_of(day: date) -> int:
    return int(f"{day:%Y%m%d}")


def day_of(name: str) -> date | None:
    """The day in a table's name; None for any name that is not exactly a partition's.

    A day outside the years that a gateway can have created is not a partition's either.
    """
    if not name.startswith(_prefix):
        return None
    day = parse_day(name.removeprefix(_prefix))
    return day if day is not None and 1970 <= day.year < 2200 else None


def parse_day(text: str) -> date | None:
    """`YYYYMMDD` as a day; None for anything else."""
    if len(text) != 8 or not text.isascii() or not text.isdigit():
        return None
    try:
        return date(int(text[:4]), int(text[4:6]), int(text[6:]))
    except ValueError:
        return None


def utc_day(seconds: float) -> date:
    return datetime.fromtimestamp(seconds, UTC).date()


def mysql_day(clock: float, mark: date) -> date:
    """MySQL's day (see `seal_mark`): the newer of its clock's and the day after the mark.

    Args:
        clock: MySQL's, seconds since 1970.
        mark: the newest sealed day.
    """
    return max(utc_day(clock), tomorrow(mark))


def oldest_kept(today: date, retention: int) -> date:
    """The first day that is kept: T-retention."""
    return today - timedelta(days=retention)


def drops_on(day: date, retention: int) -> date:
    """The day on which a day's partition is dropped."""
    return day + timedelta(days=retention + 1)


def neighbours(day: date) -> tuple[date, date]:
    """The days before and after a day, where a concurrent create may have put the same key."""
    return day - _DAY, day + _DAY


def yesterday(day: date) -> date:
    return day - _DAY


def tomorrow(day: date) -> date:
    return day + _DAY


def readable(existing: Iterable[date], today: date, retention: int) -> tuple[date, ...]:
    """The partitions that a load without a hint reads, newest first.

    Those within retention, and any later than today: another gateway's day may be tomorrow already,
    and a clock that was set back must not hide rows that were written before.
    """
    oldest = oldest_kept(today, retention)
    return tuple(sorted((day for day in existing if day >= oldest), reverse=True))


@dataclass(frozen=True, slots=True)
class Drops:
    """What a prune would do.

    Attributes:
        days: due to be dropped, oldest first.
        refused: why none of them may be dropped; empty if they may.
    """

    days: tuple[date, ...] = ()
    refused: str = ""


def plan_drops(
    existing: Iterable[date],
    *,
    mysql_now: float,
    local_now: float,
    retention: int,
    drop_after: float,
    at_most: int,
    force: bool = False,
) -> Drops:
    """Decide what to drop.

    Args:
        existing: the days of all partitions.
        mysql_now: MySQL's clock, seconds since 1970.
        local_now: this machine's clock, likewise.
        retention: days a state is kept.
        drop_after: seconds past midnight, in which reads of a partition can end.
        at_most: refuse to drop more than this many at once.
        force: drop more than `at_most`. Clocks that disagree refuse all the same.
    """
    # By the clock `drop_after` ago: a partition is due some minutes after reads of it ended.
    oldest = oldest_kept(utc_day(mysql_now - drop_after), retention)
    due = tuple(sorted(day for day in existing if day < oldest))
    apart = abs(mysql_now - local_now)
    if due and apart > CLOCKS_AGREE:
        return Drops(
            due,
            f"{clocks_differ(apart)} (--force does not override this)",
        )
    if len(due) > at_most and not force:
        return Drops(
            due,
            f"{len(due)} partitions are past retention, more than {at_most} at once: "
            "look whether the retention and the clocks are right, then use --force",
        )
    return Drops(due)


def clocks_differ(apart: float) -> str:
    """A sentence for clocks that differ by some seconds."""
    return f"this machine's clock and MySQL's differ by {span(abs(apart))}: set the wrong one right"


def span(seconds: float) -> str:
    """A number of seconds in words.

    >>> span(93_600), span(90)
    ('1.1 days', '90 s')
    """
    for unit, size in (("days", 86_400), ("hours", 3600)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.3g} s"
