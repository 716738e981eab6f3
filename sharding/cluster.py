"""Hints kept in a Redis Cluster: the same promises, other routes.

A batch goes to one primary. Entries that it redirects (their slot moved, or is on its way) are
asked for once more where it says, all of a target in one batch; what is redirected again has no
hint this time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import date
from typing import Any

from redis.exceptions import AskError, ClusterDownError, MovedError, RedisError

from tapedeck.config.model import Lookup, LookupServer
from tapedeck.failover.cluster import ClusterNodes
from tapedeck.failover.nodes import Node, is_wrong_type
from tapedeck.sharding.batching import Batcher
from tapedeck.sharding.days import Days
from tapedeck.sharding.entries import Command, Layout
from tapedeck.sharding.hints import (
    LINGER,
    NO_ANSWER,
    Hint,
    Put,
    follow_up,
    hint_of,
    prune,
)
from tapedeck.sharding.lookups import Lookups
from tapedeck.sharding.state import Key
from tapedeck.sharding.waiting import Patience, Writes

Group = list[Command]
"""The commands of one entry."""
Replies = list[Any]


class Slots:
    """What a ring is to the ring's users, of a cluster: who has a key, and how much has whom."""

    def __init__(self, nodes: ClusterNodes) -> None:
        self._nodes = nodes

    def shares(self) -> dict[str, float]:
        """By name, the share of the slots that a primary has."""
        return self._nodes.shares()

    def outline(self, parts: int) -> list[str | None]:
        """Whose the slots at evenly spaced places are, by name."""
        return self._nodes.outline(parts)

    def order(self, key: bytes) -> list[LookupServer]:
        """The primary of a key: it has no other."""
        node = self._nodes.owner(key)
        return [] if node is None else [node.server]


