"""The metrics of requests, and the two formats of all metrics: Prometheus text and JSON.

Both formats are made from metric families, so a supervisor uses the same functions for its workers'
families as a single process for its own.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from itertools import accumulate
from typing import Any, NamedTuple

import prometheus_client
from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.utils import floatToGoString

TEXT = "text/plain; version=0.0.4; charset=utf-8"

# `_created` series would double the size of every scrape, and only show when a process began.
prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]

VERSION = version("tapedeck-player-gateway")
"""Read once, so that no request reads the package's files."""

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})
BOUNDS = (
    *(0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05),
    *(0.075, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)


class Served(NamedTuple):
    """Answers of one class since the process began: with a 5xx, and later than the objective."""

    requests: float = 0.0
    failed: float = 0.0
    slow: float = 0.0


_SLI = (
    ("tapedeck_sli_requests", "answered"),
    ("tapedeck_sli_failed", "that failed (5xx)"),
    ("tapedeck_sli_slow", "answered later than objective.latency"),
)


class _Requests:
    """Answered requests by route, method and status, and how long they took.

    They are plain numbers until a scrape: prometheus-client's metrics take a lock and compare every
    bound for each request, which is a tenth of a warm request's time. Only the event loop's thread
    may count.
    """

    def __init__(self) -> None:
        self.counts: dict[tuple[str, str, int], int] = {}
        self.seconds: dict[str, list[float]] = {}
        self.slow_after = 0.25
        self.classes: Mapping[str, str] = {}

    def served(self) -> dict[str, Served]:
        found: dict[str, Served] = {}
        fast = bisect_right(BOUNDS, self.slow_after)
        for route, (_, *numbers) in list(self.seconds.items()):
            if (name := self.classes.get(route)) is not None:
                requests, failed, slow = found.get(name, Served())
                requests, slow = requests + sum(numbers), slow + sum(numbers[fast:])
                found[name] = Served(requests, failed, slow)
        for (route, _, status), count in list(self.counts.items()):
            if status >= 500 and (name := self.classes.get(route)) is not None:
                of = found.get(name, Served())
                found[name] = of._replace(failed=of.failed + count)
        return found

    def collect(self) -> Iterable[Metric]:
        counter = CounterMetricFamily(
            "tapedeck_http_requests", "Requests answered", labels=["route", "method", "status"]
        )
        # Copies, because this runs in a thread while the event loop counts.
        for (route, method, status), count in list(self.counts.items()):
            counter.add_metric((route, method, str(status)), count)
        histogram = HistogramMetricFamily(
            "tapedeck_http_request_seconds",
            "From the request's headers to the answer's, in seconds",
            labels=["route"],
        )
        for route, (total, *numbers) in list(self.seconds.items()):
            buckets = list(
                zip((*map(floatToGoString, BOUNDS), "+Inf"), accumulate(numbers), strict=True)
            )
            histogram.add_metric([route], buckets, total)
        yield counter
        yield histogram
        served = self.served()
        for number, (name, what) in enumerate(_SLI):
            family = CounterMetricFamily(name, f"Requests {what}, by class", labels=["class"])
            for of_class, counted in served.items():
                family.add_metric([of_class], counted[number])
            yield family


_requests = _Requests()
REGISTRY.register(_requests)


def observe(route: str, method: str, status: int, seconds: float) -> None:
    """Count one answered request, by its route's pattern: never by the request's own path."""
    key = (route, method if method in _METHODS else "other", status)
    counts = _requests.counts
    counts[key] = counts.get(key, 0) + 1
    of_route = _requests.seconds.get(route)
    if of_route is None:
        of_route = _requests.seconds[route] = [0.0] * (len(BOUNDS) + 2)
    of_route[0] += seconds
    of_route[bisect_left(BOUNDS, seconds) + 1] += 1


served = _requests.served


def set_objective(classes: Mapping[str, str], seconds: float) -> None:
    """Set the classes of routes, and the duration above which a request is slow.

    A route without a class is not counted. `seconds` is rounded up to a bound of the histogram.
    """
    _requests.classes, _requests.slow_after = classes, seconds


def families() -> list[Metric]:
    """This process's families now. It takes milliseconds: do not call it in an event loop."""
    return list(REGISTRY.collect())


class _Fixed:
    """Gathered families with the interface of a registry."""

    def __init__(self, gathered: Iterable[Metric]) -> None:
        self._gathered = gathered

    def collect(self) -> Iterable[Metric]:
        return self._gathered


def exposition(gathered: Iterable[Metric]) -> bytes:
    """Prometheus' text format, version 0.0.4."""
    return prometheus_client.generate_latest(_Fixed(gathered))


def merge(expositions: Mapping[str, str]) -> list[Metric]:
    """Merge several workers' Prometheus texts: each family once, each sample with its `worker`."""
    merged: dict[str, Metric] = {}
    for worker, text in expositions.items():
        for family in text_string_to_metric_families(text):
            whole = merged.get(family.name)
            if whole is None:
                whole = merged[family.name] = Metric(family.name, family.documentation, family.type)
            for sample in family.samples:
                whole.samples.append(sample._replace(labels={"worker": worker, **sample.labels}))
    return list(merged.values())


def stats(gathered: Iterable[Metric]) -> dict[str, Any]:
    """The families as JSON: a number, or a list of `{"labels", "value"}` if there are labels.

    Counters of several workers are added up, and so are the gauges in `ADDED`. All workers read the
    other gauges of one thing, and the one furthest from 0 counts (a supervisor has only zeros). A
    histogram is `{"count", "sum", "p50",
    "p95", "p99"}`, with quantiles estimated as by Prometheus' `histogram_quantile`.
    """
    shown: dict[str, Any] = {}
    for family in sorted(gathered, key=lambda family: family.name):
        of_type = _histogram_values if family.type == "histogram" else _plain_values
        values: dict[_Labels, Any] = dict(of_type(family))
        if list(values) == [()]:
            shown[family.name] = values[()]
        elif values:
            shown[family.name] = [
                {"labels": dict(labels), "value": value} for labels, value in values.items()
            ]
    return shown


ADDED = (
    *("tapedeck_http_connections", "tapedeck_http_requests_in_flight", "tapedeck_asyncio_tasks"),
    *("tapedeck_mysql_connections", "tapedeck_mysql_waiting", "tapedeck_listeners_failed"),
    *("tapedeck_session_bytes", "tapedeck_session_entries"),
    *("process_resident_memory_bytes", "process_virtual_memory_bytes", "process_open_fds"),
)
"""The gauges of what each worker has for itself."""
_Labels = tuple[tuple[str, str], ...]


def _labels(labels: Mapping[str, str], *without: str) -> _Labels:
    return tuple((k, v) for k, v in labels.items() if k != "worker" and k not in without)


def _plain_values(family: Metric) -> dict[_Labels, float]:
    values: dict[_Labels, float] = {}
    added = family.type == "counter" or family.name in ADDED
    for sample in family.samples:
        if sample.name.endswith("_created"):
            continue
        labels = _labels(sample.labels)
        before, value = values.get(labels), sample.value
        if before is not None:
            value = before + value if added else max(before, value, key=abs)
        values[labels] = value
    return {labels: _number(value) for labels, value in values.items()}


def _histogram_values(family: Metric) -> dict[_Labels, dict[str, float | None]]:
    buckets: dict[_Labels, dict[float, float]] = defaultdict(lambda: defaultdict(float))
    counts: dict[_Labels, float] = defaultdict(float)
    sums: dict[_Labels, float] = defaultdict(float)
    for sample in family.samples:
        labels = _labels(sample.labels, "le")
        if sample.name.endswith("_bucket"):
            buckets[labels][float(sample.labels["le"])] += sample.value
        elif sample.name.endswith("_count"):
            counts[labels] += sample.value
        elif sample.name.endswith("_sum"):
            sums[labels] += sample.value
    return {
        labels: {
            "count": _number(count),
            "sum": round(sums[labels], 6),
            **{f"p{n}": quantile(buckets[labels], n / 100) for n in (50, 95, 99)},
        }
        for labels, count in counts.items()
    }


def quantile(buckets: Mapping[float, float], q: float) -> float | None:
    """Estimate a quantile from cumulative buckets, linearly within one; None without samples.

    Beyond the highest finite bound the result is that bound.

    >>> quantile({1.0: 5, 2.0: 10, math.inf: 10}, 0.75)
    1.5
    """
    bounds = sorted(buckets)
    total = buckets[bounds[-1]] if bounds else 0
    if not total:
        return None
    rank = q * total
    low, below = 0.0, 0.0
    for bound in bounds:
        if buckets[bound] >= rank:
            if math.isinf(bound):
                return round(low, 6)
            inside = buckets[bound] - below
            return round(low + (bound - low) * (rank - below) / inside, 6) if inside else bound
        low, below = bound, buckets[bound]
    return round(low, 6)


def _number(value: float) -> float:
    """A whole number as an int; NaN and infinity as 0."""
    if not math.isfinite(value):
        return 0
    return int(value) if value == int(value) else value
