"""The primary on real servers that are killed, freeze, turn read-only, or are both writable."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pymysql
import pytest
import uvloop

from config.load import parse
from config.model import HostPort, MySQL
from failover.dns import NAMES
from failover.mysql.connection import HostStatus, Session
from failover.mysql.errors import Fault, MySQLError, PrimaryUnavailable
from failover.mysql.monitor import KEEP
from failover.mysql.primary import Primary
from failover.redis.nodes import Node
from sharding.backend import Backend
from sharding.partitions.calendar import table
from sharding.partitions.sql import create_table
from sharding.state import Key
from stack import datadir
from stack.datadir import Passwords
from stack.redis import RedisServer
from stack.server import Server
from tests.conftest import StackConfig
from tests.support.backends import opened
from tests.support.states import bump, count
from tests.support.waiting import until

pytestmark = pytest.mark.stack

KEY = Key(7, 11)


def config(stack_config: StackConfig, **mysql: Any) -> MySQL:
    document = stack_config()
    document["mysql"] |= mysql
    return parse(document).mysql


@contextlib.asynccontextmanager
async def watching(config: MySQL) -> AsyncIterator[Primary]:
    primary = Primary(config)
    await primary.start()
    try:
        yield primary
    finally:
        await primary.close()


async def elsewhere(call: Callable[[], Any]) -> Any:
    """Make a call that blocks, such as starting a server, in a thread."""
    return await asyncio.to_thread(call)


def connections(server: Server) -> list[int]:
    """The gateway's connections as the server sees them."""
    return [row[0] for row in server.query("SHOW PROCESSLIST") if row[1] == "tapedeck"]


@pytest.fixture(scope="module")
def _other(
    tmp_path_factory: pytest.TempPathFactory,
    template: Path,
    server_class: type[Server],
    passwords: Passwords,
) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("mysql") / "other"
    datadir.copy(template, folder)
    server = server_class("mysql2", folder, passwords)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def other(_other: Server, mysql: Server, database: str) -> Iterator[Server]:
    """A second server with a database of the same name; both are writable and of generation 1."""
    _other.thaw()
    if not _other.running:
        _other.start()
    _other.query("SET GLOBAL read_only = 0")
    _other.create_database(database)
    yield _other
    _other.thaw()
    if _other.running:
        _other.drop_database(database)


@pytest.fixture
def both(stack_config: StackConfig, mysql: Server, other: Server) -> MySQL:
    return config(
        stack_config,
        hosts=[mysql.address, other.address],
        deadline=1_500,
        statement_timeout=1_000,
        connect_timeout=500,
    )


def set_generation(server: Server, database: str, generation: int) -> None:
    server.query(f"UPDATE {database}.tapedeck_generation SET generation = {generation}")


def generation(server: Server, database: str) -> int:
    return int(server.query(f"SELECT generation FROM {database}.tapedeck_generation")[0][0])


class Load:
    """Clients that count, each with a key of its own, and their answers."""

    def __init__(self, backend: Backend, clients: int = 8) -> None:
        self.backend = backend
        self.counts = {Key(user, 1): 0 for user in range(1, clients + 1)}
        self.answers: list[tuple[Key, int, int]] = []
        self._going = True

    async def _client(self, key: Key) -> None:
        while self._going:
            answer = (await self.backend.store.change(key, bump)).answer
            self.counts[key] += 1
            self.answers.append((key, answer, self.counts[key]))
            await asyncio.sleep(0.002)

    async def during(self, trouble: Callable[[], Awaitable[None]]) -> None:
        """Run clients before, during and after the trouble; every change must be answered."""
        tasks = [asyncio.create_task(self._client(key)) for key in self.counts]
        try:
            await until(lambda: all(self.counts.values()))
            await trouble()
            enough = {key: n + 3 for key, n in self.counts.items()}
            await until(
                lambda: (
                    any(task.done() for task in tasks)
                    or all(self.counts[key] >= n for key, n in enough.items())
                ),
                20,
            )
        finally:
            self._going = False
            await asyncio.gather(*tasks)

    async def check(self) -> None:
        """Require that exactly the acknowledged changes were made, each once."""
        assert all(answer == counted for _, answer, counted in self.answers)
        for key, counted in self.counts.items():
            assert await count(self.backend.store, key) == counted