class ClusterLookups:
    """The lookup entries of all listeners, in a Redis Cluster.

    Args:
        config: layout and deadline.
        nodes: the primaries.
        days: the calendar, for what is past retention.
    """

    def __init__(self, config: Lookup, nodes: ClusterNodes, days: Days) -> None:
        self.ring = Slots(nodes)
        self.layout = Layout(config.layout, days.retention)
        self._patience = Patience(config.hint_seconds, NO_ANSWER)
        self._cluster = nodes
        self._days = days
        self._asking: dict[Node, Batcher[Key, Hint]] = {}
        self._putting: dict[Node, Batcher[Put, bool]] = {}
        self._writes = Writes()

    async def ask(self, key: Key) -> Hint:
        """The hint for a key. Never raises, never takes longer than the hint's deadline."""
        node = self._cluster.route(self.layout.ring_key(key))
        if node is None:
            return NO_ANSWER
        # The batch goes on past the deadline, to `timeout`: that is what counts as a failure.
        answer: asyncio.Future[Hint] = asyncio.get_running_loop().create_future()
        self._asks(node).put(key, answer)
        self._patience.watch(answer)
        return await answer

    async def peek(self, key: Key, node: Node) -> Hint:
        """What the cluster says of a key when this node is asked; waits for `timeout`."""
        (replies,) = await self._carry_out(node, [[self.layout.ask(key)]])
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
        node = self._cluster.route(self.layout.ring_key(put.key))
        if node is None:
            self._writes.drop()
        elif self._writes.begin():
            self._puts(node).put(put, self._writes)

    async def drain(self) -> None:
        """Wait for the hints that are being written."""
        await self._writes.drain()

    # --- batches

    def _asks(self, node: Node) -> Batcher[Key, Hint]:
        batcher = self._asking.get(node)
        if batcher is None:
            self._forget_the_gone()

            async def run(keys: list[Key]) -> Sequence[Hint]:
                groups: list[Group] = [[self.layout.ask(key)] for key in keys]
                found = await self._carry_out(node, groups)
                return [NO_ANSWER if one is None else hint_of(one[0]) for one in found]

            batcher = self._asking[node] = Batcher("ask", run, at_most=256)
        return batcher

    def _puts(self, node: Node) -> Batcher[Put, bool]:
        batcher = self._putting.get(node)
        if batcher is None:

            async def run(puts: list[Put]) -> Sequence[bool]:
                return await self._write(node, puts)

            batcher = self._putting[node] = Batcher("put", run, at_most=128, linger=LINGER)
        return batcher

    def _forget_the_gone(self) -> None:
        """Primaries come and go: keep the batchers of those that are there."""
        here = set(self._cluster)
        self._asking = {node: asks for node, asks in self._asking.items() if node in here}
        self._putting = {node: puts for node, puts in self._putting.items() if node in here}

    async def _write(self, node: Node, puts: list[Put]) -> list[bool]:
        groups = [self.layout.put(put.key, put.day) for put in puts]
        found = await self._carry_out(node, [group[:1] for group in groups], writes=True)
        firsts = [None if replies is None else replies[0] for replies in found]
        if rests := follow_up(self.layout, puts, groups, firsts):
            answers = await self._carry_out(node, list(rests.values()), writes=True)
            lasts = [None if replies is None else replies[-1] for replies in answers]
            prunes = prune(self.layout, rests, lasts, self._days.oldest())
            if prunes:
                await self._carry_out(node, [[one] for one in prunes], writes=True)
        return [replies is not None for replies in found]

    async def _carry_out(
        self, node: Node, groups: list[Group], *, writes: bool = False
    ) -> list[Replies | None]:
        """The replies to each group; None where there are none."""
        found = await _send(node, groups, asking=False, writes=writes)
        elsewhere: dict[tuple[Node, bool], list[int]] = {}
        for number, replies in enumerate(found):
            error = _refusal(replies)
            if error is None:
                continue
            found[number] = None
            target: Node | None = None
            if isinstance(error, MovedError):  # (a kind of AskError)
                target = self._cluster.moved(error, node)
            elif isinstance(error, AskError):
                target = self._cluster.asked(error, node)
            elif isinstance(error, ClusterDownError):
                self._cluster.down(node, f"CLUSTERDOWN: {error}")
            if target is not None:
                asking = not isinstance(error, MovedError)
                elsewhere.setdefault((target, asking), []).append(number)
        if elsewhere:
            await asyncio.gather(
                *(
                    self._again(target, asking, numbers, groups, found, writes)
                    for (target, asking), numbers in elsewhere.items()
                    if target.health.live
                )
            )
        return found

    async def _again(
        self,
        target: Node,
        asking: bool,
        numbers: list[int],
        groups: list[Group],
        found: list[Replies | None],
        writes: bool,
    ) -> None:
        mine = [groups[number] for number in numbers]
        answers = await _send(target, mine, asking=asking, writes=writes)
        for number, replies in zip(numbers, answers, strict=True):
            if _refusal(replies) is None:
                found[number] = replies


async def _send(
    node: Node, groups: list[Group], *, asking: bool, writes: bool
) -> list[Replies | None]:
    """One round trip; the replies by group."""
    commands: list[Command] = []
    for group in groups:
        for command in group:
            # Of one connection it holds for the next command alone.
            commands += [("ASKING",), command] if asking else [command]
    replies = await node.run(commands, writes=writes, clustered=True)
    if replies is None:
        return [None] * len(groups)
    if asking:
        replies = replies[1::2]
    found: list[Replies | None] = []
    position = 0
    for group in groups:
        found.append(replies[position : position + len(group)])
        position += len(group)
    return found


def _refusal(replies: Replies | None) -> RedisError | None:
    """The first reply that says that the entry is not served here; None if it was."""
    if replies is None:
        return None
    return next(
        (r for r in replies if isinstance(r, RedisError) and not is_wrong_type(r)),
        None,
    )


AnyLookups = Lookups | ClusterLookups
"""Where hints are: on a ring's nodes, or in a cluster."""
