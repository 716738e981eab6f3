"""Hints: asked of the ring's nodes under a short deadline, repaired in the background."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from datetime import date

from tapedeck.config.model import Lookup
from tapedeck.failover.nodes import Node, Nodes
from tapedeck.sharding.batching import Batcher
from tapedeck.sharding.days import Days
from tapedeck.sharding.entries import Layout
from tapedeck.sharding.hints import LINGER, NO_ANSWER, Hint, Put, follow_up, hint_of, prune
from tapedeck.sharding.placement import Placement
from tapedeck.sharding.ring import Ring
from tapedeck.sharding.state import Key
from tapedeck.sharding.waiting import Patience, Writes


class Batches:
    """What one node is asked, and what is written there, in batches.

    Args:
        node: that they go to.
        layout: of the entries.
        days: the calendar, for what is past retention.
        size: entries in one round trip at most.
    """

    def __init__(self, node: Node, layout: Layout, days: Days, size: int) -> None:
        self.layout = layout
        self._node = node
        self._days = days
        self.asks: Batcher[Key, Hint] = Batcher("ask", self._ask, at_most=size)
        self.puts: Batcher[Put, bool] = Batcher("put", self._put, at_most=size, linger=LINGER)

    def configure(self, layout: Layout, size: int) -> None:
        """From the next batch on these hold."""
        self.layout = layout
        self.asks.at_most = self.puts.at_most = size

    async def _ask(self, keys: list[Key]) -> Sequence[Hint]:
        replies = await self._node.run([self.layout.ask(key) for key in keys])
        if replies is None:
            return [NO_ANSWER] * len(keys)
        return [hint_of(reply) for reply in replies]

    async def _put(self, puts: list[Put]) -> Sequence[bool]:
        groups = [self.layout.put(put.key, put.day) for put in puts]
        firsts = await self._node.run([group[0] for group in groups], writes=True)
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


class Routes:
    """The ring as one configuration has it.

    Args:
        placement: where keys lie.
        nodes: by name.
        days: the calendar.
        size: of batches.

    Raises:
        ValueError: the placement makes no ring.
    """

    def __init__(
        self, placement: Placement, nodes: Mapping[str, Node], days: Days, size: int
    ) -> None:
        self.placement = placement
        self.ring = placement.ring()
        self.nodes = nodes
        layout = Layout(placement.layout, days.retention)
        self.batches = {name: Batches(node, layout, days, size) for name, node in nodes.items()}

    def configure(self, layout: Layout, size: int) -> None:
        """From the next batch on these hold."""
        for batches in self.batches.values():
            batches.configure(layout, size)


class Lookups:
    """The lookup entries of all listeners, on the nodes of a ring.

    Args:
        config: ring, layout and deadline.
        nodes: the nodes and their health.
        days: the calendar, for what is past retention.

    Attributes:
        layout: of the entries.
    """

    def __init__(self, config: Lookup, nodes: Nodes, days: Days) -> None:
        self._nodes = nodes
        self._days = days
        self._routes = self.plan(config)
        self._writes = Writes()
        self._settle(config)

    @property
    def ring(self) -> Ring:
        """The ring of now."""
        return self._routes.ring

    # --- a reload

    def plan(self, config: Lookup) -> Routes:
        """What a configuration makes of the ring. Changes nothing.

        Raises:
            ValueError: it makes no ring.
        """
        nodes = self._nodes.plan(config.servers, config)
        return Routes(Placement.of(config), nodes, self._days, config.batch)

    def turn(self, config: Lookup, planned: Routes) -> None:
        """From the next request on the planned ring holds. Old requests end where they are.

        Args:
            planned: from `plan`, with the same configuration.
        """
        if planned.placement != self._routes.placement:
            self._routes = planned
        self._nodes.turn(planned.nodes, config)
        self._settle(config)

    def _settle(self, config: Lookup) -> None:
        self.layout = Layout(config.layout, self._days.retention)
        self._routes.configure(self.layout, config.batch)
        self._patience = Patience(config.hint_seconds, NO_ANSWER)

    # --- requests

    async def ask(self, key: Key) -> Hint:
        """The hint for a key. Never raises, never takes longer than the hint's deadline."""
        batches = self._find(key)
        if batches is None:
            return NO_ANSWER
        # The batch goes on past the deadline, to `timeout`: that is what counts as a failure.
        answer: asyncio.Future[Hint] = asyncio.get_running_loop().create_future()
        batches.asks.put(key, answer)
        self._patience.watch(answer)
        return await answer

    async def peek(self, key: Key, node: Node) -> Hint:
        """What one node says of a key, whether the ring names it or not; waits for `timeout`."""
        replies = await node.run([self.layout.ask(key)])
        return hint_of(replies[0]) if replies is not None else NO_ANSWER

    def put(self, key: Key, day: date) -> None:
        """Write the hint of a row that was saved, in the background.

        What fails is dropped: the next load repairs it.
        """
        self._put(Put(key, day, saved=True))

    def repair(self, key: Key, day: date) -> None:
        """Write the hint of a row that a read found, in the background."""
        self._put(Put(key, day, saved=False))

    def _put(self, put: Put) -> None:
        batches = self._find(put.key)
        if batches is None:
            self._writes.drop()
        elif self._writes.begin():
            batches.puts.put(put, self._writes)

    def _find(self, key: Key) -> Batches | None:
        """The batches to the node of a key; None while no node is live."""
        routes = self._routes
        server = routes.ring.route(self.layout.ring_key(key), self._nodes.out)
        return None if server is None else routes.batches[server.name]

    async def drain(self) -> None:
        """Wait for the hints that are being written."""
        await self._writes.drain()
