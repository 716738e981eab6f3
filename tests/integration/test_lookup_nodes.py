"""Ejection of real lookup nodes: every request is answered meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import structlog

from failover.redis.nodes import Node
from sharding.backend import Backend
from sharding.state import Key
from sharding.store import store
from stack.redis import RedisServer
from tests.conftest import StackConfig
from tests.support.backends import opened
from tests.support.states import bump, count
from tests.support.waiting import until

pytestmark = pytest.mark.stack

LONG = 60_000
"""A retry timeout (ms) that is longer than any test, so that no probe comes."""
NO_SESSIONS = {"enabled": False}
"""Without a cache each request asks its lookup node, as for a listener new to the worker."""


def keys_of(backend: Backend, node: str, how_many: int) -> list[Key]:
    """Keys that the ring gives to a node."""
    found: list[Key] = []
    user = 0
    while len(found) < how_many:
        user += 7919
        key = Key(user, 1)
        if backend.lookups.ring.owner(backend.lookups.layout.ring_key(key)).name == node:
            found.append(key)
    return found


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Switch off checks of idle nodes, so that only requests find out that a node fails."""
    monkeypatch.setattr("failover.redis.nodes.CHECK_AFTER", 1e9)
    monkeypatch.setattr("failover.redis.nodes.CHECK_AGAIN", 1e9)


@pytest.fixture
async def backend(stack_config: StackConfig) -> AsyncIterator[Backend]:
    document = stack_config(
        lookup={"server_failure_limit": 2, "server_retry_timeout": LONG}, sessions=NO_SESSIONS
    )
    async with opened(document) as one:
        yield one


async def fail(backend: Backend, key: Key, node: Node) -> None:
    """Make a load whose node fails, and wait until the failure is counted (after `timeout`)."""
    before = node.health.failures
    assert await count(backend.store, key) == 1
    await until(lambda: node.health.failures > before or not node.health.live)


@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_requests_for_keys_of_a_failing_node_are_answered_from_mysql(
    stack_config: StackConfig, lookup_servers: list[RedisServer], how: str
) -> None:
    # twemproxy gave 16 such clients 48 errors in 7 s.
    patience = 5.0
    document = stack_config(
        lookup={"hint_deadline": 50, "timeout": patience * 1000, "server_retry_timeout": LONG},
        sessions=NO_SESSIONS,
    )
    async with opened(document) as backend:
        keys = keys_of(backend, "lookup1", 8) + keys_of(backend, "lookup2", 8)
        for key in keys:
            await backend.store.change(key, bump)
        await backend.lookups.drain()
        lookup_servers[0].kill() if how == "killed" else lookup_servers[0].freeze()
        longest = 0.0

        async def client(key: Key) -> None:
            nonlocal longest
            for expected in range(2, 22):
                started = time.monotonic()
                assert (await backend.store.change(key, bump)).answer == expected
                longest = max(longest, time.monotonic() - started)

        await asyncio.gather(*(client(key) for key in keys))

        assert longest < patience / 2, "a request waited longer than the hint's deadline"


async def test_a_dead_node_without_requests_is_ejected_by_a_check(
    backend: Backend, lookup_servers: list[RedisServer]
) -> None:
    lookup_servers[0].kill()

    await until(lambda: not backend.nodes["lookup1"].health.live)

    assert backend.nodes.out == {"lookup1"}


async def test_a_dead_node_that_may_not_be_ejected_is_reported_until_it_answers(
    stack_config: StackConfig, lookup_servers: list[RedisServer]
) -> None:
    document = stack_config(lookup={"auto_eject_hosts": False})
    async with opened(document) as backend:

        def said() -> list[str]:
            return [one for one in backend.readiness().reasons if "lookup node" in one]

        lookup_servers[0].kill()
        await until(lambda: bool(said()))
        (sentence,) = said()
        assert sentence == (
            "lookup node lookup1 fails and stays in the ring (lookup.auto_eject_hosts is false):"
            " ConnectionRefusedError: Connection refused"
        )
        assert backend.readiness().status == "degraded"
        lookup_servers[0].start()
        await until(lambda: not said())
        assert [node.reason for node in backend.ring().nodes] == [None] * 3


