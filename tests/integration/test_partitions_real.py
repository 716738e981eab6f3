"""Partitions on real servers: listed, pruned, and never dropped in error."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import date, timedelta

import pytest
from structlog.testing import capture_logs

from config.load import parse
from failover.mysql.locks import lock_name
from sharding.backend import Backend
from sharding.partitions.calendar import prefix, table
from sharding.partitions.pruner import Pruned, Pruner
from sharding.partitions.sql import create_table
from sharding.state import Key
from stack.mysql import MySQL
from stack.server import Server
from tests.conftest import StackConfig
from tests.support.backends import opened
from tests.support.clocks import shift, wall_of
from tests.support.states import bump, count

pytestmark = [pytest.mark.stack, pytest.mark.engines]

YEAR = 366 * 86400
KEY = Key(7, 11)


@pytest.fixture
async def backend(stack_config: StackConfig) -> AsyncIterator[Backend]:
    # So that a prune is due at any time of the day.
    async with opened(stack_config(partitions={"drop_after": 0})) as one:
        yield one


async def past(backend: Backend, *ages: int) -> list[date]:
    """Create partitions of these ages in days, each with one row."""
    days = [backend.days.today() - timedelta(days=age) for age in ages]
    for day in days:
        await backend.primary.execute(create_table(day))
        await backend.primary.execute(f"INSERT INTO {table(day)} VALUES (1, 1, 1, 2, '{{}}', '')")
    return days


def tables(mysql: Server, database: str) -> set[str]:
    found = mysql.query(f"SHOW TABLES FROM {database}")
    return {name for (name,) in found} - {
        "tapedeck_generation",
        "tapedeck_seal_mark",
    }


def of_another_clock(backend: Backend, wall: Callable[[], float]) -> Pruner:
    return Pruner(backend.primary, backend.days, backend.config.partitions, wall)


def pruning(database: str) -> str:
    """A query that tells whether a pruner works on this database."""
    return f"SELECT IS_USED_LOCK('{lock_name('prune', database)}') IS NOT NULL"


@contextlib.contextmanager
def reading(mysql: Server, database: str, day: date) -> Iterator[None]:
    """Keep a transaction open that has read a partition, so that a drop must wait for it."""
    with mysql.connect(database) as reader, reader.cursor() as cursor:
        cursor.execute("START TRANSACTION")
        cursor.execute(f"SELECT * FROM {table(day)}")
        yield


async def begun(pruner: Pruner, mysql: Server, database: str) -> asyncio.Task[Pruned]:
    """Begin a prune, and wait until its lock is held."""
    task = asyncio.create_task(pruner.prune())
    while not mysql.query(pruning(database))[0][0]:
        await asyncio.sleep(0.005)
    return task


async def test_only_today_s_and_tomorrow_s_partition_are_created(
    backend: Backend, mysql: Server, database: str
) -> None:
    today = backend.days.today()
    await backend.days.complete()

    assert tables(mysql, database) == {table(today), table(today + timedelta(days=1))}


async def test_partitions_are_listed_with_rows_and_the_day_of_their_drop(
    backend: Backend,
) -> None:
    (old,) = await past(backend, 5)
    await backend.store.change(KEY, bump)
    today = backend.days.today()

    listed = await backend.pruner.partitions()

    days = (old, today, today + timedelta(days=1))
    assert [p.day for p in listed] == [f"{day:%Y%m%d}" for day in days]
    assert [p.rows for p in listed] == [1, 1, 0]
    assert all(p.bytes > 0 for p in listed)
    assert listed[0].drops_on == f"{old + timedelta(days=31):%Y%m%d}"


async def test_prune_drops_only_partitions_past_retention(
    backend: Backend, mysql: Server, database: str
) -> None:
    await backend.store.change(KEY, bump)
    kept, due = await past(backend, 30, 29, 1), await past(backend, 31, 32, 400)
    before = tables(mysql, database)

    pruned = await backend.pruner.prune()

    assert pruned.dropped == tuple(sorted(due))
    assert pruned.plan.refused == ""
    assert tables(mysql, database) == before - {table(day) for day in due}
    assert {table(day) for day in kept} <= tables(mysql, database)
    assert await count(backend.store, KEY) == 1


async def test_a_second_prune_has_nothing_to_do(backend: Backend) -> None:
    await past(backend, 31)
    await backend.pruner.prune()

    pruned = await backend.pruner.prune()

    assert (pruned.dropped, pruned.plan.days) == ((), ())


async def test_a_dry_run_names_the_partitions_to_drop_and_drops_none(
    backend: Backend, mysql: Server, database: str
) -> None:
    due = await past(backend, 31, 32)
    before = tables(mysql, database)

    pruned = await backend.pruner.prune(dry_run=True)

    assert pruned.plan.days == tuple(sorted(due))
    assert pruned.dropped == ()
    assert tables(mysql, database) == before


async def test_more_than_a_few_drops_at_once_need_force(
    backend: Backend, mysql: Server, database: str
) -> None:
    due = await past(backend, 31, 32, 33, 34)
    before = tables(mysql, database)

    with capture_logs() as logs:
        refused = await backend.pruner.prune()

    assert "--force" in refused.plan.refused
    assert tables(mysql, database) == before
    assert [line["log_level"] for line in logs if line["event"] == "prune refused"] == ["error"]

    forced = await backend.pruner.prune(force=True)

    assert forced.dropped == tuple(sorted(due))


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("whose", ["mysql", "gateway"])
@pytest.mark.parametrize("seconds", [YEAR, -YEAR])
async def test_with_a_clock_a_year_off_nothing_is_dropped_and_an_error_is_logged(
    backend: Backend, mysql: Server, database: str, seconds: int, whose: str, force: bool
) -> None:
    await backend.store.change(KEY, bump)
    ages = (0, 1, 29, 30, 31, 32)
    await past(backend, *ages[1:])
    before = tables(mysql, database)
    if whose == "mysql":
        shift(mysql, seconds)
        pruner = backend.pruner
    else:
        pruner = of_another_clock(backend, lambda: time.time() + seconds)

    with capture_logs() as logs:
        pruned = await pruner.prune(force=force)

    assert tables(mysql, database) == before
    assert pruned.dropped == ()
    if whose == "mysql" and seconds < 0:
        # With a day a year ago no partition is past retention, and nothing is refused.
        assert pruned.plan.days == ()
    else:
        assert "clock" in pruned.plan.refused
        assert [line["log_level"] for line in logs if line["event"] == "prune refused"] == ["error"]


@pytest.mark.parametrize("seconds", [YEAR, -YEAR])
async def test_with_both_clocks_a_year_off_nothing_is_dropped_without_force(
    backend: Backend, mysql: Server, database: str, seconds: int
) -> None:
    """MySQL and the gateway may be on one machine; a month of partitions needs --force."""
    await past(backend, *range(1, 31))
    before = tables(mysql, database)
    shift(mysql, seconds)

    pruned = await of_another_clock(backend, lambda: time.time() + seconds).prune()

    assert pruned.dropped == ()
    assert tables(mysql, database) == before


async def test_with_clocks_half_an_hour_apart_partitions_are_dropped(backend: Backend) -> None:
    (due,) = await past(backend, 40)

    pruned = await of_another_clock(backend, lambda: time.time() + 1800).prune()

    assert pruned.dropped == (due,)


async def test_a_partition_that_is_being_read_is_dropped_later_and_readers_do_not_wait(
    backend: Backend, mysql: Server, database: str
) -> None:
    held, free = await past(backend, 32, 31)
    with reading(mysql, database, held):
        pruning = asyncio.create_task(backend.pruner.prune())
        slowest = 0.0
        while not pruning.done():
            # Another reader of the same table must not queue behind the drop.
            started = time.monotonic()
            await backend.primary.fetch(f"SELECT * FROM {table(held)}")
            slowest = max(slowest, time.monotonic() - started)
            await asyncio.sleep(0.01)
        pruned = await pruning

        assert pruned.busy == (held,)
        assert pruned.dropped == (free,)
        assert table(held) in tables(mysql, database)
        # In MySQL a drop waits at least a second, and readers after it wait as long.
        assert slowest < (2 if isinstance(mysql, MySQL) else 1)

    assert (await backend.pruner.prune()).dropped == (held,)


async def test_of_two_simultaneous_pruners_only_one_drops(
    backend: Backend, stack_config: StackConfig, mysql: Server, database: str
) -> None:
    """A reader of the oldest partition delays the first, so that both run at the same time."""
    held, other = await past(backend, 32, 31)
    async with opened(stack_config(partitions={"drop_after": 0})) as second:
        with reading(mysql, database, held):
            first = await begun(backend.pruner, mysql, database)

            mine = await second.pruner.prune()

            assert mine.elsewhere
            assert (mine.dropped, mine.busy) == ((), ())
        theirs = await first

    assert not theirs.elsewhere
    assert theirs.dropped == (held, other)


async def test_after_a_pruner_died_the_next_one_drops_the_partitions(
    backend: Backend, stack_config: StackConfig, mysql: Server, database: str
) -> None:
    held, other = await past(backend, 32, 31)
    async with opened(stack_config(partitions={"drop_after": 0})) as second:
        with reading(mysql, database, held):
            dying = await begun(second.pruner, mysql, database)
            dying.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await dying
        while mysql.query(pruning(database))[0][0]:
            await asyncio.sleep(0.005)

    assert (await backend.pruner.prune()).dropped == (held, other)


async def test_tables_whose_names_only_resemble_a_partition_s_are_not_listed_or_dropped(
    backend: Backend, mysql: Server, database: str
) -> None:
    alike = {
        "player_state_20000101_backup",
        "player_state_200001011",
        "player_state_2000010",
        "player_state_20001301",
        "player_state_20010229",
        "player_state_copy",
        "player_states_20000101",
        "Player_State_20000101",
        "my_player_state_20000101",
        "playerXstateX20000101",
    }
    for name in alike:
        mysql.query(f"CREATE TABLE {database}.`{name}` (id INT)")
    due = await past(backend, 31)

    pruned = await backend.pruner.prune(force=True)

    assert pruned.dropped == tuple(due)
    assert alike <= tables(mysql, database)
    assert alike.isdisjoint({prefix() + p.day for p in await backend.pruner.partitions()})


async def test_a_partition_of_the_far_future_is_ignored(
    backend: Backend, mysql: Server, database: str
) -> None:
    """A wrong clock may have created it. It is neither listed nor dropped."""
    far = date(9999, 12, 31)
    await backend.primary.execute(create_table(far))
    await backend.days.refresh()

    assert "99991231" not in [partition.day for partition in await backend.pruner.partitions()]
    assert (await backend.store.change(KEY, bump)).answer == 1
    assert await count(backend.store, KEY) == 1
    assert table(far) in tables(mysql, database)


async def test_partitions_are_pruned_regularly_also_after_mysql_failed(
    stack_config: StackConfig, mysql: Server, database: str
) -> None:
    partitions = {"drop_after": 0, "prune_every": 1}
    config = parse(stack_config(partitions=partitions))
    async with opened(stack_config(partitions=partitions)) as backend:
        (due,) = await past(backend, 31)
        keeper = await Backend.open(config)
        try:
            async with asyncio.timeout(60):
                while table(due) in tables(mysql, database):
                    await asyncio.sleep(0.02)
                mysql.kill()
                mysql.start()
                (again,) = await past(backend, 33)
                while table(again) in tables(mysql, database):
                    await asyncio.sleep(0.02)
        finally:
            await keeper.close()


@contextlib.contextmanager
def ddl_blocked(server: Server) -> Iterator[None]:
    """Block all DDL, as a backup does."""
    mysql = isinstance(server, MySQL)
    stages = "BACKUP STAGE START", "BACKUP STAGE BLOCK_DDL"
    with server.connect() as other, other.cursor() as cursor:
        for statement in ("LOCK INSTANCE FOR BACKUP",) if mysql else stages:
            cursor.execute(statement)
        yield
        cursor.execute("UNLOCK INSTANCE" if mysql else "BACKUP STAGE END")


async def test_a_new_day_is_served_while_all_ddl_is_blocked(
    stack_config: StackConfig, mysql: Server
) -> None:
    """At midnight the new day's partition exists already."""
    shift(mysql, 0)
    async with opened(stack_config(), wall=wall_of(mysql)) as backend:
        await backend.store.change(KEY, bump)
        with ddl_blocked(mysql):
            shift(mysql, 86400)

            async with asyncio.timeout(5):
                assert (await backend.store.change(KEY, bump)).answer == 2


async def test_a_gateway_that_starts_while_ddl_is_blocked_serves_at_once(
    stack_config: StackConfig, backend: Backend, mysql: Server
) -> None:
    """Today's partition was created yesterday, and tomorrow's can be created later."""
    shift(mysql, 0)
    await backend.store.change(KEY, bump)
    with ddl_blocked(mysql):
        shift(mysql, 86400)
        starting = await Backend.open(parse(stack_config()), prune=False)
        try:
            async with asyncio.timeout(5):
                assert (await starting.store.change(KEY, bump)).answer == 2
        finally:
            await starting.close()
