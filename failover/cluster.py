"""A Redis Cluster in the place of the ring: which primary has a key, and which of them are well.

Not by redis-py's cluster client (8.1, asyncio/cluster.py). Of its map
- replies have no limit, and a range of slots may be as long as a node says,
- the whole list of commands (COMMAND) is asked for each time that it begins anew.
And in its pipelines
- redirected commands are sent again one by one, up to 16 times each,
- ASKING and the command that it is for may take two different connections,
- each fifth MOVED and each CLUSTERDOWN close the connections to every node, those in use too,
- a primary that refuses connections is never noticed while retries are off.

A primary's keys have no other place to go, so one that fails is left alone until it answers a
probe, or until a refresh of the map shows who took its place: requests for its keys go on without a
hint and wait for nobody. So do those for a primary that says CLUSTERDOWN.

A node that lies can send us to any servers it likes, and costs no more than hints: how many we know
is bounded, and a slot is given away by its primary alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import structlog
from pydantic import ValidationError
from redis.crc import key_slot
from redis.exceptions import AskError, MovedError, RedisError

from tapedeck.config.model import HostPort, Lookup, LookupServer
from tapedeck.failover import metrics
from tapedeck.failover.nodes import Node, describe
from tapedeck.failover.presence import Presence
from tapedeck.failover.redis_link import Link, SlotMapParser
from tapedeck.failover.slots import MOST_PRIMARIES, SLOTS, SlotMap, probe_keys, slot_map
from tapedeck.failover.tasks import stop

log = structlog.get_logger("tapedeck.cluster")

STEADY = 10.0
"""Seconds between two refreshes of the map while all is well; MOVED asks for one at once."""
SOON = 0.25
"""Seconds between two refreshes, and between two probes, while something is not."""
ASKED = 3
"""Of the configured nodes, of the primaries, and of those who may know the map, asked in one
refresh: each may take `timeout` to say nothing."""
MOST_IMPORTING = 64
"""Targets of ASK without a slot that are kept."""


class ClusterNodes:
    """The primaries of a cluster, and who of them has which slot.

    Args:
        config: `servers` are where to ask first; a few of the cluster's nodes are enough.
    """

    def __init__(self, config: Lookup) -> None:
        self._config = config
        self._presence = Presence()
        self._seeds = [HostPort(host=s.host, port=s.port) for s in config.servers]
        self._replicas: set[HostPort] = set()
        self._nodes: dict[str, Node] = {}
        # Targets of ASK that have no slot yet.
        self._importing: dict[str, Node] = {}
        self._slots: list[Node | None] = [None] * SLOTS
        self._down: dict[Node, str] = {}
        self._problem = "it was not reached yet"
        self._told = False
        self._refresh_wanted = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()

    def __iter__(self) -> Iterator[Node]:
        return iter(self._nodes.values())

    def __getitem__(self, name: str) -> Node:
        return self._nodes[name]

    @property
    def out(self) -> frozenset[str]:
        """The names of the primaries that are not asked now."""
        return frozenset(
            [n.name for n in self._nodes.values() if not n.health.live or n in self._down]
        )

    @property
    def problems(self) -> list[str]:
        """What is amiss, one sentence each; primaries that are out are not in it."""
        if not self._nodes:
            return [f"the Redis Cluster gives no hints: {self._problem}"]
        found = []
        if self._problem:
            found.append(f"the Redis Cluster's nodes cannot be asked: {self._problem}")
        if uncovered := self._slots.count(None):
            found.append(f"{uncovered:,} slots of the Redis Cluster have no primary")
        found += [f"lookup node {node.name} says {reason}" for node, reason in self._down.items()]
        return found

    def owner(self, key: bytes) -> Node | None:
        """The primary of a key, however it is; None if nobody has its slot, as far as is known."""
        return self._slots[key_slot(key)]

    def route(self, key: bytes) -> Node | None:
        """The primary to ask for a key; None where asking would be in vain."""
        node = self._slots[key_slot(key)]
        if node is None or not node.health.live or node in self._down:
            return None
        return node

    def shares(self) -> dict[str, float]:
        """By name, the share of the slots that a primary has."""
        counts = Counter(node.name for node in self._slots if node is not None)
        return {name: counts[name] / SLOTS for name in self._nodes}

    def outline(self, parts: int) -> list[str | None]:
        """Whose the slots at `parts` evenly spaced places are, to draw them; None: nobody's."""
        places = (self._slots[part * SLOTS // parts] for part in range(parts))
        return [None if node is None else node.name for node in places]

    def describe(self, node: Node) -> dict[str, Any]:
        """A primary as `/ring` shows it, without its share."""
        described = node.describe()
        if node.health.live and node in self._down:
            described |= {"state": "ejected", "reason": self._down[node]}
        return described

    # --- what replies tell

    def moved(self, error: MovedError, said_by: Node) -> Node | None:
        """A slot belongs to another primary: from now on its keys go there.

        Returns:
            Whom to ask now; None if it names nobody.
        """
        self._refresh_wanted.set()
        mine = 0 <= error.slot_id < SLOTS and self._slots[error.slot_id] is said_by
        if not mine or len(self._nodes) >= 2 * MOST_PRIMARIES:
            # Whoever the slot belongs to by now knows better.
            return self.asked(error, said_by)
        node = self._find(error, said_by)
        if node is not None:
            self._importing.pop(node.name, None)
            self._nodes.setdefault(node.name, node)
            self._slots[error.slot_id] = node
        return node

    def asked(self, error: AskError, said_by: Node) -> Node | None:
        """This once a key is to be asked for elsewhere: its slot is on its way there.

        Returns:
            Whom to ask now; None if it names nobody.
        """
        node = self._find(error, said_by)
        if node is not None and node.name not in self._nodes:
            self._importing[node.name] = node
            if len(self._importing) > MOST_IMPORTING:
                self._leave([self._importing.pop(next(iter(self._importing)))])
        return node

    def down(self, node: Node, reason: str) -> None:
        """A primary says that the cluster is down."""
        if self._nodes.get(node.name) is not node:
            return
        if node not in self._down:
            log.warning("redis cluster down", node=node.name, reason=reason)
        self._down[node] = reason
        self._refresh_wanted.set()

    def _find(self, error: AskError, said_by: Node) -> Node | None:
        # Without a host it means the one that said it.
        host = error.host or said_by.server.host
        name = f"{host}:{error.port}"
        known = self._nodes.get(name) or self._importing.get(name)
        try:
            return known or self._node(HostPort(host=host, port=error.port))
        except ValidationError:
            return None

    # --- the map of slots

    async def start(self) -> None:
        """Begin to look for the nodes; does not wait until they are found."""
        self._presence.start()
        self._watching = asyncio.create_task(self._watch(), name="redis-cluster")

    async def close(self) -> None:
        """Stop looking, drop every connection."""
        self._presence.close()
        await stop(self._watching)
        for node in (*self._nodes.values(), *self._importing.values()):
            await node.close()
        if self._closing:
            await asyncio.wait(self._closing)

    async def refresh(self) -> None:
        """Ask the cluster who has which slot. What it cannot tell stays as it was."""
        best = SlotMap()
        problems = set()
        for address in self._whom_to_ask():
            try:
                found = await self._ask_for_slots(address)
            except Exception as error:  # whatever one of them does, the next one may not
                problems.add(f"{address} {_in_words(error)}")
                continue
            if found.covered > best.covered:
                best = found
            if best.covered == SLOTS:
                break
        if best.covered:
            self._take(best)
            return
        self._problem = "; ".join(sorted(problems)) or "no node of it has a slot"
        if not self._told:
            log.warning("redis cluster not reached", reason=self._problem)
            self._told = True

    def _whom_to_ask(self) -> list[HostPort]:
        """Those that should know the slots, in no order: one that lies is not always the first; and
        after them those that might. Of the configured ones always some: what the map says may be a
        lie."""
        nodes = self._nodes.values()
        well = [_address(node) for node in nodes if node.health.live]
        ill = [_address(node) for node in nodes if not node.health.live]
        first, then = [*_some(self._seeds), *_some(well)], _some([*ill, *self._replicas])
        random.shuffle(first)
        return list(dict.fromkeys([*first, *then]))

    async def _ask_for_slots(self, address: HostPort) -> SlotMap:
        seconds = self._config.timeout / 1000
        link = Link(address, self._config, seconds, SlotMapParser)
        try:
            async with asyncio.timeout(seconds):
                (reply,) = await link.ask([("CLUSTER", "SLOTS")])
        finally:
            await link.close(0)
        if isinstance(reply, RedisError):
            raise reply
        return slot_map(reply, address)

    async def _watch(self) -> None:
        while True:
            await self.refresh()
            await self._look_after_the_ill()
            await asyncio.sleep(SOON)  # never more often than that, however many MOVED come
            ill = self.out or self.problems
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0 if ill else STEADY):
                    await self._refresh_wanted.wait()
            self._refresh_wanted.clear()

    async def _look_after_the_ill(self) -> None:
        out = [node for node in self._nodes.values() if not node.health.live]
        await asyncio.gather(
            # In a failover somebody else has the keys soon; the old one is asked at its pace.
            *(node.probe() for node in out if node.health.probe_due(_now())),
            *(self._ask_again(node) for node in tuple(self._down)),
        )

    async def _ask_again(self, node: Node) -> None:
        with contextlib.suppress(Exception):
            (reply,) = await node.look([("GET", node.probe_key)])
            if not isinstance(reply, RedisError):
                del self._down[node]
                log.info("redis cluster up", node=node.name)

    def _take(self, found: SlotMap) -> None:
        """Make a map that a node told ours."""
        known = {**self._importing, **self._nodes}
        nodes: dict[HostPort, Node] = {}
        slots: list[Node | None] = [None] * SLOTS
        for slot, address in enumerate(found.primaries):
            if address is None:
                continue
            node = nodes.get(address)
            if node is None:
                node = nodes[address] = known.get(str(address)) or self._node(address)
                node.probe_key = probe_keys()[slot]
            slots[slot] = node
        former, self._nodes = self._nodes, {node.name: node for node in nodes.values()}
        self._importing = {n: node for n, node in self._importing.items() if n not in self._nodes}
        self._slots, self._replicas = slots, found.replicas
        self._problem, self._told = "", False
        gone = [node for name, node in former.items() if name not in self._nodes]
        if gone:
            names = [node.name for node in gone]
            log.info(
                "redis cluster nodes are no primaries any more", nodes=names[:8], of=len(names)
            )
            self._leave(gone)

    def _leave(self, nodes: list[Node]) -> None:
        for node in nodes:
            self._down.pop(node, None)
            task = asyncio.create_task(self._close(node), name=f"close-{node.name}")
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def _close(self, node: Node) -> None:
        """Let a node go, once what it was asked is answered."""
        await node.close(2 * self._config.timeout / 1000)
        if node.name not in self._nodes and node.name not in self._importing:
            metrics.forget(node.name)

    def _node(self, address: HostPort) -> Node:
        server = LookupServer(host=address.host, port=address.port, name=str(address))
        node = Node(server, self._config, self._presence)
        node.show(current=True)
        return node


def _address(node: Node) -> HostPort:
    return HostPort(host=node.server.host, port=node.server.port)


def _some(addresses: list[HostPort]) -> list[HostPort]:
    return random.sample(addresses, min(ASKED, len(addresses)))


def _in_words(error: Exception) -> str:
    if "cluster support disabled" in str(error):
        return "says: Cluster mode is not enabled"
    return describe(error)


def _now() -> float:
    return asyncio.get_running_loop().time()