async def test_requests_wait_for_a_killed_primary_and_go_on_when_it_is_back(
    stack_config: StackConfig, mysql: Server
) -> None:
    async with opened(stack_config()) as backend:
        load = Load(backend)

        async def trouble() -> None:
            mysql.kill()
            await until(lambda: not backend.primary.adopted)
            assert backend.readiness().status == "degraded"
            await elsewhere(mysql.start)

        await load.during(trouble)

        await load.check()
        assert backend.readiness().status == "ready"


async def test_past_their_deadline_requests_fail_with_the_reason(
    stack_config: StackConfig, mysql: Server
) -> None:
    async with watching(config(stack_config, deadline=400)) as primary:
        await primary.fetch("SELECT 1")
        mysql.kill()

        started = time.monotonic()
        with pytest.raises(PrimaryUnavailable, match="MySQL"):
            await primary.fetch("SELECT 1")

        assert 0.2 < time.monotonic() - started < 2
        assert primary.lost_for is not None
        assert "2003" in primary.problem


async def test_changes_wait_while_the_primary_is_read_only(
    stack_config: StackConfig, mysql: Server
) -> None:
    async with opened(stack_config()) as backend:
        load = Load(backend)

        async def trouble() -> None:
            mysql.query("SET GLOBAL read_only = 1")
            await until(lambda: not backend.primary.adopted)
            counts = dict(load.counts)
            await asyncio.sleep(2)  # longer than any request under way takes
            assert load.counts == counts
            mysql.query("SET GLOBAL read_only = 0")

        await load.during(trouble)

        await load.check()


async def test_one_change_refused_as_read_only_drops_the_primary_at_once(
    stack_config: StackConfig, mysql: Server
) -> None:
    async with opened(stack_config()) as backend:
        await backend.store.change(KEY, bump)
        await asyncio.gather(*(backend.primary.fetch("SELECT SLEEP(0.05)") for _ in range(8)))
        mysql.query("SET GLOBAL read_only = 1")

        changing = asyncio.create_task(backend.store.change(KEY, bump))
        await until(lambda: not backend.primary.adopted, 0.6)
        mysql.query("SET GLOBAL read_only = 0")

        assert (await changing).answer == 2


async def test_a_change_waits_while_the_primary_refuses_the_password(
    stack_config: StackConfig, mysql: Server
) -> None:
    async with opened(stack_config()) as backend:
        await backend.store.change(KEY, bump)
        password = "ALTER USER tapedeck@'127.0.0.1' IDENTIFIED BY %s"
        mysql.query(password, ["another"])
        try:
            for number in connections(mysql):
                mysql.query(f"KILL {number}")
            changing = asyncio.create_task(backend.store.change(KEY, bump))
            await until(lambda: backend.primary.denied)
        finally:
            mysql.query(password, [mysql.passwords.gateway])

        assert (await changing).answer == 2


async def test_no_change_is_lost_when_connections_are_killed(
    stack_config: StackConfig, mysql: Server
) -> None:
    async with opened(stack_config()) as backend:
        load = Load(backend)

        async def trouble() -> None:
            for _ in range(20):
                for number in connections(mysql):
                    with contextlib.suppress(pymysql.MySQLError):  # it has ended already
                        mysql.query(f"KILL {number}")
                await asyncio.sleep(0.02)

        await load.during(trouble)

        await load.check()


async def test_no_change_is_lost_or_doubled_when_a_frozen_primary_is_thawed(
    stack_config: StackConfig, mysql: Server
) -> None:
    """Changes under way may be committed when it is thawed, and are then recognised."""
    document = stack_config()
    document["mysql"] |= {"statement_timeout": 500, "connect_timeout": 300}
    async with opened(document) as backend:
        load = Load(backend)

        async def trouble() -> None:
            for _ in range(3):
                mysql.freeze()
                await until(lambda: not backend.primary.adopted)
                mysql.thaw()
                await until(lambda: backend.primary.adopted)
                await asyncio.sleep(0.2)

        await load.during(trouble)

        await load.check()


