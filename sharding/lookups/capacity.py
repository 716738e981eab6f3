"""The nodes' memory, and the lookups that they evict: asked slowly, beside the requests.

A lookup may vanish before its state does. Nothing is lost by that, but the next load of its key
reads one partition more, so operators see the memory's limit and the evictions.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import structlog
from prometheus_client import Gauge
from redis.exceptions import RedisError

from failover.redis.connections import info_of
from failover.redis.nodes import Node

log = structlog.get_logger("tapedeck.capacity")

WINDOW = 3_600.0
"""Seconds in which evictions raise the alarm."""
_FIRST = 2.0
"""Seconds within which the first look comes."""

_METRICS = {
    "memory_bytes": Gauge("tapedeck_capacity_memory_bytes", "Memory used", ["node"]),
    "maxmemory_bytes": Gauge("tapedeck_capacity_maxmemory_bytes", "Its limit", ["node"]),
    "keys": Gauge("tapedeck_capacity_keys", "Keys of every kind", ["node"]),
    "evicted": Gauge("tapedeck_capacity_evicted_keys", "Evicted since it started", ["node"]),
}
"""By their name in `Capacity`. A node without a limit has no sample of it."""
_ALARM = Gauge("tapedeck_capacity_alarm", "1 while a node evicts keys", ["node"])


@dataclass(frozen=True, slots=True)
class Capacity:
    """How a node stands, by its INFO; `/ring` and `tapedeck ring show` have it.

    Attributes:
        memory_bytes: used.
        maxmemory_bytes: that it may use; None without a limit.
        keys: of every kind, in the database that the gateway uses. In the packed layout a key is
            one listener, with a field for each playlist.
        evicted: since the node started.
        evicted_last_hour: as far as this process has seen it.
    """

    memory_bytes: int
    maxmemory_bytes: int | None
    maxmemory_policy: str
    keys: int
    evicted: int
    evicted_last_hour: int


class Evictions:
    """The evictions of one node within WINDOW, from counters that begin anew when it restarts."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()
        self._run = ""
        self._total = 0

    def lately(self, now: float, run: str, total: int) -> int:
        """How many there were within the WINDOW before `now`.

        Args:
            now: seconds, on a clock that never jumps.
            run: the node's run id: another one means that it started again.
            total: evictions since it started.
        """
        if self._run:  # when those before the first look happened is not known
            before = self._total if run == self._run else 0
            if total > before:
                self._seen.append((now, total - before))
        self._run, self._total = run, total
        while self._seen and now - self._seen[0][0] > WINDOW:
            self._seen.popleft()
        return sum(count for _, count in self._seen)


class Survey:
    """Looks at every node once in a while.

    Each worker does: two commands cost less than agreeing on who does it.

    Args:
        every: seconds between two looks at a node.

    Attributes:
        found: by node name, how it stood when it was last looked at.
    """

    def __init__(self, every: float) -> None:
        self.every = every
        self.found: dict[str, Capacity] = {}
        self._evictions: dict[str, Evictions] = {}
        self._alarms: frozenset[str] = frozenset()

    @property
    def alarms(self) -> list[str]:
        """A sentence for each node that evicts keys."""
        return [
            f"lookup node {name} evicts entries before the retention is over"
            f" ({found.evicted_last_hour:,} in the last hour, {found.maxmemory_policy}):"
            " raise its maxmemory or add a node"
            for name, found in self.found.items()
            if found.evicted_last_hour
        ]

    async def keep(self, nodes: Callable[[], Iterable[Node]]) -> None:
        """Look again and again, until cancelled or until `every` is 0.

        Args:
            nodes: asked each time, since a reload changes them.
        """
        # Workers that start together look one after another.
        await asyncio.sleep(random.uniform(0, min(self.every, _FIRST)))  # noqa: S311
        while self.every:
            await self.look(nodes())
            await asyncio.sleep(self.every * random.uniform(0.9, 1.1))  # noqa: S311

    async def look(self, nodes: Iterable[Node]) -> None:
        """Look at every node once. One that does not answer keeps what it showed last."""
        looked = list(nodes)
        await asyncio.gather(*(self._look(node) for node in looked))
        for name in set(self.found) - {node.name for node in looked}:
            del self.found[name]
            self._evictions.pop(name, None)
            for metric in (*_METRICS.values(), _ALARM):
                metric.remove(name)
        self._tell()

    async def _look(self, node: Node) -> None:
        try:
            answer, keys = await node.look([("INFO",), ("DBSIZE",)])
            info = info_of(answer)
            evictions = self._evictions.setdefault(node.name, Evictions())
            found = capacity(info, int(keys), evictions, time.monotonic())
        except (RedisError, OSError, TimeoutError, RuntimeError, KeyError, ValueError, TypeError):
            return  # that it is ill is told elsewhere
        self.found[node.name] = found
        values = asdict(found)
        for name, metric in _METRICS.items():
            if values[name] is None:
                metric.remove(node.name)
            else:
                metric.labels(node.name).set(values[name])
        _ALARM.labels(node.name).set(bool(found.evicted_last_hour))

    def _tell(self) -> None:
        evicting = frozenset(name for name, found in self.found.items() if found.evicted_last_hour)
        for name in evicting - self._alarms:
            log.warning(
                "lookup entries evicted",
                node=name,
                **asdict(self.found[name]),
                todo="raise maxmemory or add a node",
            )
        for name in self._alarms - evicting:
            log.info("lookup eviction ended", node=name)
        self._alarms = evicting


def capacity(info: Mapping[str, Any], keys: int, evictions: Evictions, now: float) -> Capacity:
    """How a node stands.

    Args:
        info: INFO's answer; keys: DBSIZE's.
        evictions: what was seen of this node before.
        now: seconds, on a clock that never jumps.

    Raises:
        KeyError, ValueError: the answer lacks what every Redis says.
    """
    evicted = int(info["evicted_keys"])
    return Capacity(
        memory_bytes=int(info["used_memory"]),
        maxmemory_bytes=int(info.get("maxmemory", 0)) or None,
        maxmemory_policy=str(info.get("maxmemory_policy", "noeviction")),
        keys=keys,
        evicted=evicted,
        evicted_last_hour=evictions.lately(now, str(info["run_id"]), evicted),
    )
