"""Hints: asked of the ring's nodes under a short deadline, repaired in the background.

After a reload that moved keys, a hint that the new owner does not have is asked of the owner before
it: a read of every partition is what that saves. Nothing depends on the answer being the last word.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from datetime import date

from tapedeck.config.model import Lookup
from tapedeck.failover.nodes import Node, Nodes
from tapedeck.sharding import metrics
from tapedeck.sharding.days import Days
from tapedeck.sharding.entries import Layout
from tapedeck.sharding.epoch import NO_ANSWER, Epoch, Found, Hint, Put, hint_of
from tapedeck.sharding.placement import Placement
from tapedeck.sharding.ring import Ring
from tapedeck.sharding.state import Key
from tapedeck.sharding.waiting import Patience, Writes

__all__ = ["NO_ANSWER", "Found", "Hint", "Lookups", "Put", "hint_of"]


class Lookups:
    """The lookup entries of all listeners.

    Args:
        config: ring, layout and deadline.
        nodes: the nodes and their health.
        days: the calendar, for what is past retention.
    """

    def __init__(self, config: Lookup, nodes: Nodes, days: Days) -> None:
        self._nodes = nodes
        self._days = days
        self._config = config
        self._epoch = self.plan(config)
        self._previous: tuple[Epoch, ...] = ()
        # Previous owners that left somebody waiting, and until when nobody asks them.
        self._silent: dict[Node, float] = {}
        self._patience = Patience(config.hint_seconds, NO_ANSWER)
        self._writes = Writes()
        self.warm_up = {"hit": 0, "miss": 0, "unavailable": 0}
        self._settle(config)

    @property
    def ring(self) -> Ring:
        """The ring of now."""
        return self._epoch.ring

    @property
    def layout(self) -> Layout:
        """The layout of now."""
        return self._epoch.layout

    @property
    def placement(self) -> Placement:
        """Where keys lie now."""
        return self._epoch.placement

    @property
    def previous(self) -> tuple[Placement, ...]:
        """Where entries may lie still, newest first."""
        return tuple(epoch.placement for epoch in self._previous)

    # --- a reload

    def plan(self, config: Lookup) -> Epoch:
        """What a configuration makes of the ring. Changes nothing.

        Raises:
            ValueError: it makes no ring.
        """
        placement = Placement.of(config)
        nodes = self._nodes.plan(config.servers, config)
        return Epoch(placement, nodes, self._days, config.batch)

    def turn(self, config: Lookup, planned: Epoch, previous: Sequence[Placement]) -> None:
        """From the next request on the planned ring holds. Old requests end where they are.

        Args:
            planned: from `plan`, with the same configuration.
            previous: whose owners are asked for what the new ones do not know, newest first.
        """
        if planned.placement != self._epoch.placement:
            self._epoch = planned
        self._epoch.configure(config.batch)
        self._nodes.turn(planned.nodes, config)
        self._settle(config)
        self.remember(previous)

    def remember(self, previous: Sequence[Placement]) -> None:
        """Ask the owners by these placements for what the owners of now do not know."""
        self._previous = tuple(
            Epoch(
                placement,
                self._nodes.plan(placement.servers, self._config),
                self._days,
                self._config.batch,
            )
            for placement in previous
        )
        kept = {node for epoch in self._previous for node in epoch.nodes.values()}
        self._silent = {node: until for node, until in self._silent.items() if node in kept}
        self._nodes.keep(kept)

    def _settle(self, config: Lookup) -> None:
        self._config = config
        if self._patience.seconds != config.hint_seconds:
            self._patience = Patience(config.hint_seconds, NO_ANSWER)
        self._silence = config.server_retry_timeout / 1000

    # --- requests

    async def ask(self, key: Key) -> Hint:
        """The hint for a key. Never raises, never takes longer than the hint's deadline."""
        epoch = self._epoch
        node = epoch.route(key, self._nodes.out)
        loop = asyncio.get_running_loop()
        until = loop.time() + self._patience.seconds
        hint = NO_ANSWER
        if node is not None:
            # The batch goes on past the deadline, to `timeout`: that is what counts as a failure.
            answer: asyncio.Future[Hint] = loop.create_future()
            epoch.ask(node, key, answer)
            self._patience.watch(answer)
            hint = await answer
        if hint.found is Found.DAY or not self._previous:
            return hint
        return await self._warm(key, epoch, node, hint, until)

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
        epoch = self._epoch
        node = epoch.route(put.key, self._nodes.out)
        if node is None:
            self._writes.drop()
        elif self._writes.begin():
            epoch.put(node, put, self._writes)

    async def drain(self) -> None:
        """Wait for the hints that are being written."""
        await self._writes.drain()

    async def _warm(
        self, key: Key, epoch: Epoch, node: Node | None, hint: Hint, until: float
    ) -> Hint:
        """What previous owners say of a key that its owner does not know; else `hint`.

        One that leaves a request waiting is not asked again for server_retry_timeout: it costs one
        deadline, once.
        """
        now = asyncio.get_running_loop().time
        outcome = None
        for before, owner in self._owners(key, epoch, node):
            if until <= now():
                break
            if not owner.health.live or self._silent.get(owner, 0.0) > now():
                outcome = outcome or "unavailable"
                continue
            said = await _in_time(before, owner, key, until)
            if said.found is Found.DAY:
                self._count("hit")
                return said._replace(warmed=True)
            if said.found is Found.NO_ANSWER:
                self._silent[owner] = now() + self._silence
                outcome = "unavailable"
            else:
                outcome = outcome or "miss"
        if outcome is not None:
            self._count(outcome)
        return hint

    def _count(self, outcome: str) -> None:
        self.warm_up[outcome] += 1
        metrics.WARM_UPS.labels(outcome).inc()

    def _owners(self, key: Key, epoch: Epoch, node: Node | None) -> Iterator[tuple[Epoch, Node]]:
        """Where previous rings had a key, newest first, but for where it was looked for already."""
        asked = {(node.address, epoch.placement.layout)} if node is not None else set()
        for before in self._previous:
            owner = before.owner(key)
            place = owner.address, before.placement.layout
            if place not in asked:
                asked.add(place)
                yield before, owner


async def _in_time(epoch: Epoch, node: Node, key: Key, until: float) -> Hint:
    answer: asyncio.Future[Hint] = asyncio.get_running_loop().create_future()
    epoch.ask(node, key, answer)
    try:
        async with asyncio.timeout_at(until):
            return await answer
    except TimeoutError:
        return NO_ANSWER
