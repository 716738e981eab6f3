"""One worker's parts behind HTTP: MySQL, the lookup nodes, the store, and the background tasks."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Self

from config.model import Sections
from failover.loop_lag import SPAN, LoopLag
from failover.mysql import sign_in_trial
from failover.mysql.connection import HostStatus
from failover.mysql.errors import Fault
from failover.mysql.primary import Primary
from failover.redis import node_trials
from failover.redis.cluster import ClusterNodes
from failover.redis.nodes import Nodes, iso_time
from failover.tasks import stop
from sharding import metrics
from sharding.filters.filters import Filters
from sharding.health_verdict import Facts, Verdict, reasons, verdict_of
from sharding.lookups.capacity import Survey
from sharding.lookups.lookups import Lookups, Routes
from sharding.partitions.calendar import call_tables
from sharding.partitions.days import Days
from sharding.partitions.filter_keeper import FilterKeeper
from sharding.partitions.ownership import in_words
from sharding.partitions.pruner import Pruner
from sharding.partitions.sealing import Sealer
from sharding.partitions.shown import Partition
from sharding.shown import Node, Outline, Ring
from sharding.store.reader import Reader
from sharding.store.store import Store
from sharding.store.writer import Writer


class Backend:
    """One worker's access to states. Create it with `open`."""

    def __init__(
        self, config: Sections, generation: int = 1, wall: Callable[[], float] = time.time
    ) -> None:
        self.config = config
        call_tables(config.partitions.prefix)
        self.loop_lag = LoopLag()
        self.primary = Primary(config.mysql, self._on_status, self.loop_lag)
        self.days = Days(self.primary, config.partitions.retention_days, wall=wall)
        self.nodes = (
            Nodes(config.lookup, self.loop_lag)
            if config.lookup.mode == "ring"
            else ClusterNodes(config.lookup, self.loop_lag)
        )
        self.lookups = Lookups(config.lookup, self.nodes, self.days)
        self.filters = Filters()
        self.reader = Reader(self.primary, self.lookups, self.days, self.filters)
        self.writer = Writer(self.primary, self.days)
        self._batches(config.mysql.batch)
        self.store = Store(
            self.primary, self.reader, self.writer, self.lookups, self.days, config.sessions
        )
        self.filter_keeper = FilterKeeper(self.primary, self.days, self.filters, config)
        self.pruner = Pruner(self.primary, self.days, config.partitions, wall)
        self.sealer = Sealer(self.primary, self.days, config.partitions, wall)
        self.survey = Survey(config.lookup.capacity_every)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._prune = self._seal = False
        self._primary_generation = 0
        self._count_ring(generation)

    @classmethod
    async def open(
        cls,
        config: Sections,
        *,
        prune: bool = True,
        seal: bool = False,
        generation: int = 1,
        wall: Callable[[], float] = time.time,
    ) -> Backend:
        """Start the background work. Does not wait for MySQL.

        Args:
            prune: whether this process may prune.
            seal: whether this process may seal days.
            generation: of the ring: how many rings this gateway has had.
            wall: this machine's clock, seconds since 1970.
        """
        backend = cls(config, generation, wall)
        backend.loop_lag.start()
        await backend.primary.start()
        await backend.nodes.start()
        backend._prune, backend._seal = prune, seal
        backend._run_tasks()
        return backend

    def _count_ring(self, generation: int) -> None:
        self.generation = generation
        metrics.RING_GENERATION.set(generation)

    def plan(self, config: Sections) -> Routes | None:
        """Build the ring of a configuration without using it; None for a Redis Cluster."""
        return self.lookups.plan(config.lookup)

    async def trials(self, config: Sections) -> list[str]:
        """Why what a configuration brings does not work now, a sentence each: new lookup nodes, and
        another sign-in at lookup nodes or MySQL."""
        before = self.config
        nodes, hosts = await asyncio.gather(
            node_trials.trial(self.nodes, before.lookup, config.lookup, self.loop_lag),
            sign_in_trial.trial(before.mysql, config.mysql),
        )
        return nodes + hosts

    def reload(self, config: Sections, planned: Routes | None, generation: int) -> None:
        """Apply a configuration from the next request on. Requests under way end with the old one.

        Nothing here can fail: `plan` did what could.

        Args:
            config: differs from the present one only in values that a reload may change.
            planned: what `plan` returned for `config`.
            generation: of the planned ring.
        """
        self.config = config
        self.days.configure(config.partitions.retention_days)
        self.primary.configure(config.mysql)
        if planned is not None:
            self.lookups.use(planned)
        self._count_ring(generation)
        self.store.sessions.configure(config.sessions)
        self._batches(config.mysql.batch)
        self.pruner.configure(config.partitions)
        self.sealer.configure(config.partitions)
        self.filter_keeper.configure(config)
        self.survey.every = config.lookup.capacity_every
        self._run_tasks()

    def _batches(self, size: int) -> None:
        self.reader.resize(size)
        self.writer.resize(size)

    def _run_tasks(self) -> None:
        """Start and stop background tasks as the configuration says."""
        partitions = self.config.partitions
        wanted: dict[str, tuple[bool, Callable[[], Coroutine[Any, Any, None]]]] = {
            "days": (True, self.days.run),
            "filters": (True, self.filter_keeper.run),
            "prune": (self._prune and partitions.prune, self.pruner.run),
            "seal": (self._seal and partitions.seal, self.sealer.run),
            "survey": (
                bool(self.config.lookup.capacity_every),
                partial(self.survey.run, self.nodes),
            ),
        }
        for name, (runs, work) in wanted.items():
            if runs and name not in self._tasks:
                self._tasks[name] = asyncio.create_task(work(), name=name)
            elif not runs and name in self._tasks:
                # One cancellation may get lost; `stop` repeats it.
                ending = asyncio.create_task(stop(self._tasks.pop(name)))
                self._ending.add(ending)
                ending.add_done_callback(self._ending.discard)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Finish background writes, then close every connection."""
        await stop(*self._tasks.values())
        if self._ending:
            await asyncio.wait(self._ending)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2):
                await self.lookups.drain()
        await self.store.close()
        self.days.close()
        await self.nodes.close()
        await self.primary.close()
        self.loop_lag.close()

    def _on_status(self, status: HostStatus) -> None:
        """Called when the primary was adopted, and each time that it was checked again."""
        self.days.observe(status.clock_ms)
        if self.primary.generation != self._primary_generation:
            # A forced promotion may have lost what this worker saw committed.
            self._primary_generation = self.primary.generation
            self.store.sessions.clear()
            self.filter_keeper.clear()

    def facts(self) -> Facts:
        """What this worker knows of MySQL, the lookup nodes and its background tasks."""
        primary, days, now = self.primary, self.days, asyncio.get_running_loop().time()
        loop_lag = self.loop_lag
        cluster = self.nodes.problems if isinstance(self.nodes, ClusterNodes) else []
        failing = [
            f"lookup node {node.name} fails and stays in the ring (lookup.auto_eject_hosts is"
            f" false): {node.health.reason}"
            for node in self.nodes
            if node.health.failing
        ]
        return Facts(
            adopted=primary.adopted,
            doubt=days.doubt,
            blocked=days.blocked if days.known else "",
            lost_for=primary.lost_for,
            problem=primary.problem,
            denied=primary.denied,
            deadline=self.config.mysql.deadline / 1000,
            stall=primary.commits.stall(now),
            full=str(primary.commits.recent(Fault.FULL, now) or ""),
            busy=str(primary.commits.recent(Fault.BUSY, now) or ""),
            redundant=primary.redundant,
            redundancy=primary.redundancy,
            out=[(node.name, node.health.reason) for node in self.nodes if not node.health.live],
            hints=[*cluster, *failing],
            capacity=self.survey.alarms,
            ahead=days.apart,
            foreign=in_words(days.foreign) if days.foreign else "",
            jobs=[self.pruner.rounds.trouble(now), self.sealer.rounds.trouble(now)],
            starved=f"it missed {loop_lag.missing:.0%} of the last {SPAN:.0f} s"
            if loop_lag.starved
            else "",
        )

    def readiness(self) -> Verdict:
        """The verdict on the parts behind this worker."""
        return verdict_of(reasons(self.facts()))

    def ring(self) -> Ring:
        """The ring as `/ring` shows it."""
        shares = self.lookups.ring.shares()
        return Ring(
            self.generation,
            [
                Node(
                    name=node.name,
                    address=node.address,
                    weight=node.server.weight,
                    state="live" if (health := node.health).live else "ejected",
                    since=iso_time(health.since),
                    reason=health.reason or None,
                    next_probe=None if health.next_probe is None else iso_time(health.next_probe),
                    failures=health.failures,
                    share=round(shares[node.name], 6),
                    capacity=self.survey.found.get(node.name),
                )
                for node in self.nodes
            ],
        )

    def outline(self, parts: int) -> Outline:
        """The ring's circle in `parts` places: which node owns each, and which has it now."""
        ring = self.lookups.ring
        out = frozenset(node.name for node in self.nodes if not node.health.live)
        return Outline(ring.outline(parts), ring.outline(parts, out))

    async def partitions(self) -> list[Partition]:
        """The partitions as `/partitions` shows them."""
        return await self.pruner.partitions(self.filters.in_vain)
