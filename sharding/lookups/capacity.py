"""Whether lookups live as long as the retention: what a node's figures mean. No I/O.

A lookup may vanish before its state does. Nothing is lost by that, but each one costs a wider read,
so operators must see it coming (the days until a node's memory is full, the age of its oldest
entries) and see it happen (evictions).

An entry's age is the age of the day that it holds: it is written when a state is first touched on
a day, and lives (retention + `entries.EXTRA_DAYS`) days from then.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from statistics import linear_regression
from typing import Any, NamedTuple

DAY = 86_400.0
WINDOW = 3_600.0
"""Seconds in which evictions raise the alarm."""
SPACING = 60.0
"""Seconds between two readings that are kept for the growth."""
MOST_READINGS = 1_440
SHORTEST_HISTORY = 600.0
"""Seconds: growth is not known sooner. A few minutes of a busy hour say nothing of days."""

_OURS = {
    "flat": re.compile(rb"uid:\d+:pid:\d+"),
    "packed": re.compile(rb"u:\d+"),
}


class Reading(NamedTuple):
    """What a node said of itself.

    Attributes:
        at: seconds, on a clock that never jumps.
        memory: bytes used.
        maxmemory: bytes it may use; 0 for no limit.
        policy: its maxmemory-policy.
        keys: of every kind, in the database that the gateway uses.
        evicted: keys evicted since it started.
        run: its run id: another one means that it started again.
    """

    at: float
    memory: int
    maxmemory: int
    policy: str
    keys: int
    evicted: int
    run: str


class Sampled(NamedTuple):
    """What a sample of a node's keys showed.

    Attributes:
        entries: lookups in the keys looked at; in the packed layout a key holds several.
        keys: how many of our layout were looked at.
        oldest: the oldest day among them; None without any.
    """

    keys: int
    entries: int
    oldest: date | None


def is_ours(layout: str, key: object) -> bool:
    """Whether a key is a lookup of the layout."""
    return isinstance(key, bytes) and _OURS[layout].fullmatch(key) is not None


def reading(at: float, info: Mapping[str, Any], keys: int) -> Reading:
    """Read INFO's answer.

    Raises:
        KeyError, ValueError: it lacks what every Redis says.
    """
    return Reading(
        at=at,
        memory=int(info["used_memory"]),
        maxmemory=int(info.get("maxmemory", 0)),
        policy=str(info.get("maxmemory_policy", "noeviction")),
        keys=keys,
        evicted=int(info["evicted_keys"]),
        run=str(info["run_id"]),
    )


@dataclass(frozen=True, slots=True)
class Capacity:
    """How a node stands.

    Attributes:
        entries: lookups on it, estimated by the sample in the packed layout.
        evicted: keys evicted since the node started.
        evicted_lately: of these within WINDOW, as far as this process has seen it.
        oldest_days: age in days of the oldest entry of the samples; None without any.
        growth: bytes a day at the present pace; None while that is not known.
        full_in: days until the memory is full at that pace; None for never, or not known.
    """

    now: Reading
    entries: int
    evicted_lately: int
    oldest_days: int | None
    sampled: int
    growth: float | None
    full_in: float | None

    def as_json(self) -> dict[str, Any]:
        """As `/ring` and `tapedeck ring show` have it."""
        return {
            "memory_bytes": self.now.memory,
            "maxmemory_bytes": self.now.maxmemory or None,
            "maxmemory_policy": self.now.policy,
            "keys": self.now.keys,
            "entries": self.entries,
            "evicted": self.now.evicted,
            "evicted_last_hour": self.evicted_lately,
            "oldest_entry_days": self.oldest_days,
            "sampled_entries": self.sampled,
            "growth_bytes_per_day": None if self.growth is None else round(self.growth),
            "full_in_days": None if self.full_in is None else round(self.full_in, 1),
        }


class Gauge:
    """What is remembered of one node between two looks."""

    def __init__(self) -> None:
        self._readings: deque[Reading] = deque(maxlen=MOST_READINGS)
        self._evictions: deque[tuple[float, int]] = deque()
        self._last: Reading | None = None
        self._samples: deque[Sampled] = deque(maxlen=64)

    def look(self, now: Reading, sampled: Sampled, today: date | None) -> Capacity:
        """Take a reading in; say how the node stands.

        Args:
            today: for the age of the oldest entry; None while MySQL was not heard yet.
        """
        self._evict(now)
        if self._readings and self._readings[-1].run != now.run:
            self._readings.clear()  # what it had before it started again is no growth
            self._samples.clear()
        if not self._readings or now.at - self._readings[-1].at >= SPACING:
            self._readings.append(now)
        self._samples.append(sampled)
        growth = self._growth(now)
        looked = sum(sample.keys for sample in self._samples)
        found = sum(sample.entries for sample in self._samples)
        oldest = min((s.oldest for s in self._samples if s.oldest is not None), default=None)
        return Capacity(
            now=now,
            entries=round(now.keys * found / looked) if looked else 0,
            evicted_lately=sum(count for _, count in self._evictions),
            oldest_days=(today - oldest).days if today and oldest else None,
            sampled=found,
            growth=growth,
            full_in=full_in(now, growth),
        )

    def _evict(self, now: Reading) -> None:
        last, self._last = self._last, now
        if last is not None:
            before = last.evicted if last.run == now.run else 0
            if now.evicted > before:
                self._evictions.append((now.at, now.evicted - before))
        while self._evictions and now.at - self._evictions[0][0] > WINDOW:
            self._evictions.popleft()

    def _growth(self, now: Reading) -> float | None:
        if not self._readings or now.at - self._readings[0].at < SHORTEST_HISTORY:
            return None
        points = [*self._readings, now]
        slope, _ = linear_regression([r.at for r in points], [float(r.memory) for r in points])
        return slope * DAY


def full_in(now: Reading, growth: float | None) -> float | None:
    """Days until the memory is full; None for never, or not known."""
    if not now.maxmemory:
        return None
    left = now.maxmemory - now.memory
    if left <= 0:
        return 0.0
    if growth is None or growth <= 0:
        return None
    return left / growth


def alarms(capacities: Mapping[str, Capacity]) -> list[str]:
    """A sentence for each node whose entries vanish before the retention is over."""
    return [
        f"lookup node {name} evicts entries before the retention is over"
        f" ({capacity.evicted_lately:,} in the last hour, {capacity.now.policy}):"
        " raise its maxmemory or add a node"
        for name, capacity in capacities.items()
        if capacity.evicted_lately
    ]


def oldest(days: Iterable[date]) -> date | None:
    """The earliest of some days."""
    return min(days, default=None)
