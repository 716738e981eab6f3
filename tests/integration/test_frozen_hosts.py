"""Connections to a frozen server (SIGSTOP) end when we close them, not when it is thawed."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from config.load import parse
from failover.mysql.connection import Session
from failover.mysql.errors import Fault, MySQLError
from failover.redis.connections import Link
from stack import datadir
from stack.datadir import Passwords
from stack.process import free_port
from stack.redis import RedisServer
from stack.server import Server
from tests.conftest import StackConfig
from tests.support.certificates import Authority
from tests.support.mysqld import key_of

pytestmark = pytest.mark.stack

MANY = 8
MORE_THAN_BUFFERS_HOLD = 8_000_000

Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine on uvloop, as the gateway does, or on asyncio's loop, as commands do."""
    given: Run = request.param
    return given


@pytest.fixture(scope="module")
def secure_mysql(
    tmp_path_factory: pytest.TempPathFactory,
    template: Path,
    server_class: type[Server],
    passwords: Passwords,
    authority: Authority,
) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("secure") / "data"
    datadir.copy(template, folder)
    certificate, key = authority.issue("mariadb")
    options = (f"--ssl-cert={certificate}", f"--ssl-key={key}")
    server = server_class("secure", folder, passwords, options=options)
    server.start()
    yield server
    server.thaw()
    server.kill()


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[RedisServer]:
    certificate, key = authority.issue("node")
    tls = ("--tls-cert-file", certificate, "--tls-key-file", key, "--tls-auth-clients", "no")
    tls_port = str(free_port())
    server = RedisServer(
        "node",
        tmp_path_factory.mktemp("node"),
        options=("--tls-port", tls_port, "--tls-ca-cert-file", authority.file, *tls),
    )
    server.start()
    server.tls_port = int(tls_port)  # type: ignore[attr-defined]
    yield server
    server.thaw()
    server.kill()


def sockets() -> int:
    """The number of open sockets of this process."""
    found = 0
    for number in os.listdir("/proc/self/fd"):
        try:
            found += os.readlink(f"/proc/self/fd/{number}").startswith("socket:")
        except OSError:
            continue
    return found


async def all_end(before: int) -> None:
    """Wait until only `before` sockets are open; closing takes a turn or two of the loop."""
    async with asyncio.timeout(2):
        while sockets() > before:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("size", [1, MORE_THAN_BUFFERS_HOLD], ids=["short", "long"])
def test_a_session_with_a_frozen_mysql_leaves_no_socket_open(
    run: Run, secure_mysql: Server, authority: Authority, tls: bool, size: int
) -> None:
    config = parse(
        {
            "lookup": {"servers": ["127.0.0.1:1:1 node"]},
            "mysql": {
                "hosts": [secure_mysql.address],
                "user": "tapedeck",
                "password": secure_mysql.passwords.gateway,
                "public_key": key_of(secure_mysql),
                "statement_timeout": 300,
                "connect_timeout": 5000,
                **({"tls": True, "tls_ca_file": authority.file} if tls else {}),
            },
        }
    ).mysql

    async def scene() -> None:
        before = sockets()
        sessions = [await Session.open(config.hosts[0], config) for _ in range(MANY)]
        try:
            secure_mysql.freeze()
            asked = [session.fetch("SELECT '" + "x" * size + "'") for session in sessions]
            for error in await asyncio.gather(*asked, return_exceptions=True):
                assert isinstance(error, MySQLError)
                assert error.fault is Fault.LOST
            await all_end(before)
        finally:
            secure_mysql.thaw()

    run(scene())


def test_a_statement_that_the_network_takes_nowhere_ends_after_connect_timeout(
    run: Run, mysql: Server, stack_config: StackConfig
) -> None:
    """The kernel ends the connection: a heartbeat has no timeout of its own."""
    document = stack_config(mysql={"statement_timeout": 60_000, "connect_timeout": 1_000})
    config = parse(document).mysql

    async def scene() -> None:
        session = await Session.open(config.hosts[0], config)
        mysql.freeze()
        try:
            async with asyncio.timeout(10):
                with pytest.raises(MySQLError) as raised:
                    await session.fetch("SELECT '" + "x" * MORE_THAN_BUFFERS_HOLD + "'")
        finally:
            mysql.thaw()
        assert raised.value.fault is Fault.LOST

    run(scene())


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("size", [1, MORE_THAN_BUFFERS_HOLD], ids=["short", "long"])
def test_a_link_to_a_frozen_lookup_node_leaves_no_socket_open(
    run: Run, redis: RedisServer, authority: Authority, tls: bool, size: int
) -> None:
    port = redis.tls_port if tls else redis.port  # type: ignore[attr-defined]
    config = parse(
        {
            "lookup": {
                "servers": [f"127.0.0.1:{port}:1 node"],
                **({"tls": True, "tls_ca_file": authority.file} if tls else {}),
            },
            "mysql": {"hosts": ["127.0.0.1:1"], "user": "nobody"},
        }
    ).lookup

    async def scene() -> None:
        before = sockets()
        links = [Link(config.servers[0], config) for _ in range(MANY)]
        for link in links:
            await link.ask([("PING",)])
        try:
            redis.freeze()
            asked = [link.ask([("SET", "key", b"x" * size)]) for link in links]
            waited = [asyncio.wait_for(answer, 0.5) for answer in asked]
            for error in await asyncio.gather(*waited, return_exceptions=True):
                assert isinstance(error, (OSError, TimeoutError))
            for link in links:
                link.close()
            await all_end(before)
        finally:
            redis.thaw()

    run(scene())
