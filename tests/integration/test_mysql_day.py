"""MySQL's day is never a sealed one, and a partition that a filter rules out is not read."""

from __future__ import annotations

import asyncio
from datetime import date, timedelta

import pytest

from sharding.filters.filters import FilterSet
from sharding.partitions.calendar import table, tomorrow, yesterday
from sharding.partitions.seal_mark import raise_to
from sharding.partitions.sql import create_table
from sharding.state import Key
from stack.mariadb import MariaDB
from tests.conftest import StackConfig
from tests.integration.test_store import put_back, rows_of
from tests.support.backends import opened
from tests.support.states import bump, count

pytestmark = pytest.mark.stack

KEY = Key(7, 11)
DAY = timedelta(days=1)


def ruling_out(*days: date) -> FilterSet:
    """Filters of days without keys."""
    return FilterSet(days, memoryview(bytes(1024)))


def mark(mysql: MariaDB, database: str, day: date) -> None:
    mysql.query(raise_to(day).replace("tapedeck_", f"{database}.tapedeck_"))


async def test_new_states_go_into_the_day_after_the_mark_even_if_mysql_s_clock_is_set_back(
    stack_config: StackConfig, mysql: MariaDB, database: str
) -> None:
    assert mysql.clock_file is not None
    async with opened(stack_config()) as before:
        today = before.days.today()
    mark(mysql, database, today)  # a clock that was ahead has marked today
    async with opened(stack_config()) as backend:
        await backend.store.change(KEY, bump)
        assert rows_of(mysql, database, KEY) == [(table(tomorrow(today)), 1, 2)]
        assert await count(backend.store, KEY) == 1


async def test_a_gateway_that_does_not_know_the_mark_creates_no_state_in_the_marked_day(
    stack_config: StackConfig, mysql: MariaDB, database: str
) -> None:
    async with opened(stack_config(), complete=True) as backend:
        today = backend.days.today()
        read = backend.reader.load
        loaded = await read(KEY)
        mark(mysql, database, today)

        async def stale(key: Key) -> object:
            backend.reader.load = read  # type: ignore[method-assign]
            return loaded

        backend.reader.load = stale  # type: ignore[method-assign, assignment]
        await backend.store.change(KEY, bump)
        assert rows_of(mysql, database, KEY) == [(table(tomorrow(today)), 1, 2)]


async def test_a_gateway_that_does_not_know_the_mark_moves_no_state_into_the_marked_day(
    stack_config: StackConfig, mysql: MariaDB, database: str
) -> None:
    async with opened(stack_config(), complete=True) as backend:
        await backend.store.change(KEY, bump)
        await put_back(backend, KEY, 3)
        backend.store.sessions.clear()
        assert await count(backend.store, KEY) == 1  # from now on a row of the older day is cached
        today = backend.days.today()
        mark(mysql, database, today)
        await backend.store.change(KEY, bump)
        assert rows_of(mysql, database, KEY) == [(table(tomorrow(today)), 2, 2)]


async def test_partitions_that_filters_rule_out_are_not_read(
    stack_config: StackConfig, mysql: MariaDB, database: str
) -> None:
    async with opened(stack_config(), complete=True) as backend:
        today = backend.days.today()
        old = [today - n * DAY for n in range(1, 20)]
        for day in old:
            mysql.query(create_table(day).replace(table(day), f"{database}.{table(day)}"))
        await backend.days.refresh()
        backend.filters.now = ruling_out(*old[1:])
        with mysql.connect() as locker, locker.cursor() as cursor:
            # A read of this partition would wait.
            cursor.execute(f"LOCK TABLES {database}.{table(old[7])} WRITE")
            async with asyncio.timeout(5):
                assert await backend.store.load(KEY) is None
                await backend.store.change(KEY, bump)
        assert backend.filters.in_vain == {}


async def test_a_partition_read_in_vain_because_of_its_filter_is_counted(
    stack_config: StackConfig, mysql: MariaDB, database: str
) -> None:
    async with opened(stack_config(), complete=True) as backend:
        await backend.store.change(KEY, bump)
        await put_back(backend, KEY, 3)
        here = backend.days.today() - 3 * DAY
        absent = backend.days.today() - 4 * DAY
        mysql.query(create_table(absent).replace(table(absent), f"{database}.{table(absent)}"))
        await backend.days.refresh()
        backend.store.sessions.clear()
        backend.filters.now = FilterSet((here, absent), memoryview(b"\xff" * 1024))
        assert (await backend.reader.find(KEY)).row is not None
        assert backend.filters.in_vain == {absent: 1}


@pytest.mark.parametrize("sealed", [False, True])
async def test_a_create_looks_into_yesterday_unless_the_load_had_yesterday_s_filter(
    stack_config: StackConfig, mysql: MariaDB, database: str, sealed: bool
) -> None:
    async with opened(stack_config(), complete=True) as backend:
        before = yesterday(backend.days.today())
        mysql.query(create_table(before).replace(table(before), f"{database}.{table(before)}"))
        await backend.days.refresh()
        if sealed:
            backend.filters.now = ruling_out(before)
        with mysql.connect() as other, other.cursor() as cursor:
            cursor.execute("BEGIN")
            cursor.execute(
                f"INSERT INTO {database}.{table(before)} VALUES"
                f" ({KEY.user_id},{KEY.playlist_id},1,2,'{{}}','')"
            )
            change = asyncio.create_task(backend.store.change(KEY, bump))
            done, _ = await asyncio.wait([change], timeout=1 if not sealed else 5)
            assert bool(done) is sealed
            cursor.execute("ROLLBACK")
            await change
        assert rows_of(mysql, database, KEY) == [(table(backend.days.today()), 1, 2)]