async def test_checks_of_a_frozen_host_leak_no_connection(
    stack_config: StackConfig, mysql: Server
) -> None:
    async with watching(
        config(stack_config, connect_timeout=50, deadline=500, statement_timeout=100)
    ) as primary:
        await primary.fetch("SELECT 1")
        before = len(os.listdir("/proc/self/fd"))
        mysql.freeze()
        await until(lambda: not primary.adopted)
        await asyncio.sleep(2)  # a dozen checks

        assert len(os.listdir("/proc/self/fd")) <= before + 2
        mysql.thaw()
        await primary.fetch("SELECT 1")


async def test_a_gateway_that_starts_while_mysql_is_down_serves_when_it_is_up(
    stack_config: StackConfig, mysql: Server
) -> None:
    document = stack_config()
    mysql.kill()
    backend = await Backend.open(parse(document), prune=False)
    try:
        assert backend.readiness().status == "unavailable"
        early = asyncio.create_task(backend.store.change(KEY, bump))
        await asyncio.sleep(0.1)

        await elsewhere(mysql.start)

        assert (await early).answer == 1
        assert backend.readiness().status == "ready"
    finally:
        await backend.close()


async def test_a_later_request_has_its_own_deadline(
    stack_config: StackConfig, mysql: Server
) -> None:
    """Both wait for the first listing of partitions, each until its own deadline."""
    document = stack_config()
    document["mysql"] |= {"deadline": 2_000}
    mysql.query("SET GLOBAL read_only = 1")
    backend = await Backend.open(parse(document), prune=False)
    try:
        early = asyncio.create_task(backend.store.change(KEY, bump))
        await asyncio.sleep(1.5)
        late = asyncio.create_task(backend.store.change(Key(8, 1), bump))
        await asyncio.wait([early])
        mysql.query("SET GLOBAL read_only = 0")

        assert early.exception() is not None
        assert (await late).answer == 1
    finally:
        await backend.close()


async def test_at_most_the_configured_number_of_requests_wait_and_others_are_refused_at_once(
    stack_config: StackConfig, mysql: Server
) -> None:
    mysql.kill()
    async with watching(config(stack_config, waiting=3, deadline=5_000)) as primary:
        waiting = [asyncio.create_task(primary.fetch("SELECT 7")) for _ in range(3)]
        await asyncio.sleep(0.05)

        async with asyncio.timeout(0.5):
            with pytest.raises(PrimaryUnavailable, match="too many"):
                await primary.fetch("SELECT 7")

        await elsewhere(mysql.start)
        assert await asyncio.gather(*waiting) == [[(7,)]] * 3


async def test_the_pool_has_at_most_the_configured_connections_and_cancelled_requests_leak_none(
    stack_config: StackConfig, mysql: Server
) -> None:
    async with watching(config(stack_config, connections=3)) as primary:
        await primary.fetch("SELECT 1")
        for wait in (0.0, 0.001, 0.003, 0.01, 0.03):
            tasks = [asyncio.create_task(primary.fetch("SELECT SLEEP(0.01)")) for _ in range(30)]
            await asyncio.sleep(wait)
            for task in tasks[::2]:
                task.cancel()
            done = await asyncio.gather(*tasks, return_exceptions=True)
            assert [r for r in done[1::2] if r != [(0,)]] == []

        # All three places can still be used at the same time.
        sessions = contextlib.AsyncExitStack()
        async with sessions, asyncio.timeout(5):
            for _ in range(3):
                session = await sessions.enter_async_context(primary.session(primary.deadline()))
                assert await session.fetch("SELECT 1") == [(1,)]
            # One more connection checks the hosts.
            assert len(connections(mysql)) <= 4


async def test_a_place_given_to_a_cancelled_request_goes_to_the_next_one(
    stack_config: StackConfig,
) -> None:
    async with watching(config(stack_config, connections=2)) as primary:
        for _ in range(3):
            sessions = contextlib.AsyncExitStack()
            for _ in range(2):
                await sessions.enter_async_context(primary.session(primary.deadline()))
            waiting = [asyncio.create_task(primary.fetch("SELECT 1")) for _ in range(2)]
            await asyncio.sleep(0.01)
            await sessions.aclose()  # both places are assigned, but no task has run yet
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

        async with asyncio.timeout(2):
            assert await asyncio.gather(*(primary.fetch("SELECT 1") for _ in range(4)))


