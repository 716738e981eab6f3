"""The arithmetic of a benchmark's report."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import stats

values = st.lists(st.floats(0, 1e6), min_size=1, max_size=50)


def test_percentiles_are_values_that_were_measured() -> None:
    hundred = [float(n) for n in range(1, 101)]
    assert stats.percentile(hundred, 0.5) == 50
    assert stats.percentile(hundred, 0.99) == 99
    assert stats.percentile(hundred, 1) == 100
    assert stats.percentile([7.0], 0.01) == 7


@given(values, st.floats(0, 1))
def test_a_percentile_is_the_least_measured_value_that_reaches_the_share(
    found: list[float], share: float
) -> None:
    found.sort()
    value = stats.percentile(found, share)
    assert value in found
    rank = sum(1 for v in found if v <= value)
    assert rank >= share * len(found) - 1e-6
    below = sum(1 for v in found if v < value)
    assert below == 0 or below < share * len(found) + 1e-6


@pytest.mark.parametrize(("found", "share"), [([], 0.5), ([1.0], 1.5), ([1.0], -0.1)])
def test_a_percentile_of_nothing_or_past_the_end_is_refused(
    found: list[float], share: float
) -> None:
    with pytest.raises(ValueError, match=r"needs a value|share"):
        stats.percentile(found, share)


def test_a_summary_keeps_the_lowest_and_the_highest_round() -> None:
    found = stats.summary([3.0, 1.0, 2.0])
    assert (found.median, found.low, found.high, found.count) == (2, 1, 3, 3)
    assert found.spread == 1


def test_a_round_that_is_slow_for_both_does_not_change_the_ratio() -> None:
    ours = {0: 400.0, 1: 40.0, 2: 420.0}
    theirs = {0: 100.0, 1: 10.0, 2: 100.0}
    found = stats.paired(ours, theirs)
    assert (found.median, found.low, found.high) == (4, 4, 4.2)


def test_only_rounds_that_measured_both_are_compared() -> None:
    assert stats.paired({0: 4.0, 1: 9.0}, {0: 2.0, 2: 1.0}).count == 1
    with pytest.raises(ValueError, match="needs a value"):
        stats.paired({0: 1.0}, {1: 1.0})
    with pytest.raises(ValueError, match="ratio to 0"):
        stats.paired({0: 1.0}, {0: 0.0})


def test_a_request_counts_in_the_window_in_which_it_was_due() -> None:
    cut = stats.windows([0.1, 0.2, 0.9, 2.1], [5.0, 7.0, 1.0, 3.0], 0.5)
    assert [(w.start, w.count, w.p99) for w in cut] == [
        (0, 2, 7),
        (0.5, 1, 1),
        (1, 0, 0),
        (1.5, 0, 0),
        (2, 1, 3),
    ]
    assert stats.windows([], [], 1) == []
