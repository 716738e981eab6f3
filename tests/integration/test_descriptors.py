"""A gateway without free file descriptors keeps its MySQL connections and refuses clients."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import select
import signal
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from stack.mariadb import MariaDB
from tests.support.gateways import SECONDS, Gateway, put_mixes, secured
from tests.support.serving import a_mix

pytestmark = pytest.mark.stack

StackConfig = Callable[..., dict[str, Any]]
CHECKS_SECONDS = 8
"""Longer than the connection for checks of the host is kept."""


@pytest.fixture
def gateway(stack_config: StackConfig, tmp_path: Path) -> Iterator[Gateway]:
    document = stack_config(mysql={"connections": 4})
    put_mixes(document, [a_mix(7, tracks=3)])
    with Gateway(document, tmp_path) as gateway:
        yield gateway


def limit(gateway: Gateway, more: int) -> None:
    """Let the gateway open only this many files more."""
    numbers = [int(name) for name in os.listdir(f"/proc/{gateway.pid}/fd")]
    _, most = resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE)
    # A new descriptor gets the lowest free number, which must be below the limit.
    resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE, (max(numbers) + 1 + more, most))


async def begin(http: aiohttp.ClientSession) -> int:
    async with http.post("/mixes/7") as answer:
        return answer.status


async def test_a_gateway_that_can_open_no_file_serves_with_open_connections(
    gateway: Gateway,
) -> None:
    async with aiohttp.ClientSession(gateway.url) as http:
        assert await begin(http) == 200
        limit(gateway, 0)
        end = time.monotonic() + CHECKS_SECONDS
        statuses = set()
        while time.monotonic() < end:
            statuses.add(await begin(http))
            await asyncio.sleep(0.05)
    assert statuses == {200}
    assert gateway.lines("mysql primary lost") == []


async def test_idle_clients_do_not_use_the_descriptors_of_mysql_and_the_admin_port(
    gateway: Gateway, mysql: MariaDB
) -> None:
    host, port = gateway.url.removeprefix("http://").split(":")
    async with aiohttp.ClientSession(gateway.url) as http, contextlib.AsyncExitStack() as idle:
        assert await begin(http) == 200
        limit(gateway, 200)
        clients = []
        for _ in range(300):
            reader, writer = await asyncio.open_connection(host, int(port))
            idle.callback(writer.transport.abort)
            clients.append((reader, writer))
        # Accepted clients get no answer, because they send no request.
        told, waiting = await asyncio.wait(
            [asyncio.create_task(reader.readline()) for reader, _ in clients], timeout=2
        )
        for task in waiting:
            task.cancel()
        assert len(waiting) > 50
        assert {b" 503 " in task.result() for task in told} == {True}
        # The gateway must connect to MySQL again.
        for number, user, *_ in mysql.query("SHOW PROCESSLIST"):
            if user == "tapedeck":
                mysql.query(f"KILL {number}")
        assert [await begin(http) for _ in range(20)] == [200] * 20
        body = await gateway.until("/readyz", lambda status, _: status == 200)
        assert body["status"] == "ready"


@pytest.fixture
def secure(stack_config: StackConfig, tmp_path: Path) -> Iterator[tuple[Gateway, ssl.SSLContext]]:
    with secured(stack_config(mysql={"connections": 4}), tmp_path) as both:
        yield both


@pytest.mark.parametrize("finished", [False, True], ids=["unfinished", "finished"])
async def test_tls_handshakes_keep_neither_other_clients_nor_operators_out(
    secure: tuple[Gateway, ssl.SSLContext], finished: bool
) -> None:
    """Neither those that never end, nor connections that were refused and do not say goodbye."""
    gateway, context = secure
    port = gateway.document["gateway"]["port"]
    url = f"https://127.0.0.1:{port}/sets/new"
    context.check_hostname = False
    limit(gateway, 200)
    with contextlib.ExitStack() as closing:
        for _ in range(300):
            client = socket.create_connection(("127.0.0.1", port), 5)
            closing.callback(client.close)
            if finished:
                # It reads nothing after the handshake.
                with contextlib.suppress(OSError):
                    client = context.wrap_socket(client)
                    closing.callback(client.close)
        async with asyncio.timeout(5), aiohttp.ClientSession() as admin:
            async with admin.get(f"{gateway.admin}/readyz") as answer:
                assert answer.status == 200
            for _ in range(20):
                connector = aiohttp.TCPConnector(ssl=context)
                async with (
                    aiohttp.ClientSession(connector=connector) as http,
                    http.get(url) as answer,
                ):
                    # Established connections stay: with too many of them, new ones get an answer.
                    assert answer.status in ({200, 503} if finished else {200})


def ended(clients: list[socket.socket]) -> int:
    """How many connections the gateway has ended."""
    poll = select.poll()  # select() takes no descriptor above 1023
    for client in clients:
        poll.register(client, select.POLLIN)
    return len(poll.poll(0))


def test_of_many_tls_handshakes_at_once_only_the_oldest_quarter_is_cut_off(
    secure: tuple[Gateway, ssl.SSLContext],
) -> None:
    gateway, _ = secure
    limit(gateway, 200)
    with contextlib.ExitStack() as closing:
        clients: list[socket.socket] = []

        def connect() -> None:
            address = ("127.0.0.1", gateway.document["gateway"]["port"])
            clients.append(closing.enter_context(socket.create_connection(address, 5)))

        for _ in range(50):
            connect()
        # The gateway is late, and finds many more at once.
        os.kill(gateway.pid, signal.SIGSTOP)
        for _ in range(40):
            connect()
        os.kill(gateway.pid, signal.SIGCONT)
        end = time.monotonic() + SECONDS
        while not ended(clients):
            assert time.monotonic() < end
        time.sleep(0.5)
        assert ended(clients) <= len(clients) / 4


def test_a_flood_of_tls_handshakes_takes_few_descriptors_more_than_connections_are_allowed(
    stack_config: StackConfig, tmp_path: Path
) -> None:
    allowed, clients = 200, 900
    with secured(stack_config(limits={"connections": allowed}), tmp_path) as (gateway, _):
        address = ("127.0.0.1", gateway.document["gateway"]["port"])

        def descriptors() -> int:
            return len(os.listdir(f"/proc/{gateway.pid}/fd"))

        before = descriptors()
        with contextlib.ExitStack() as closing:
            # The gateway is late, and finds all of them at once.
            os.kill(gateway.pid, signal.SIGSTOP)
            flood = [
                closing.enter_context(socket.create_connection(address, 5)) for _ in range(clients)
            ]
            os.kill(gateway.pid, signal.SIGCONT)
            most = 0
            end = time.monotonic() + SECONDS
            while ended(flood) < clients - allowed:
                most = max(most, descriptors())
                assert time.monotonic() < end
        assert most - before < 1.5 * allowed