async def test_a_statement_on_a_frozen_host_ends_after_its_timeout(
    stack_config: StackConfig, mysql: Server
) -> None:
    async with watching(config(stack_config, statement_timeout=200)) as primary:
        async with primary.session(primary.deadline()) as session:
            await session.fetch("SELECT 1")
            mysql.freeze()
            started = time.monotonic()
            with pytest.raises(MySQLError) as caught:
                await session.fetch("SELECT 2")
            mysql.thaw()

        assert caught.value.fault is Fault.LOST
        assert time.monotonic() - started < 1
        assert session.broken
        assert await primary.fetch("SELECT 3") == [(3,)]


async def test_a_reload_applies_to_a_connection_that_is_being_made(
    stack_config: StackConfig, mysql: Server
) -> None:
    patient, hasty = config(stack_config), config(stack_config, statement_timeout=100)
    async with watching(patient) as primary:
        await primary.fetch("SELECT 1")
        async with primary.session(primary.deadline()):  # uses the open connection
            connecting = asyncio.create_task(primary._pool.acquire())  # type: ignore[union-attr]
            await asyncio.sleep(0)
            assert not connecting.done()
            primary.configure(hasty)
            session = await connecting
            with pytest.raises(MySQLError):
                await session.fetch("SELECT SLEEP(2)")
            primary._pool.release(session)  # type: ignore[union-attr]


async def test_requests_fail_while_two_hosts_of_one_generation_are_writable(both: MySQL) -> None:
    async with watching(both) as primary:
        with pytest.raises(PrimaryUnavailable, match="both writable"):
            await primary.fetch("SELECT 1")


async def test_changes_stop_when_a_second_host_becomes_writable(both: MySQL, other: Server) -> None:
    other.query("SET GLOBAL read_only = 1")
    async with watching(both) as primary:
        await primary.fetch("SELECT 1")
        other.query("SET GLOBAL read_only = 0")
        await until(lambda: not primary.adopted)

        with pytest.raises(PrimaryUnavailable, match="both writable"):
            await primary.execute("DO 1")

        other.query("SET GLOBAL read_only = 1")
        await primary.fetch("SELECT 1")


async def test_a_primary_that_is_too_busy_for_checks_stays_the_primary(
    both: MySQL, mysql: Server, other: Server, database: str
) -> None:
    """A standby made writable, with the same generation, does not replace it."""
    other.query("SET GLOBAL read_only = 1")
    with crowded(mysql) as crowd:
        async with watching(both) as primary:
            assert await primary.fetch("SELECT 1") == [(1,)]
            crowd()
            await until(lambda: "max_user_connections" in str(primary.shown().hosts[0]))
            # Requests go on with the open connections.
            await asyncio.sleep(1.2)
            assert await primary.fetch("SELECT 2") == [(2,)]

            other.query("SET GLOBAL read_only = 0")
            await until(lambda: not primary.adopted)
            with pytest.raises(PrimaryUnavailable, match="both writable"):
                await primary.execute("DO 1")
            assert primary.address is None
            generation = f"SELECT generation FROM {database}.tapedeck_generation"
            assert other.query(generation) == [(1,)]

            # A host that is promoted with the next generation does replace it.
            set_generation(other, database, 2)
            await until(lambda: primary.address == other.address)


async def test_a_busy_primary_that_refuses_a_change_is_replaced(
    both: MySQL, mysql: Server, other: Server
) -> None:
    other.query("SET GLOBAL read_only = 1")
    with crowded(mysql) as crowd:
        async with watching(both) as primary:
            assert await primary.execute("CREATE TABLE marks (n INT)") == 0
            crowd()
            await until(lambda: "max_user_connections" in str(primary.shown().hosts[0]))
            # At this moment an operator switches over.
            mysql.query("SET GLOBAL read_only = 1")
            with contextlib.suppress(PrimaryUnavailable):
                await primary.execute("INSERT INTO marks VALUES (1)")
            other.query("SET GLOBAL read_only = 0")
            await until(lambda: primary.address == other.address)