async def test_a_probe_of_a_frozen_node_does_not_delay_the_return_of_another_one(
    stack_config: StackConfig, lookup_servers: list[RedisServer]
) -> None:
    # As with a pool of a nutcracker.yml without a timeout.
    document = stack_config(lookup={"timeout": 60_000, "server_retry_timeout": 100})
    async with opened(document) as backend:
        lookup_servers[0].freeze()
        one, other = backend.nodes["lookup1"].health, backend.nodes["lookup2"].health
        for health in (one, other, other):  # the second time the probe of the frozen one goes on
            while health.live:
                health.failed(time.monotonic(), "timeout")
            await until(lambda: other.live)
        assert not one.live


@pytest.mark.parametrize("command", ["hget", "hset", "expire"])
async def test_a_node_that_refuses_a_command_of_hints_stays_out_until_it_accepts_it(
    backend: Backend, lookup_servers: list[RedisServer], command: str
) -> None:
    node = backend.nodes["lookup1"]
    with lookup_servers[0].client() as client:
        client.execute_command("ACL", "SETUSER", "default", f"-{command}")
        try:
            # A check of the idle node finds it, before a listener does.
            await until(lambda: not node.health.live)
            await node.probe()
            assert not node.health.live
            assert f"the '{command}' command" in node.health.reason
        finally:
            client.execute_command("ACL", "SETUSER", "default", "+@all")
    await node.probe()
    assert node.health.live


