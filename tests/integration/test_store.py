"""The store with real servers: no acknowledged change is lost, whatever lookup nodes answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta

import pytest

from sharding.backend import Backend
from sharding.partitions.calendar import table
from sharding.partitions.sql import create_table
from sharding.state import Key, Owner, Stored, Write
from stack.mariadb import MariaDB
from stack.redis import RedisServer
from tests.conftest import StackConfig
from tests.support.backends import opened
from tests.support.clocks import shift
from tests.support.cutting import AckCutter
from tests.support.states import bump, count, forget

pytestmark = [pytest.mark.stack, pytest.mark.engines]

KEY = Key(7, 11)


@pytest.fixture(params=[True, False], ids=["cached", "uncached"])
async def backend(
    stack_config: StackConfig, request: pytest.FixtureRequest
) -> AsyncIterator[Backend]:
    async with opened(stack_config(sessions={"enabled": request.param})) as one:
        yield one


@pytest.fixture
async def uncached(stack_config: StackConfig) -> AsyncIterator[Backend]:
    """A gateway without a cache, which asks the lookup nodes at every request."""
    async with opened(stack_config(sessions={"enabled": False})) as one:
        yield one


def rows_of(mysql: MariaDB, database: str, key: Key) -> list[tuple[str, int, int]]:
    """The partition, version and owner of each row of a key."""
    tables = mysql.query(
        "SELECT table_name FROM information_schema.tables"
        f" WHERE table_schema = '{database}' AND table_name LIKE 'player%'"
    )
    return [
        (name, row[0], row[1])
        for (name,) in tables
        for row in mysql.query(
            f"SELECT version, owner FROM {database}.{name}"
            f" WHERE user_id = {key.user_id} AND playlist_id = {key.playlist_id}"
        )
    ]


async def put_back(backend: Backend, key: Key, days: int) -> date:
    """Move a state into the partition of `days` ago."""
    today = backend.days.today()
    then = today - timedelta(days=days)
    await backend.primary.execute(create_table(then))
    await backend.primary.execute(
        f"INSERT INTO {table(then)} SELECT * FROM {table(today)}"
        f" WHERE user_id = {key.user_id} AND playlist_id = {key.playlist_id}"
    )
    await backend.primary.execute(
        f"DELETE FROM {table(today)}"
        f" WHERE user_id = {key.user_id} AND playlist_id = {key.playlist_id}"
    )
    await backend.days.refresh()
    return then


async def test_a_saved_state_is_loaded_unchanged(backend: Backend) -> None:
    body = bytes(range(256)) * 100

    outcome = await backend.store.change(KEY, lambda _: Write(body, Owner.PLAYER, "written"))

    assert outcome.answer == "written"
    assert await backend.store.load(KEY) == Stored(body, 1, backend.days.today(), Owner.PLAYER)


async def test_a_key_without_a_save_has_no_state(backend: Backend) -> None:
    assert await backend.store.load(KEY) is None


async def test_versions_go_on_after_a_delete_and_a_second_create(
    backend: Backend, mysql: MariaDB, database: str
) -> None:
    versions = [
        (await backend.store.change(KEY, transition)).version
        for transition in (bump, bump, forget, bump, forget)
    ]

    assert versions == [1, 2, 3, 4, 5]
    assert await backend.store.load(KEY) is None
    assert rows_of(mysql, database, KEY) == [(table(backend.days.today()), 5, 0)]


async def test_a_transition_that_raises_changes_nothing(backend: Backend) -> None:
    await backend.store.change(KEY, bump)

    def refuse(stored: Stored | None) -> Write[int]:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await backend.store.change(KEY, refuse)

    assert (await backend.store.change(KEY, bump)).version == 2


@pytest.mark.parametrize("age", [1, 5, 30])
async def test_a_changed_state_of_an_earlier_day_is_moved_into_today_s_partition(
    backend: Backend, mysql: MariaDB, database: str, age: int
) -> None:
    await backend.store.change(KEY, bump)
    then = await put_back(backend, KEY, age)
    stored = await backend.store.load(KEY)
    assert stored is not None
    assert stored.day == then

    outcome = await backend.store.change(KEY, bump)

    assert (outcome.answer, outcome.version) == (2, 2)
    assert rows_of(mysql, database, KEY) == [(table(backend.days.today()), 2, 2)]


async def test_a_state_past_retention_is_absent(backend: Backend) -> None:
    await backend.store.change(KEY, bump)
    await put_back(backend, KEY, 31)

    assert await backend.store.load(KEY) is None


async def test_after_a_partition_was_dropped_its_states_are_absent(backend: Backend) -> None:
    await backend.store.change(KEY, bump)
    then = await put_back(backend, KEY, 3)
    await backend.store.load(KEY)
    await backend.primary.execute(f"DROP TABLE {table(then)}")

    outcome = await backend.store.change(KEY, bump)

    assert (outcome.answer, outcome.version) == (1, 1)


async def test_a_save_creates_today_s_partition_if_it_is_missing(backend: Backend) -> None:
    await backend.primary.execute(f"DROP TABLE {table(backend.days.today())}")

    assert (await backend.store.change(KEY, bump)).answer == 1
    assert await count(backend.store, KEY) == 1


async def test_a_wrong_hint_is_repaired_in_the_background(uncached: Backend) -> None:
    await uncached.store.change(KEY, bump)
    await uncached.lookups.drain()
    then = await put_back(uncached, KEY, 9)

    await uncached.store.load(KEY)
    await uncached.lookups.drain()

    assert (await uncached.lookups.ask(KEY)).day == then


async def test_flat_entries_are_as_in_the_original_system(
    stack_config: StackConfig, lookup_servers: list[RedisServer]
) -> None:
    async with opened(stack_config(lookup={"layout": "flat"})) as backend:
        await backend.store.change(KEY, bump)
        await backend.lookups.drain()
        name = "uid:7:pid:11"
        found = []
        for server in lookup_servers:
            with server.client() as client:
                if client.exists(name):
                    found.append((client.get(name), client.ttl(name)))

        assert len(found) == 1
        value, ttl = found[0]
        assert value == f"{backend.days.today():%Y%m%d}".encode()
        assert 30 * 86400 < ttl <= 32 * 86400


async def test_fields_past_retention_are_pruned_when_a_hint_is_written(
    backend: Backend, lookup_servers: list[RedisServer]
) -> None:
    old = f"{backend.days.oldest() - timedelta(days=1):%Y%m%d}"
    kept = f"{backend.days.oldest():%Y%m%d}"
    node = backend.lookups.ring.owner(b"u:7").port
    server = next(server for server in lookup_servers if server.port == node)
    with server.client() as client:
        client.hset("u:7", mapping={"1": old, "2": kept, "3": "junk"})

        await backend.store.change(KEY, bump)
        await backend.lookups.drain()

        assert set(client.hkeys("u:7")) == {b"2", b"3", b"11"}
        assert client.ttl("u:7") > 30 * 86400


async def test_with_frozen_lookup_nodes_a_load_takes_at_most_the_hint_s_deadline_longer(
    stack_config: StackConfig, lookup_servers: list[RedisServer]
) -> None:
    lookup = {"hint_deadline": 50, "timeout": 400}
    async with opened(stack_config(lookup=lookup, sessions={"enabled": False})) as backend:
        await backend.store.change(KEY, bump)
        await backend.lookups.drain()
        for server in lookup_servers:
            server.freeze()

        loop = asyncio.get_running_loop()
        started = loop.time()
        assert await count(backend.store, KEY) == 1

        assert loop.time() - started < 0.3


async def test_a_change_whose_answer_was_lost_is_made_once(
    stack_config: StackConfig, mysql: MariaDB
) -> None:
    async with AckCutter(mysql.port) as cutter:
        document = stack_config(mysql={"hosts": [f"127.0.0.1:{cutter.port}"]})
        async with opened(document) as backend:
            answers = []
            for _ in range(10):
                cutter.cut = 1
                answers.append((await backend.store.change(KEY, bump)).answer)
                then = await put_back(backend, KEY, 2)
                cutter.cut = 1
                answers.append((await backend.store.change(KEY, bump)).answer)
                await backend.primary.execute(f"DROP TABLE {table(then)}")

            assert answers == list(range(1, 21))
            assert cutter.lost == 20
            assert await count(backend.store, KEY) == 20


async def test_64_clients_of_one_key_lose_no_change_through_two_gateways(
    stack_config: StackConfig, mysql: MariaDB, database: str
) -> None:
    async with opened(stack_config()) as one, opened(stack_config()) as two:
        answers: list[int] = []

        async def client(backend: Backend) -> None:
            for _ in range(10):
                outcome = await backend.store.change(KEY, bump)
                answers.append(outcome.answer)

        await asyncio.gather(*(client((one, two)[n % 2]) for n in range(64)))

        assert sorted(answers) == list(range(1, 641))
        assert await count(one.store, KEY) == 640
        assert rows_of(mysql, database, KEY) == [(table(one.days.today()), 640, 2)]


async def test_simultaneous_changes_of_many_keys_lose_nothing_through_two_gateways(
    stack_config: StackConfig,
) -> None:
    keys = [Key(user, 1) for user in range(1, 41)]
    async with opened(stack_config()) as one, opened(stack_config()) as two:
        for key in keys[:20]:
            await one.store.change(key, bump)
        for key in keys[:10]:
            await put_back(one, key, 6)
        await two.days.refresh()

        async def client(backend: Backend, key: Key) -> None:
            for _ in range(5):
                await backend.store.change(key, bump)

        await asyncio.gather(*(client(b, key) for b in (one, two) for key in keys for _ in "ab"))

        counts = [await count(two.store, key) for key in keys]
        assert counts == [21] * 20 + [20] * 20


async def test_no_change_is_lost_at_midnight_while_two_gateways_have_different_days(
    stack_config: StackConfig, mysql: MariaDB, database: str
) -> None:
    """MySQL's clock passes midnight under load; one gateway's day begins a second earlier."""
    keys = [Key(user, 1) for user in range(1, 13)]
    shift(mysql, 2 * 86400 - datetime.now(UTC).timestamp() % 86400 - 2.5)
    async with opened(stack_config()) as one, opened(stack_config()) as two:
        before = one.days.today()
        exact = two.days.observe
        two.days.observe = lambda ms, *rest, **more: exact(  # type: ignore[method-assign]
            ms + 1000, *rest, **more
        )
        acknowledged = dict.fromkeys(keys, 0)
        seen: dict[Key, list[int]] = {key: [] for key in keys}

        async def client(backend: Backend, key: Key) -> None:
            while one.days.now() % 86400 > 43200 or one.days.now() % 86400 < 1.5:
                seen[key].append((await backend.store.change(key, bump)).answer)
                acknowledged[key] += 1

        # Half of the keys are created while the gateways have different days.
        async def late(backend: Backend, key: Key) -> None:
            while two.days.today() == before:
                await asyncio.sleep(0.005)
            await client(backend, key)

        await asyncio.gather(
            *(client(b, key) for b in (one, two) for key in keys[:6]),
            *(late(b, key) for b in (one, two) for key in keys[6:]),
        )

        assert one.days.today() == before + timedelta(days=1)
        for key in keys:
            assert sorted(seen[key]) == list(range(1, acknowledged[key] + 1))
            assert len(rows_of(mysql, database, key)) == 1
            assert await count(one.store, key) == acknowledged[key]
