"""The primaries of a Redis Cluster, for hints only.

Each of its nodes can tell which primary has which slot (CLUSTER SLOTS). Each primary is a `Node`
like those of a ring, with the same rules of ejection and return. If a node answers that another one
has an entry (MOVED, ASK), that one is not asked: there is no hint, and the slots are asked for
again. A fault of the cluster costs hints while it lasts, and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import structlog
from pydantic import ValidationError
from redis.crc import REDIS_CLUSTER_HASH_SLOTS as SLOTS
from redis.crc import key_slot

from config.model import HostPort, Lookup, LookupServer
from failover import metrics
from failover.loop_lag import LoopLag
from failover.redis.connections import Command, Link, NodeError
from failover.redis.nodes import PROBE_KEY, Elsewhere, Node, NodeSet, describe

log = structlog.get_logger("tapedeck.nodes")

SOON = 0.5
"""Seconds between two questions to the cluster while something is wrong."""
STEADY = 10.0
"""Seconds between two questions to the cluster while all is well."""
ASK_SECONDS = 5.0
"""Most seconds of one question: several nodes may have to be asked."""
MOST_SERVERS = 1_000
"""The most nodes of a Redis Cluster (its specification, "Redis cluster goals")."""
_MAP_SIZE = 16
"""The reply to CLUSTER SLOTS may be this many times larger than others: a thousand primaries with
their replicas, and some ranges of slots each, take a megabyte."""
_PROBE_KEYS = 2_000
"""How many keys are tried to find one of a primary's own."""
_ELSEWHERE = ("MOVED ", "ASK ", "TRYAGAIN ", "CLUSTERDOWN ")


class _Link(Link):
    """The connections to one primary, which may answer that another one has an entry."""

    def __init__(self, nodes: ClusterNodes, server: HostPort, config: Lookup) -> None:
        super().__init__(server, config)
        self._nodes = nodes
        self._name = str(server)

    async def ask(self, commands: Sequence[Command]) -> list[Any]:
        """As `Link.ask`, but for an entry of another primary the reply is `Elsewhere`."""
        replies = await super().ask(commands)
        for at, reply in enumerate(replies):
            if isinstance(reply, NodeError) and str(reply).startswith(_ELSEWHERE):
                replies[at] = Elsewhere(str(reply))
        elsewhere = [str(reply) for reply in replies if isinstance(reply, Elsewhere)]
        self._nodes.note_errors(self._name, elsewhere)
        return replies

    def renew(self) -> None:
        """Ask for the slots again: the primary failed, and another one may have them by now."""
        super().renew()
        self._nodes.ask_soon()


def read_slots(reply: Any, asked: str) -> list[tuple[range, LookupServer]]:
    """The primaries and their slots, from the reply to CLUSTER SLOTS.

    Args:
        asked: the host that replied, used if the reply does not contain its name.

    Raises:
        ValueError: the reply is an error, or names impossible slots or servers.
    """
    if isinstance(reply, NodeError):
        raise ValueError(str(reply))
    found = []
    try:
        for first, last, (host, port, *_), *_ in reply:
            if not 0 <= first <= last < SLOTS:
                raise ValueError
            name = (host or b"").decode() or asked
            server = LookupServer(host=name, port=port, name=f"{name}:{port}")
            found.append((range(first, last + 1), server))
    except (TypeError, ValueError, ValidationError):
        raise ValueError("CLUSTER SLOTS is answered with what it cannot be") from None
    if sum(len(slots) for slots, _ in found) > SLOTS:
        raise ValueError("CLUSTER SLOTS is answered with a slot twice")
    if len({server.name for _, server in found}) > MOST_SERVERS:
        raise ValueError(f"CLUSTER SLOTS is answered with more than {MOST_SERVERS} servers")
    if not found:
        raise ValueError("no node of it has a slot")
    return found