async def test_checks_of_a_frozen_host_break_no_handshake(
    both: MySQL, mysql: Server, other: Server
) -> None:
    """A thawed server counts broken handshakes, and after many of them blocks the machine."""
    other.query("SET GLOBAL read_only = 1")
    counted = "SHOW GLOBAL STATUS LIKE 'Aborted_connects'"
    before = int(other.query(counted)[0][1])
    async with watching(both) as primary:
        await primary.fetch("SELECT 1")
        other.freeze()
        await until(lambda: "no answer in time" in str(primary.shown().hosts[1]))
        # Long enough for eight more checks.
        await asyncio.sleep(8 * both.connect_timeout / 1000)
        other.thaw()
        await until(lambda: primary.shown().hosts[1].role == "standby", 3)
        assert await primary.fetch("SELECT 2") == [(2,)]
        assert int(other.query(counted)[0][1]) - before == 0


async def test_connects_of_requests_to_a_frozen_host_break_no_handshake(
    stack_config: StackConfig, mysql: Server
) -> None:
    counted = "SHOW GLOBAL STATUS LIKE 'Aborted_connects'"
    before = int(mysql.query(counted)[0][1])
    limits = {"connections": 4, "connect_timeout": 200, "deadline": 1_000}
    async with watching(config(stack_config, **limits)) as primary:
        await primary.fetch("SELECT 1")
        mysql.freeze()
        asked = [primary.fetch("SELECT 2") for _ in range(8)]
        for error in await asyncio.gather(*asked, return_exceptions=True):
            assert isinstance(error, PrimaryUnavailable)
        mysql.thaw()

        await until(lambda: primary.adopted)
        assert await asyncio.gather(*(primary.fetch("SELECT 3") for _ in range(8))) == [[(3,)]] * 8
        assert int(mysql.query(counted)[0][1]) == before


async def test_a_host_that_blocks_this_machine_counts_as_busy_with_the_remedy(
    stack_config: StackConfig,
) -> None:
    """Error 1129: the server counted too many broken handshakes from this machine."""

    async def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A server never blocks 127.0.0.1; this is the greeting that other blocked machines get.
        said = b"\xff" + struct.pack("<H", 1129) + b"Host 'gateway' is blocked"
        writer.write(len(said).to_bytes(3, "little") + b"\0" + said)
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        blocking = config(stack_config, hosts=[f"127.0.0.1:{port}"])
        with pytest.raises(MySQLError, match=r"1129 .*blocked.*FLUSH HOSTS") as met:
            await Session.open(blocking.hosts[0], blocking)
    assert met.value.fault is Fault.BUSY


@contextlib.contextmanager
def crowded(server: Server) -> Iterator[Callable[[], None]]:
    """Gives a function that ends the gateway's connection for checks, after which its user may
    open no other one."""
    user = server.query("SELECT CONCAT(user, '@', '\"', host, '\"') FROM mysql.user")
    name = next(row[0] for row in user if row[0].startswith("tapedeck@"))

    def crowd() -> None:
        server.query(f"ALTER USER {name} WITH MAX_USER_CONNECTIONS 1")
        server.query(f"KILL {min(connections(server))}")

    try:
        yield crowd
    finally:
        server.query(f"ALTER USER {name} WITH MAX_USER_CONNECTIONS {datadir.GATEWAY_CONNECTIONS}")
        server.query("SET GLOBAL read_only = 0")


async def test_the_higher_generation_wins_and_the_replaced_primary_is_never_used_again(
    both: MySQL, mysql: Server, other: Server, database: str
) -> None:
    """Not even when its successor is killed."""
    other.query("SET GLOBAL read_only = 1")
    async with watching(both) as primary:
        await primary.fetch("SELECT 1")
        assert primary.address == mysql.address
        set_generation(other, database, 2)
        other.query("SET GLOBAL read_only = 0")
        await until(lambda: primary.address == other.address)

        other.kill()
        with pytest.raises(PrimaryUnavailable, match="replaced primary"):
            await primary.fetch("SELECT 1")
        assert primary.address is None

        await elsewhere(other.start)
        await primary.fetch("SELECT 1")
        assert primary.address == other.address


