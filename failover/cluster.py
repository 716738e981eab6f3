"""A Redis Cluster in the place of the ring: which primary has a key, and which of them are well.

redis-py's cluster client finds the nodes and keeps the map of slots. Batches take the connections
of `Node`, each primary its own, since of that client's pipelines (redis-py 8.1, asyncio/cluster.py)
- redirected commands are sent again one by one, up to 16 times each,
- ASKING and the command that it is for may take two different connections,
- each fifth MOVED and each CLUSTERDOWN close the connections to every node, those in use too,
- a primary that refuses connections is never noticed while retries are off.

A primary's keys have no other place to go, so one that fails is left alone until it answers a
probe, or until a refresh of the map shows who took its place: requests for its keys go on without a
hint and wait for nobody. So do those for a primary that says CLUSTERDOWN.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterator
from itertools import count
from typing import Any

import structlog
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import AskError, MovedError, RedisError

from tapedeck.config.model import Lookup, LookupServer
from tapedeck.failover import metrics
from tapedeck.failover.nodes import Node, describe
from tapedeck.failover.tasks import stop

log = structlog.get_logger("tapedeck.cluster")

STEADY = 10.0
"""Seconds between two refreshes of the map while all is well; MOVED asks for one at once."""
SOON = 0.25
"""Seconds between two refreshes, and between two probes, while something is not."""


class ClusterNodes:
    """The primaries of a cluster, and who of them has which slot.

    Args:
        config: `servers` are where to ask first; a few of the cluster's nodes are enough.
    """

    def __init__(self, config: Lookup) -> None:
        self._config = config
        self._client: RedisCluster | None = None
        self._nodes: dict[str, Node] = {}
        # Targets of ASK that have no slot yet.
        self._importing: dict[str, Node] = {}
        self._slots: list[Node | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        self._down: dict[Node, str] = {}
        self._problem = "it was not reached yet"
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
        return {name: counts[name] / REDIS_CLUSTER_HASH_SLOTS for name in self._nodes}

    def outline(self, parts: int) -> list[str | None]:
        """Whose the slots at `parts` evenly spaced places are, to draw them; None: nobody's."""
        places = (self._slots[part * REDIS_CLUSTER_HASH_SLOTS // parts] for part in range(parts))
        return [None if node is None else node.name for node in places]

    def describe(self, node: Node) -> dict[str, Any]:
        """A primary as `/ring` shows it, without its share."""
        described = node.describe()
        if node.health.live and node in self._down:
            described |= {"state": "ejected", "reason": self._down[node]}
        return described

    # --- what replies tell

    def moved(self, error: MovedError, said_by: Node) -> Node:
        """A slot belongs to another primary: from now on its keys go there."""
        node = self._find(error, said_by)
        self._importing.pop(node.name, None)
        self._nodes.setdefault(node.name, node)
        self._slots[error.slot_id] = node
        self._refresh_wanted.set()
        return node

    def asked(self, error: AskError, said_by: Node) -> Node:
        """This once a key is to be asked for elsewhere: its slot is on its way there."""
        node = self._find(error, said_by)
        if node.name not in self._nodes:
            self._importing[node.name] = node
        return node

    def down(self, node: Node, reason: str) -> None:
        """A primary says that the cluster is down."""
        if node not in self._down:
            log.warning("redis cluster down", node=node.name, reason=reason)
        self._down[node] = reason
        self._refresh_wanted.set()

    def _find(self, error: AskError, said_by: Node) -> Node:
        # Without a host it means the one that said it.
        host = error.host or said_by.server.host
        name = f"{host}:{error.port}"
        known = self._nodes.get(name) or self._importing.get(name)
        return known or self._node(host, error.port)

    # --- the map of slots

    async def start(self) -> None:
        """Begin to look for the nodes; does not wait until they are found."""
        self._watching = asyncio.create_task(self._watch(), name="redis-cluster")

    async def close(self) -> None:
        """Stop looking, drop every connection."""
        await stop(self._watching)
        await self._forget_client()
        for node in (*self._nodes.values(), *self._importing.values()):
            await node.close()
        if self._closing:
            await asyncio.wait(self._closing)

    async def refresh(self) -> None:
        """Ask the cluster who has which slot. What it cannot tell stays as it was."""
        seconds = self._config.timeout / 1000
        try:
            # One node after another may not answer.
            async with asyncio.timeout(seconds * (len(self._nodes) + 4)):
                if self._client is None:
                    self._client = self._connect(seconds)
                    await self._client.initialize()
                else:
                    await self._client.nodes_manager.initialize()
            self._take(self._client)
        except Exception as error:  # whatever the client meets, the next look may not
            problem = describe(error)
            if problem != self._problem:
                log.warning("redis cluster not reached", reason=problem)
            self._problem = problem
            # The nodes that it knew may all be gone: begin anew with the configured ones.
            await self._forget_client()

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

    def _take(self, client: RedisCluster) -> None:
        """Make the map that the client has found ours."""
        known = {**self._importing, **self._nodes}
        nodes: dict[str, Node] = {}
        slots: list[Node | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        for slot, owners in client.nodes_manager.slots_cache.items():
            name = owners[0].name
            node = nodes.get(name)
            if node is None:
                found = known.get(name) or self._node(str(owners[0].host), int(owners[0].port))
                node = nodes[name] = found
            slots[slot] = node
        gone = [node for name, node in self._nodes.items() if name not in nodes]
        self._importing = {n: node for n, node in self._importing.items() if n not in nodes}
        self._nodes, self._slots, self._problem = nodes, slots, ""
        for node in nodes.values():
            if slots[key_slot(node.probe_key)] is not node:
                node.probe_key = self._probe_key(node)
        for node in gone:
            self._leave(node)

    def _leave(self, node: Node) -> None:
        log.info("redis cluster node is no primary any more", node=node.name)
        self._down.pop(node, None)
        with contextlib.suppress(KeyError):
            metrics.NODE_LIVE.remove(node.name)
        task = asyncio.create_task(node.close(), name=f"close-{node.name}")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _probe_key(self, node: Node) -> bytes:
        """A key in one of the slots of a primary, of which it has at least one."""
        keys = (b"tapedeck:probe:%d" % number for number in count())
        return next(key for key in keys if self._slots[key_slot(key)] is node)

    def _node(self, host: str, port: int) -> Node:
        server = LookupServer(host=host, port=port, name=f"{host}:{port}")
        node = Node(server, self._config)
        node.show(current=True)
        return node

    def _connect(self, seconds: float) -> RedisCluster:
        password = self._config.password
        return RedisCluster(
            startup_nodes=[ClusterNode(seed.host, seed.port) for seed in self._config.servers],
            username=self._config.username,
            password=password.get_secret_value() if password else None,
            socket_timeout=seconds,
            socket_connect_timeout=seconds,
            require_full_coverage=False,
            retry=Retry(NoBackoff(), 0),
            client_name="tapedeck-cluster",
            protocol=2,
            ssl=self._config.tls,
            ssl_ca_certs=self._config.tls_ca_file,
            ssl_certfile=self._config.tls_certificate_file,
            ssl_keyfile=self._config.tls_key_file,
            ssl_check_hostname=self._config.tls_verify_names,
        )

    async def _forget_client(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(RedisError, OSError, RuntimeError):
                await client.aclose()


def _now() -> float:
    return asyncio.get_running_loop().time()
