"""What clients met during a drill, in numbers: errors by kind, gaps, latency, recovery. No I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import pairwise
from math import ceil
from typing import NamedTuple


class Met(Enum):
    """How one try of a request ended. All but OK, CONFLICT and REROUTED are errors to a client."""

    OK = "answered"
    CONFLICT = "412, as the condition asked for"
    REROUTED = "no connection; sent to another gateway"
    BUSY = "503 with Retry-After"
    SHED = "503 of an overloaded gateway"
    BUSY_SILENT = "503 without Retry-After"
    SERVER = "another 5xx"
    UNEXPECTED = "an unexpected answer"
    CUT = "connection lost while it was open"
    TIMEOUT = "no answer in time"


FINE = frozenset({Met.OK, Met.CONFLICT, Met.REROUTED})


class Try(NamedTuple):
    """One HTTP request. Times in seconds since the drill began.

    Attributes:
        due: when the client meant to send it, or its first try (so that a system that stands still
            cannot hide by being asked less).
        sent: when it was sent.
        ended: when its answer was there, or it failed.
        gateway: the number of the gateway that it went to.
        met: how it ended.
        last: whether the client was content; otherwise it tries again.
    """

    due: float
    sent: float
    ended: float
    gateway: int
    what: str
    met: Met
    last: bool


class Window(NamedTuple):
    """Latency of requests due in a part of a drill, in milliseconds from when they were due."""

    requests: int
    p50: float
    p99: float
    longest: float


def window(tries: Iterable[Try], begin: float, end: float) -> Window:
    """The latency of what was due from `begin` up to `end`."""
    ordered = sorted((t.ended - t.due) * 1000 for t in tries if t.last and begin <= t.due < end)
    if not ordered:
        return Window(0, 0.0, 0.0, 0.0)
    return Window(
        len(ordered),
        round(percentile(ordered, 0.50), 1),
        round(percentile(ordered, 0.99), 1),
        round(ordered[-1], 1),
    )


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value that this share of an ordered list does not exceed (nearest rank)."""
    return ordered[max(0, ceil(len(ordered) * share) - 1)] if ordered else 0.0


def errors(tries: Iterable[Try]) -> Counter[Met]:
    """How many tries ended in an error, by kind."""
    return Counter(t.met for t in tries if t.met not in FINE)


def worst_gap(tries: Iterable[Try], begin: float, end: float) -> float:
    """The longest time, in seconds, in which no request was answered well."""
    times = sorted(t.ended for t in tries if t.met in FINE and begin <= t.ended <= end)
    edges = [begin, *times, end]
    return max(later - earlier for earlier, later in pairwise(edges))


def recovery(
    tries: Iterable[Try], since: float, until: float, end: float, within: float
) -> float | None:
    """Seconds from `since` to the first second in which every request succeeds again.

    Args:
        until: what goes wrong later than that is not what `since` began.
        end: of the load.
        within: seconds from when a request was due in which it must be answered to succeed.

    Returns:
        0 if clients noticed nothing; None if no such second came before the end.
    """
    bad = sorted(
        # What was under way already was felt when it failed, or was answered too late.
        t.due if t.due > since else t.ended
        for t in tries
        if t.ended > since and t.due < end and not well(t, within)
    )
    if not bad or bad[0] > until:
        return 0.0
    return next((at - since for at, later in pairwise([*bad, end]) if later - at >= 1), None)


def well(t: Try, within: float) -> bool:
    """Whether a request succeeded, within so many seconds from when it was due."""
    return t.met in FINE and t.ended - t.due <= within


@dataclass
class Bucket:
    """A slice of time, for the picture."""

    answered: int = 0
    failed: int = 0
    latencies: list[float] = field(default_factory=list)


def buckets(tries: Iterable[Try], width: float, begin: float, end: float) -> list[Bucket]:
    """Slices of `width` seconds from `begin` to `end`: answers by when they came, latency in
    milliseconds by when they were due."""
    slices = [Bucket() for _ in range(max(1, ceil((end - begin) / width)))]

    def at(time: float) -> Bucket:
        return slices[min(len(slices) - 1, max(0, int((time - begin) / width)))]

    for t in tries:
        if t.met in FINE:
            at(t.ended).answered += 1
        else:
            at(t.ended).failed += 1
        if t.last:
            at(t.due).latencies.append((t.ended - t.due) * 1000)
    return slices
