"""The mark, and MySQL's day that depends on it, on a real server."""

from __future__ import annotations

from datetime import date, timedelta

import pytest

from sharding.backend import Backend
from sharding.partitions import seal_mark
from sharding.partitions.seal_mark import MYSQL_DAY
from sharding.state import Key
from stack.mariadb import MariaDB
from tests.conftest import StackConfig
from tests.support.backends import opened
from tests.support.clocks import shift
from tests.support.states import bump

pytestmark = [pytest.mark.stack, pytest.mark.engines]


async def mysql_day(backend: Backend) -> tuple[date, date]:
    """MySQL's day, and the day on MySQL's clock."""
    ((by_mark, by_clock),) = await backend.primary.fetch(f"SELECT {MYSQL_DAY}, UTC_DATE()")
    return by_mark, by_clock


async def test_without_a_mark_mysql_s_day_is_that_of_its_clock(
    stack_config: StackConfig,
) -> None:
    async with opened(stack_config()) as backend:
        await backend.days.refresh()
        assert await seal_mark.read(backend.primary) == (date(1970, 1, 1), 0)
        assert backend.days.mark == date(1970, 1, 1)
        by_mark, by_clock = await mysql_day(backend)
        assert by_mark == by_clock


async def test_mysql_s_day_is_never_a_marked_one_even_if_its_clock_is_set_back(
    stack_config: StackConfig, mysql: MariaDB
) -> None:
    async with opened(stack_config()) as backend:
        await backend.days.refresh()
        _, today = await mysql_day(backend)
        await backend.primary.execute(seal_mark.raise_to(today - timedelta(days=1)))
        assert await mysql_day(backend) == (today, today)
        shift(mysql, -86400)
        assert await mysql_day(backend) == (today, today - timedelta(days=1))
        shift(mysql, 0)

        # The mark only grows.
        await backend.primary.execute(seal_mark.raise_to(today - timedelta(days=20)))
        assert await seal_mark.read(backend.primary) == (today - timedelta(days=1), 0)


@pytest.mark.parametrize("damage", ["DELETE FROM {}", "DROP TABLE {}"])
async def test_a_mark_whose_row_or_table_is_missing_counts_as_no_mark(
    stack_config: StackConfig, mysql: MariaDB, database: str, damage: str
) -> None:
    async with opened(stack_config()) as backend:
        await backend.days.refresh()
        mysql.query(damage.format(f"{database}.{seal_mark.TABLE}"))
        assert (await backend.store.change(Key(1, 7), bump)).answer == 1
        mysql.query(damage.format(f"{database}.{seal_mark.TABLE}"))
        assert await backend.store.load(Key(1, 8)) is None
        by_mark, by_clock = await mysql_day(backend)
        assert by_mark == by_clock
        assert await seal_mark.read(backend.primary) == (date(1970, 1, 1), 0)


async def test_a_mark_s_table_of_an_earlier_version_gets_the_column_opening(
    stack_config: StackConfig, mysql: MariaDB, database: str
) -> None:
    async with opened(stack_config()) as backend:
        await backend.days.refresh()
        mysql.query(f"ALTER TABLE {database}.{seal_mark.TABLE} DROP COLUMN opening")
        await backend.days.refresh()
        assert (await backend.store.change(Key(1, 7), bump)).answer == 1
