"""One generation of the ring: where its keys lie, and its requests to the nodes in batches."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from enum import Enum
from typing import NamedTuple

from tapedeck.failover.nodes import Node, is_wrong_type
from tapedeck.sharding.batching import Batcher, Waiter
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
    """A hint to be written.

    Attributes:
        saved: its row was saved; else a read found the row, and repairs its hint.
    """

    key: Key
    day: date
    saved: bool


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

    def ask(self, node: Node, key: Key, waiter: Waiter[Hint]) -> None:
        """Ask a node for a hint; the waiter is told within the node's `timeout`."""
        self._asks[node.name].put(key, waiter)

    def put(self, node: Node, put: Put, waiter: Waiter[bool]) -> None:
        """Write a hint; the waiter is told whether that was done."""
        self._puts[node.name].put(put, waiter)

    def _asking(self, node: Node) -> Batcher[Key, Hint]:
        async def run(keys: list[Key]) -> Sequence[Hint]:
            replies = await node.run([self.layout.ask(key) for key in keys])
            if replies is None:
                return [NO_ANSWER] * len(keys)
            return [hint_of(reply) for reply in replies]

        return Batcher("ask", run, at_most=self._batch)

    def _putting(self, node: Node) -> Batcher[Put, bool]:
        async def run(puts: list[Put]) -> Sequence[bool]:
            groups = [self.layout.put(put.key, put.day) for put in puts]
            firsts = await node.run([group[0] for group in groups], writes=True)
            if firsts is None:
                return [False] * len(puts)
            rests = follow_up(self.layout, puts, groups, firsts)
            if rests:
                replies = await node.run([c for rest in rests.values() for c in rest], writes=True)
                ends = itertools.accumulate(len(rest) for rest in rests.values())
                lasts = [replies[end - 1] for end in ends] if replies is not None else []
                prunes = prune(self.layout, rests, lasts, self._days.oldest())
                if prunes:
                    await node.run(prunes, writes=True)
            return [True] * len(puts)

        return Batcher("put", run, at_most=self._batch, linger=LINGER)


LINGER = 0.01
"""Seconds that a hint waits for others to be written with it: no request waits for it, and until
it is there a load reads one partition more."""


def follow_up(
    layout: Layout, puts: Sequence[Put], groups: Sequence[list[Command]], firsts: Sequence[object]
) -> dict[bytes, list[Command]]:
    """What a batch of written hints asks for next: the expiry, and a look for old fields.

    Only of hints that were written: what refused one because it is of another type is not ours,
    and no expiry is set on it. A read removes nothing, so what it repairs is not looked through.

    Args:
        groups: the commands that write each hint; the first of each was carried out.
        firsts: the replies to these; None where there was no answer.

    Returns:
        By Redis key the commands that follow. A look is the last of them.
    """
    rests: dict[bytes, list[Command]] = {}
    for put, group, first in zip(puts, groups, firsts, strict=True):
        if first is None or isinstance(first, Exception):
            continue
        expiry, name = group[1:], layout.ring_key(put.key)
        look = layout.look_for_old(put.key, first) if put.saved else None
        if look is not None:
            rests[name] = [*expiry, look]
        elif expiry:
            rests.setdefault(name, expiry)
    return rests


def prune(
    layout: Layout, names: Iterable[bytes], lasts: Iterable[object], oldest: date
) -> list[Command]:
    """The commands that remove fields past retention.

    Args:
        names: the Redis keys that `follow_up` named.
        lasts: the reply to the last command of each; none at all if the node failed. What is no
            answer to a look is passed over.
        oldest: the first day within retention.
    """
    return [
        gone
        for name, found in zip(names, lasts, strict=False)
        if (gone := layout.prune(name, found, oldest)) is not None
    ]


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
