"""One generation of the ring: where its keys lie, and its requests to the nodes in batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from enum import Enum
from typing import Any, NamedTuple

from tapedeck.failover.nodes import Node, is_wrong_type
from tapedeck.sharding.batching import Batcher
from tapedeck.sharding.days import Days
from tapedeck.sharding.entries import Command, Garbage, Layout, read
from tapedeck.sharding.placement import Placement
from tapedeck.sharding.state import Key


class Found(Enum):
    """What asking for a hint came to."""

    DAY = "day"
    NOTHING = "miss"
    GARBAGE = "garbage"
    NO_ANSWER = "unavailable"


class Hint(NamedTuple):
    """Where a state may lie. `day` is set with Found.DAY alone.

    Attributes:
        warmed: a previous owner said it; the owner does not know it yet.
    """

    found: Found
    day: date | None = None
    warmed: bool = False


NOTHING = Hint(Found.NOTHING)
GARBAGE = Hint(Found.GARBAGE)
NO_ANSWER = Hint(Found.NO_ANSWER)


class Put(NamedTuple):
    """A hint to be written, or removed."""

    key: Key
    day: date | None


class Epoch:
    """The ring as one configuration has it.

    Args:
        placement: where keys lie.
        nodes: by name.
        days: the calendar, for what is past retention.
        batch: entries in one round trip at most.

    Raises:
        ValueError: the placement makes no ring.
    """

    def __init__(
        self, placement: Placement, nodes: Mapping[str, Node], days: Days, batch: int
    ) -> None:
        self.placement = placement
        self.ring = placement.ring()
        self.layout = Layout(placement.layout, days.retention)
        self.nodes = nodes
        self._days = days
        self._batch = batch
        self._asks = {name: self._asking(node) for name, node in nodes.items()}
        self._puts = {name: self._putting(node) for name, node in nodes.items()}

    def configure(self, batch: int) -> None:
        """Another size of batches, and the retention that the calendar has now, hold from here."""
        self.layout = Layout(self.placement.layout, self._days.retention)
        for asks in self._asks.values():
            asks.at_most = batch
        for puts in self._puts.values():
            puts.at_most = batch

    def owner(self, key: Key) -> Node:
        """The node of a key when every node is live."""
        return self.nodes[self.ring.owner(self.layout.ring_key(key)).name]

    def route(self, key: Key, out: frozenset[str]) -> Node | None:
        """The node of a key while others are out; None when all are."""
        server = self.ring.route(self.layout.ring_key(key), out)
        return None if server is None else self.nodes[server.name]

    async def ask(self, node: Node, key: Key) -> Hint:
        """What a node says of a key. Goes on past a caller's deadline, to the node's `timeout`."""
        return await self._asks[node.name].submit(key)

    async def put(self, node: Node, put: Put) -> bool:
        """Write or remove a hint; whether that was done."""
        return await self._puts[node.name].submit(put)

    def _asking(self, node: Node) -> Batcher[Key, Hint]:
        async def run(keys: list[Key]) -> Sequence[Hint]:
            replies = await node.run([self.layout.ask(key) for key in keys])
            if replies is None:
                return [NO_ANSWER] * len(keys)
            return [hint_of(reply) for reply in replies]

        return Batcher("ask", run, at_most=self._batch)

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
            cleared: set[bytes] = set()
            position = 0
            for put, group in zip(puts, groups, strict=True):
                found = replies[position : position + len(group)]
                after += mend(self.layout, self._days.oldest(), put, group, found, cleared)
                position += len(group)
            if after:
                await node.run(after, writes=True)
            return [True] * len(puts)

        return Batcher("put", run, at_most=self._batch)


def mend(
    layout: Layout,
    oldest: date,
    put: Put,
    group: Sequence[Command],
    replies: Sequence[Any],
    cleared: set[bytes],
) -> list[Command]:
    """What puts right what writing an entry met: another type in its place, fields past retention.

    Args:
        oldest: the first day within retention.
        group: the commands that wrote the entry, and `replies`, what they met.
        cleared: Redis keys that this batch has cleared: a second time would undo the first.
    """
    if is_wrong_type(replies[0]):
        name = layout.ring_key(put.key)
        clear = [] if name in cleared else [layout.clear(put.key)]
        cleared.add(name)
        return [*clear, *(group if put.day else ())]
    prune = layout.prune(put.key, replies[-1], oldest)
    return [prune] if prune else []


def hint_of(reply: object) -> Hint:
    """The hint that a reply to `Layout.ask` is."""
    if is_wrong_type(reply):
        return GARBAGE
    day = read(reply)
    if day is None:
        return NOTHING
    if isinstance(day, Garbage):
        return GARBAGE
    return Hint(Found.DAY, day)
