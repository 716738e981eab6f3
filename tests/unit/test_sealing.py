"""Which days are due to be sealed, and how work in the background leaves time for requests."""

from __future__ import annotations

import time
from collections.abc import Generator
from datetime import date, timedelta

import pytest

from sharding.filters.unhurried import SHARE, unhurried
from sharding.partitions.sealing import due, page
from sharding.state import Key

TODAY = date(2026, 10, 20)
MIDNIGHT = 1_792_454_400.0
LONG_AGO = date(1970, 1, 1)


def ago(days: int) -> date:
    return TODAY - timedelta(days=days)


def days_due(
    *existing: date, at: float = 600.0, mark: date = LONG_AGO, done: tuple[date, ...] = ()
) -> list[date]:
    return due(existing, done, mysql_now=MIDNIGHT + at, mark=mark, seal_after=300.0, retention=30)


def test_days_that_are_over_are_due_oldest_first() -> None:
    assert days_due(TODAY, ago(1), ago(5), ago(-1)) == [ago(5), ago(1)]


@pytest.mark.parametrize(("at", "expected"), [(299.0, []), (301.0, [ago(1)])])
def test_yesterday_is_due_some_minutes_after_midnight(at: float, expected: list[date]) -> None:
    assert days_due(ago(1), at=at) == expected


def test_a_sealed_day_is_not_due() -> None:
    assert days_due(ago(1), ago(2), done=(ago(1),)) == [ago(2)]


def test_a_day_past_retention_is_not_due() -> None:
    assert days_due(ago(30), ago(31)) == [ago(30)]


def test_a_marked_day_is_due_whatever_the_clock_says() -> None:
    assert days_due(ago(-1), TODAY, ago(1), mark=TODAY) == [ago(1), TODAY]


def test_a_page_begins_after_the_last_key_of_the_page_before() -> None:
    assert "WHERE" not in page(TODAY, None)
    assert "WHERE user_id>7 OR (user_id=7 AND playlist_id>9)" in page(TODAY, Key(7, 9))


async def test_background_work_takes_only_its_share_of_the_time() -> None:
    worked = 0.0

    def work() -> Generator[None, None, str]:
        nonlocal worked
        for _ in range(5):
            began = time.perf_counter()
            while time.perf_counter() - began < 0.002:
                pass
            worked += time.perf_counter() - began
            yield
        return "done"

    began = time.perf_counter()
    assert await unhurried(work()) == "done"
    assert time.perf_counter() - began >= 0.9 * worked / SHARE
