"""The lookup nodes' memory and evictions, asked at intervals in the background.

Redis may evict a hint before its state expires. No state is lost by that, but the next load of its
key reads more partitions, so operators see the memory's limit and the evictions.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

import structlog

from failover.redis.connections import NodeError, info_of
from failover.redis.nodes import Node
from sharding import metrics

log = structlog.get_logger("tapedeck.capacity")

WINDOW = 3_600.0
"""Seconds in which evictions raise the alarm."""
_FIRST = 2.0
"""Seconds within which the first check comes."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """A node's memory and keys, from its INFO; shown by `/ring` and `tapedeck ring show`.

    Attributes:
        memory_bytes: used.
        maxmemory_bytes: the limit; None without one.
        keys: of every kind, in the database that the gateway uses. In the packed layout a key is
            one listener, with a field for each playlist.
        evicted: keys, since the node started.
        evicted_last_hour: keys, as far as this process has seen it.
    """

    memory_bytes: int
    maxmemory_bytes: int | None
    maxmemory_policy: str
    keys: int
    evicted: int
    evicted_last_hour: int


class Evictions:
    """The evictions of one node within WINDOW, from counters that restart at 0 with the node."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()
        self._run = ""
        self._total = 0

    def lately(self, now: float, run: str, total: int) -> int:
        """How many keys were evicted within the WINDOW before `now`.

        Args:
            now: seconds, on a clock that never jumps.
            run: the node's run id: another one means that it started again.
            total: evictions since it started.
        """
        if self._run:  # when the evictions before the first check happened is not known
            before = self._total if run == self._run else 0
            if total > before:
                self._seen.append((now, total - before))
        self._run, self._total = run, total
        while self._seen and now - self._seen[0][0] > WINDOW:
            self._seen.popleft()
        return sum(count for _, count in self._seen)


class Survey:
    """Asks every node for its capacity at intervals.

    Each worker does: two commands cost less than agreeing on which worker asks.

    Args:
        every: seconds between two checks of a node.

    Attributes:
        found: by node name, what its last answer said.
    """

    def __init__(self, every: float) -> None:
        self.every = every
        self.found: dict[str, Capacity] = {}
        self._evictions: dict[str, Evictions] = {}

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

    async def run(self, nodes: Iterable[Node]) -> None:
        """Check all nodes at intervals, until cancelled or until `every` is 0."""
        # Workers that start together do not all ask at one moment.
        await asyncio.sleep(random.uniform(0, min(self.every, _FIRST)))  # noqa: S311
        while self.every:
            await self.check(nodes)
            await asyncio.sleep(self.every * random.uniform(0.9, 1.1))  # noqa: S311

    async def check(self, nodes: Iterable[Node]) -> None:
        """Check every node once. For one that does not answer, `found` stays as it is; one that
        refuses the commands is not in it."""
        checked = list(nodes)
        await asyncio.gather(*(self._check(node) for node in checked))
        for name in set(self.found) - {node.name for node in checked}:
            self._forget(name)

    def _forget(self, name: str) -> None:
        del self.found[name]
        self._evictions.pop(name, None)
        for metric in (*metrics.CAPACITY.values(), metrics.CAPACITY_ALARM):
            metric.remove(name)

    async def _check(self, node: Node) -> None:
        try:
            answer, keys = await node.ask_uncounted([("INFO",), ("DBSIZE",)])
            if isinstance(answer, NodeError):
                raise answer
            evictions = self._evictions.setdefault(node.name, Evictions())
            found = capacity(info_of(answer), int(keys), evictions, time.monotonic())
        except Exception as error:
            # A node that does not answer is reported by its ejection.
            if isinstance(error, NodeError) and node.name in self.found:
                log.warning("lookup capacity refused", node=node.name, reason=str(error))
                self._forget(node.name)
            return
        before, self.found[node.name] = self.found.get(node.name), found
        values = asdict(found)
        for name, metric in metrics.CAPACITY.items():
            if values[name] is None:
                metric.remove(node.name)
            else:
                metric.labels(node.name).set(values[name])
        metrics.CAPACITY_ALARM.labels(node.name).set(bool(found.evicted_last_hour))
        evicted = before is not None and bool(before.evicted_last_hour)
        if found.evicted_last_hour and not evicted:
            todo = "raise maxmemory or add a node"
            log.warning("lookup entries evicted", node=node.name, **values, todo=todo)
        elif evicted and not found.evicted_last_hour:
            log.info("lookup eviction ended", node=node.name)


def capacity(info: Mapping[str, str], keys: int, evictions: Evictions, now: float) -> Capacity:
    """A node's capacity, from its answers.

    Args:
        info: the answer to INFO.
        keys: the answer to DBSIZE.
        evictions: of this node, so far.
        now: seconds, on a clock that never jumps.

    Raises:
        KeyError, ValueError: the answer lacks a value that every Redis sends.
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
