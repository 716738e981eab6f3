"""The arithmetic of a report: percentiles, medians, spreads, paired ratios. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from statistics import median


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that `share` (0 to 1) of all values do not exceed (nearest rank).

    Args:
        ordered: ascending.

    Raises:
        ValueError: there is no value, or `share` is not between 0 and 1.
    """
    if not ordered:
        raise ValueError("a percentile needs a value")
    if not 0 <= share <= 1:
        raise ValueError(f"a share lies between 0 and 1, not at {share}")
    # 0.99 * 100 is a little more than 99 in binary: the rank is rounded before it is raised.
    return ordered[max(1, ceil(round(share * len(ordered), 9))) - 1]


@dataclass(frozen=True)
class Summary:
    """The results of several rounds.

    Attributes:
        median: of the rounds.
        low, high: the lowest and the highest of them.
        count: how many there were.
    """

    median: float
    low: float
    high: float
    count: int

    @property
    def spread(self) -> float:
        """From the lowest to the highest, as a share of the median."""
        return (self.high - self.low) / self.median if self.median else 0.0


def summary(values: Iterable[float]) -> Summary:
    """Median and spread.

    Raises:
        ValueError: there is no value.
    """
    found = sorted(values)
    if not found:
        raise ValueError("a summary needs a value")
    return Summary(median(found), found[0], found[-1], len(found))


def paired(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Summary:
    """The ratios within each round that both have: what else the machine did then slowed both.

    Raises:
        ValueError: they have no round in common, or one of theirs is 0.
    """
    rounds = sorted(ours.keys() & theirs.keys())
    if any(theirs[number] == 0 for number in rounds):
        raise ValueError("a ratio to 0 has no value")
    return summary(ours[number] / theirs[number] for number in rounds)


@dataclass(frozen=True)
class Window:
    """Requests that were due in one stretch of time.

    Attributes:
        start: seconds.
        count: how many there were.
        p50, p99: milliseconds; 0 if there was no request.
    """

    start: float
    count: int
    p50: float
    p99: float


def windows(due: Sequence[float], latency: Sequence[float], width: float) -> list[Window]:
    """Cut a run into stretches.

    Args:
        due: seconds from the run's start, by request.
        latency: milliseconds, likewise.
        width: of a stretch, in seconds.
    """
    if not due:
        return []
    cut: list[list[float]] = [[] for _ in range(int(max(due) / width) + 1)]
    for at, took in zip(due, latency, strict=True):
        cut[int(at / width)].append(took)
    found = []
    for number, values in enumerate(cut):
        values.sort()
        p50, p99 = (percentile(values, share) if values else 0.0 for share in (0.5, 0.99))
        found.append(Window(number * width, len(values), p50, p99))
    return found
