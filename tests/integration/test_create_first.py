"""A create before any load (rule S5): one round trip for a new key, and never a second row."""

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
from sharding.store.steps import Plan
from stack.mariadb import MariaDB
from tests.conftest import StackConfig
from tests.support.backends import opened
from tests.support.states import bump, count, forget

pytestmark = [pytest.mark.stack, pytest.mark.engines]

KEY = Key(7, 11)


@pytest.fixture
async def pair(stack_config: StackConfig) -> AsyncIterator[tuple[Backend, Backend]]:
    async with opened(stack_config()) as one, opened(stack_config()) as two:
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


async def test_the_first_change_of_a_new_key_needs_no_load(pair: tuple[Backend, Backend]) -> None:
    one, _ = pair
    before = loads()
    assert (await one.store.change(KEY, bump)).answer == 1
    assert loads() == before
    assert await count(one.store, KEY) == 1


async def test_a_state_of_today_that_a_gateway_does_not_know_is_changed_and_not_made_anew(
    pair: tuple[Backend, Backend], mysql: MariaDB
) -> None:
    one, two = pair
    for _ in range(3):
        await one.store.change(KEY, bump)
    before = loads()
    assert (await two.store.change(KEY, bump)).answer == 4
    assert loads() == before, "the create has read the row"
    assert await count(one.store, KEY) == 4
    assert rows(mysql, one, KEY) == 1


async def test_a_deleted_state_of_today_keeps_its_versions(pair: tuple[Backend, Backend]) -> None:
    one, two = pair
    await one.store.change(KEY, bump)
    await one.store.change(KEY, forget)
    outcome = await two.store.change(KEY, bump)
    assert (outcome.answer, outcome.version) == (1, 3)


async def test_what_changes_nothing_in_a_new_state_is_answered_from_the_row_that_is_there(
    pair: tuple[Backend, Backend],
) -> None:
    def look(stored: Stored | None) -> Keep[int | None]:
        return Keep(None if stored is None else int(stored.body))

    one, two = pair
    await one.store.change(KEY, bump)
    assert (await two.store.change(KEY, look)).answer == 1


async def test_a_state_of_an_unsealed_day_is_moved_and_not_made_anew(
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


async def test_a_row_in_tomorrows_partition_keeps_a_create_away(
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


async def test_many_creates_at_once_through_two_gateways_make_one_row_each(
    pair: tuple[Backend, Backend], mysql: MariaDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "FEW", 1000)
    keys = [Key(user, 1) for user in range(1, 61)]

    async def client(backend: Backend, key: Key) -> list[int]:
        return [(await backend.store.change(key, bump)).answer for _ in range(3)]

    before = loads()
    answers = await asyncio.gather(*(client(each, key) for key in keys for each in pair))
    assert loads() - before < len(keys), "most were created, or found, by the create"
    for number, key in enumerate(keys):
        assert sorted(answers[2 * number] + answers[2 * number + 1]) == [1, 2, 3, 4, 5, 6]
        assert rows(mysql, pair[0], key) == 1


async def test_a_state_that_mysql_does_not_accept_does_not_fail_the_creates_beside_it(
    pair: tuple[Backend, Backend], mysql: MariaDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lock that another transaction holds on one key of the batch."""
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
