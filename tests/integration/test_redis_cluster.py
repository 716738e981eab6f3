"""Hints in a real Redis Cluster of three primaries and three replicas."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.crc import key_slot
from typer.testing import CliRunner

from cli.main import app
from failover.redis.nodes import Node
from sharding.backend import Backend
from sharding.lookups.hint_rules import Hint, HintKind
from sharding.state import Key
from stack.redis import RedisServer
from stack.redis_cluster import RedisCluster
from tests.conftest import StackConfig
from tests.support import backends
from tests.support.gateways import Gateway
from tests.support.states import bump, count
from tests.support.waiting import until

pytestmark = pytest.mark.stack

KEYS = [Key(user, playlist) for user in range(1, 61) for playlist in (1, 2)]
SECONDS = 20.0


@pytest.fixture(scope="module")
def _module_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    cluster = RedisCluster(tmp_path_factory.mktemp("cluster"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.kill()


@pytest.fixture
def cluster(_module_cluster: RedisCluster) -> RedisCluster:
    """The cluster, healthy and empty. Earlier tests may have changed the roles of its nodes."""
    for server in _module_cluster.servers:
        server.thaw()
        if not server.running:
            server.start()
    _module_cluster.until(_module_cluster.healthy)
    for server in _module_cluster.servers:
        if _module_cluster.is_primary(server):
            with server.client() as client:
                client.flushall()
    return _module_cluster


def primaries(cluster: RedisCluster) -> list[RedisServer]:
    return [server for server in cluster.servers if cluster.is_primary(server)]


def document(stack_config: StackConfig, cluster: RedisCluster, **words: Any) -> dict[str, Any]:
    """A configuration that names two of the cluster's nodes, which is enough to find the others."""
    seeds = [server.address for server in cluster.servers[1:3]]
    # A state in a worker's cache needs no hint.
    made = stack_config(sessions={"enabled": False})
    made["lookup"] = {"mode": "cluster", "servers": seeds, "server_retry_timeout": 500, **words}
    return made


@contextlib.asynccontextmanager
async def opened(given: dict[str, Any], *, found: bool = True) -> AsyncIterator[Backend]:
    async with backends.opened(given) as backend:
        if found:
            await until(lambda: backend.readiness().status == "ready")
        yield backend


async def play(backend: Backend, keys: list[Key] = KEYS) -> None:
    await asyncio.gather(*(backend.store.change(key, bump) for key in keys))
    await backend.lookups.drain()


async def asked(backend: Backend, keys: list[Key] = KEYS) -> list[Hint]:
    return await asyncio.gather(*(backend.lookups.ask(key) for key in keys))


async def answered(backend: Backend, keys: list[Key] = KEYS) -> set[Hint]:
    """All hints, asked again while one is late on a busy machine."""
    end = time.monotonic() + SECONDS
    while True:
        hints = set(await asked(backend, keys))
        if Hint(HintKind.NO_ANSWER) not in hints or time.monotonic() > end:
            return hints


class Load:
    """Changes every key repeatedly, counts the changes, and measures how long hints take."""

    def __init__(self, backend: Backend, keys: list[Key]) -> None:
        self._backend = backend
        self._keys = keys
        self.acknowledged = dict.fromkeys(keys, 0)
        self.slowest = 0.0
        self.rounds = 0
        self._end = False

    async def __aenter__(self) -> Load:
        self._tasks = [asyncio.create_task(self._run(n)) for n in range(4)]
        await until(lambda: self.rounds >= 8)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._end = True
        await asyncio.gather(*self._tasks)  # raises an error that a client would have seen

    async def more(self, rounds: int = 8) -> None:
        """Wait until this many more rounds are done."""
        enough = self.rounds + rounds
        await until(lambda: self.rounds >= enough or any(task.done() for task in self._tasks))

    async def _run(self, number: int) -> None:
        while not self._end:
            for key in self._keys[number::4]:
                await self._backend.store.change(key, bump)
                self.acknowledged[key] += 1
                started = time.monotonic()
                await self._backend.lookups.ask(key)
                self.slowest = max(self.slowest, time.monotonic() - started)
            self.rounds += 1