async def test_a_replaced_primary_is_not_written_to_when_it_is_thawed(
    both: MySQL, mysql: Server, other: Server, database: str
) -> None:
    other.query("SET GLOBAL read_only = 1")
    async with watching(both) as primary:
        await primary.execute("CREATE TABLE marks (n INT)")
        other.query(f"CREATE TABLE {database}.marks (n INT)")
        mysql.freeze()
        set_generation(other, database, 2)
        other.query("SET GLOBAL read_only = 0")
        await until(lambda: primary.address == other.address)
        mysql.thaw()

        for n in range(50):
            await primary.execute(f"INSERT INTO marks VALUES ({n})")
            await asyncio.sleep(0.02)

    assert mysql.query(f"SELECT COUNT(*) FROM {database}.marks") == [(0,)]
    assert other.query(f"SELECT COUNT(*) FROM {database}.marks") == [(50,)]


async def test_a_request_that_connects_to_a_frozen_primary_goes_on_once_another_one_is_adopted(
    stack_config: StackConfig, mysql: Server, other: Server, database: str
) -> None:
    other.query("SET GLOBAL read_only = 1")
    hosts = [mysql.address, other.address]
    patient = config(stack_config, hosts=hosts, deadline=60_000, connect_timeout=60_000)
    async with watching(patient) as primary:
        await until(lambda: primary.address == mysql.address)
        mysql.freeze()
        request = asyncio.create_task(primary.fetch("SELECT 1"))
        await asyncio.sleep(0)
        set_generation(other, database, 2)
        other.query("SET GLOBAL read_only = 0")

        await until(lambda: primary.address == other.address)
        try:
            async with asyncio.timeout(10):
                assert await request == [(1,)]
        finally:
            mysql.thaw()


async def test_gateways_that_adopt_a_new_primary_raise_its_generation_once(
    both: MySQL, mysql: Server, other: Server, database: str
) -> None:
    """In a managed failover only gateways raise it: here five of them."""
    other.query("SET GLOBAL read_only = 1")
    async with contextlib.AsyncExitStack() as stack:
        gateways = [await stack.enter_async_context(watching(both)) for _ in range(5)]
        for gateway in gateways:
            await gateway.fetch("SELECT 1")
        mysql.query("SET GLOBAL read_only = 1")
        other.query("SET GLOBAL read_only = 0")
        for gateway in gateways:
            await until(lambda gateway=gateway: gateway.address == other.address)  # type: ignore[misc]

        assert generation(other, database) == 2
        # The old primary becomes writable again: it is not used, and requests go on.
        mysql.query("SET GLOBAL read_only = 0")
        await asyncio.sleep(1.2)
        for gateway in gateways:
            await gateway.execute("DO 1")
            assert gateway.address == other.address


