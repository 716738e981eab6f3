"""The primary on real servers that die, freeze, turn read-only or both claim to be it."""

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
    """What blocks (starting a server), while this loop goes on."""
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
    """Clients that go on counting, each on a key of its own, and what they met."""

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
        """Run before, during and after it; every change must be answered."""
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
        """Each acknowledged change was counted once, and no other."""
        assert all(answer == counted for _, answer, counted in self.answers)
        for key, counted in self.counts.items():
            assert await count(self.backend.store, key) == counted


async def test_requests_wait_for_a_primary_that_was_killed_and_go_on(
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


async def test_past_the_deadline_the_primary_is_unavailable_and_says_why(
    stack_config: StackConfig, mysql: Server
) -> None:
    async with watching(config(stack_config, deadline=400)) as primary:
        await primary.fetch("SELECT 1")
        mysql.kill()

        started = time.monotonic()
        with pytest.raises(PrimaryUnavailable, match="MySQL") as caught:
            await primary.fetch("SELECT 1")

        assert 0.2 < time.monotonic() - started < 2
        assert caught.value.retry_after >= 1
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
            await asyncio.sleep(2)  # it is that long that no change is possible
            assert load.counts == counts
            mysql.query("SET GLOBAL read_only = 0")

        await load.during(trouble)

        await load.check()


async def test_a_lone_change_that_meets_a_read_only_host_drops_its_connections_at_once(
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


async def test_killed_connections_cost_no_change(stack_config: StackConfig, mysql: Server) -> None:
    async with opened(stack_config()) as backend:
        load = Load(backend)

        async def trouble() -> None:
            for _ in range(20):
                for number in connections(mysql):
                    with contextlib.suppress(pymysql.MySQLError):  # gone already
                        mysql.query(f"KILL {number}")
                await asyncio.sleep(0.02)

        await load.during(trouble)

        await load.check()


async def test_a_frozen_primary_that_thaws_has_lost_and_doubled_nothing(
    stack_config: StackConfig, mysql: Server
) -> None:
    """What was under way when it froze may land when it thaws, and is then recognised."""
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


async def test_looking_at_a_frozen_host_leaves_no_connection_behind(
    stack_config: StackConfig, mysql: Server
) -> None:
    async with watching(
        config(stack_config, connect_timeout=50, deadline=500, statement_timeout=100)
    ) as primary:
        await primary.fetch("SELECT 1")
        before = len(os.listdir("/proc/self/fd"))
        mysql.freeze()
        await until(lambda: not primary.adopted)
        await asyncio.sleep(2)  # a dozen looks

        assert len(os.listdir("/proc/self/fd")) <= before + 2
        mysql.thaw()
        await primary.fetch("SELECT 1")


async def test_the_gateway_starts_while_mysql_is_down(
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


async def test_a_request_that_came_late_does_not_end_with_the_deadline_of_an_earlier_one(
    stack_config: StackConfig, mysql: Server
) -> None:
    """They share the first look at the calendar; each has its own time to wait for it."""
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


async def test_no_more_than_so_many_wait_and_the_next_one_is_refused_at_once(
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


async def test_no_more_connections_are_open_than_configured_and_none_is_lost_to_who_gives_up(
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

        # All three places still work, at the same time.
        sessions = contextlib.AsyncExitStack()
        async with sessions, asyncio.timeout(5):
            for _ in range(3):
                session = await sessions.enter_async_context(primary.session(primary.deadline()))
                assert await session.fetch("SELECT 1") == [(1,)]
            # One more for whoever looks at the hosts.
            assert len(connections(mysql)) <= 4


async def test_a_place_that_was_promised_to_who_gave_up_goes_to_the_next(
    stack_config: StackConfig,
) -> None:
    async with watching(config(stack_config, connections=2)) as primary:
        for _ in range(3):
            sessions = contextlib.AsyncExitStack()
            for _ in range(2):
                await sessions.enter_async_context(primary.session(primary.deadline()))
            waiting = [asyncio.create_task(primary.fetch("SELECT 1")) for _ in range(2)]
            await asyncio.sleep(0.01)
            await sessions.aclose()  # both places are promised now, and nobody has run yet
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

        async with asyncio.timeout(2):
            assert await asyncio.gather(*(primary.fetch("SELECT 1") for _ in range(4)))


async def test_a_statement_on_a_frozen_host_ends_by_its_timeout(
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


async def test_a_reload_reaches_a_connection_that_is_being_made(
    stack_config: StackConfig, mysql: Server
) -> None:
    patient, hasty = config(stack_config), config(stack_config, statement_timeout=100)
    async with watching(patient) as primary:
        await primary.fetch("SELECT 1")
        async with primary.session(primary.deadline()):  # the one that is open
            connecting = asyncio.create_task(primary._pool.acquire())  # type: ignore[union-attr]
            await asyncio.sleep(0)
            assert not connecting.done()
            primary.configure(hasty)
            session = await connecting
            with pytest.raises(MySQLError):
                await session.fetch("SELECT SLEEP(2)")
            primary._pool.release(session)  # type: ignore[union-attr]


async def test_two_writable_hosts_of_one_generation_are_both_refused(both: MySQL) -> None:
    async with watching(both) as primary:
        with pytest.raises(PrimaryUnavailable, match="both writable"):
            await primary.fetch("SELECT 1")


async def test_a_second_writable_host_that_turns_up_stops_the_changes(
    both: MySQL, other: Server
) -> None:
    other.query("SET GLOBAL read_only = 1")
    async with watching(both) as primary:
        await primary.fetch("SELECT 1")
        other.query("SET GLOBAL read_only = 0")
        await until(lambda: not primary.adopted)

        with pytest.raises(PrimaryUnavailable, match="both writable"):
            await primary.execute("DO 1")

        other.query("SET GLOBAL read_only = 1")
        await primary.fetch("SELECT 1")


async def test_a_primary_that_is_too_busy_to_be_looked_at_keeps_its_place(
    both: MySQL, mysql: Server, other: Server, database: str
) -> None:
    """Somebody makes the standby writable, or takes "Too many connections" for a dead primary."""
    other.query("SET GLOBAL read_only = 1")
    with crowded(mysql) as crowd:
        async with watching(both) as primary:
            assert await primary.fetch("SELECT 1") == [(1,)]
            crowd()
            await until(lambda: "max_user_connections" in str(primary.shown().hosts[0]))
            # On its own that changes nothing: sessions that are open go on.
            await asyncio.sleep(1.2)
            assert await primary.fetch("SELECT 2") == [(2,)]

            other.query("SET GLOBAL read_only = 0")
            await until(lambda: not primary.adopted)
            with pytest.raises(PrimaryUnavailable, match="both writable"):
                await primary.execute("DO 1")
            assert primary.address is None
            generation = f"SELECT generation FROM {database}.tapedeck_generation"
            assert other.query(generation) == [(1,)]

            # One that was promoted as it should be takes over all the same.
            set_generation(other, database, 2)
            await until(lambda: primary.address == other.address)


async def test_a_busy_primary_that_refuses_a_change_has_lost_its_place(
    both: MySQL, mysql: Server, other: Server
) -> None:
    other.query("SET GLOBAL read_only = 1")
    with crowded(mysql) as crowd:
        async with watching(both) as primary:
            assert await primary.execute("CREATE TABLE marks (n INT)") == 0
            crowd()
            await until(lambda: "max_user_connections" in str(primary.shown().hosts[0]))
            # A switchover by hand, at that very moment.
            mysql.query("SET GLOBAL read_only = 1")
            with contextlib.suppress(PrimaryUnavailable):
                await primary.execute("INSERT INTO marks VALUES (1)")
            other.query("SET GLOBAL read_only = 0")
            await until(lambda: primary.address == other.address)


async def test_looks_at_a_frozen_host_are_no_broken_handshakes(
    both: MySQL, mysql: Server, other: Server
) -> None:
    """A server counts each of those when it thaws, and blocks the gateway's machine at last."""
    other.query("SET GLOBAL read_only = 1")
    counted = "SHOW GLOBAL STATUS LIKE 'Aborted_connects'"
    before = int(other.query(counted)[0][1])
    async with watching(both) as primary:
        await primary.fetch("SELECT 1")
        looked = "no answer in time"
        other.freeze()
        await until(lambda: looked in str(primary.shown().hosts[1]))
        # Time for eight more looks, each with an end of its own.
        await asyncio.sleep(8 * both.connect_timeout / 1000)
        other.thaw()
        await until(lambda: primary.shown().hosts[1].role == "standby", 3)
        assert await primary.fetch("SELECT 2") == [(2,)]
        assert int(other.query(counted)[0][1]) - before == 0


async def test_connects_of_requests_to_a_frozen_host_are_no_broken_handshakes(
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


async def test_a_host_that_blocks_this_machine_is_busy_and_says_so(
    stack_config: StackConfig,
) -> None:
    """Error 1129: too many handshakes from here were broken off, whoever did it."""

    async def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A server never blocks 127.0.0.1: these are the words that others get for a greeting.
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
    """Gives a function that leaves the gateways' user no connection there but those of requests:
    it ends the one that looks are made on."""
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


async def test_the_higher_generation_wins_and_the_lower_is_never_believed_again(
    both: MySQL, mysql: Server, other: Server, database: str
) -> None:
    """The old primary was frozen, replaced, and thawed; then its successor dies."""
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


async def test_a_frozen_primary_that_was_replaced_is_not_written_to_when_it_thaws(
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


async def test_the_first_to_adopt_a_new_primary_raises_the_generation_once(
    both: MySQL, mysql: Server, other: Server, database: str
) -> None:
    """As behind a managed failover, where nobody else does: five gateways, one step."""
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
        # The old one comes back writable: nobody believes it, and nothing stops.
        mysql.query("SET GLOBAL read_only = 0")
        await asyncio.sleep(1.2)
        for gateway in gateways:
            await gateway.execute("DO 1")
            assert gateway.address == other.address


async def test_a_new_primary_is_kept_when_another_host_is_looked_at_while_its_generation_is_raised(
    both: MySQL, mysql: Server, other: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That look is judged together with the last one at the new primary, from before the raise."""
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
        async with primary._monitor._choosing:  # behind the look that waited
            pass

        assert primary.address == other.address
        assert primary.generation == 2


async def test_a_name_that_moves_while_the_old_server_answers_is_followed(
    both: MySQL, mysql: Server, other: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A managed failover by hand: the old server is well, writable, and no longer meant."""
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
            # Well before the connection for looks would be made anew by itself.
            async with asyncio.timeout(KEEP * 0.8):
                while await primary.fetch("SELECT @@port") != [(other.port,)]:
                    await asyncio.sleep(0.02)


class Resetting:
    """A proxy whose `reset` ends every connection as a machine does that lost its memory: RST."""

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
def test_a_connection_that_was_reset_while_idle_costs_no_request(
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
def test_a_lookup_node_whose_connections_are_reset_raises_nothing(
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


async def test_after_a_planned_failover_no_read_is_answered_by_the_old_primary(
    stack_config: StackConfig, mysql: Server, other: Server, database: str
) -> None:
    """A gateway that only reads: nothing that it writes meets the old primary's fence."""
    hosts = [mysql.address, other.address]
    other.query("SET GLOBAL read_only = 1")
    async with opened(stack_config(mysql={"hosts": hosts}), complete=True) as backend:
        await backend.store.change(KEY, bump)
        day = table(backend.days.today())
        other.query(create_table(backend.days.today()).replace(day, f"{database}.{day}"))
        ((version, owner, operations),) = mysql.query(
            f"SELECT version, owner, operations FROM {database}.{day}"
        )
        # What other gateways changed after the failover.
        insert = f"INSERT INTO {database}.{day} VALUES (%s, %s, %s, %s, %s, %s)"
        other.query(insert, (*KEY, version + 23, owner, b"24", operations))
        set_generation(other, database, 2)
        assert await count(backend.store, KEY) == 1

        # This loop stands still meanwhile: the gateway has no look at the hosts in between.
        mysql.query("SET GLOBAL read_only = 1")
        other.query("SET GLOBAL read_only = 0")
        counts = [await count(backend.store, KEY) for _ in range(40)]

        assert counts == [24] * 40
