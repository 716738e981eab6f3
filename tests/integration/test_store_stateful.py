"""Any sequence of loads and changes through two gateways gets the answers of a dictionary, whatever
happens to the lookup nodes meanwhile (I4), and no acknowledged change is lost (I3)."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)
from pymysql.cursors import Cursor

from config.load import parse
from sharding.backend import Backend
from sharding.partitions.calendar import table
from sharding.partitions.sql import create_table
from sharding.state import Keep, Key, Owner, Stored, Write
from stack.mariadb import MariaDB
from stack.redis import RedisServer
from tests.conftest import StackConfig
from tests.support.clocks import wall_of
from tests.support.states import bump, forget

pytestmark = pytest.mark.stack

KEYS = [Key(1, 1), Key(1, 2), Key(2, 1), Key(2**63 - 1, 2**63 - 1)]
AGES = (1, 2, 15, 27)
MIDNIGHTS = 3
"""The most in one example, so that no state of these ages is past retention."""

keys = st.sampled_from(KEYS)
nodes = st.integers(0, 2)
gateways = st.integers(0, 1)
hints = st.one_of(
    st.sampled_from(["", "garbage", "20000101", "99991231", "00000000", "20261399", "-1"]),
    st.integers(-3, 40),  # a day, as its age
)


@dataclass
class World:
    """Two gateways with the same servers, and what a test changes by hand."""

    run: Callable[[Coroutine[Any, Any, Any]], Any]
    backends: list[Backend]
    servers: list[RedisServer]
    sql: Cursor
    layout: str
    clock: Callable[[float], object]

    def tables(self) -> list[str]:
        self.sql.execute("SHOW TABLES LIKE 'player\\_state\\_%'")
        return [name for (name,) in self.sql.fetchall()]

    def clear(self) -> None:
        """Delete all states; hints stay."""
        for name in self.tables():
            self.sql.execute(f"DELETE FROM {name}")
        for backend in self.backends:
            backend.store.sessions.clear()  # because versions begin at 1 again

    def move(self, key: Key, age: int) -> None:
        """Move a state into the partition of `age` days ago."""
        today = self.backends[0].days.today()
        day = today - timedelta(days=age)
        if not self.backends[0].days.exists(day):
            self.sql.execute(create_table(day))
            for backend in self.backends:
                self.run(backend.days.refresh())
        then = table(day)
        where = f"WHERE user_id = {key.user_id} AND playlist_id = {key.playlist_id}"
        others = [name for name in self.tables() if name != then]
        self.sql.execute("START TRANSACTION")
        for name in others:
            self.sql.execute(f"INSERT INTO {then} SELECT * FROM {name} {where}")
            self.sql.execute(f"DELETE FROM {name} {where}")
        self.sql.execute("COMMIT")

    def rows(self) -> list[tuple[Key, int]]:
        """The key and version of each row in all partitions."""
        every = [f"SELECT user_id, playlist_id, version FROM {name}" for name in self.tables()]
        self.sql.execute(" UNION ALL ".join(every))
        return [(Key(user, playlist), version) for user, playlist, version in self.sql.fetchall()]

    def lie(self, server: RedisServer, key: Key, hint: str | int) -> None:
        """Write this hint for a key to a node."""
        if isinstance(hint, int):
            hint = f"{self.backends[0].days.today() - timedelta(days=hint):%Y%m%d}"
        with server.client() as client:
            if self.layout == "flat":
                client.set(f"uid:{key.user_id}:pid:{key.playlist_id}", hint)
            else:
                name = f"u:{key.user_id}"
                if client.type(name) != b"hash":
                    client.delete(name)
                client.hset(name, str(key.playlist_id), hint)

    def another_type(self, server: RedisServer, key: Key) -> None:
        """Replace an entry by a value of another type."""
        flat = f"uid:{key.user_id}:pid:{key.playlist_id}"
        name = flat if self.layout == "flat" else f"u:{key.user_id}"
        with server.client() as client:
            client.delete(name)
            client.rpush(name, "x")


class Listeners(RuleBasedStateMachine):
    """Compares the store with a dictionary of each key's count and version."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.states: dict[Key, int] = {}
        self.versions = dict.fromkeys(KEYS, 0)
        self.midnights = 0
        world.clock(0)
        self.all_see_the_clock()
        world.clear()

    def teardown(self) -> None:
        for server in self.world.servers:
            self.make_healthy(server)

    @staticmethod
    def make_healthy(server: RedisServer) -> None:
        server.thaw()
        if not server.running:
            server.start()

    def store(self, gateway: int) -> Any:
        return self.world.backends[gateway].store

    @rule(key=keys, gateway=gateways)
    def load(self, key: Key, gateway: int) -> None:
        stored: Stored | None = self.world.run(self.store(gateway).load(key))
        assert (int(stored.body) if stored else None) == self.states.get(key)
        assert stored is None or stored.version == self.versions[key]

    @rule(key=keys, gateway=gateways)
    def change(self, key: Key, gateway: int) -> None:
        outcome = self.world.run(self.store(gateway).change(key, bump))
        self.states[key] = self.states.get(key, 0) + 1
        self.versions[key] += 1
        assert (outcome.answer, outcome.version) == (self.states[key], self.versions[key])

    @rule(key=keys, gateway=gateways)
    def delete(self, key: Key, gateway: int) -> None:
        outcome = self.world.run(self.store(gateway).change(key, forget))
        assert outcome.answer is (key in self.states)
        self.versions[key] += self.states.pop(key, None) is not None

    @rule(key=keys, gateway=gateways)
    def keep(self, key: Key, gateway: int) -> None:
        outcome = self.world.run(
            self.store(gateway).change(key, lambda s: Keep(None if s is None else int(s.body)))
        )
        assert (outcome.answer, outcome.changed) == (self.states.get(key), False)

    @rule(key=keys, each=st.integers(1, 3))
    def change_through_both_at_once(self, key: Key, each: int) -> None:
        async def together() -> list[int]:
            outcomes = await asyncio.gather(
                *(self.store(n % 2).change(key, bump) for n in range(2 * each))
            )
            return sorted(outcome.answer for outcome in outcomes)

        before = self.states.get(key, 0)
        assert self.world.run(together()) == [before + n for n in range(1, 2 * each + 1)]
        self.states[key] = before + 2 * each
        self.versions[key] += 2 * each

    @rule(gateway=gateways)
    def change_all_at_once(self, gateway: int) -> None:
        async def together() -> list[int]:
            outcomes = await asyncio.gather(
                *(self.store(gateway).change(key, bump) for key in KEYS)
            )
            return [outcome.answer for outcome in outcomes]

        for key in KEYS:
            self.states[key] = self.states.get(key, 0) + 1
            self.versions[key] += 1
        assert self.world.run(together()) == [self.states[key] for key in KEYS]

    @rule(key=keys, gateway=gateways, stays=st.booleans())
    def replace_under_a_condition(self, key: Key, gateway: int, stays: bool) -> None:
        """As the states API does: only if the row has the version that the client knows."""
        expected = self.versions[key] + (not stays)

        def put(stored: Stored | None) -> Write[bool] | Keep[bool]:
            if stored is None or stored.version != expected:
                return Keep(False)
            return Write(b"100", Owner.STATES_API, True)

        outcome = self.world.run(self.store(gateway).change(key, put))
        assert outcome.answer is (stays and key in self.states)
        if outcome.answer:
            self.states[key] = 100
            self.versions[key] += 1

    @rule(key=keys, age=st.sampled_from(AGES))
    def a_state_grows_old(self, key: Key, age: int) -> None:
        self.world.move(key, age)

    @rule(key=keys, gateway=gateways, members=st.lists(st.sampled_from("+-?"), max_size=9))
    def changes_of_all_kinds_wait_together(self, key: Key, gateway: int, members: str) -> None:
        async def together() -> list[Any]:
            transitions: dict[str, Any] = {
                "+": bump,
                "-": forget,
                "?": lambda s: Keep(None if s is None else int(s.body)),
            }
            outcomes = await asyncio.gather(
                *(self.store(gateway).change(key, transitions[kind]) for kind in members)
            )
            return [outcome.answer for outcome in outcomes]

        expected: list[Any] = []
        for kind in members:
            if kind == "+":
                self.states[key] = self.states.get(key, 0) + 1
                self.versions[key] += 1
                expected.append(self.states[key])
            elif kind == "-":
                expected.append(key in self.states)
                self.versions[key] += self.states.pop(key, None) is not None
            else:
                expected.append(self.states.get(key))
        assert self.world.run(together()) == expected

    @rule(noticed=st.booleans())
    def midnight_passes(self, noticed: bool) -> None:
        """All cached rows are yesterday's then; the gateways may not know of the new day yet."""
        if self.midnights < MIDNIGHTS:
            self.midnights += 1
            self.world.clock(86400 * self.midnights)
            if noticed:
                self.all_see_the_clock()

    def all_see_the_clock(self) -> None:
        for backend in self.world.backends:
            self.world.run(backend.days.complete())

    @rule(gateway=gateways)
    def a_gateway_forgets_its_sessions(self, gateway: int) -> None:
        self.store(gateway).sessions.clear()

    @rule(key=keys, node=nodes, hint=hints)
    def a_node_lies(self, key: Key, node: int, hint: str | int) -> None:
        server = self.world.servers[node]
        if server.running and not server.stopped:
            self.world.lie(server, key, hint)

    @rule(key=keys, hint=hints)
    def all_nodes_lie(self, key: Key, hint: str | int) -> None:
        for node in range(3):
            self.a_node_lies(key, node, hint)

    @rule(key=keys, node=nodes)
    def another_type_replaces_an_entry(self, key: Key, node: int) -> None:
        server = self.world.servers[node]
        if server.running and not server.stopped:
            self.world.another_type(server, key)

    @rule(node=nodes)
    def a_node_forgets(self, node: int) -> None:
        server = self.world.servers[node]
        if server.running and not server.stopped:
            with server.client() as client:
                client.flushall()

    @rule(node=nodes)
    def a_node_dies(self, node: int) -> None:
        self.world.servers[node].thaw()
        self.world.servers[node].kill()

    @rule(node=nodes)
    def a_node_freezes(self, node: int) -> None:
        server = self.world.servers[node]
        server.freeze()
        while server.running and not server.stopped:  # wait until the signal has arrived
            time.sleep(0.001)

    @rule(node=nodes)
    def a_node_comes_back(self, node: int) -> None:
        self.make_healthy(self.world.servers[node])

    @rule(gateway=gateways)
    def hints_are_written(self, gateway: int) -> None:
        self.world.run(self.world.backends[gateway].lookups.drain())

    @rule()
    def time_passes(self) -> None:
        """Long enough for a healthy node to be probed and to return."""
        self.world.run(asyncio.sleep(0.06))

    @invariant()
    def each_key_has_at_most_one_row_and_its_version(self) -> None:
        written = [(key, version) for key, version in self.versions.items() if version]
        assert sorted(self.world.rows()) == sorted(written)


