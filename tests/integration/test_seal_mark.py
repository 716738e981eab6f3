"""The mark of the newest sealed day, and MySQL's day by it, on a real MariaDB."""

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
    """What the statement says, and what MySQL's clock says."""
    ((by_mark, by_clock),) = await backend.primary.fetch(f"SELECT {MYSQL_DAY}, UTC_DATE()")
    return by_mark, by_clock


async def test_a_gateway_makes_the_mark_s_table_and_the_day_is_the_clock_s(
    stack_config: StackConfig,
) -> None:
    async with opened(stack_config()) as backend:
        await backend.days.refresh()
        assert await seal_mark.read(backend.primary) == (date(1970, 1, 1), 0)
        assert backend.days.mark == date(1970, 1, 1)
        by_mark, by_clock = await mysql_day(backend)
        assert by_mark == by_clock


async def test_mysqls_day_is_never_a_sealed_one_whatever_its_clock_does(
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

        # It only grows.
        await backend.primary.execute(seal_mark.raise_to(today - timedelta(days=20)))
        assert await seal_mark.read(backend.primary) == (today - timedelta(days=1), 0)


@pytest.mark.parametrize("damage", ["DELETE FROM {}", "DROP TABLE {}"])
async def test_a_mark_without_its_row_is_no_mark(
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


async def test_a_mark_of_before_there_were_imports_gets_the_opening(
    stack_config: StackConfig, mysql: MariaDB, database: str
) -> None:
    async with opened(stack_config()) as backend:
        await backend.days.refresh()
        mysql.query(f"ALTER TABLE {database}.{seal_mark.TABLE} DROP COLUMN opening")
        await backend.days.refresh()
        assert (await backend.store.change(Key(1, 7), bump)).answer == 1