async def test_a_new_primary_is_kept_if_another_host_is_checked_while_its_generation_is_raised(
    both: MySQL, mysql: Server, other: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That check is judged with the new primary's last one, which has the old generation."""
    other.query("SET GLOBAL read_only = 1")
    async with watching(both) as primary:
        await until(lambda: primary.address == mysql.address)
        raise_generation = primary._raise_generation

        async def slowly(host: HostPort, status: HostStatus) -> HostStatus:
            raised = await raise_generation(host, status)
            primary._monitor.check_soon()
            await until(lambda: bool(primary._monitor._choosing._waiters))
            return raised

        monkeypatch.setattr(primary, "_raise_generation", slowly)
        mysql.query("SET GLOBAL read_only = 1")
        other.query("SET GLOBAL read_only = 0")
        await until(lambda: primary.address == other.address)
        async with primary._monitor._choosing:  # after the check that waited
            pass

        assert primary.address == other.address
        assert primary.generation == 2


async def test_when_a_host_s_name_moves_its_new_server_is_used_soon(
    both: MySQL, mysql: Server, other: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a managed failover by hand the old server may still answer and be writable."""
    leads_to = "127.0.0.2"
    monkeypatch.setattr(NAMES, "_ask", lambda _: (leads_to,))
    async with (
        Resetting(mysql.port, "127.0.0.2") as before,
        Resetting(other.port, "127.0.0.3", before.port),
    ):
        named = HostPort(host="db.test", port=before.port)
        async with watching(both.model_copy(update={"hosts": (named,)})) as primary:
            assert await primary.fetch("SELECT @@port") == [(mysql.port,)]
            leads_to = "127.0.0.3"
            # Before the connection for checks would be replaced because of its age.
            async with asyncio.timeout(KEEP * 0.8):
                while await primary.fetch("SELECT @@port") != [(other.port,)]:
                    await asyncio.sleep(0.02)


class Resetting:
    """A proxy whose `reset` ends every connection with a TCP reset (RST)."""

    def __init__(self, upstream: int, host: str = "127.0.0.1", port: int = 0) -> None:
        self._upstream = upstream
        self._host = host
        self._clients: list[asyncio.StreamWriter] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = port

    async def __aenter__(self) -> Resetting:
        self._server = await asyncio.start_server(self._serve, self._host, self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.reset()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients.append(writer)
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._upstream)
        for source, target in ((reader, up_writer), (up_reader, writer)):
            task = asyncio.create_task(self._pump(source, target))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, RuntimeError):
            while data := await source.read(65536):
                target.write(data)
        target.close()

    def reset(self) -> None:
        for client in self._clients:
            with contextlib.suppress(OSError, AttributeError, RuntimeError):
                sock = client.transport.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.transport.abort()
        self._clients.clear()


LOOPS = [pytest.param(asyncio.run, id="asyncio"), pytest.param(uvloop.run, id="uvloop")]


@pytest.mark.parametrize("run", LOOPS)
def test_no_request_fails_because_idle_connections_were_reset(
    stack_config: StackConfig, mysql: Server, run: Callable[[Any], None]
) -> None:
    async def scenario() -> None:
        async with Resetting(mysql.port) as network:
            hosts = [f"127.0.0.1:{network.port}"]
            async with watching(config(stack_config, hosts=hosts)) as primary:
                for _ in range(10):
                    found = await asyncio.gather(*(primary.fetch("SELECT 5") for _ in range(8)))
                    assert found == [[(5,)]] * 8
                    network.reset()
                    await asyncio.sleep(0.02)

    run(scenario())


@pytest.mark.parametrize("run", LOOPS)
def test_reset_connections_to_a_lookup_node_raise_no_exception(
    stack_config: StackConfig, lookup_servers: list[RedisServer], run: Callable[[Any], None]
) -> None:
    async def scenario() -> None:
        async with Resetting(lookup_servers[0].port) as network:
            document = stack_config(
                lookup={
                    "servers": [f"127.0.0.1:{network.port}:1 one"],
                    "server_failure_limit": 1000,
                }
            )
            lookup = parse(document).lookup
            node = Node(lookup.servers[0], lookup)
            answered = 0
            for _ in range(10):
                replies = await asyncio.gather(*(node.run([("GET", "x")]) for _ in range(4)))
                assert all(reply in (None, [None]) for reply in replies)
                answered += sum(reply is not None for reply in replies)
                network.reset()
                await asyncio.sleep(0.02)
            await node.probe()
            assert answered > 0
            node.close()

    run(scenario())


async def test_after_a_planned_failover_no_read_uses_the_old_primary_s_answer(
    stack_config: StackConfig, mysql: Server, other: Server, database: str
) -> None:
    """The gateway only reads, so no refused change tells it of the failover."""
    hosts = [mysql.address, other.address]
    other.query("SET GLOBAL read_only = 1")
    async with opened(stack_config(mysql={"hosts": hosts}), complete=True) as backend:
        await backend.store.change(KEY, bump)
        day = table(backend.days.today())
        other.query(create_table(backend.days.today()).replace(day, f"{database}.{day}"))
        ((version, owner, operations),) = mysql.query(
            f"SELECT version, owner, operations FROM {database}.{day}"
        )
        # Other gateways changed this after the failover.
        insert = f"INSERT INTO {database}.{day} VALUES (%s, %s, %s, %s, %s, %s)"
        other.query(insert, (*KEY, version + 23, owner, b"24", operations))
        set_generation(other, database, 2)
        assert await count(backend.store, KEY) == 1

        # These calls block the event loop, so the gateway does not check the hosts meanwhile.
        mysql.query("SET GLOBAL read_only = 1")
        other.query("SET GLOBAL read_only = 0")
        counts = [await count(backend.store, KEY) for _ in range(40)]

        assert counts == [24] * 40
