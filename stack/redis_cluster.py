"""A Redis Cluster of real servers on this machine: three primaries, each with a replica."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from stack.process import ServerFailed, free_port
from stack.redis import RedisServer

_SECONDS = 30.0


class RedisCluster:
    """Servers that are called cluster1, cluster2, ...; at first the first half are the primaries.

    Args:
        folder: gets a folder for each server.
        primaries: how many; each has one replica.
        node_timeout: milliseconds until a silent node counts as failed (cluster-node-timeout).
        options: more options of redis-server, for each server.
    """

    def __init__(
        self,
        folder: Path,
        *,
        primaries: int = 3,
        node_timeout: int = 1_000,
        options: tuple[str, ...] = (),
    ) -> None:
        self.primaries = primaries
        self._bus: dict[str, int] = {}
        self.servers: list[RedisServer] = []
        for number in range(1, 2 * primaries + 1):
            name = f"cluster{number}"
            self._bus[name] = free_port()
            words = {
                "--cluster-enabled": "yes",
                "--cluster-port": str(self._bus[name]),
                "--cluster-node-timeout": str(node_timeout),
                "--cluster-config-file": "nodes.conf",
                "--save": "",
                **dict(zip(options[::2], options[1::2], strict=True)),
            }
            flat = tuple(word for pair in words.items() for word in pair)
            self.servers.append(RedisServer(name, folder / name, options=flat))

    def start(self) -> None:
        """Start the servers and make a cluster of them.

        Raises:
            ServerFailed: they are no healthy cluster within 30 s.
        """
        for server in self.servers:
            server.start()
        first, *others = self.servers
        self._ask(first, "CLUSTER", "SET-CONFIG-EPOCH", "1")
        for epoch, server in enumerate(others, 2):
            self._ask(server, "CLUSTER", "SET-CONFIG-EPOCH", str(epoch))
            self._ask(
                first, "CLUSTER", "MEET", "127.0.0.1", str(server.port), str(self._bus[server.name])
            )
        bounds = [n * REDIS_CLUSTER_HASH_SLOTS // self.primaries for n in range(self.primaries + 1)]
        for number, server in enumerate(self.servers[: self.primaries]):
            self._ask(
                server,
                "CLUSTER",
                "ADDSLOTSRANGE",
                str(bounds[number]),
                str(bounds[number + 1] - 1),
            )
        count = len(self.servers)
        self.until(lambda: all(self._knows(server) == count for server in self.servers))
        for number, server in enumerate(self.servers[self.primaries :]):
            self._ask(server, "CLUSTER", "REPLICATE", self.id_of(self.servers[number]))
        self.until(self.healthy)

    def kill(self) -> None:
        """Kill all servers."""
        for server in self.servers:
            server.thaw()
            server.kill()

    def healthy(self) -> bool:
        """Whether all running servers say that the cluster works, and all replicas are linked."""
        running = [server for server in self.servers if server.running]
        try:
            return all(
                self._info(server)["cluster_state"] == "ok"
                and b"fail" not in self._ask(server, "CLUSTER", "NODES")
                and self.is_linked(server)
                for server in running
            )
        except redis.RedisError:
            return False

    def is_linked(self, server: RedisServer) -> bool:
        """Whether it is a primary, or a replica that follows one."""
        role = self._ask(server, "ROLE")
        return bool(role[0] == b"master" or role[3] == b"connected")

    def is_primary(self, server: RedisServer) -> bool:
        """Whether it says that it is a primary."""
        return bool(self._ask(server, "ROLE")[0] == b"master")

    def id_of(self, server: RedisServer) -> str:
        """Its name within the cluster."""
        return str(self._ask(server, "CLUSTER", "MYID").decode())

    def slots_with_keys(self, server: RedisServer) -> list[int]:
        """The slots in which it has keys now."""
        with server.client() as client:
            return sorted({key_slot(key) for key in client.scan_iter(count=1000)})

    def move_slot(self, slot: int, source: RedisServer, target: RedisServer) -> None:
        """Move one slot with all its keys, as redis-cli --cluster reshard does it."""
        self._ask(target, "CLUSTER", "SETSLOT", str(slot), "IMPORTING", self.id_of(source))
        self._ask(source, "CLUSTER", "SETSLOT", str(slot), "MIGRATING", self.id_of(target))
        while keys := self._ask(source, "CLUSTER", "GETKEYSINSLOT", str(slot), "10"):
            address = ("127.0.0.1", str(target.port))
            self._ask(source, "MIGRATE", *address, "", "0", "5000", "KEYS", *keys)
        new = self.id_of(target)
        for server in (target, source, *self.servers):
            if server.running and self.is_primary(server):
                self._ask(server, "CLUSTER", "SETSLOT", str(slot), "NODE", new)

    def until(self, done: Callable[[], bool], seconds: float = _SECONDS) -> None:
        """Wait for a condition.

        Raises:
            ServerFailed: it does not hold within `seconds`.
        """
        end = time.monotonic() + seconds
        while not done():
            if time.monotonic() > end:
                raise ServerFailed(f"the cluster is not in the awaited state after {seconds:g} s")
            time.sleep(0.05)

    def _ask(self, server: RedisServer, *words: Any) -> Any:
        # Without the client's callbacks, which make dictionaries of different shapes for CLUSTER.
        with server.client() as client:
            client.response_callbacks.clear()
            return client.execute_command(*words)

    def _info(self, server: RedisServer) -> dict[str, str]:
        text = self._ask(server, "CLUSTER", "INFO").decode()
        return dict(line.split(":", 1) for line in text.split("\r\n") if ":" in line)

    def _knows(self, server: RedisServer) -> int:
        return int(self._info(server)["cluster_known_nodes"])
