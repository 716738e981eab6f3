"""Looking at the nodes' memory and at some of their entries, slowly, beside the requests."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import date
from typing import Any

import structlog
from prometheus_client import Gauge as Metric
from redis.exceptions import RedisError

from failover.redis.connections import info_of
from failover.redis.nodes import Node
from sharding.lookups import capacity
from sharding.lookups.capacity import Capacity, Gauge, Sampled
from sharding.lookups.layout import Garbage, Layout, days_in, read

log = structlog.get_logger("tapedeck.capacity")

KEYS = 16
"""Random keys that one look reads on a node; with INFO it costs the node some 0.2 ms."""
FIELDS = 64
"""Fields of a packed entry that are asked for, about."""
_FIRST = 2.0
"""Seconds within which the first look comes."""

_METRICS = {
    "memory_bytes": Metric("tapedeck_capacity_memory_bytes", "Memory used", ["node"]),
    "maxmemory_bytes": Metric("tapedeck_capacity_maxmemory_bytes", "Its limit", ["node"]),
    "keys": Metric("tapedeck_capacity_keys", "Keys of every kind", ["node"]),
    "entries": Metric("tapedeck_capacity_entries", "Lookups, about", ["node"]),
    "evicted": Metric("tapedeck_capacity_evicted_keys", "Evicted since it started", ["node"]),
    "oldest_entry_days": Metric(
        "tapedeck_capacity_oldest_entry_days", "Age of the oldest lookup of a sample", ["node"]
    ),
    "full_in_days": Metric(
        "tapedeck_capacity_full_in_days", "Until the memory is full, at this pace", ["node"]
    ),
}
"""By their name in `Capacity.as_json`. What is not known has no sample."""
_ALARM = Metric(
    "tapedeck_capacity_alarm", "1 while entries vanish before the retention is over", ["node"]
)


Parts = tuple[Iterable[Node], Layout, date | None]
"""The nodes, the layout of their entries, and today, if MySQL has said it."""


class Survey:
    """Looks at every node once in a while.

    Each worker does: some forty commands a minute and node cost less than agreeing on who does it.

    Args:
        every: seconds between two looks at a node.

    Attributes:
        found: by node name, how it stood when it was last looked at.
    """

    def __init__(self, every: float) -> None:
        self.every = every
        self.found: dict[str, Capacity] = {}
        self._gauges: dict[str, Gauge] = {}
        self._alarms: frozenset[str] = frozenset()

    @property
    def alarms(self) -> list[str]:
        """A sentence for each node whose entries vanish too early."""
        return capacity.alarms(self.found)

    async def keep(self, parts: Callable[[], Parts]) -> None:
        """Look again and again, until cancelled or until `every` is 0.

        Args:
            parts: what there is to look at; asked each time, since a reload changes it.
        """
        # Workers that start together look one after another.
        await asyncio.sleep(random.uniform(0, min(self.every, _FIRST)))  # noqa: S311
        while self.every:
            await self.look(*parts())
            await asyncio.sleep(self.every * random.uniform(0.9, 1.1))  # noqa: S311

    async def look(self, nodes: Iterable[Node], layout: Layout, today: date | None) -> None:
        """Look at every node once. One that does not answer keeps what it showed last."""
        looked = list(nodes)
        await asyncio.gather(*(self._look(node, layout, today) for node in looked))
        for name in set(self.found) - {node.name for node in looked}:
            del self.found[name]
            self._gauges.pop(name, None)
            _forget(name)
        self._tell()

    async def _look(self, node: Node, layout: Layout, today: date | None) -> None:
        try:
            info, keys, *random_keys = await node.look(
                [("INFO",), ("DBSIZE",), *[("RANDOMKEY",)] * KEYS]
            )
            sampled = await _sample(node, layout, random_keys)
            reading = capacity.reading(time.monotonic(), info_of(info), int(keys))
        except (RedisError, OSError, TimeoutError, RuntimeError, KeyError, ValueError, TypeError):
            return  # that it is ill is told elsewhere
        gauge = self._gauges.setdefault(node.name, Gauge())
        found = self.found[node.name] = gauge.look(reading, sampled, today)
        _show(node.name, found)

    def _tell(self) -> None:
        evicting = frozenset(name for name, found in self.found.items() if found.evicted_lately)
        for name in evicting - self._alarms:
            found = self.found[name]
            log.warning(
                "lookup entries vanish before the retention is over",
                node=name,
                evicted_last_hour=found.evicted_lately,
                memory_bytes=found.now.memory,
                maxmemory_bytes=found.now.maxmemory,
                policy=found.now.policy,
                todo="raise maxmemory or add a node",
            )
        for name in self._alarms - evicting:
            log.info("lookup entries stay again", node=name)
        self._alarms = evicting


async def _sample(node: Node, layout: Layout, keys: Sequence[Any]) -> Sampled:
    """Read the days of the keys that are ours."""
    ours = [key for key in keys if capacity.is_ours(layout.name, key)]
    if not ours:
        return Sampled(0, 0, None)
    if layout.name == "flat":
        replies = await node.look([("GET", key) for key in ours])
        days = [day for reply in replies if (day := read(reply)) and not isinstance(day, Garbage)]
        return Sampled(len(ours), len(days), capacity.oldest(days))
    replies = await node.look(
        [command for key in ours for command in (("HLEN", key), ("HSCAN", key, 0, "COUNT", FIELDS))]
    )
    sizes, scans = replies[::2], replies[1::2]
    entries = sum(size for size in sizes if isinstance(size, int))
    days = [day for scan in scans for day in days_in(scan)]
    return Sampled(len(ours), entries, capacity.oldest(days))


def _show(name: str, found: Capacity) -> None:
    values = found.as_json()
    for key, metric in _METRICS.items():
        if values[key] is not None:
            metric.labels(name).set(values[key])
        else:
            metric.remove(name)
    _ALARM.labels(name).set(bool(found.evicted_lately))


def _forget(name: str) -> None:
    for metric in (*_METRICS.values(), _ALARM):
        metric.remove(name)
