"""Statements that timed out and still run in MySQL keep their places among the connections."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from config.load import parse
from failover.mysql.errors import PrimaryUnavailable
from failover.mysql.primary import Primary
from sharding.backend import Backend
from sharding.state import Key, Unavailable
from stack import datadir, replication
from stack.datadir import Passwords
from stack.mariadb import MariaDB
from tests.conftest import StackConfig
from tests.support.backends import opened
from tests.support.listener import Listener
from tests.support.states import bump, count
from tests.support.waiting import until

pytestmark = pytest.mark.stack

CLIENTS = 16
CONNECTIONS = 4
SERVER_TAKES = 12
"""The server's max_connections: few, so that leaked connections soon use them up."""
OTHERS = 4
"""Connections outside the pool: checks of the host, the link of the standby, the test's own."""


@pytest.fixture
def pair(
    tmp_path: Path, data_template: Path, passwords: Passwords
) -> Iterator[tuple[MariaDB, MariaDB]]:
    """A primary whose commits wait for its standby, however long it is lost."""
    servers = []
    for name in ("mysql1", "mysql2"):
        datadir.copy(data_template, tmp_path / name)
        options = [f"--max-connections={SERVER_TAKES}"]
        servers.append(MariaDB(name, tmp_path / name, passwords, options=options))
    primary, standby = servers
    try:
        primary.start("primary")
        standby.start("standby")
        replication.link(standby, primary)
        replication.set_semi_sync(primary, on=True)
        replication.make_writable(primary)
        yield primary, standby
    finally:
        for server in servers:
            server.kill()


def connected(server: MariaDB) -> int:
    return int(server.query("SHOW GLOBAL STATUS LIKE 'Threads_connected'")[0][1])


class Load:
    """Listeners that count. After a refused change a listener is replaced by a new one."""

    def __init__(self, backend: Backend) -> None:
        self._store = backend.store
        self._users = itertools.count(1)
        self.answers: dict[Key, list[int]] = {}
        self.refused: Counter[str] = Counter()

    async def go_on(self) -> None:
        while True:
            key = Key(next(self._users), 1)
            answers = self.answers[key] = []
            try:
                while True:
                    answers.append((await self._store.change(key, bump)).answer)
                    await asyncio.sleep(0.01)
            except Unavailable as error:
                self.refused[str(error)] += 1

    async def answered(self, times: int) -> None:
        """Wait until this many more changes are acknowledged."""
        wanted = sum(map(len, self.answers.values())) + times
        await until(lambda: sum(map(len, self.answers.values())) >= wanted)


async def test_changes_go_on_after_a_lost_standby_returns(
    stack_config: StackConfig, pair: tuple[MariaDB, MariaDB]
) -> None:
    """Statements that timed out still wait in MySQL. They must not use up its connections, or the
    standby would be refused for ever (1040)."""
    primary, standby = pair
    document = stack_config(
        mysql={
            "hosts": [primary.address],
            "database": "tapedeck",
            "connections": CONNECTIONS,
            "statement_timeout": 300,
            "deadline": 900,
        }
    )
    async with opened(document, complete=True) as backend:
        load = Load(backend)
        clients = [asyncio.create_task(load.go_on()) for _ in range(CLIENTS)]
        try:
            await load.answered(5 * CLIENTS)
            standby.kill()

            await until(lambda: load.refused.total() >= 6 * CLIENTS)
            held = connected(primary)
            assert await count(backend.store, Key(1, 1)) >= load.answers[Key(1, 1)][-1]
            standby.start("standby")
            await asyncio.to_thread(replication.link, standby, primary)
            await load.answered(5 * CLIENTS)
        finally:
            for client in clients:
                client.cancel()
            await asyncio.gather(*clients, return_exceptions=True)

        assert held <= CONNECTIONS + OTHERS
        assert any("still runs" in reason for reason in load.refused)
        for key, answers in load.answers.items():
            assert answers == sorted(set(answers))
            assert await count(backend.store, key) >= max(answers, default=0)
        await until(lambda: connected(primary) <= CONNECTIONS + OTHERS)
    assert replication.semi_sync(primary)[:2] == (True, 1)


@contextlib.asynccontextmanager
async def opened_primary(stack_config: StackConfig, **mysql: Any) -> AsyncIterator[Primary]:
    primary = Primary(parse(stack_config(mysql=mysql)).mysql)
    await primary.start()
    try:
        yield primary
    finally:
        await primary.close()


