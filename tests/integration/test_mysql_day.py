"""MySQL's day is never a sealed one, and what a filter rules out is neither read nor looked for."""

from __future__ import annotations

import asyncio
from datetime import date, timedelta

import pymysql
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
    """Filters of days that no key was in."""
    return FilterSet(days, memoryview(bytes(1024)))


def mark(mysql: MariaDB, database: str, day: date) -> None:
    mysql.query(raise_to(day).replace("tapedeck_", f"{database}.tapedeck_"))


async def test_new_states_are_made_in_the_day_after_the_mark_when_mysqls_clock_steps_back_over_it(
    stack_config: StackConfig, mysql: MariaDB, database: str
) -> None:
    assert mysql.clock_file is not None
    async with opened(stack_config()) as before:
        today = before.days.today()
    mark(mysql, database, today)  # by a clock that was ahead: today is over, and is sealed
    async with opened(stack_config()) as backend:
        await backend.store.change(KEY, bump)
        assert rows_of(mysql, database, KEY) == [(table(tomorrow(today)), 1, 2)]
        assert await count(backend.store, KEY) == 1


async def test_a_gateway_that_has_not_heard_of_the_mark_makes_no_state_in_the_marked_day(
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


async def test_a_gateway_that_has_not_heard_of_the_mark_moves_no_state_into_the_marked_day(
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


async def test_a_state_that_every_filter_rules_out_is_found_absent_without_a_read_of_old_partitions(
    stack_config: StackConfig, mysql: MariaDB, database: str
) -> None:
    async with opened(stack_config(), complete=True) as backend:
        today = backend.days.today()
        old = [today - n * DAY for n in range(1, 20)]
        for day in old:
            mysql.query(create_table(day).replace(table(day), f"{database}.{table(day)}"))
        await backend.days.refresh()
        backend.filters.now = ruling_out(*old[1:])
        locker = pymysql.connect(
            host="127.0.0.1", port=mysql.port, user="stack", password=mysql.passwords.admin
        )
        with locker, locker.cursor() as cursor:
            cursor.execute(
                f"LOCK TABLES {database}.{table(old[7])} WRITE"
            )  # whoever reads it waits
            async with asyncio.timeout(5):
                assert await backend.store.load(KEY) is None
                await backend.store.change(KEY, bump)
        assert backend.filters.in_vain == {}


async def test_a_day_whose_filter_could_not_rule_a_key_out_is_read_and_counted_as_read_in_vain(
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
async def test_a_create_looks_into_yesterday_unless_the_load_had_yesterdays_filter(
    stack_config: StackConfig, mysql: MariaDB, database: str, sealed: bool
) -> None:
    async with opened(stack_config(), complete=True) as backend:
        before = yesterday(backend.days.today())
        mysql.query(create_table(before).replace(table(before), f"{database}.{table(before)}"))
        await backend.days.refresh()
        if sealed:
            backend.filters.now = ruling_out(before)
        other = pymysql.connect(
            host="127.0.0.1", port=mysql.port, user="stack", password=mysql.passwords.admin
        )
        with other, other.cursor() as cursor:
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