@pytest.fixture(params=["packed", "flat"])
def world(
    request: pytest.FixtureRequest,
    stack_config: StackConfig,
    lookup_servers: list[RedisServer],
    mysql: MariaDB,
    database: str,
) -> Iterator[World]:
    document = stack_config(
        lookup={
            "layout": request.param,
            # Short, so that nodes are ejected and return within a few steps.
            "timeout": 30,
            "hint_deadline": 10,
            "server_retry_timeout": 40,
        }
    )
    with (
        asyncio.Runner() as runner,
        mysql.connect(database) as connection,
        connection.cursor() as cursor,
    ):

        async def start() -> list[Backend]:
            backends = [
                await Backend.open(parse(document), prune=False, wall=wall_of(mysql))
                for _ in range(2)
            ]
            for age in AGES:
                await backends[0].days.ready()
                day = backends[0].days.today() - timedelta(days=age)
                await backends[0].primary.execute(create_table(day))
            for backend in backends:
                await backend.days.refresh()
            return backends

        backends = runner.run(start())
        try:
            assert mysql.clock_file is not None
            write = mysql.clock_file.write_text
            yield World(
                runner.run,
                backends,
                lookup_servers,
                cursor,
                request.param,
                lambda seconds: write(f"+{seconds:.0f}\n"),
            )
        finally:
            with contextlib.suppress(Exception):
                for backend in backends:
                    runner.run(backend.close())


def test_answers_are_those_of_a_dictionary_whatever_happens_to_lookup_nodes(world: World) -> None:
    run_state_machine_as_test(
        lambda: Listeners(world),  # type: ignore[arg-type]
        settings=settings(
            max_examples=16,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