class ClusterNodes(NodeSet):
    """The primaries, by `host:port`, as the servers of the configuration tell them."""

    def __init__(self, config: Lookup, loop_lag: LoopLag | None = None) -> None:
        super().__init__()
        self._config = config
        self._loop_lag = loop_lag
        self._owners: list[Node | None] = [None] * SLOTS
        self._problem = "it was not asked yet"
        self._down: dict[str, str] = {}
        self._wanted = asyncio.Event()

    @property
    def problems(self) -> list[str]:
        """What is wrong with the cluster, one sentence each; without ejected primaries."""
        if self._problem:
            return [f"the Redis Cluster gives no hints: {self._problem}"]
        if self._down:
            said = next(iter(self._down.values()))
            return [f"the Redis Cluster says CLUSTERDOWN: {said}"]
        uncovered = self._owners.count(None)
        return [f"{uncovered:,} slots of the Redis Cluster have no primary"] if uncovered else []

    def owner(self, key: bytes) -> Node | None:
        """The primary of a key; None if its slot has none."""
        return self._owners[key_slot(key)]

    def shares(self) -> dict[str, float]:
        """The share of the slots that each primary has, by its name."""
        counts = Counter(self._owners)
        return {name: counts[node] / SLOTS for name, node in self._nodes.items()}

    def order(self, key: bytes) -> list[LookupServer]:
        """The primary of a key: no other one has it."""
        node = self.owner(key)
        return [] if node is None else [node.server]

    def outline(self, parts: int, out: frozenset[str] = frozenset()) -> list[str | None]:
        """The names of the primaries that have the slots at evenly spaced places; None where no
        primary has them. No primary takes the place of another one, so `out` changes nothing."""
        owners = (self._owners[part * SLOTS // parts] for part in range(parts))
        return [None if owner is None else owner.name for owner in owners]

    def ask_soon(self) -> None:
        """Ask for the slots soon: something failed."""
        self._wanted.set()

    def note_errors(self, name: str, elsewhere: Sequence[str]) -> None:
        """Called when a primary has answered.

        Args:
            name: of the primary.
            elsewhere: its errors for the entries that it does not have.
        """
        down = next((said for said in elsewhere if said.startswith("CLUSTERDOWN")), "")
        if not down:
            self._down.pop(name, None)
        elif name in self._nodes:
            if not self._down:
                log.warning("redis cluster failed", reason=down)
            self._down[name] = down
        if elsewhere:
            self.ask_soon()

    async def _watch(self) -> None:
        while True:
            self._wanted.clear()
            await self.refresh()
            now = asyncio.get_running_loop().time()
            for node in self:
                if not node.health.live:
                    node.check(now)
                    self._down.pop(node.name, None)  # no longer known
            if self._down:  # also while no request comes whose answer would end it
                asked = (node.ask_uncounted([("GET", PROBE_KEY)]) for node in self)
                await asyncio.gather(*asked, return_exceptions=True)
            await asyncio.sleep(SOON)  # never more often, however much fails
            amiss = self.problems or any(not node.health.live for node in self)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0 if amiss else STEADY):
                    await self._wanted.wait()

    async def refresh(self) -> None:
        """Ask the cluster which primary has which slot. If no known server answers, the servers of
        the configuration are asked."""
        known = [node.server for node in self if node.health.live]
        problem = ""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ASK_SECONDS):
                # In random order: the answer of one of them may be out of date.
                for server in (*random.sample(known, len(known)), *self._config.servers):
                    try:
                        self._use_slots(await self._ask(server))
                        self._problem = ""
                        return
                    except Exception as error:
                        problem = problem or describe(error)
        if not self._problem:
            log.warning("redis cluster not reached", reason=problem)
        self._problem = problem or "timeout"

    async def _ask(self, server: HostPort) -> list[tuple[range, LookupServer]]:
        link = Link(server, self._config, _MAP_SIZE)
        try:
            async with asyncio.timeout(self._config.timeout / 1000):
                (reply,) = await link.ask([("CLUSTER", "SLOTS")])
        finally:
            link.renew()
        return read_slots(reply, server.host)

    def _use_slots(self, found: list[tuple[range, LookupServer]]) -> None:
        former = self._nodes
        servers = {server.name: server for _, server in found}
        self._nodes = {name: former.get(name) or self._node(one) for name, one in servers.items()}
        self._owners = [None] * SLOTS
        for slots, server in found:
            for slot in slots:
                self._owners[slot] = self._nodes[server.name]
        for name in former.keys() - servers.keys():
            log.info("lookup node left", node=name)
            former[name].show(current=False)
            former[name].close()
            self._down.pop(name, None)
            metrics.forget(name)

    def _node(self, server: LookupServer) -> Node:
        link = _Link(self, server, self._config)
        node = Node(
            server,
            self._config,
            self._loop_lag,
            link=link,
            probe_key=lambda: self._probe_key(server.name),
        )
        node.show(current=True)
        return node

    def _probe_key(self, name: str) -> bytes:
        """A key of one of the primary's slots; any other key if it has very few of them."""
        for number in range(_PROBE_KEYS):
            key = PROBE_KEY + b":%d" % number
            owner = self.owner(key)
            if owner is not None and owner.name == name:
                break
        return key
