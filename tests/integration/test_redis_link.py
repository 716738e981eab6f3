"""Connections to a lookup node: each command gets its own answer, and none is leaked."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
import uvloop

from config.load import parse
from config.model import Lookup
from failover.redis.connections import Link
from failover.redis.nodes import Node
from stack.redis import RedisServer
from tests.support.liar import read_command

pytestmark = pytest.mark.stack


def config_of(server: RedisServer, **words: object) -> Lookup:
    document = {
        "lookup": {"servers": [server.server], **words},
        "mysql": {"hosts": ["127.0.0.1:1"], "user": "nobody"},
    }
    return parse(document).lookup


def link_to(server: RedisServer, **words: object) -> Link:
    config = config_of(server, **words)
    return Link(config.servers[0], config)


@pytest.fixture
async def link(lookup_servers: list[RedisServer]) -> AsyncIterator[Link]:
    one = link_to(lookup_servers[0])
    yield one
    one.close()


def connections(server: RedisServer) -> int:
    with server.client() as client:
        return len(client.client_list()) - 1  # this one


async def until_connections(server: RedisServer, wanted: int) -> None:
    async with asyncio.timeout(5):
        while await asyncio.to_thread(connections, server) != wanted:
            await asyncio.sleep(0.01)


async def test_consecutive_batches_use_the_same_connection(
    link: Link, lookup_servers: list[RedisServer]
) -> None:
    for number in range(5):
        assert await link.ask([("SET", "a", number), ("GET", "a")]) == [b"OK", b"%d" % number]
    assert connections(lookup_servers[0]) == 1


async def test_an_error_is_the_reply_only_to_its_own_command(link: Link) -> None:
    set_, wrong, get = await link.ask([("SET", "a", "1"), ("LPUSH", "a", "x"), ("GET", "a")])
    assert (set_, get) == (b"OK", b"1")
    assert "WRONGTYPE" in str(wrong)


async def test_no_batch_fails_because_an_idle_connection_ended(
    link: Link, lookup_servers: list[RedisServer]
) -> None:
    server = lookup_servers[0]
    await link.ask([("PING",)])
    server.kill()
    server.start()
    await asyncio.sleep(0)  # so that the link notices the end
    await until_connections(server, 0)

    assert await link.ask([("PING",)]) == [b"PONG"]


async def test_the_answer_of_a_cancelled_batch_goes_to_no_other_batch(
    link: Link, lookup_servers: list[RedisServer]
) -> None:
    server = lookup_servers[0]
    await link.ask([("SET", "a", "1")])
    waiting = asyncio.create_task(link.ask([("BLPOP", "nothing", 10)]))
    await asyncio.sleep(0.05)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting

    assert await link.ask([("GET", "a")]) == [b"1"]
    await until_connections(server, 1)


async def test_a_link_opens_at_most_server_connections(
    lookup_servers: list[RedisServer],
) -> None:
    link = link_to(lookup_servers[0], server_connections=2)
    try:
        asked = [link.ask([("BLPOP", "nothing", 0.1), ("PING",)]) for _ in range(6)]
        replies = asyncio.gather(*asked)
        await until_connections(lookup_servers[0], 2)
        assert await replies == [[None, b"PONG"]] * 6
    finally:
        link.close()


async def test_a_batch_under_way_when_the_link_is_closed_is_answered_and_then_closes(
    lookup_servers: list[RedisServer],
) -> None:
    link = link_to(lookup_servers[0])
    late = asyncio.create_task(link.ask([("BLPOP", "nothing", 0.3), ("PING",)]))
    await until_connections(lookup_servers[0], 1)

    link.close()

    assert await late == [None, b"PONG"]
    await until_connections(lookup_servers[0], 0)


def test_a_node_that_does_not_answer_after_a_late_login_is_a_failure_in_time() -> None:
    """A timeout that comes with the answer to the login must not be lost."""
    # On uvloop, which the gateway uses; on asyncio's loop this moment is very rare.
    uvloop.run(_ask_the_silent(patience=0.05, times=400))


async def _ask_the_silent(patience: float, times: int) -> None:
    logins = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal logins
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while words := await read_command(reader):
                if words[0] == b"AUTH":
                    logins += 1
                    # At different times around the caller's timeout.
                    await asyncio.sleep(patience - 0.0001 * (logins % 40))
                    writer.write(b"+OK\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=1000)
    config = parse(
        {
            "lookup": {
                "servers": [f"127.0.0.1:{server.sockets[0].getsockname()[1]}:1 silent"],
                "timeout": round(patience * 1000),
                "auto_eject_hosts": False,
                "password": "secret",
            },
            "mysql": {"hosts": ["127.0.0.1:1"], "user": "nobody"},
        }
    ).lookup
    nodes = [Node(config.servers[0], config) for _ in range(times)]
    try:
        async with asyncio.timeout(20):
            for at in range(0, times, 20):
                asked = (node.run([("PING",)]) for node in nodes[at : at + 20])
                assert await asyncio.gather(*asked) == [None] * 20
    finally:
        for node in nodes:
            node.close()
        server.close()
