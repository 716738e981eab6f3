"""Hints: asked of the ring's nodes under a short deadline, repaired in the background."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import date
from enum import Enum
from typing import Any, NamedTuple

from tapedeck.config.model import Lookup
from tapedeck.failover.nodes import Node, Nodes, is_wrong_type
from tapedeck.sharding import metrics
from tapedeck.sharding.batching import Batcher
from tapedeck.sharding.days import Days
from tapedeck.sharding.entries import Command, Garbage, Layout, read
from tapedeck.sharding.ring import ring_of
from tapedeck.sharding.state import Key


class Found(Enum):
    """What asking for a hint came to."""

    DAY = "day"
    NOTHING = "miss"
    GARBAGE = "garbage"
    NO_ANSWER = "unavailable"


class Hint(NamedTuple):
    """Where a state may lie. `day` is set with Found.DAY alone."""

    found: Found
    day: date | None = None


_NOTHING = Hint(Found.NOTHING)
_GARBAGE = Hint(Found.GARBAGE)
NO_ANSWER = Hint(Found.NO_ANSWER)


class Put(NamedTuple):
    """A hint to be written, or removed."""

    key: Key
    day: date | None


class Lookups:
    """The lookup entries of all listeners.

    Args:
        config: ring, layout and deadline.
        nodes: the nodes and their health.
        days: the calendar, for what is past retention.
    """

    def __init__(self, config: Lookup, nodes: Nodes, days: Days) -> None:
        self.ring = ring_of(config)
        self.layout = Layout(config.layout, days.retention)
        self._deadline = config.hint_seconds
        self._nodes = nodes
        self._days = days
        self._asks = {node.name: self._asking(node) for node in nodes}
        self._puts = {node.name: self._putting(node) for node in nodes}
        self._pending: set[asyncio.Task[None]] = set()

    async def ask(self, key: Key) -> Hint:
        """The hint for a key. Never raises, never takes longer than the hint's deadline."""
        server = self.ring.route(self.layout.ring_key(key), self._nodes.out)
        if server is None:
            return NO_ANSWER
        try:
            # The batch goes on past this deadline, to `timeout`: that is what counts as a failure.
            async with asyncio.timeout(self._deadline):
                return await self._asks[server.name].submit(key)
        except TimeoutError:
            return NO_ANSWER

    async def peek(self, key: Key, node: Node) -> Hint:
        """What one node says of a key, whether the ring names it or not; waits for `timeout`."""
        replies = await node.run([self.layout.ask(key)])
        return hint_of(replies[0]) if replies is not None else NO_ANSWER

    def put(self, key: Key, day: date | None) -> None:
        """Write a hint (None: remove it), in the background.

        What fails is dropped: the next load repairs it.
        """
        server = self.ring.route(self.layout.ring_key(key), self._nodes.out)
        if server is None or len(self._pending) >= 10_000:
            metrics.HINT_WRITES.labels("dropped").inc()
            return
        task = asyncio.create_task(self._put(server.name, Put(key, day)))
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)

    async def drain(self) -> None:
        """Wait for the hints that are being written."""
        if self._pending:
            await asyncio.wait(self._pending)

    async def _put(self, name: str, put: Put) -> None:
        written = await self._puts[name].submit(put)
        metrics.HINT_WRITES.labels("written" if written else "dropped").inc()

    def _asking(self, node: Node) -> Batcher[Key, Hint]:
        async def run(keys: list[Key]) -> Sequence[Hint]:
            replies = await node.run([self.layout.ask(key) for key in keys])
            if replies is None:
                return [NO_ANSWER] * len(keys)
            return [hint_of(reply) for reply in replies]

        return Batcher("ask", run, at_most=256)

    def _putting(self, node: Node) -> Batcher[Put, bool]:
        async def run(puts: list[Put]) -> Sequence[bool]:
            groups = [
                self.layout.put(put.key, put.day) if put.day else [self.layout.remove(put.key)]
                for put in puts
            ]
            replies = await node.run(
                [command for group in groups for command in group], writes=True
            )
            if replies is None:
                return [False] * len(puts)
            after: list[Command] = []
            position = 0
            for put, group in zip(puts, groups, strict=True):
                after += self._afterwards(put, group, replies[position : position + len(group)])
                position += len(group)
            if after:
                await node.run(after, writes=True)
            return [True] * len(puts)

        return Batcher("put", run, at_most=128)

    def _afterwards(self, put: Put, group: list[Command], replies: list[Any]) -> list[Command]:
        """Put right what writing an entry met: another type in its place, fields past retention."""
        if is_wrong_type(replies[0]):
            return [self.layout.clear(put.key), *(group if put.day else ())]
        prune = self.layout.prune(put.key, replies[-1], self._days.oldest())
        return [prune] if prune else []


def hint_of(reply: object) -> Hint:
    """The hint that a reply to `Layout.ask` is."""
    if is_wrong_type(reply):
        return _GARBAGE
    day = read(reply)
    if day is None:
        return _NOTHING
    if isinstance(day, Garbage):
        return _GARBAGE
    return Hint(Found.DAY, day)
