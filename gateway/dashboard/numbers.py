"""The dashboard's numbers, from the metric families that Prometheus reads too. No I/O.

A `Reading` is what the counters stood at; a `Window` is what happened between two readings. Each
worker's counters begin at 0 when it is started again, so differences are made worker by worker.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import TypeAlias

from msgspec import UNSET, Struct, UnsetType, to_builtins
from prometheus_client.core import Metric

from gateway.api.endpoints import CLASSES, ENDPOINTS
from gateway.telemetry import quantile

Labels: TypeAlias = tuple[tuple[str, str], ...]
Series: TypeAlias = dict[tuple[str, Labels], float]
"""Values by worker (empty for a process without workers) and labels."""

Rates: TypeAlias = dict[str, float]
SLI = ("requests", "failed", "slow")

_APIS = {one.path: one.api for one in ENDPOINTS if one.api in ("player", "states", "description")}
# What is no path of ours may have come to either port; the gateway's is the one the world reaches.
_API_OF = {**_APIS, "unknown": "other", "malformed": "other"}
_SERVED = frozenset(CLASSES)


@dataclass(frozen=True, slots=True)
class Reading:
    """Where every counter and gauge stood `at` seconds since 1970, by sample name
    (`tapedeck_lookups_total`).
    """

    at: float
    samples: Mapping[str, Series]

    def of_worker(self, worker: str) -> Reading:
        """What one worker says."""
        samples = {
            name: {key: value for key, value in series.items() if key[0] == worker}
            for name, series in self.samples.items()
        }
        return Reading(self.at, samples)


def read(at: float, families: Iterable[Metric]) -> Reading:
    """Take the families down: Tapedeck's own, and what a process says of itself."""
    samples: dict[str, Series] = {}
    for family in families:
        if not family.name.startswith(("tapedeck_", "process_")):
            continue
        for sample in family.samples:
            worker = sample.labels.get("worker", "")
            labels = tuple((k, v) for k, v in sample.labels.items() if k != "worker")
            samples.setdefault(sample.name, {})[worker, labels] = sample.value
    return Reading(at, samples)


class Window:
    """What happened between two readings of one gateway."""

    def __init__(self, old: Reading, new: Reading) -> None:
        self._old = old
        self._new = new
        self.seconds = max(new.at - old.at, 0.001)

    def of_worker(self, worker: str) -> Window:
        """The same, of one worker only."""
        return Window(self._old.of_worker(worker), self._new.of_worker(worker))

    def increases(self, name: str) -> Iterator[tuple[dict[str, str], float]]:
        """How much each series of a counter grew, with its labels."""
        before = self._old.samples.get(name, {})
        for key, value in self._new.samples.get(name, {}).items():
            grown = value - before.get(key, 0.0)
            # A counter that fell belongs to a process that began anew.
            yield dict(key[1]), grown if grown >= 0 else value

    def rate(self, name: str) -> float:
        """Growth a second, of all series."""
        return _short(sum(grown for _, grown in self.increases(name)) / self.seconds)

    def rates(self, name: str, kind: Callable[[dict[str, str]], str | None]) -> Rates:
        """Growth a second, added up by what `kind` makes of the labels (None: left out)."""
        found: dict[str, float] = defaultdict(float)
        for labels, grown in self.increases(name):
            which = kind(labels)
            if which is not None:
                found[which] += grown / self.seconds
        return {which: _short(rate) for which, rate in found.items()}

    def quantiles(
        self, name: str, *wanted: float, of: Callable[[dict[str, str]], bool] = lambda _: True
    ) -> list[float | None]:
        """Of a histogram, estimated as Prometheus does; None where nothing was observed."""
        buckets: dict[float, float] = defaultdict(float)
        for labels, grown in self.increases(f"{name}_bucket"):
            if of(labels):
                buckets[float(labels["le"])] += grown
        return [quantile(buckets, q) for q in wanted]

    def mean(self, name: str) -> float | None:
        """Of a histogram's observations; None without any."""
        count = sum(grown for _, grown in self.increases(f"{name}_count"))
        total = sum(grown for _, grown in self.increases(f"{name}_sum"))
        return _short(total / count) if count else None

    def gauge(self, name: str) -> float | None:
        """A gauge now, added up over workers and labels; None if it is not there."""
        series = self._new.samples.get(name)
        return None if series is None else sum(series.values())

    def sums(self, name: str, label: str) -> dict[str, float]:
        """What a counter stands at, added up by a label."""
        found: dict[str, float] = defaultdict(float)
        for (_, labels), value in self._new.samples.get(name, {}).items():
            found[dict(labels)[label]] += value
        return dict(found)

    def highest(self, name: str) -> float | None:
        """A gauge that workers share, now; None if it is not there."""
        return max(self._new.samples.get(name, {}).values(), default=None)


def _short(value: float) -> float:
    return round(value, 3)


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)


def _api(labels: dict[str, str]) -> str | None:
    return _API_OF.get(labels["route"])


