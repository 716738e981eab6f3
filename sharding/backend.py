"""Everything behind the HTTP face, put together: MySQL, the lookup nodes, the store."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Literal

from tapedeck.config.load import ConfigError
from tapedeck.config.model import Lookup, Sections
from tapedeck.failover.cluster import ClusterNodes
from tapedeck.failover.nodes import Nodes
from tapedeck.failover.primary import Primary
from tapedeck.failover.session import Hello
from tapedeck.failover.tasks import stop
from tapedeck.sharding.cluster import AnyLookups, ClusterLookups, Slots
from tapedeck.sharding.days import Days
from tapedeck.sharding.epoch import Epoch
from tapedeck.sharding.filter_keeper import FilterKeeper
from tapedeck.sharding.filters import Filters
from tapedeck.sharding.janitor import Janitor
from tapedeck.sharding.lookups import Lookups
from tapedeck.sharding.mover import Mover
from tapedeck.sharding.ownership import in_words
from tapedeck.sharding.partitions import CLOCKS_AGREE, call_tables, span
from tapedeck.sharding.placement import History
from tapedeck.sharding.reader import Reader
from tapedeck.sharding.sealing import Sealer
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

    def __init__(
        self,
        config: Sections,
        history: History | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.config = config
        call_tables(config.partitions.prefix)
        self.days = Days(config.partitions.retention_days, time.monotonic, wall)
        self.primary = Primary(config.mysql, on_hello=self._greeted)
        self.days.attach(self.primary)
        self.nodes, self.lookups = _lookups(config.lookup, self.days)
        self.filters = Filters()
        self.reader = Reader(self.primary, self.lookups, self.days, self.filters)
        self.writer = Writer(self.primary, self.days)
        self._batches(config.mysql.batch)
        self.store = Store(
            self.primary, self.reader, self.writer, self.lookups, self.days, config.sessions
        )
        self.filter_keeper = FilterKeeper(self.primary, self.days, self.filters, config)
        self.janitor = Janitor(self.primary, self.days, config.partitions, wall)
        self.sealer = Sealer(self.primary, self.days, config.partitions, wall)
        self.survey = Survey(config.lookup.capacity_every)
        self._surveying: asyncio.Task[None] | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._listing: asyncio.Task[None] | None = None
        self._filtering: asyncio.Task[None] | None = None
        self._sealing: asyncio.Task[None] | None = None
        self._moving: asyncio.Task[None] | None = None
        self._ending: set[asyncio.Task[None]] = set()
        self._prune = self._seal = False
        # Of a cluster the servers place the keys, and move them themselves.
        self.mover: Mover | None = None
        if isinstance(self.lookups, Lookups):
            before = history or History()
            self.mover = Mover(self.primary, self.lookups, config.lookup, before, self.days)
        self._primary_generation = 0

    @classmethod
    async def open(
        cls,
        config: Sections,
        *,
        prune: bool = True,
        move: bool = False,
        seal: bool = False,
        history: History | None = None,
        wall: Callable[[], float] = time.time,
    ) -> Backend:
        """Start the background work. Does not wait for MySQL.

        Args:
            prune: whether this process may be the one that prunes.
            move: whether it may be the one that copies entries after a reload.
            seal: whether it may be the one that seals days.
            history: the rings before this one, where another process of this gateway had them.
            wall: this machine's clock, seconds since 1970.
        """
        backend = cls(config, history, wall)
        await backend.primary.start()
        await backend.nodes.start()
        backend._prune, backend._seal = prune, seal
        backend._keep_house()
        backend._listing = asyncio.create_task(backend.days.keep(), name="days")
        backend._filtering = asyncio.create_task(backend.filter_keeper.keep(), name="filters")
        if move and backend.mover is not None:
            backend._moving = asyncio.create_task(backend.mover.keep(), name="mover")
        return backend

    def looked_at(self) -> Parts:
        """What the survey of the nodes' capacity looks at."""
        return self.nodes, self.lookups.layout, self.days.today() if self.days.known else None

    @property
    def history(self) -> History:
        """The placements of this gateway; in a cluster there is but one."""
        return self.mover.history if self.mover is not None else History()

    def plan(self, config: Sections) -> Epoch | None:
        """What a configuration would make of the ring; None for a cluster. Changes nothing.

        Raises:
            ConfigError: it makes no ring.
        """
        if not isinstance(self.lookups, Lookups):
            return None
        try:
            return self.lookups.plan(config.lookup)
        except ValueError as error:
            raise ConfigError("configuration", [f"lookup.servers: {error}"]) from None

    def reload(self, config: Sections, planned: Epoch | None, history: History) -> None:
        """From the next request on another configuration holds; requests under way end as they are.

        Nothing in here can fail: what could has been done by `plan`.

        Args:
            config: differs from the present one only in what can follow (see gateway.live).
            planned: from `plan`, with `config`.
            history: with the present ring in it, if the new one is another.
        """
        self.config = config
        self.days.configure(config.partitions.retention_days)
        self.primary.configure(config.mysql)
        if isinstance(self.lookups, Lookups) and planned is not None and self.mover is not None:
            # Rings that were forgotten since stay forgotten, whatever the history says.
            known = (self.lookups.placement, *self.lookups.previous)
            previous = [p for p in history.previous if p in known]
            self.lookups.turn(config.lookup, planned, previous)
            self.mover.turn(config.lookup, history)
        self.store.sessions.configure(config.sessions)
        self._batches(config.mysql.batch)
        self.janitor.configure(config.partitions)
        self.sealer.configure(config.partitions)
        self.filter_keeper.configure(config)
        self.survey.every = config.lookup.capacity_every
        self._keep_house()

    def _batches(self, size: int) -> None:
        self.reader.resize(size)
        self.writer.resize(size)

    def _keep_house(self) -> None:
        """Have the work in the background that the configuration asks for."""
        self._keeping = self._kept(
            self._keeping, self._prune and self.config.partitions.prune, self.janitor.keep
        )
        self._sealing = self._kept(
            self._sealing, self._seal and self.config.partitions.seal, self.sealer.keep
        )
        self._surveying = self._kept(
            self._surveying,
            bool(self.config.lookup.capacity_every),
            lambda: self.survey.keep(self.looked_at),
        )

    def _kept(
        self,
        task: asyncio.Task[None] | None,
        wanted: bool,
        work: Callable[[], Coroutine[Any, Any, None]],
    ) -> asyncio.Task[None] | None:
        if wanted:
            return task or asyncio.create_task(work())
        if task is not None:
            # One cancellation may get lost, and nobody would ask again.
            ending = asyncio.create_task(stop(task))
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)
        return None

    async def close(self) -> None:
        """Finish what is written in the background, then drop every connection."""
        if self.mover is not None:
            self.mover.close()
        await stop(
            self._keeping,
            self._sealing,
            self._filtering,
            self._listing,
            self._surveying,
            self._moving,
        )
        if self._ending:
            await asyncio.wait(self._ending)
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
        if self.primary.generation != self._primary_generation:
            # A forced promotion may have lost what this worker saw committed.
            self._primary_generation = self.primary.generation
            self.store.sessions.clear()
            self.filter_keeper.clear()

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
        if self.days.doubt:
            return Readiness("unavailable", [self.days.doubt, *reasons])
        if abs(self.days.apart) > CLOCKS_AGREE:
            reasons.append(
                f"this machine's clock and MySQL's differ by {span(abs(self.days.apart))}: set the "
                "wrong one right; until then no partition is dropped"
            )
        if self.days.foreign:
            reasons.append(in_words(self.days.foreign))
        if self.days.known and (blocked := self.days.blocked):
            return Readiness("unavailable", [blocked, *reasons])
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
        warm_up: dict[str, int] = {}
        if isinstance(self.lookups, Lookups):
            warm_up = {**self.lookups.warm_up, "partitions_saved": self.reader.warm_up_saved}
        return {
            "generation": self.history.generation,
            "nodes": nodes,
            "move": self.mover.describe() if self.mover is not None else None,
            "warm_up": warm_up,
        }

    def outline(self, parts: int) -> dict[str, Any]:
        """The ring's circle in `parts` places: whose each is, and who serves it now."""
        ring = self.lookups.ring
        owners = ring.outline(parts)
        if isinstance(self.nodes, ClusterNodes) or isinstance(ring, Slots):
            return {"owners": owners, "serving": owners}
        return {"owners": owners, "serving": ring.outline(parts, self.nodes.out)}

    def mysql(self) -> dict[str, Any]:
        """The MySQL hosts as `/mysql` shows them."""
        return self.primary.describe()

    async def partitions(self) -> list[dict[str, Any]]:
        """The partitions as `/partitions` shows them."""
        return [
            {**partition.as_json(), "in_vain": self.filters.in_vain.get(partition.day, 0)}
            for partition in await self.janitor.partitions()
        ]


def _lookups(config: Lookup, days: Days) -> tuple[Nodes | ClusterNodes, AnyLookups]:
    if config.mode == "cluster":
        cluster = ClusterNodes(config)
        return cluster, ClusterLookups(config, cluster, days)
    nodes = Nodes(config)
    return nodes, Lookups(config, nodes, days)