def under_way(server: MariaDB, words: str) -> int:
    """How many statements with these words the server is running."""
    rows = server.query("SHOW PROCESSLIST")
    return sum(words in str(row[7]) for row in rows if row[1] == "tapedeck")


async def test_a_read_that_timed_out_is_killed_and_a_change_is_not(
    stack_config: StackConfig, pair: tuple[MariaDB, MariaDB]
) -> None:
    server, standby = pair
    limits = {"connections": 2, "statement_timeout": 500, "deadline": 800}
    async with opened_primary(
        stack_config, hosts=[server.address], database="tapedeck", **limits
    ) as primary:
        await primary.execute("CREATE TABLE marks (n INT)")
        standby.kill()

        with pytest.raises(PrimaryUnavailable):
            await primary.fetch("SELECT BENCHMARK(1000000000, SHA2('x', 512))")
        await until(lambda: under_way(server, "BENCHMARK") == 0)
        await until_done(primary, "DO 0")

        with pytest.raises(PrimaryUnavailable):
            await primary.execute("INSERT INTO marks VALUES (1)")
        # It keeps the only place for changes; the other place is for reads.
        with pytest.raises(PrimaryUnavailable, match="still runs 1 statement"):
            await primary.execute("INSERT INTO marks VALUES (2)")
        assert await primary.fetch("SELECT COUNT(*) FROM marks") == [(0,)]
        assert under_way(server, "INSERT") == 1

        replication.set_semi_sync(server, on=False)
        await until_done(primary, "INSERT INTO marks VALUES (3)")
        assert await primary.fetch("SELECT n FROM marks") == [(1,), (3,)]


async def until_done(primary: Primary, statement: str) -> None:
    async with asyncio.timeout(10):
        while True:
            with contextlib.suppress(PrimaryUnavailable):
                await primary.execute(statement)
                return


class Silence(Listener):
    """Forwards to a server. While it is `silent`, it is like a network that loses every packet: no
    data passes, and no side learns that the other one closed. `lose` loses only the packets of
    connections that are open now, as a firewall does that has restarted."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self._upstream = port
        self.silent = False
        self._lost = asyncio.Event()

    def lose(self) -> None:
        self._lost.set()
        self._lost = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._upstream)
        lost = self._lost

        async def forward(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                while data := await source.read(65536):
                    if self.silent or lost.is_set():
                        await asyncio.Event().wait()
                    target.write(data)
            if not self.silent and not lost.is_set():
                target.close()

        await asyncio.gather(forward(reader, up_writer), forward(up_reader, writer))


async def test_connections_that_the_network_lost_do_not_keep_their_places(
    stack_config: StackConfig, mysql: MariaDB
) -> None:
    """The server never got their statements or their end, and keeps them for a minute."""
    async with Silence(mysql.port) as network:
        limits = {"connections": 2, "statement_timeout": 300, "deadline": 500}
        hosts = [f"127.0.0.1:{network.port}"]
        async with opened_primary(
            stack_config, hosts=hosts, connect_timeout=300, **limits
        ) as primary:
            sessions = contextlib.AsyncExitStack()
            async with sessions:
                for change in (True, False):
                    await sessions.enter_async_context(
                        primary.session(primary.deadline(), change=change)
                    )
                before = connected(mysql)
            network.silent = True
            lost = (primary.execute("DO 1"), primary.fetch("SELECT 1"))
            for error in await asyncio.gather(*lost, return_exceptions=True):
                assert isinstance(error, PrimaryUnavailable)
            assert connected(mysql) >= before
            network.silent = False

            await until_done(primary, "DO 2")
            assert await primary.fetch("SELECT 2") == [(2,)]


async def test_after_a_statement_without_an_answer_no_other_meets_a_lost_connection(
    stack_config: StackConfig, mysql: MariaDB
) -> None:
    """Each of the lost connections would take a statement's timeout, and two the deadline."""
    async with Silence(mysql.port) as network:
        limits = {"connections": 8, "statement_timeout": 600, "deadline": 1_000}
        hosts = [f"127.0.0.1:{network.port}"]
        async with opened_primary(stack_config, hosts=hosts, **limits) as primary:
            asked = [primary.fetch("SELECT SLEEP(0.1)") for _ in range(8)]
            await asyncio.gather(*asked)
            network.lose()

            assert await primary.fetch("SELECT 1") == [(1,)]

            async with asyncio.timeout(0.5):
                for _ in range(8):
                    assert await primary.fetch("SELECT 2") == [(2,)]