@pytest.mark.usefixtures("unchecked")
async def test_a_failed_batch_counts_as_one_failure_however_many_requests_it_has(
    stack_config: StackConfig, lookup_servers: list[RedisServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The node's checks in the background would count too.
    monkeypatch.setattr("failover.redis.nodes.CHECK_AFTER", LONG)
    monkeypatch.setattr("failover.redis.nodes.CHECK_AGAIN", LONG)
    document = stack_config(
        lookup={"server_failure_limit": 3, "timeout": 100, "server_retry_timeout": LONG},
        sessions=NO_SESSIONS,
    )
    async with opened(document) as backend:
        node = backend.nodes["lookup1"]
        keys = keys_of(backend, "lookup1", 64)
        lookup_servers[0].freeze()
        seen = []
        for failures in (1, 2, 3):
            await asyncio.gather(*(count(backend.store, key) for key in keys))
            await until(lambda wanted=failures: node.health.failures >= wanted)  # type: ignore[misc]
            seen.append((node.health.failures, node.health.live))

        assert seen == [(1, True), (2, True), (3, False)]


async def test_no_request_reaches_an_ejected_node_and_a_probe_brings_it_back(
    backend: Backend, lookup_servers: list[RedisServer]
) -> None:
    node, server = backend.nodes["lookup1"], lookup_servers[0]
    keys = keys_of(backend, "lookup1", 10)
    for key in keys:
        await backend.store.change(key, bump)
    await backend.lookups.drain()
    server.kill()
    for key in keys[:2]:
        await fail(backend, key, node)
    assert not node.health.live

    server.start()
    for key in keys:
        assert (await backend.store.change(key, bump)).answer == 2
    await backend.lookups.drain()
    with server.client() as client:
        commands = client.info("commandstats")
    assert not {name for name in commands if name in ("cmdstat_hget", "cmdstat_hset")}

    await node.probe()

    assert node.health.live
    for key in keys:
        assert await count(backend.store, key) == 2
    with server.client() as client:
        # The probe read once.
        assert client.info("commandstats")["cmdstat_hget"]["calls"] == 1 + len(keys)


async def test_an_ejection_and_a_return_are_one_log_line_each_with_node_and_reason(
    backend: Backend, lookup_servers: list[RedisServer]
) -> None:
    keys = keys_of(backend, "lookup1", 20)
    for key in keys:
        await backend.store.change(key, bump)
    await backend.lookups.drain()
    with structlog.testing.capture_logs() as lines:
        lookup_servers[0].kill()
        for _ in range(3):
            await asyncio.gather(*(count(backend.store, key) for key in keys))
        lookup_servers[0].start()
        await backend.nodes["lookup1"].probe()

    said = [(line["event"], line["node"], line["log_level"]) for line in lines if "node" in line]
    assert said == [
        ("lookup node ejected", "lookup1", "warning"),
        ("lookup node returned", "lookup1", "info"),
    ]
    ejected = next(line for line in lines if line["event"] == "lookup node ejected")
    assert lookup_servers[0].address == ejected["address"]
    assert "refused" in ejected["reason"] or "Connect" in ejected["reason"]


# --- nodes that answer but do not work


def full(server: RedisServer, _: RedisServer) -> None:
    with server.client() as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", "1")


def replica(server: RedisServer, other: RedisServer) -> None:
    """The node answers reads and refuses writes: READONLY."""
    with server.client() as client:
        client.replicaof("127.0.0.1", other.port)


def replica_without_master(server: RedisServer, other: RedisServer) -> None:
    """The node refuses reads: MASTERDOWN."""
    with server.client() as client:
        client.config_set("replica-serve-stale-data", "no")
        client.replicaof("127.0.0.1", 1)  # nothing listens there


def loading(server: RedisServer, _: RedisServer) -> None:
    """The node was restarted and reads its snapshot for 20 s: LOADING."""
    with server.client() as client:
        pipe = client.pipeline(transaction=False)
        for number in range(60_000):
            pipe.set(f"ballast:{number}", "x" * 100)
        pipe.execute()
        client.save()
    server.kill()
    server.options = (
        "--key-load-delay",
        "300",
        "--loading-process-events-interval-bytes",
        "1024",
    )
    server.start()  # INFO answers meanwhile


@pytest.fixture
def spare(tmp_path: Path, lookup_servers: list[RedisServer]) -> Iterator[RedisServer]:
    """A node in lookup1's place, which a test may break."""
    server = RedisServer("lookup1", tmp_path / "spare")
    server.start()
    yield server
    server.kill()


@pytest.mark.parametrize(
    ("break_it", "reason"),
    [
        (full, "refused: OOM"),
        (replica, "refused: READONLY"),
        (replica_without_master, "refused: MASTERDOWN"),
        (loading, "refused: LOADING"),
        (lambda server, _: server.freeze(), "timeout"),
    ],
    ids=["OOM", "READONLY", "MASTERDOWN", "LOADING", "accepts-and-never-answers"],
)
async def test_a_node_that_refuses_its_work_is_ejected_until_a_probe_succeeds(
    stack_config: StackConfig,
    lookup_servers: list[RedisServer],
    spare: RedisServer,
    break_it: Callable[[RedisServer, RedisServer], None],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(store, "FEW", 0)  # so that each change asks for its hint
    servers = [spare.server, *(server.server for server in lookup_servers[1:])]
    document = stack_config(
        lookup={"servers": servers, "timeout": 200, "server_retry_timeout": LONG},
        sessions=NO_SESSIONS,
    )
    async with opened(document) as backend:
        node = backend.nodes["lookup1"]
        keys = keys_of(backend, "lookup1", 6)
        for key in keys:
            await backend.store.change(key, bump)
        await backend.lookups.drain()
        with spare.client() as client:
            client.flushall()  # so that each load has a hint to write
        break_it(spare, lookup_servers[1])

        expected = 2
        async with asyncio.timeout(20):
            while node.health.live:
                for key in keys:
                    assert (await backend.store.change(key, bump)).answer == expected
                expected += 1
                await backend.lookups.drain()
        assert reason in node.health.reason

        await node.probe()
        assert not node.health.live, "a node returned although its probe failed"
        for key in keys:
            assert await count(backend.store, key) == expected - 1
