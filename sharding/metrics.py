"""The metrics of loads, saves, hints, filters, partitions and the session cache."""

from collections.abc import Iterable

from prometheus_client import REGISTRY, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, Metric


class Tally:
    """A counter with at most one label. Only the event loop's thread may add to it.

    It is plain numbers until a scrape: prometheus-client's counters take a lock for each addition.

    Attributes:
        counts: by the label's value ("" without a label); callers add to them.
    """

    def __init__(
        self, name: str, documentation: str, label: str = "", values: Iterable[str] = ("",)
    ) -> None:
        self._words = name, documentation, label
        self.counts = dict.fromkeys(values, 0)
        REGISTRY.register(self)

    def describe(self) -> Iterable[Metric]:
        """For the registry, and for docs/metrics.md."""
        return self.collect()

    def collect(self) -> Iterable[Metric]:
        name, documentation, label = self._words
        family = CounterMetricFamily(name, documentation, labels=[label] if label else [])
        for value, count in self.counts.items():
            family.add_metric([value] if label else [], count)
        yield family


LOOKUPS = Tally(
    "tapedeck_lookups",
    "Hints by outcome: hit, miss, stale, ahead, garbage, unavailable",
    "outcome",
    ("hit", "miss", "stale", "ahead", "garbage", "unavailable"),
)
PARTITIONS_READ = Histogram(
    "tapedeck_partitions_read",
    "Partitions that one load read",
    buckets=(1, 2, 3, 4, 8, 16, 32, 64),
)
LOADS = Tally("tapedeck_loads", "States loaded from MySQL")
SAVES = Counter("tapedeck_saves", "Changes committed", ["kind"])
CONFLICTS = Counter("tapedeck_conflicts", "Saves that met another change of the same key")
RECOVERED = Counter(
    "tapedeck_recovered_changes", "Changes found landed after their acknowledgement was lost"
)
BATCH_SIZE = Histogram(
    "tapedeck_batch_size",
    "Requests that shared a round trip",
    ["kind"],
    buckets=(1, 2, 4, 8, 16, 32, 64, 128),
)
LOST = Counter(
    "tapedeck_lookups_lost",
    "Hints that were missing for a state that MySQL has: vanished, or never written",
)
RING_GENERATION = Gauge("tapedeck_ring_generation", "Grows by one with each reload that moves keys")
PARTITION_DROPS = Counter("tapedeck_partition_drops", "Partitions dropped past retention")
PRUNE_REFUSED = Counter("tapedeck_prune_refused", "Prunes refused: look at the log")
DAYS_SEALED = Counter("tapedeck_days_sealed", "Days sealed by this gateway")
SEAL_KEYS = Counter("tapedeck_seal_keys", "Keys read in order to seal their days")
SEAL_FAILURES = Counter("tapedeck_seal_failures", "Days that could not be sealed: look at the log")
FILTER_DAYS = Gauge("tapedeck_filter_days", "Sealed days whose filter a worker has")
FILTER_DAYS_WITHOUT = Gauge(
    "tapedeck_filter_days_without",
    "Sealed days whose filter has no room in partitions.filter_bytes: each load reads them",
)
FILTER_BYTES = Gauge("tapedeck_filter_bytes", "Bytes of the filters that a gateway's workers share")
FILTER_IN_VAIN = Tally(
    "tapedeck_filter_in_vain",
    "Sealed partitions read for a key that was not there, as their filter did not rule it out",
)
CLOCK_DOUBTED = Gauge(
    "tapedeck_mysql_clock_doubted", "1 while MySQL's clock is not trusted: requests get 503"
)
MYSQL_BATCH_FALLBACKS = Counter(
    "tapedeck_batch_fallbacks", "Batches that an error had settled row by row", ["fault"]
)

HINT_WRITES = Tally(
    "tapedeck_hint_writes", "Lookup entries written", "result", ("written", "dropped")
)
SESSIONS = Tally(
    "tapedeck_session_changes",
    "Changes by what the session cache was worth: hit (saved from it), stale (another worker came"
    " first), doubted (read first, as that happened lately), unchanged (nothing to save, so read"
    " again), miss",
    "outcome",
    ("hit", "stale", "doubted", "unchanged", "miss"),
)
SESSIONS_EVICTED = Tally(
    "tapedeck_session_evictions", "States that left the session cache because it was full"
)
SESSION_ENTRIES = Gauge("tapedeck_session_entries", "States in the session cache")
SESSION_BYTES = Gauge("tapedeck_session_bytes", "Bytes of the states in the session cache")
GROUPED = Counter(
    "tapedeck_grouped_changes", "Changes that were saved together with another one of their key"
)

# The memory of lookup nodes
CAPACITY = {
    "memory_bytes": Gauge("tapedeck_capacity_memory_bytes", "Memory used", ["node"]),
    "maxmemory_bytes": Gauge("tapedeck_capacity_maxmemory_bytes", "Its limit", ["node"]),
    "keys": Gauge("tapedeck_capacity_keys", "Keys of every kind", ["node"]),
    "evicted": Gauge("tapedeck_capacity_evicted_keys", "Evicted since it started", ["node"]),
}
"""By attribute of `lookups.capacity.Capacity`. A node without a limit has no `maxmemory_bytes`."""
CAPACITY_ALARM = Gauge("tapedeck_capacity_alarm", "1 while a node evicts keys", ["node"])
