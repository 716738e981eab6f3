"""The primaries of a Redis Cluster, through redis-py's own cluster client: for hints only.

redis-py asks who has which slot, follows MOVED and ASK, and keeps the connections. Each primary is
a `Node` like those of a ring: it is ejected and taken back by the same rules. Whatever goes wrong
here costs hints for as long as it lasts, and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import structlog
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import REDIS_CLUSTER_HASH_SLOTS as SLOTS
from redis.crc import key_slot
from redis.exceptions import AskError, ClusterDownError, RedisError, TryAgainError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from config.model import Lookup, LookupServer
from failover import metrics
from failover.presence import Presence
from failover.redis.connections import Command, Connection, cluster_words
from failover.redis.nodes import PROBE_KEY, Elsewhere, Node, describe, is_wrong_type
from failover.tasks import stop

log = structlog.get_logger("tapedeck.nodes")

SOON = 0.5
"""Seconds between two looks at the cluster while something is amiss."""
STEADY = 10.0
"""The same while all is well."""
LOOK_SECONDS = 5.0
"""For one look at most: several of its nodes may have to be asked."""
MOST_SERVERS = 1_000
"""As many as a Redis Cluster is made for (its specification, "Redis cluster goals")."""


class _Link:
    """The way to one primary: what a `redis_link.Link` is in a ring."""

    def __init__(self, nodes: ClusterNodes, name: str) -> None:
        self._nodes = nodes
        self._name = name

    async def ask(self, commands: Sequence[Command]) -> list[Any]:
        """A reply for each command; an error stands as the exception.

        Raises:
            Exception: the primary did not answer.
        """
        client = self._nodes.client
        node = client.get_node(node_name=self._name)
        if node is None:
            raise RedisConnectionError("it is no node of the cluster any more")
        pipeline = client.pipeline()
        for command in commands:
            pipeline.execute_command(*command, target_nodes=node)
        replies = await pipeline.execute(raise_on_error=False)
        downs = (str(reply) for reply in replies if isinstance(reply, ClusterDownError))
        self._nodes.heard(next(downs, ""))
        return [_judged(reply) for reply in replies]

    def renew(self) -> None:
        """The primary failed: another one may have its slots by now."""
        self._nodes.look_soon()

    async def close(self, patience: float) -> None:
        """Nothing: the client closes the connections."""


def _judged(reply: Any) -> Any:
    if not isinstance(reply, Exception) or is_wrong_type(reply):
        return reply
    if isinstance(reply, (RedisConnectionError, RedisTimeoutError, OSError)):
        raise reply
    # A redirect that led nowhere is an error of Python's own, as is a reply that makes no sense.
    lost = isinstance(reply, (AskError, TryAgainError, ClusterDownError))
    return Elsewhere(describe(reply)) if lost or not isinstance(reply, RedisError) else reply


class _Keys:
    """Where the key of a command is: redis-py would ask a primary, which may be dead. The commands
    of hints have it behind their name."""

    async def initialize(self, node: ClusterNode | None = None) -> None:
        """Nothing has to be asked."""

    async def get_keys(self, *args: Any) -> tuple[str, ...]:
        """The keys of a command."""
        return args[1:2]


def checked_slots(reply: Any, **_: object) -> Any:
    """The reply to CLUSTER SLOTS, which redis-py would believe whatever it says.

    Raises:
        RedisError: it names slots that there are not, a slot twice, or too many servers.
    """
    try:
        sizes = [last + 1 - first for first, last, *_ in reply if 0 <= first <= last < SLOTS]
        servers = {(host, port) for _, _, *servers in reply for host, port, *_ in servers}
    except (TypeError, ValueError):
        raise RedisError("CLUSTER SLOTS is answered with something else") from None
    if len(sizes) != len(reply) or sum(sizes) > SLOTS:
        raise RedisError("CLUSTER SLOTS is answered with slots that there cannot be")
    if len(servers) > MOST_SERVERS:
        raise RedisError(f"CLUSTER SLOTS is answered with more than {MOST_SERVERS} servers")
    return reply


class ClusterNodes:
    """The primaries, by `host:port`.

    Args:
        config: where to ask for the nodes, timeouts and ejection.
        presence: as of `Node`.

    Attributes:
        client: redis-py's; another one after nobody that it knew answered.
    """

    def __init__(self, config: Lookup, presence: Presence | None = None) -> None:
        self._config = config
        self._presence = presence
        self._nodes: dict[str, Node] = {}
        self._problem = "it was not asked yet"
        self._down = ""
        self._wanted = asyncio.Event()
        self._looking = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()
        self._watching: asyncio.Task[None] | None = None
        self.client = self._new_client()

    def _new_client(self) -> RedisCluster:
        seeds = [ClusterNode(server.host, server.port) for server in self._config.servers]
        client = RedisCluster(
            startup_nodes=seeds,
            require_full_coverage=False,
            # Each MOVED mends the map; closing every connection at the fifth mends nothing.
            reinitialize_steps=0,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
        )
        # Connections as to any lookup node: certificates that rotate, names, bounded replies.
        keys: Any = _Keys()
        client.commands_parser = keys
        words = cluster_words(self._config)
        client.connection_kwargs.update(words, connection_class=Connection)
        client.connection_kwargs["response_callbacks"]["CLUSTER SLOTS"] = checked_slots
        for node in client.startup_nodes:
            node.connection_class = Connection
            node.connection_kwargs.update(words)
        return client

    def __iter__(self) -> Iterator[Node]:
        return iter(self._nodes.values())

    def __getitem__(self, name: str) -> Node:
        return self._nodes[name]

    @property
    def problems(self) -> list[str]:
        """What is amiss, one sentence each; primaries that are out are not in it."""
        if self._problem:
            return [f"the Redis Cluster gives no hints: {self._problem}"]
        if self._down:
            return [f"the Redis Cluster says CLUSTERDOWN: {self._down}"]
        uncovered = SLOTS - len(self.client.nodes_manager.slots_cache)
        return [f"{uncovered:,} slots of the Redis Cluster have no primary"] if uncovered else []

    def owner(self, key: bytes) -> Node | None:
        """The primary of a key; None where it has none."""
        return self._owner(key_slot(key))

    def _owner(self, slot: int) -> Node | None:
        servers = self.client.nodes_manager.slots_cache.get(slot)
        return self._nodes.get(servers[0].name) if servers else None

    def shares(self) -> dict[str, float]:
        """By name, the share of the slots that a primary has."""
        counts = Counter(self.outline(SLOTS))
        return {name: counts[name] / SLOTS for name in self._nodes}

    def outline(self, parts: int) -> list[str | None]:
        """Whose the slots at evenly spaced places are, by name; None where nobody has them."""
        owners = (self._owner(part * SLOTS // parts) for part in range(parts))
        return [None if owner is None else owner.name for owner in owners]

    # --- the watch

    async def start(self) -> None:
        """Begin to look for the nodes; does not wait until they are found."""
        self._watching = asyncio.create_task(self._watch(), name="redis-cluster")

    async def close(self) -> None:
        """Stop looking, drop every connection."""
        await stop(self._watching)
        for node in self._nodes.values():
            await node.close()
        self._drop(self.client)
        if self._closing:
            await asyncio.wait(self._closing)

    def look_soon(self) -> None:
        """Something failed: ask who has which slot, without waiting for the steady look."""
        self._wanted.set()

    def heard(self, down: str) -> None:
        """A primary answered.

        Args:
            down: what it said of the cluster being down; empty: nothing.
        """
        if down and not self._down:
            log.warning("redis cluster failed", reason=down)
        self._down = down
        if down:
            self.look_soon()

    async def _watch(self) -> None:
        while True:
            self._wanted.clear()
            await self.refresh()
            now = asyncio.get_running_loop().time()
            out = [node for node in self if not node.health.live]
            await asyncio.gather(*(node.probe() for node in out if node.health.probe_due(now)))
            if self._down:  # also where no request comes that would tell that it is over
                looks = (node.look([("GET", PROBE_KEY)]) for node in self)
                await asyncio.gather(*looks, return_exceptions=True)
            await asyncio.sleep(SOON)  # never more often, however much fails
            amiss = self.problems or any(not node.health.live for node in self)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0 if amiss else STEADY):
                    await self._wanted.wait()

    async def refresh(self) -> None:
        """Ask the cluster who has which slot; where no server that is known could tell, those of
        the configuration."""
        async with self._looking:
            await self._refresh()

    async def _refresh(self) -> None:
        if self._problem or not any(node.health.live for node in self):
            self._drop(self.client)
            self.client = self._new_client()
        client = self.client
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                if client.get_nodes():
                    await client.nodes_manager.initialize()
                else:
                    await client.initialize()
            self._take()
        except Exception as error:
            problem = describe(error)
            if not self._problem:
                log.warning("redis cluster not reached", reason=problem)
            self._problem = problem

    def _take(self) -> None:
        """Have a node for each primary that redis-py knows.

        Raises:
            RedisError: it knows none.
        """
        found = {node.name: node for node in self.client.get_primaries()}
        if not found:
            raise RedisError("no node of it has a slot")
        former = self._nodes
        self._nodes = {name: former.get(name) or self._node(node) for name, node in found.items()}
        self._problem = ""
        for name in former.keys() - found.keys():
            log.info("lookup node left", node=name)
            metrics.forget(name)

    def _node(self, found: ClusterNode) -> Node:
        server = LookupServer(host=found.host, port=int(found.port), name=found.name)
        link = _Link(self, found.name)
        node = Node(server, self._config, self._presence, link=link, probing=[("PING",)])
        node.show(current=True)
        return node

    def _drop(self, client: RedisCluster) -> None:
        """Close a client once what it was asked is answered, or too late."""
        task = asyncio.create_task(self._close(client), name="close-redis-cluster")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _close(self, client: RedisCluster) -> None:
        with contextlib.suppress(Exception):
            async with asyncio.timeout(LOOK_SECONDS):
                await client.aclose()
                await client.nodes_manager.aclose()
                await client.nodes_manager.aclose("startup_nodes")