@pytest.mark.parametrize("layout", ["packed", "flat"])
async def test_hints_are_kept_on_the_primaries_of_their_slots(
    stack_config: StackConfig, cluster: RedisCluster, layout: str
) -> None:
    async with opened(document(stack_config, cluster, layout=layout)) as backend:
        await play(backend)
        today = backend.days.today()
        assert await answered(backend) == {Hint(HintKind.DAY, today)}
        names = {backend.lookups.layout.ring_key(key) for key in KEYS}
        held: dict[str, int] = {}
        for server in primaries(cluster):
            with server.client() as client:
                keys = [key for key in client.scan_iter(count=1000) if key in names]
                held[server.address] = len(keys)
        assert sum(held.values()) == len(names)
        shares = backend.lookups.ring.shares()
        assert set(shares) == set(held)
        assert sum(shares.values()) == pytest.approx(1)


@pytest.mark.parametrize("fault", ["kill", "freeze"])
async def test_no_listener_notices_that_a_primary_is_lost_and_its_replica_takes_over(
    stack_config: StackConfig, cluster: RedisCluster, fault: str
) -> None:
    async with opened(document(stack_config, cluster)) as backend:
        await play(backend)
        victim = primaries(cluster)[0]
        async with Load(backend, KEYS) as load:
            getattr(victim, fault)()
            await until(lambda: victim.address not in backend.lookups.ring.shares())
            await until(lambda: backend.readiness().status == "ready")
            await load.more()
        # The deadline is 50 ms; a busy machine may add to it.
        assert load.slowest < 0.4
        for key, acknowledged in load.acknowledged.items():
            assert await count(backend.store, key) == acknowledged + 1
        await backend.lookups.drain()
        assert {hint.found for hint in await answered(backend)} == {HintKind.DAY}
        assert len(backend.lookups.ring.shares()) == 3


async def test_with_a_frozen_primary_only_the_first_requests_wait_for_the_hint_s_deadline(
    stack_config: StackConfig, cluster: RedisCluster
) -> None:
    words = {"server_failure_limit": 1, "timeout": 100, "hint_deadline": 50}
    async with opened(document(stack_config, cluster, **words)) as backend:
        await play(backend)
        victim = primaries(cluster)[0]
        mine = [
            key
            for key in KEYS
            if backend.nodes.owner(backend.lookups.layout.ring_key(key)).name  # type: ignore[union-attr]
            == victim.address
        ]
        victim.freeze()
        started = time.monotonic()
        assert {hint.found for hint in await asked(backend, mine)} == {HintKind.NO_ANSWER}
        assert time.monotonic() - started < 0.4
        await until(lambda: not all(node.health.live for node in backend.nodes))
        started = time.monotonic()
        for key in mine:
            await backend.lookups.ask(key)
        assert time.monotonic() - started < 0.05
        assert any("is out of the ring: timeout" in r for r in backend.readiness().reasons)


async def test_no_change_is_lost_while_slots_move_under_load(
    stack_config: StackConfig, cluster: RedisCluster
) -> None:
    # So long that no hint is late on a busy machine.
    words = {"hint_deadline": 5000, "timeout": 5000}
    async with opened(document(stack_config, cluster, **words)) as backend:
        await play(backend)
        source, target, *_ = primaries(cluster)
        shares = backend.lookups.ring.shares()
        names = {backend.lookups.layout.ring_key(key) for key in KEYS}
        slots = sorted(
            {
                key_slot(name)
                for name in names
                if backend.nodes.owner(name).name == source.address  # type: ignore[union-attr]
            }
        )
        assert len(slots) > 10
        async with Load(backend, KEYS) as load:
            for slot in slots:
                await asyncio.to_thread(cluster.move_slot, slot, source, target)
            await load.more()
        assert {hint.found for hint in await answered(backend)} == {HintKind.DAY}
        for key, acknowledged in load.acknowledged.items():
            assert await count(backend.store, key) == acknowledged + 1
        await until(lambda: backend.lookups.ring.shares() != shares)
        assert backend.readiness().status == "ready"


