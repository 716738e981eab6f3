"""When a process counts as starved."""

from __future__ import annotations

import pytest

from failover.loop_lag import SPAN, TICK, LoopLag


def ticks(loop_lag: LoopLag, seconds: float, late: float, start: float = 0.0) -> float:
    """Let the loop be late by `late` seconds for a while; the time at the end."""
    now = start
    while now < start + seconds:
        now += TICK + late
        loop_lag.observe(now, late)
    return now


@pytest.mark.parametrize(
    ("late", "starved"),
    [
        (0.0, False),
        (0.01, False),  # a busy machine
        (0.04, False),  # a very busy one
        (0.08, True),  # a container with a tenth of a core: 10 ms in each 100
        (0.5, True),
    ],
)
def test_a_process_is_starved_if_it_misses_much_of_its_time_and_not_on_a_busy_machine(
    late: float, starved: bool
) -> None:
    loop_lag = LoopLag()
    ticks(loop_lag, 2 * SPAN, late)
    assert loop_lag.starved is starved


def test_a_process_is_starved_for_three_seconds_after_a_long_stop() -> None:
    loop_lag = LoopLag()
    now = ticks(loop_lag, SPAN, 0.0)
    now += 10
    loop_lag.observe(now, 10.0)
    assert loop_lag.starved
    now = ticks(loop_lag, SPAN + 0.1, 0.0, now)
    assert not loop_lag.starved


def test_a_slow_start_is_no_starvation() -> None:
    loop_lag = LoopLag()
    loop_lag.observe(5.0, 5.0)
    loop_lag.begin()
    loop_lag.observe(5.02, 0.0)
    assert not loop_lag.starved
