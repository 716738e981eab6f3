"""What clients met, in numbers."""

from __future__ import annotations

import pytest

from drills.measure import Met, Try, buckets, errors, percentile, recovery, window
from drills.measure import worst_gap as gap


def tried(due: float, ended: float, met: Met = Met.OK, sent: float | None = None) -> Try:
    return Try(due, due if sent is None else sent, ended, 0, "next", met, met is Met.OK)


def steady(begin: float, end: float, took: float = 0.01) -> list[Try]:
    return [tried(begin + n / 10, begin + n / 10 + took) for n in range(int((end - begin) * 10))]


def test_latency_counts_from_when_a_request_was_due_not_from_when_it_was_sent() -> None:
    late = tried(1.0, 3.0, sent=2.9)
    assert window([late], 0, 10).longest == 2000.0


def test_a_window_holds_what_was_due_in_it() -> None:
    tries = steady(0, 10)
    assert window(tries, 2, 4).requests == 20
    assert window(tries, 20, 30).requests == 0


@pytest.mark.parametrize(("share", "value"), [(0.5, 50), (0.99, 99), (1.0, 100)])
def test_percentiles_are_nearest_ranks(share: float, value: float) -> None:
    assert percentile(list(range(1, 101)), share) == value


def test_conflicts_and_reroutes_are_no_errors() -> None:
    tries = [tried(0, 1, met) for met in Met]
    assert set(errors(tries)) == set(Met) - {Met.OK, Met.CONFLICT, Met.REROUTED}


def test_the_worst_gap_is_between_good_answers() -> None:
    tries = [*steady(0, 2), tried(3, 3.1, Met.BUSY), *steady(5, 8)]
    assert gap(tries, 0, 8) == pytest.approx(3.1, abs=0.01)


def test_recovery_is_when_all_that_is_sent_is_served_again() -> None:
    tries = [*steady(0, 5), tried(5.0, 5.1, Met.BUSY), tried(6.0, 6.1, Met.BUSY), *steady(6.2, 9)]
    assert recovery(tries, 5.0, slow=1.0) == pytest.approx(1.21, abs=0.01)


def test_without_a_good_answer_after_the_last_bad_one_nothing_recovered() -> None:
    assert recovery([*steady(0, 5), tried(6, 6.1, Met.BUSY)], 5.0, slow=1.0) is None


def test_slow_answers_are_not_as_before() -> None:
    tries = [tried(5.0, 7.5), tried(8.0, 8.01)]
    assert recovery(tries, 5.0, slow=1.0) == pytest.approx(3.01)


def test_buckets_hold_every_try_once() -> None:
    tries = [*steady(0, 5), tried(2, 2.5, Met.CUT)]
    slices = buckets(tries, 0.5, 5.0)
    assert sum(one.answered for one in slices) == 50
    assert sum(one.failed for one in slices) == 1
    assert sum(len(one.latencies) for one in slices) == 50
