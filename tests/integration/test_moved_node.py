"""A lookup node's name that leads to another server, and a gateway that gets no CPU time."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from config.load import parse
from failover.loop_lag import LoopLag
from failover.redis.nodes import Nodes
from stack.redis import RedisServer
from tests.conftest import StackConfig
from tests.support.waiting import until

pytestmark = pytest.mark.stack


class Name:
    """An address that leads to one server and later to another, like a DNS name. Connections that
    are open stay with the old server."""

    def __init__(self, port: int) -> None:
        self.leads_to = port
        self.port = 0
        self._pipes: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        server = await asyncio.start_server(self._forward, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            server.close()
            for pipe in self._pipes:
                pipe.cancel()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self.leads_to)
        for source, sink in ((reader, back), (there, writer)):
            pipe = asyncio.create_task(self._pipe(source, sink))
            self._pipes.add(pipe)
            pipe.add_done_callback(self._pipes.discard)

    async def _pipe(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                sink.write(data)
                await sink.drain()
        sink.close()


@contextlib.asynccontextmanager
async def started(document: dict[str, object]) -> AsyncIterator[Nodes]:
    loop_lag = LoopLag()
    loop_lag.start()
    nodes = Nodes(parse(document).lookup, loop_lag)
    await nodes.start()
    try:
        yield nodes
    finally:
        await nodes.close()
        loop_lag.close()


async def test_after_a_failover_of_redis_the_node_s_new_server_is_used(
    stack_config: StackConfig, lookup_servers: list[RedisServer]
) -> None:
    old, new, _ = lookup_servers
    name = Name(old.port)
    async with name.kept():
        lookup = {"servers": [f"127.0.0.1:{name.port}:1 lookup1"], "server_retry_timeout": 200}
        async with started(stack_config(lookup=lookup)) as nodes:
            assert await nodes["lookup1"].run([("SET", "k", 1)], writes=True) == [b"OK"]
            with old.client() as admin:
                await asyncio.to_thread(admin.replicaof, "127.0.0.1", new.port)
                try:
                    await until(lambda: not nodes["lookup1"].health.live)
                    assert "READONLY" in nodes["lookup1"].health.reason.upper()

                    name.leads_to = new.port

                    await until(lambda: nodes["lookup1"].health.live)
                finally:
                    await asyncio.to_thread(admin.replicaof, "NO", "ONE")


async def test_a_node_that_refuses_client_setname_is_used(
    stack_config: StackConfig, tmp_path: Path
) -> None:
    server = RedisServer("lookup1", tmp_path, options=("--rename-command", "CLIENT", ""))
    server.start()
    try:
        async with started(stack_config(lookup={"servers": [server.server]})) as nodes:
            assert await nodes["lookup1"].run([("PING",)]) == [b"PONG"]
    finally:
        server.kill()


@pytest.fixture
def tight(stack_config: StackConfig) -> dict[str, object]:
    """Timeouts shorter than a stall of 90 ms, and one failure ejects a node."""
    lookup = {"timeout": 60, "hint_deadline": 20, "server_failure_limit": 1}
    return stack_config(lookup={**lookup, "server_retry_timeout": 60_000})


async def test_a_starved_gateway_ejects_no_healthy_node(tight: dict[str, object]) -> None:
    async with started(tight) as nodes:
        for _ in range(10):
            batches = [node.run([("SET", "k", 1), ("GET", "k")]) for node in nodes]
            asking = asyncio.gather(*batches)
            # The answers arrive while this process gets no CPU time.
            asyncio.get_running_loop().call_later(0.001, time.sleep, 0.09)
            await asking
        assert nodes.out == set()


@pytest.fixture
def frozen(lookup_servers: list[RedisServer]) -> Iterator[RedisServer]:
    lookup_servers[0].freeze()
    yield lookup_servers[0]
    lookup_servers[0].thaw()


@pytest.mark.usefixtures("frozen")
async def test_a_gateway_that_is_a_little_late_still_ejects_a_frozen_node(
    tight: dict[str, object],
) -> None:
    loop = asyncio.get_running_loop()
    async with started(tight) as nodes:
        async with asyncio.timeout(10):
            while nodes["lookup1"].health.live:
                asking = asyncio.create_task(nodes["lookup1"].run([("GET", "k")]))
                loop.call_later(0.03, time.sleep, 0.02)
                assert await asking is None
        assert nodes.out == {"lookup1"}
