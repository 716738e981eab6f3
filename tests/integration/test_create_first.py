"""A create before any load (rule S5) is one round trip, and never makes a second row."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta

import pytest

from sharding import metrics
from sharding.backend import Backend
from sharding.partitions.calendar import table
from sharding.partitions.sql import Row, create_table
from sharding.state import Keep, Key, Stored
from sharding.store import store
from sharding.store.plan import Plan
from stack.mariadb import MariaDB
from tests.conftest import StackConfig
from tests.support.backends import opened
from tests.support.states import bump, count, forget

pytestmark = [pytest.mark.stack, pytest.mark.engines]

KEY = Key(7, 11)


@pytest.fixture
async def pair(stack_config: StackConfig) -> AsyncIterator[tuple[Backend, Backend]]:
    async with (
        opened(stack_config(), complete=True) as one,
        opened(stack_config(), complete=True) as two,
    ):
        yield one, two


def loads() -> float:
    return metrics.LOADS.counts[""]


def rows(mysql: MariaDB, backend: Backend, key: Key) -> int:
    days = sorted(backend.days.readable())
    found = [
        mysql.query(
            f"SELECT 1 FROM {backend.primary.database}.{table(day)}"
            f" WHERE user_id = {key.user_id} AND playlist_id = {key.playlist_id}"
        )
        for day in days
    ]
    return sum(map(len, found))


async def test_the_first_change_of_a_key_is_saved_without_a_load(
    pair: tuple[Backend, Backend],
) -> None:
    one, _ = pair
    before = loads()
    assert (await one.store.change(KEY, bump)).answer == 1
    assert loads() == before
    assert await count(one.store, KEY) == 1


async def test_a_create_that_finds_a_state_in_today_s_partition_changes_it(
    pair: tuple[Backend, Backend], mysql: MariaDB
) -> None:
    one, two = pair
    for _ in range(3):
        await one.store.change(KEY, bump)
    before = loads()
    assert (await two.store.change(KEY, bump)).answer == 4
    assert loads() == before, "the create itself read the row"
    assert await count(one.store, KEY) == 4
    assert rows(mysql, one, KEY) == 1


async def test_a_create_after_a_delete_goes_on_with_the_versions(
    pair: tuple[Backend, Backend],
) -> None:
    one, two = pair
    await one.store.change(KEY, bump)
    await one.store.change(KEY, forget)
    outcome = await two.store.change(KEY, bump)
    assert (outcome.answer, outcome.version) == (1, 3)


async def test_a_request_that_changes_nothing_is_answered_from_mysql_s_row(
    pair: tuple[Backend, Backend],
) -> None:
    def read(stored: Stored | None) -> Keep[int | None]:
        return Keep(None if stored is None else int(stored.body))

    one, two = pair
    await one.store.change(KEY, bump)
    assert (await two.store.change(KEY, read)).answer == 1


async def test_a_state_in_an_older_unsealed_partition_is_moved_and_not_created_again(
    pair: tuple[Backend, Backend], mysql: MariaDB
) -> None:
    one, two = pair
    await one.store.change(KEY, bump)
    then = one.days.today() - timedelta(days=1)
    for statement in (
        create_table(then),
        f"INSERT INTO {table(then)} SELECT * FROM {table(one.days.today())}",
        f"DELETE FROM {table(one.days.today())}",
    ):
        await one.primary.execute(statement)
    await two.days.refresh()
    assert (await two.store.change(KEY, bump)).answer == 2
    assert rows(mysql, two, KEY) == 1


async def test_a_state_in_tomorrow_s_partition_is_not_created_again(
    pair: tuple[Backend, Backend], mysql: MariaDB
) -> None:
    """Another gateway's day may be tomorrow already."""
    one, two = pair
    await one.store.change(KEY, bump)
    today, tomorrow = one.days.today(), one.days.today() + timedelta(days=1)
    await one.primary.execute(f"INSERT INTO {table(tomorrow)} SELECT * FROM {table(today)}")
    await one.primary.execute(f"DELETE FROM {table(today)}")
    assert (await two.store.change(KEY, bump)).answer == 2
    assert rows(mysql, two, KEY) == 1


async def test_a_row_that_another_primary_may_lack_is_read_again(
    pair: tuple[Backend, Backend], mysql: MariaDB, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host that answered a create may have been replaced meanwhile."""
    one, two = pair
    await one.store.change(KEY, bump)
    create = two.store._writer._create

    async def late(plans: list[Plan]) -> Sequence[bool | Row | Exception]:
        answer = await create(plans)
        # As on a standby that lacked this version, where another gateway made its own since.
        day = table(two.days.today())
        mysql.query(f"UPDATE {database}.{day} SET state = '70'")
        before = two.primary.generation
        mysql.query(f"UPDATE {database}.tapedeck_generation SET generation = generation + 1")
        async with asyncio.timeout(10):
            while two.primary.generation == before:
                await asyncio.sleep(0.01)
        return answer

    monkeypatch.setattr(two.store._writer._firsts, "_run", late)
    assert (await two.store.change(KEY, bump)).answer == 71


async def test_simultaneous_creates_through_two_gateways_make_one_row_for_each_key(
    pair: tuple[Backend, Backend], mysql: MariaDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "FEW", 1000)
    keys = [Key(user, 1) for user in range(1, 61)]

    async def client(backend: Backend, key: Key) -> list[int]:
        return [(await backend.store.change(key, bump)).answer for _ in range(3)]

    before = loads()
    answers = await asyncio.gather(*(client(each, key) for key in keys for each in pair))
    assert loads() - before < len(keys), "most keys were created or read without a load"
    for number, key in enumerate(keys):
        assert sorted(answers[2 * number] + answers[2 * number + 1]) == [1, 2, 3, 4, 5, 6]
        assert rows(mysql, pair[0], key) == 1


async def test_a_create_that_waits_for_a_lock_does_not_fail_the_others_of_its_batch(
    pair: tuple[Backend, Backend], mysql: MariaDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another transaction holds the lock of one key."""
    monkeypatch.setattr(store, "FEW", 1000)
    one, two = pair
    await two.store.change(KEY, bump)
    async with one.primary.session(one.primary.deadline()) as other:
        await other.execute("START TRANSACTION")
        await other.execute(f"UPDATE {table(one.days.today())} SET version = version + 0")
        held = asyncio.create_task(one.store.change(KEY, bump))
        free = await asyncio.gather(*(one.store.change(Key(n, 5), bump) for n in range(20)))
        assert [each.answer for each in free] == [1] * 20
        await other.rollback()
    assert (await held).answer == 2
