"""The calendar of partitions: their names, which are read, which may be dropped."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sharding.partitions.calendar import (
    CLOCKS_AGREE,
    day_of,
    drops_on,
    neighbours,
    oldest_kept,
    parse_day,
    plan_drops,
    readable,
    table,
    tomorrow,
    utc_day,
)

TODAY = date(2026, 3, 1)
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp()
MIDNIGHT = datetime(2026, 3, 1, tzinfo=UTC).timestamp()

days = st.dates(date(2000, 1, 1), date(2099, 12, 31))
retentions = st.integers(1, 400)
clocks = st.floats(0, 4_000_000_000)


def back(*ages: int) -> list[date]:
    return [TODAY - timedelta(days=age) for age in ages]


@given(days)
def test_a_partition_s_day_is_read_from_its_name(day: date) -> None:
    assert day_of(table(day)) == day


def test_a_partition_s_name_has_its_day() -> None:
    assert table(date(2026, 3, 1)) == "player_state_20260301"


@pytest.mark.parametrize(
    "name",
    [
        "player_state_2026030",
        "player_state_202603011",
        "player_state_20260301_old",
        "player_state_20260301 ",
        "player_state_20260301\n",
        " player_state_20260301",
        "xplayer_state_20260301",
        "Player_State_20260301",
        "PLAYER_STATE_20260301",
        "player_states_20260301",
        "player-state-20260301",
        "playerXstateX20260301",
        "player_state_",
        "player_state",
        "player_state_20261301",
        "player_state_20260001",
        "player_state_20260230",
        "player_state_20250229",
        "player_state_00000101",
        "player_state_2026-3-1",
        "player_state_+2260301",
        "player_state_2026 301",
        "player_state_２０２６０３０１",
        "player_state_²0260301",
        "",
    ],
)
def test_a_name_that_only_resembles_a_partition_s_is_not_one(name: str) -> None:
    assert day_of(name) is None


@given(st.text(max_size=24))
def test_only_a_valid_day_is_read_as_a_day(text: str) -> None:
    day = parse_day(text)
    assert day is None or f"{day.year:04}{day:%m%d}" == text


@given(clocks)
def test_days_are_utc_days(seconds: float) -> None:
    begin = datetime.combine(utc_day(seconds), datetime.min.time(), UTC).timestamp()
    assert begin <= seconds < begin + 86400


@given(days)
def test_the_neighbours_of_a_day_are_yesterday_and_tomorrow(day: date) -> None:
    before, after = neighbours(day)
    assert tomorrow(before) == day
    assert after == tomorrow(day)


@given(days, retentions, st.sets(st.integers(-500, 500)))
def test_the_kept_partitions_are_read_the_newest_first(
    today: date, retention: int, ages: set[int]
) -> None:
    existing = [today - timedelta(days=age) for age in ages]

    read = readable(existing, today, retention)

    assert list(read) == sorted(set(read), reverse=True)
    # Tomorrow's too: another gateway's day may be tomorrow already. Later ones are read as well.
    assert set(read) <= set(existing)
    assert {day for day in existing if day >= today - timedelta(days=retention)} <= set(read)
    assert all(day >= oldest_kept(today, retention) for day in read)


def test_a_retention_of_30_days_keeps_the_30th_day_back_and_drops_the_31st() -> None:
    plan = plan_drops(
        back(29, 30, 31, 32),
        mysql_now=NOON,
        local_now=NOON,
        retention=30,
        drop_after=600,
        at_most=3,
    )

    assert plan.days == tuple(back(32, 31))
    assert not plan.refused


@given(days, retentions)
def test_the_announced_day_of_a_drop_is_the_first_on_which_it_is_due(
    day: date, retention: int
) -> None:
    due = datetime.combine(drops_on(day, retention), datetime.min.time(), UTC).timestamp()

    def drops(now: float) -> tuple[date, ...]:
        return plan_drops(
            [day], mysql_now=now, local_now=now, retention=retention, drop_after=0, at_most=1
        ).days

    assert drops(due - 1) == ()
    assert drops(due) == (day,)


@pytest.mark.parametrize(("seconds", "drops"), [(0, 0), (599, 0), (600, 1), (86_399, 1)])
def test_a_partition_is_dropped_some_minutes_after_midnight(seconds: int, drops: int) -> None:
    now = MIDNIGHT + seconds

    plan = plan_drops(
        back(31), mysql_now=now, local_now=now, retention=30, drop_after=600, at_most=3
    )

    assert len(plan.days) == drops


@given(
    mysql_now=clocks,
    local_now=clocks,
    retention=retentions,
    drop_after=st.floats(0, 86_400),
    at_most=st.integers(1, 10),
    force=st.booleans(),
    existing=st.sets(st.dates(date(1970, 1, 2), date(2105, 1, 1)), max_size=60),
)
def test_whatever_the_clocks_say_no_day_within_retention_is_dropped(
    mysql_now: float,
    local_now: float,
    retention: int,
    drop_after: float,
    at_most: int,
    force: bool,
    existing: set[date],
) -> None:
    assume(mysql_now - drop_after >= 0)
    plan = plan_drops(
        existing,
        mysql_now=mysql_now,
        local_now=local_now,
        retention=retention,
        drop_after=drop_after,
        at_most=at_most,
        force=force,
    )

    kept_from = utc_day(mysql_now) - timedelta(days=retention)
    assert set(plan.days) <= {day for day in existing if day < kept_from}
    if not plan.refused and plan.days:
        # Both clocks agree within an hour, and both say that the days are past retention.
        assert abs(mysql_now - local_now) <= CLOCKS_AGREE
        assert force or len(plan.days) <= at_most
        assert all(
            day < utc_day(max(0, local_now - CLOCKS_AGREE)) - timedelta(days=retention - 1)
            for day in plan.days
        )


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("apart", [3601, -3601, 366 * 86400, -366 * 86400])
def test_while_the_clocks_differ_no_partition_is_dropped_even_with_force(
    apart: int, force: bool
) -> None:
    plan = plan_drops(
        back(31),
        mysql_now=NOON,
        local_now=NOON + apart,
        retention=30,
        drop_after=600,
        at_most=3,
        force=force,
    )

    assert plan.days == tuple(back(31))
    assert "clock" in plan.refused
    assert "--force does not" in plan.refused


def test_while_no_drop_is_due_differing_clocks_are_not_reported() -> None:
    plan = plan_drops(
        back(0, 30), mysql_now=NOON, local_now=0, retention=30, drop_after=600, at_most=3
    )

    assert plan.days == ()
    assert plan.refused == ""


@pytest.mark.parametrize(("due", "force", "refused"), [(3, False, 0), (4, False, 1), (4, True, 0)])
def test_more_than_a_few_drops_at_once_need_force(due: int, force: bool, refused: int) -> None:
    plan = plan_drops(
        back(*range(31, 31 + due)),
        mysql_now=NOON,
        local_now=NOON - 3599,
        retention=30,
        drop_after=600,
        at_most=3,
        force=force,
    )

    assert len(plan.days) == due
    assert bool(plan.refused) is bool(refused)
    assert ("--force" in plan.refused) is bool(refused)
