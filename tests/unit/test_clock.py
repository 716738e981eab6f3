"""When MySQL's clock is believed: the rule, tested with any sequence of clock jumps."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import assume, given
from hypothesis import strategies as st

from sharding.partitions.calendar import tomorrow, utc_day
from sharding.partitions.clock import Clock

HOUR, DAY = 3600.0, 86_400.0
START = 1_800_014_400.0
"""2027-01-15 12:00 UTC: the true time when the steady clock shows 0."""

errors = st.sampled_from([0.0, 1.0, -1800.0, 3599.0, 3601.0, 2 * HOUR, -2 * HOUR, 45 * DAY]) | (
    st.floats(-400 * DAY, 400 * DAY)
)
steps = st.floats(0, 2 * DAY)
TODAYS = (utc_day(START), tomorrow(utc_day(START)))


def told_once(wall_error: float = 0.0) -> Clock:
    """A clock that was told the true time at the start, by a database in use."""
    clock = Clock()
    assert clock.check(START, START + wall_error, 0.0, TODAYS)
    return clock


@given(st.lists(st.tuples(steps, errors, errors), max_size=30))
def test_only_a_reading_that_one_witness_supports_moves_the_time(
    readings: list[tuple[float, float, float]],
) -> None:
    clock, steady, agreed = told_once(), 0.0, START
    for step, mysql_error, wall_error in readings:
        steady += step
        told, wall = START + steady + mysql_error, START + steady + wall_error
        before = clock.offset

        believed = clock.check(told, wall, steady)

        if abs(told - wall) <= HOUR:
            assert believed
            agreed = told - steady
        else:
            assert believed == (abs(told - steady - agreed) <= HOUR)
        assert believed == (not clock.doubt)
        assert clock.offset == (told - steady if believed else before)


@given(st.lists(st.tuples(steps, errors), max_size=30))
def test_while_this_machine_s_clock_is_right_the_time_is_at_most_two_hours_off(
    readings: list[tuple[float, float]],
) -> None:
    clock, steady = told_once(), 0.0
    for step, mysql_error in readings:
        steady += step
        clock.check(START + steady + mysql_error, START + steady, steady)
        assert clock.offset is not None
        # This reading may be an hour off, and the agreed time another hour.
        assert abs(clock.offset - START) <= 2 * HOUR + 1e-3


@given(errors, st.lists(st.tuples(steps, errors), max_size=30))
def test_if_only_this_machine_s_clock_is_wrong_mysql_s_is_still_believed(
    wall_error: float, readings: list[tuple[float, float]]
) -> None:
    clock, steady = told_once(wall_error), 0.0
    for step, jump in readings:
        steady += step
        assert clock.check(START + steady, START + steady + jump, steady)


@given(errors, errors, st.lists(st.tuples(steps, errors), min_size=1, max_size=10), steps)
def test_after_jumps_that_were_not_believed_the_right_time_is_believed_at_once(
    wall_error: float, jump: float, readings: list[tuple[float, float]], step: float
) -> None:
    clock, steady = told_once(wall_error), 0.0
    for moved, error in readings:
        steady += moved
        told = START + steady + jump + error
        assume(abs(told - START - steady) > HOUR + 1)
        assume(abs(told - START - steady - wall_error) > HOUR + 1)
        assert not clock.check(told, START + steady + wall_error, steady)
    steady += step
    assert clock.check(START + steady, START + steady + wall_error, steady)
    assert not clock.doubt


@given(errors, errors, st.booleans())
def test_at_the_first_contact_the_partitions_are_the_other_witness(
    mysql_error: float, wall_error: float, used: bool
) -> None:
    clock, told, wall = Clock(), START + mysql_error, START + wall_error
    agree = abs(told - wall) <= HOUR
    assert clock.check(told, wall, 0.0) == agree
    fits = not used or utc_day(told) in (TODAYS[0], TODAYS[1])

    assert clock.check(told, wall, 0.0, TODAYS if used else ()) == (agree or fits)


def test_a_gateway_that_starts_while_mysql_s_clock_is_weeks_off_does_not_believe_it() -> None:
    clock = Clock()
    days = [TODAYS[1] - timedelta(days=age) for age in range(32)]
    for jump in (45 * DAY, -20 * DAY, -400 * DAY):
        assert not clock.check(START + jump, START, 0.0, days)
        assert clock.offset is None
    assert clock.check(START, START + 2 * HOUR, 0.0, days), "its own clock may be off"


@given(errors, steps)
def test_a_clock_that_an_operator_confirmed_is_believed_later_too(jump: float, step: float) -> None:
    assume(abs(jump) > HOUR + 1)
    clock = told_once()
    assert not clock.check(START + jump, START, 0.0)
    assert clock.believe()
    assert not clock.believe()
    assert clock.check(START + jump + step, START + step, step)
    assert clock.check(START + step, START + step, step), "the true time is still believed"


def test_the_doubt_says_what_is_wrong_and_what_to_do() -> None:
    clock = told_once()
    clock.check(START + 45 * DAY, START, 0.0)
    assert clock.doubt == (
        "MySQL's clock is not trusted: it says 2027-03-01, 45.0 days ahead of this machine's"
        " clock, and contradicts what this gateway counted since MySQL's last good answer. Set the"
        " wrong clock right; if MySQL's is right, say so: tapedeck partitions believe-clock"
    )
