"""The probe budget: what it lets through is never more than its rate and burst allow."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tapedeck.failover.budget import Budget

RATES = st.floats(0.5, 1000)
ARRIVALS = st.lists(st.floats(0, 2), min_size=1, max_size=60)


@given(RATES, st.integers(1, 20), ARRIVALS, st.floats(0, 5))
def test_what_starts_in_any_span_is_within_rate_and_burst(
    rate: float, burst: int, gaps: list[float], longest: float
) -> None:
    budget = Budget(rate, burst, burst, 0.0)
    now, starts = 0.0, []
    for gap in gaps:
        now += gap
        taken, wait = budget.take(now, longest)
        if taken:
            assert wait <= longest
            starts.append(now + wait)
    for first, begin in enumerate(starts):
        for count, end in enumerate(starts[first:], 1):
            assert count <= burst + (end - begin) * rate + 1e-6


@given(RATES, st.integers(1, 20), ARRIVALS)
def test_whoever_waits_goes_in_the_order_of_arrival(
    rate: float, burst: int, gaps: list[float]
) -> None:
    budget = Budget(rate, burst, burst, 0.0)
    now, last = 0.0, 0.0
    for gap in gaps:
        now += gap
        taken, wait = budget.take(now, float("inf"))
        assert taken
        assert now + wait >= last - 1e-6
        last = now + wait


def test_a_refusal_takes_nothing_from_those_who_can_wait() -> None:
    budget = Budget(rate=1, burst=1, tokens=1, at=0)
    assert budget.take(0, 0) == (True, 0)

    for _ in range(100):
        assert budget.take(0, 0.5)[0] is False

    assert budget.take(0, 1) == (True, 1)