def _error(labels: dict[str, str]) -> str | None:
    """Errors by what an SRE does about them. A skip that the licence forbids (403), and a states
    service that finds nothing (404) or lost a race (412), were served well."""
    if labels["route"] not in _API_OF:
        return None
    status = labels["status"]
    if status.startswith("5"):
        return "unavailable" if status == "503" else "failed"
    if status == "429":
        return "limited"
    if status in ("403", "404", "412") and labels["route"] in _SERVED:
        return None
    return "refused" if status.startswith("4") else None


def _failing(labels: dict[str, str]) -> str | None:
    """What answered with a status of 5xx, such as `POST /sets/{play_token}/next 503`."""
    if labels["route"] not in _SERVED or not labels["status"].startswith("5"):
        return None
    return f"{labels['method']} {labels['route']} {labels['status']}"


def _served(labels: dict[str, str]) -> bool:
    return labels["route"] in _SERVED


class Point(Struct, kw_only=True):
    """What the charts draw of one stretch of time. Rates are a second, times milliseconds.

    Attributes:
        at: the end of the stretch, seconds since 1970.
        latency: median, p95 and p99.
        partitions: that a load read: their mean, and p99.
        sli: `requests`, `failed` and `slow`, by class of route.
        failing: by method, route and status.
    """

    at: float | UnsetType = UNSET
    requests: Rates
    errors: Rates
    latency: list[float | None]
    lookups: Rates
    partitions: list[float | None]
    waiting: float | None
    sli: dict[str, Rates]
    failing: Rates


def point(window: Window, at: float | UnsetType = UNSET) -> Point:
    latency = window.quantiles("tapedeck_http_request_seconds", 0.5, 0.95, 0.99, of=_served)
    (partitions,) = window.quantiles("tapedeck_partitions_read", 0.99)
    failing = window.rates("tapedeck_http_requests_total", _failing)
    return Point(
        at=at,
        requests=window.rates("tapedeck_http_requests_total", _api),
        errors=window.rates("tapedeck_http_requests_total", _error),
        latency=[_milliseconds(value) for value in latency],
        lookups=window.rates("tapedeck_lookups_total", itemgetter("outcome"))
        # Changes of a running session ask no lookup node.
        | window.rates(
            "tapedeck_session_changes_total",
            lambda labels: "session" if labels["outcome"] == "hit" else None,
        ),
        partitions=[
            window.mean("tapedeck_partitions_read"),
            # Partitions are whole numbers; a quantile between two bounds is none.
            None if partitions is None else math.ceil(partitions),
        ],
        waiting=window.gauge("tapedeck_mysql_waiting"),
        sli={kind: window.rates(f"tapedeck_sli_{kind}_total", itemgetter("class")) for kind in SLI},
        failing={route: rate for route, rate in failing.items() if rate},
    )


def totals(window: Window) -> dict[str, object]:
    return {
        **to_builtins(point(window)),
        "sli_since_start": {
            kind: window.sums(f"tapedeck_sli_{kind}_total", "class") for kind in SLI
        },
        "listeners_failed": window.gauge("tapedeck_listeners_failed"),
        "filters": {
            "bytes": window.highest("tapedeck_filter_bytes"),
            "days": window.highest("tapedeck_filter_days"),
            "without": window.highest("tapedeck_filter_days_without"),
            "keys": window.rate("tapedeck_seal_keys_total"),
        },
        "in_flight": window.gauge("tapedeck_http_requests_in_flight"),
        "saves": window.rate("tapedeck_saves_total"),
        "loads": window.rate("tapedeck_loads_total"),
        "conflicts": window.rate("tapedeck_conflicts_total"),
        "connections": window.gauge("tapedeck_mysql_connections"),
        "mysql_errors": window.rates("tapedeck_mysql_errors_total", itemgetter("fault")),
    }


def node_numbers(window: Window, node: str) -> dict[str, object]:
    """Of one lookup node: times of a round trip in ms, round trips and failures a second."""
    half, most = window.quantiles(
        "tapedeck_lookup_node_seconds", 0.5, 0.99, of=lambda labels: labels["node"] == node
    )
    batches = window.rates("tapedeck_lookup_node_seconds_count", itemgetter("node"))
    failed = window.rates("tapedeck_lookup_node_failures_total", itemgetter("node"))
    return {
        "p50": _milliseconds(half),
        "p99": _milliseconds(most),
        "batches": batches.get(node, 0),
        "failed": failed.get(node, 0),
    }


def worker_numbers(window: Window, worker: str) -> dict[str, object]:
    """Of one worker: requests a second, p99 in ms, share of a core, memory in bytes."""
    window = window.of_worker(worker)
    requests = window.rates("tapedeck_http_requests_total", _api)
    errors = window.rates("tapedeck_http_requests_total", _error)
    (most,) = window.quantiles("tapedeck_http_request_seconds", 0.99, of=_served)
    return {
        "requests": _short(sum(requests.values())),
        "errors": _short(sum(errors.values())),
        "p99": _milliseconds(most),
        "cpu": window.rate("process_cpu_seconds_total"),
        "memory": window.gauge("process_resident_memory_bytes"),
        "in_flight": window.gauge("tapedeck_http_requests_in_flight"),
    }