async def test_no_request_fails_while_the_cluster_is_down_and_hints_return_with_it(
    stack_config: StackConfig, cluster: RedisCluster
) -> None:
    async with opened(document(stack_config, cluster)) as backend:
        await play(backend)
        victim = primaries(cluster)[0]
        replica = next(
            server
            for server in cluster.servers
            if not cluster.is_primary(server) and cluster._ask(server, "ROLE")[2] == victim.port
        )
        async with Load(backend, KEYS) as load:
            replica.kill()
            victim.kill()
            await until(lambda: any("CLUSTERDOWN" in r for r in backend.readiness().reasons))
            assert backend.readiness().status == "degraded"
            started = time.monotonic()
            for key in KEYS:
                await backend.lookups.ask(key)
            assert time.monotonic() - started < 1
            await load.more()
            await asyncio.to_thread(victim.start)
            await asyncio.to_thread(replica.start)
            await until(lambda: backend.readiness().status == "ready")
            await load.more()
        assert load.slowest < 0.4
        await backend.lookups.drain()
        assert {hint.found for hint in await answered(backend)} == {HintKind.DAY}


async def test_a_gateway_serves_without_its_cluster_and_uses_it_when_it_is_up(
    stack_config: StackConfig, cluster: RedisCluster
) -> None:
    for server in cluster.servers:
        server.kill()
    async with opened(document(stack_config, cluster), found=False) as backend:
        await play(backend)
        readiness = backend.readiness()
        assert readiness.status == "degraded"
        assert readiness.reasons[0].startswith("the Redis Cluster gives no hints: ")
        for server in cluster.servers:
            await asyncio.to_thread(server.start)
        # The gateway finds the cluster before its nodes agree that it works.
        end = time.monotonic() + SECONDS
        while {hint.found for hint in await asked(backend)} != {HintKind.DAY}:
            assert time.monotonic() < end
            for key in KEYS:
                assert await count(backend.store, key) == 1
            await backend.lookups.drain()
        # Nodes that refused commands meanwhile are asked again.
        await until(lambda: backend.readiness().status == "ready")


async def test_a_primary_without_memory_stays_out_until_it_takes_hints_again(
    stack_config: StackConfig, cluster: RedisCluster
) -> None:
    words = {"server_failure_limit": 1, "server_retry_timeout": 60_000}
    async with opened(document(stack_config, cluster, **words)) as backend:
        node = backend.lookups.ring.owner(backend.lookups.layout.ring_key(KEYS[0]))
        assert isinstance(node, Node)
        victim = next(server for server in cluster.servers if server.address == node.name)
        with victim.client() as client:
            client.config_set("maxmemory", "1")
            try:
                async with asyncio.timeout(SECONDS):
                    while node.health.live:
                        await play(backend)
                await node.probe()
                assert not node.health.live
                assert "OOM" in node.health.reason
            finally:
                client.config_set("maxmemory", "0")
        await node.probe()
        assert node.health.live


async def test_servers_without_cluster_support_are_reported(
    stack_config: StackConfig, lookup_servers: list[RedisServer]
) -> None:
    made = stack_config()
    made["lookup"] = {"mode": "cluster", "servers": [lookup_servers[0].address]}
    async with opened(made, found=False) as backend:
        await play(backend)
        await until(lambda: "cluster support disabled" in backend.readiness().reasons[0])


async def test_the_cluster_s_primaries_are_shown_by_the_admin_port_and_the_command(
    stack_config: StackConfig, cluster: RedisCluster, tmp_path: Path
) -> None:
    made = document(stack_config, cluster, capacity_every=0.2)
    addresses = {server.address for server in primaries(cluster)}
    gateway = Gateway(made, tmp_path)
    try:
        await asyncio.to_thread(gateway.start)
        ring = await gateway.until(
            "/ring", lambda _, ring: ring["nodes"] and all(n["capacity"] for n in ring["nodes"])
        )
        assert {node["address"] for node in ring["nodes"]} == addresses
        assert {node["state"] for node in ring["nodes"]} == {"live"}
        assert sum(node["share"] for node in ring["nodes"]) == pytest.approx(1, abs=1e-5)

        def tapedeck(*args: str) -> Any:
            return CliRunner().invoke(app, ["ring", *args, "--config", str(gateway.config)])

        shown = json.loads((await asyncio.to_thread(tapedeck, "show", "--json")).stdout)
        assert {node["address"] for node in shown["nodes"]} == addresses
        where = json.loads((await asyncio.to_thread(tapedeck, "where", "7", "1", "--json")).stdout)
        assert where["owner"] in addresses
        assert where["order"] == [where["owner"]]
        for refused in (("where", "--keys", "x"), ("plan", "--remove", "x")):
            assert (await asyncio.to_thread(tapedeck, *refused)).exit_code == 1
    finally:
        gateway.kill()
