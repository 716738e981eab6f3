"""Hints: asked of lookup nodes under a short deadline, repaired in the background."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import NamedTuple

from config.model import Lookup
from failover.redis.cluster import ClusterNodes
from failover.redis.nodes import Node, Nodes
from sharding import metrics
from sharding.batching import Batcher
from sharding.lookups.hint_rules import LINGER, NO_ANSWER, Hint, Put, follow_up, hint_of, prune
from sharding.lookups.layout import Layout
from sharding.partitions.days import Days
from sharding.ring.ring import Ring, ring_of
from sharding.state import Key


class Batches:
    """The reads and writes of one node's hints, in batches.

    Args:
        layout: of the entries.
        days: the calendar, to remove hints past retention.
        size: most entries in one round trip.
    """

    def __init__(self, node: Node, layout: Layout, days: Days, size: int) -> None:
        self.layout = layout
        self._node = node
        self._days = days
        self.asks: Batcher[Key, Hint] = Batcher("ask", self._ask, at_most=size)
        self.puts: Batcher[Put, bool] = Batcher("put", self._put, at_most=size, linger=LINGER)

    def configure(self, layout: Layout, size: int) -> None:
        self.layout = layout
        self.asks.at_most = self.puts.at_most = size

    async def _ask(self, keys: list[Key]) -> Sequence[Hint]:
        replies = await self._node.run([self.layout.ask(key) for key in keys])
        if replies is None:
            return [NO_ANSWER] * len(keys)
        return [hint_of(reply) for reply in replies]

    async def _put(self, puts: list[Put]) -> Sequence[bool]:
        groups = [self.layout.put(put.key, put.day) for put in puts]
        more = any(len(group) > 1 for group in groups)
        firsts = await self._node.run([group[0] for group in groups], writes=True, more=more)
        if firsts is None:
            return [False] * len(puts)
        rests = follow_up(self.layout, puts, groups, firsts)
        if rests:
            commands = [command for rest in rests.values() for command in rest]
            replies = await self._node.run(commands, writes=True)
            ends = itertools.accumulate(len(rest) for rest in rests.values())
            lasts = [replies[end - 1] for end in ends] if replies is not None else []
            prunes = prune(self.layout, rests, lasts, self._days.oldest())
            if prunes:
                await self._node.run(prunes, writes=True)
        return [True] * len(puts)


class Writes:
    """Counts the hints that are being written; it is the waiter of each of them."""

    MOST = 10_000
    """Hints under way at once; further ones are dropped."""

    def __init__(self) -> None:
        self._pending = 0
        self._none = asyncio.Event()
        self._none.set()

    def begin(self) -> bool:
        """Count one more hint; False if there are too many."""
        if self._pending >= self.MOST:
            self.drop()
            return False
        self._pending += 1
        self._none.clear()
        return True

    def drop(self) -> None:
        metrics.HINT_WRITES.counts["dropped"] += 1

    def done(self) -> bool:
        """Never: no caller takes a hint back."""
        return False

    def set_result(self, written: bool, /) -> None:
        if written:
            metrics.HINT_WRITES.counts["written"] += 1
        else:
            self.drop()
        self._pending -= 1
        if not self._pending:
            self._none.set()

    def set_exception(self, exception: Exception, /) -> None:
        self.set_result(False)

    async def drain(self) -> None:
        await self._none.wait()


class Routes(NamedTuple):
    """The ring of one configuration, and its nodes by name."""

    config: Lookup
    ring: Ring
    nodes: Mapping[str, Node]


class Lookups:
    """The lookup entries of all listeners, on the nodes of a ring or in a Redis Cluster.

    Args:
        config: ring, layout and deadline.
        nodes: the nodes and their health.
        days: the calendar, to remove hints past retention.

    Attributes:
        layout: of the entries.
    """

    def __init__(self, config: Lookup, nodes: Nodes | ClusterNodes, days: Days) -> None:
        self._nodes = nodes
        self._days = days
        self._writes = Writes()
        self._batches: dict[Node, Batches] = {}
        self._routes = self.plan(config)
        self._configure(config)

    def _configure(self, config: Lookup) -> None:
        self._size = config.batch
        self.layout = Layout(config.layout, self._days.retention)
        self._hint_seconds = config.hint_seconds

    @property
    def ring(self) -> Ring | ClusterNodes:
        """Which node has which key now."""
        if isinstance(self._nodes, ClusterNodes):
            return self._nodes
        assert self._routes is not None
        return self._routes.ring

    def plan(self, config: Lookup) -> Routes | None:
        """Build the ring of a configuration without using it; None for a Redis Cluster."""
        if isinstance(self._nodes, ClusterNodes):
            return None
        return Routes(config, ring_of(config), self._nodes.plan(config.servers, config))

    def use(self, planned: Routes) -> None:
        """Use a planned ring from the next request on. Requests under way end on the old one."""
        assert isinstance(self._nodes, Nodes)
        config = planned.config
        self._routes = planned
        self._nodes.use(planned.nodes, config)
        self._configure(config)
        self._forget_others(planned.nodes.values())
        for batches in self._batches.values():
            batches.configure(self.layout, config.batch)

    def _node_of(self, name: bytes) -> Node | None:
        if isinstance(self._nodes, ClusterNodes):
            node = self._nodes.owner(name)
            return node if node is not None and node.health.live else None
        assert self._routes is not None
        server = self._routes.ring.route(name, self._nodes.out)
        return None if server is None else self._routes.nodes[server.name]

    def _forget_others(self, nodes: Iterable[Node]) -> None:
        there = set(nodes)
        self._batches = {node: its for node, its in self._batches.items() if node in there}

    def _find(self, key: Key) -> Batches | None:
        """The batches of the node that has a key; None while no node has it."""
        node = self._node_of(self.layout.ring_key(key))
        if node is None:
            return None
        batches = self._batches.get(node)
        if batches is None:
            self._forget_others(self._nodes)  # the primaries of a cluster come and go
            batches = self._batches[node] = Batches(node, self.layout, self._days, self._size)
        return batches

    async def ask(self, key: Key) -> Hint:
        """The hint for a key. It never raises, and never takes longer than `hint_deadline`."""
        batches = self._find(key)
        if batches is None:
            return NO_ANSWER
        # The batch continues past this deadline, until `timeout`: only then the node has failed.
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Hint] = loop.create_future()
        batches.asks.put(key, answer)
        timer = loop.call_later(self._hint_seconds, _give_up, answer)
        try:
            return await answer
        finally:
            timer.cancel()

    async def peek(self, key: Key, node: Node) -> Hint:
        """The hint that one node has for a key, whether it owns the key or not. Waits `timeout`."""
        replies = await node.run([self.layout.ask(key)])
        return hint_of(replies[0]) if replies is not None else NO_ANSWER

    def put(self, key: Key, day: date, *, saved: bool) -> None:
        """Write the hint of a row in the background.

        A hint that cannot be written is dropped: the next load repairs it.

        Args:
            saved: as in Put.
        """
        batches = self._find(key)
        if batches is None:
            self._writes.drop()
        elif self._writes.begin():
            batches.puts.put(Put(key, day, saved), self._writes)

    async def drain(self) -> None:
        """Wait until every hint under way is written or dropped."""
        await self._writes.drain()


def _give_up(answer: asyncio.Future[Hint]) -> None:
    if not answer.done():
        answer.set_result(NO_ANSWER)
