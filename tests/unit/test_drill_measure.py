"""How a drill measures what clients met: latency, errors, gaps and recovery."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drills.measure import Met, Try, buckets, errors, percentile, recovery, window
from drills.measure import worst_gap as gap


def tried(due: float, ended: float, met: Met = Met.OK, sent: float | None = None) -> Try:
    return Try(due, due if sent is None else sent, ended, 0, "next", met, met is Met.OK)


def steady(begin: float, end: float, took: float = 0.01) -> list[Try]:
    return [tried(begin + n / 10, begin + n / 10 + took) for n in range(int((end - begin) * 10))]


def test_latency_counts_from_when_a_request_was_due_and_not_from_when_it_was_sent() -> None:
    late = tried(1.0, 3.0, sent=2.9)
    assert window([late], 0, 10).longest == 2000.0


def test_a_window_has_the_requests_that_were_due_in_it() -> None:
    tries = steady(0, 10)
    assert window(tries, 2, 4).requests == 20
    assert window(tries, 20, 30).requests == 0


@pytest.mark.parametrize(("share", "value"), [(0.5, 50), (0.99, 99), (1.0, 100)])
def test_a_percentile_is_the_value_of_the_nearest_rank(share: float, value: float) -> None:
    assert percentile(list(range(1, 101)), share) == value


def test_conflicts_and_reroutes_are_no_errors() -> None:
    tries = [tried(0, 1, met) for met in Met]
    assert set(errors(tries)) == set(Met) - {Met.OK, Met.CONFLICT, Met.REROUTED}


def test_the_worst_gap_is_the_longest_time_between_good_answers() -> None:
    tries = [*steady(0, 2), tried(3, 3.1, Met.BUSY), *steady(5, 8)]
    assert gap(tries, 0, 8) == pytest.approx(3.1, abs=0.01)


def recovered(tries: list[Try], since: float = 5.0, until: float = 8.0) -> float | None:
    return recovery(tries, since, until, end=20.0, within=0.25)


def test_recovery_begins_with_the_first_second_in_which_every_request_succeeds() -> None:
    failed = [tried(5 + n / 2, 5.1 + n / 2, Met.BUSY) for n in range(1, 4)]
    assert recovered([*steady(0, 5), *failed, *steady(6.6, 20)]) == pytest.approx(1.5)


def test_a_request_under_way_at_the_fault_counts_from_when_it_failed() -> None:
    assert recovered([*steady(0, 20), tried(4.9, 5.4, Met.CUT)]) == pytest.approx(0.4)
    assert recovered([*steady(0, 20), tried(4.9, 5.4, Met.CUT), tried(5.5, 6.5)]) == pytest.approx(
        0.5
    )


def test_an_answer_later_than_the_objective_is_no_success() -> None:
    assert recovered([*steady(0, 20), tried(7.0, 7.3)]) == pytest.approx(2.0)
    assert recovered([*steady(0, 20), tried(7.0, 7.3, sent=7.29)]) == pytest.approx(2.0)


def test_a_fault_that_no_client_noticed_has_a_recovery_of_zero() -> None:
    assert recovered(steady(0, 20)) == 0.0


def test_an_error_long_after_the_fault_is_not_counted() -> None:
    assert recovered([*steady(0, 20), tried(9.0, 9.1, Met.SERVER)]) == 0.0


def test_without_a_whole_second_of_success_there_is_no_recovery() -> None:
    tries = [tried(n / 3, n / 3 + 0.01, Met.BUSY if n % 2 else Met.OK) for n in range(60)]
    assert recovered(tries) is None


@given(st.lists(st.floats(5.01, 19), max_size=20))
def test_recovery_names_the_first_second_without_an_error(bad: list[float]) -> None:
    tries = [*steady(0, 20), *(tried(at, at + 0.01, Met.SERVER) for at in bad)]
    took = recovered(tries, until=20.0)
    if took is None:
        assert all(later - at < 1 for at, later in pairwise([*sorted(bad), 20.0]))
    else:
        assert not any(5 + took < at < 5 + took + 1 for at in bad)
        assert took == 0 or 5 + took in [pytest.approx(at) for at in bad]


def test_every_try_is_in_one_bucket() -> None:
    tries = [*steady(0, 5), tried(2, 2.5, Met.CUT)]
    slices = buckets(tries, 0.5, 0.0, 5.0)
    assert sum(one.answered for one in slices) == 50
    assert sum(one.failed for one in slices) == 1
    assert sum(len(one.latencies) for one in slices) == 50


def test_the_buckets_begin_when_the_load_began() -> None:
    slices = buckets([tried(3.1, 3.2), tried(4.9, 4.95)], 0.5, 3.0, 5.0)
    assert [one.answered for one in slices] == [1, 0, 0, 1]
