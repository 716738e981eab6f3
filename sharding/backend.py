"""Everything behind the HTTP face, put together: MySQL, the lookup nodes, the store."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from typing import Any, Literal

from tapedeck.config.model import Lookup, Sections
from tapedeck.failover.cluster import ClusterNodes
from tapedeck.failover.nodes import Nodes
from tapedeck.failover.primary import Primary
from tapedeck.failover.session import Hello
from tapedeck.sharding.cluster import AnyLookups, ClusterLookups
from tapedeck.sharding.days import Days
from tapedeck.sharding.janitor import Janitor
from tapedeck.sharding.lookups import Lookups
from tapedeck.sharding.reader import Reader
from tapedeck.sharding.store import Store
from tapedeck.sharding.survey import Parts, Survey
from tapedeck.sharding.writer import Writer


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether requests can be served, and what is amiss."""

    status: Literal["ready", "degraded", "unavailable"]
    reasons: list[str]


class Backend:
    """One worker's access to states. Make it with `open`."""

    def __init__(self, config: Sections) -> None:
        self.config = config
        self.days = Days(config.partitions.retention_days, time.monotonic)
        self.primary = Primary(config.mysql, on_hello=self._greeted)
        self.days.attach(self.primary)
        self.nodes, self.lookups = _lookups(config.lookup, self.days)
        self.reader = Reader(self.primary, self.lookups, self.days, config.lookup)
        self.writer = Writer(self.primary, self.days)
        self.store = Store(
            self.primary, self.reader, self.writer, self.lookups, self.days, config.sessions
        )
        self.janitor = Janitor(self.primary, self.days, config.partitions)
        self.survey = Survey(config.lookup.capacity_every)
        self._surveying: asyncio.Task[None] | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._generation = 1
        self._primary_generation = 0

    @classmethod
    async def open(cls, config: Sections, *, prune: bool = True) -> Backend:
        """Start the background work. Does not wait for MySQL.

        Args:
            prune: whether this process may be the one that prunes.
        """
        backend = cls(config)
        await backend.primary.start()
        await backend.nodes.start()
        if prune and config.partitions.prune:
            backend._keeping = asyncio.create_task(backend.janitor.keep(), name="janitor")
        if config.lookup.capacity_every:
            looking = backend.survey.keep(backend.looked_at)
            backend._surveying = asyncio.create_task(looking, name="capacity")
        return backend

    def looked_at(self) -> Parts:
        """What the survey of the nodes' capacity looks at."""
        return self.nodes, self.lookups.layout, self.days.today() if self.days.known else None

    async def close(self) -> None:
        """Finish what is written in the background, then drop every connection."""
        for task in (self._keeping, self._surveying):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2):
                await self.lookups.drain()
        await self.store.close()
        self.days.close()
        await self.nodes.close()
        await self.primary.close()

    def _greeted(self, hello: Hello) -> None:
        """The primary was adopted, or looked at again."""
        self.days.greeted(hello)
        if hello.generation != self._primary_generation:
            # A forced promotion may have lost what this worker saw committed.
            self._primary_generation = hello.generation
            self.store.sessions.clear()

    def readiness(self) -> Readiness:
        """Whether this worker can serve, and what it does without."""
        reasons = [
            f"lookup node {node.name} is out of the ring: {node.health.reason}"
            for node in self.nodes
            if not node.health.live
        ]
        if isinstance(self.nodes, ClusterNodes):
            reasons += self.nodes.problems
        reasons += self.survey.alarms
        if not self.primary.adopted:
            lost = self.primary.lost_for
            if lost is None or lost > self.config.mysql.deadline / 1000:
                return Readiness(
                    "unavailable", [f"no MySQL primary: {self.primary.problem}", *reasons]
                )
            reasons.append(f"MySQL fails over: {self.primary.problem}")
        elif self.primary.redundant is False:
            reasons.append("the MySQL pair is not redundant: no standby acknowledges commits")
        return Readiness("degraded" if reasons else "ready", reasons)

    def ring(self) -> dict[str, Any]:
        """The ring as `/ring` shows it."""
        shares = self.lookups.ring.shares()
        nodes = []
        for node in self.nodes:
            described = self.nodes.describe(node)
            described["share"] = round(shares[node.name], 6)
            found = self.survey.found.get(node.name)
            described["capacity"] = None if found is None else found.as_json()
            nodes.append(described)
        return {"generation": self._generation, "nodes": nodes}

    async def partitions(self) -> list[dict[str, Any]]:
        """The partitions as `/partitions` shows them."""
        return [partition.as_json() for partition in await self.janitor.partitions()]


def _lookups(config: Lookup, days: Days) -> tuple[Nodes | ClusterNodes, AnyLookups]:
    if config.mode == "cluster":
        cluster = ClusterNodes(config)
        return cluster, ClusterLookups(config, cluster, days)
    nodes = Nodes(config)
    return nodes, Lookups(config, nodes, days)
