"""The mark of the newest sealed day, and MySQL's day by it, on a real MariaDB."""

from __future__ import annotations

from datetime import date, timedelta

import pytest

from sharding.backend import Backend
from sharding.partitions import seal_mark
from sharding.partitions.seal_mark import MYSQL_DAY
from stack.mariadb import MariaDB
from tests.conftest import StackConfig
from tests.support.backends import opened
from tests.support.clocks import shift

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
        assert await seal_mark.newest(backend.primary) == date(1970, 1, 1) == backend.days.mark
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
        assert await seal_mark.newest(backend.primary) == today - timedelta(days=1)


async def test_a_mark_without_its_row_is_no_mark(
    stack_config: StackConfig, mysql: MariaDB, database: str
) -> None:
    async with opened(stack_config()) as backend:
        await backend.days.refresh()
        mysql.query(f"DELETE FROM {database}.{seal_mark.TABLE}")
        by_mark, by_clock = await mysql_day(backend)
        assert by_mark == by_clock
        assert await seal_mark.newest(backend.primary) == date(1970, 1, 1)
        mysql.query(f"DROP TABLE {database}.{seal_mark.TABLE}")
        assert await seal_mark.newest(backend.primary) == date(1970, 1, 1)
