"""Foreign tables with a partition's name, and partitions that something else creates."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import subprocess
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pymysql
import pytest
import yaml

from failover.mysql.errors import MySQLError
from sharding.backend import Backend
from sharding.partitions import days as days_module
from sharding.partitions.calendar import table, tomorrow
from sharding.partitions.ownership import COMMENT, OPEN, list_tables
from sharding.partitions.pruner import Pruner
from sharding.partitions.sql import create_table
from sharding.state import Key
from sharding.store.store import Unavailable
from stack.mariadb import MariaDB
from tests.conftest import StackConfig
from tests.integration.test_admin import get
from tests.support.backends import opened
from tests.support.gateways import Gateway, put_mixes
from tests.support.serving import a_mix
from tests.support.states import bump, count
from tests.support.terminal import tapedeck

pytestmark = [pytest.mark.stack, pytest.mark.engines]

KEY = Key(7, 11)
OF_THE_FIRST_EDITION = (
    "CREATE TABLE {name} (user_id BIGINT NOT NULL, playlist_id BIGINT NOT NULL,"
    " version BIGINT NOT NULL,"
    " owner TINYINT UNSIGNED NOT NULL COMMENT '0 deleted, 1 Player, 2 states API',"
    " state MEDIUMBLOB NOT NULL,"
    " operations BLOB NOT NULL COMMENT 'worker.operation.version.time; of late writers',"
    " PRIMARY KEY (user_id, playlist_id)) ENGINE=InnoDB"
)


def today() -> date:
    return datetime.now(UTC).date()


def ago(number: int) -> date:
    return today() - timedelta(days=number)


def foreign(mysql: MariaDB, database: str, *days: date, definition: str = "(id INT)") -> None:
    for day in days:
        mysql.query(f"CREATE TABLE {database}.{table(day)} {definition}")


def tables(mysql: MariaDB, database: str) -> set[str]:
    return {name for (name,) in mysql.query(f"SHOW TABLES FROM {database}")}


@pytest.fixture
async def backend(stack_config: StackConfig) -> AsyncIterator[Backend]:
    async with opened(stack_config(partitions={"drop_after": 0}), complete=True) as one:
        yield one


@pytest.fixture
def gateway(stack_config: StackConfig, tmp_path: Path) -> Iterator[Gateway]:
    document = stack_config()
    put_mixes(document, [a_mix(7)])
    gateway = Gateway(document, tmp_path)
    yield gateway
    gateway.kill()


def cli(gateway: Gateway, *args: str) -> subprocess.CompletedProcess[str]:
    gateway.write_config()
    return tapedeck(*args, "--config", str(gateway.config))


# --- never dropped, read or written


@pytest.mark.parametrize(
    "definition",
    [
        "(id INT PRIMARY KEY, player VARCHAR(20))",
        "LIKE {ours}",  # with another comment
        "AS SELECT * FROM {ours}",  # our columns, without our key
    ],
)
async def test_a_foreign_table_past_retention_is_never_dropped(
    backend: Backend, mysql: MariaDB, database: str, definition: str
) -> None:
    theirs, ours = ago(41), ago(40)
    copied = definition.format(ours=f"{database}.{table(today())}")
    foreign(mysql, database, theirs, definition=copied)
    if definition.startswith("LIKE"):
        mysql.query(f"ALTER TABLE {database}.{table(theirs)} COMMENT 'of the shop'")
    await backend.primary.execute(create_table(ours))

    pruned = await backend.pruner.prune(force=True)

    assert pruned.dropped == (ours,)
    assert pruned.foreign == (table(theirs),)
    assert table(theirs) in tables(mysql, database)


async def test_a_foreign_table_of_another_day_is_reported_and_affects_no_load(
    backend: Backend, mysql: MariaDB, database: str
) -> None:
    await backend.store.change(KEY, bump)
    foreign(mysql, database, ago(3), date(2099, 12, 31))
    await backend.days.refresh()

    assert await count(backend.store, KEY) == 1
    assert await count(backend.store, Key(8, 8)) == 0
    (reason,) = backend.readiness().reasons
    assert backend.readiness().status == "degraded"
    assert table(ago(3)) in reason
    assert "player_state_20991231" in reason
    listed = await backend.pruner.partitions()
    assert [p.day for p in listed] == [f"{d:%Y%m%d}" for d in (today(), tomorrow(today()))]
    assert all(p.foreign == [table(ago(3)), "player_state_20991231"] for p in listed)


async def test_a_foreign_table_that_replaces_a_partition_is_noticed_at_the_next_load(
    backend: Backend, mysql: MariaDB, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The failed statement makes the gateway list the tables again at once."""
    old = ago(2)
    await backend.primary.execute(create_table(old))
    await backend.days.refresh()
    await backend.store.change(KEY, bump)
    assert backend.days.exists(old)
    monkeypatch.setattr(days_module, "FRESH", 0)  # the list was read before
    mysql.query(f"DROP TABLE {database}.{table(old)}")
    foreign(mysql, database, old)

    assert await count(backend.store, Key(8, 8)) == 0

    assert table(old) in backend.readiness().reasons[0]


async def test_a_cached_row_is_not_moved_out_of_a_partition_that_became_foreign(
    backend: Backend, mysql: MariaDB, database: str
) -> None:
    """The move of a cached row of an older day would delete it in its old table."""
    old = ago(1)
    await backend.primary.execute(create_table(old))
    await backend.days.refresh()
    await backend.store.change(KEY, bump)
    into, there = table(today()), table(old)
    mysql.query(f"INSERT INTO {database}.{there} SELECT * FROM {database}.{into}")
    mysql.query(f"DELETE FROM {database}.{into}")
    backend.store.sessions.clear()
    assert await count(backend.store, KEY) == 1  # from the old day, and cached
    mysql.query(f"ALTER TABLE {database}.{there} COMMENT 'of the shop'")
    await backend.days.relist()

    assert (await backend.store.change(KEY, bump)).answer == 1

    assert mysql.query(f"SELECT version FROM {database}.{there}") == [(1,)]


@pytest.mark.parametrize("trouble", ["altered", "killed"])
async def test_no_partition_is_missing_in_a_list_while_tables_are_altered_or_statements_killed(
    backend: Backend, mysql: MariaDB, database: str, trouble: str
) -> None:
    """MariaDB leaves tables out of information_schema then, and reports success."""
    days = {today(), *(ago(number) for number in range(1, 9))}
    for day in days:
        await backend.primary.execute(create_table(day))
    over = False
    killed: set[int] = set()

    def disturb() -> None:
        with mysql.connect(database) as connection, connection.cursor() as cursor:
            for day in itertools.cycle(sorted(days)):
                if over:
                    return
                if trouble == "altered":
                    cursor.execute(f"ALTER TABLE {table(day)} COMMENT='{OPEN}'")
                    cursor.execute(f"ALTER TABLE {table(day)} COMMENT='{COMMENT}'")
                for number in killed:
                    with contextlib.suppress(pymysql.MySQLError):
                        cursor.execute(f"KILL QUERY {number}")

    disturbing = asyncio.create_task(asyncio.to_thread(disturb))
    complete = 0
    try:
        async with asyncio.timeout(60):
            while complete < 60:
                deadline = backend.primary.deadline()
                with contextlib.suppress(MySQLError):
                    async with backend.primary.session_apart(deadline) as session:
                        await session.fetch(f"SELECT GET_LOCK('{database}', 0)")
                        if trouble == "killed":
                            killed = {session.number}
                        found = await list_tables(session.fetch)
                        assert found.ours.keys() >= days
                        assert not found.foreign
                        complete += 1
    finally:
        over = True
        await disturbing


async def test_a_foreign_table_in_place_of_today_s_is_reported_until_it_is_renamed(
    backend: Backend, mysql: MariaDB, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await backend.store.change(KEY, bump)
    name = f"{database}.{table(today())}"
    mysql.query(f"RENAME TABLE {name} TO {database}.aside")
    foreign(mysql, database, today())
    monkeypatch.setattr(days_module, "FRESH", 0)  # the list was read before

    with pytest.raises(Unavailable, match="rename the table"):
        await count(backend.store, KEY)
    assert backend.readiness().status == "unavailable"
    assert "rename the table" in backend.readiness().reasons[0]

    mysql.query(f"RENAME TABLE {name} TO {database}.theirs, {database}.aside TO {name}")
    async with asyncio.timeout(20):
        while True:
            try:
                assert await count(backend.store, KEY) == 1
                break
            except Unavailable:
                await asyncio.sleep(0.05)
    assert backend.readiness().status == "ready"


async def test_a_foreign_table_with_tomorrow_s_name_does_not_count_as_created(
    stack_config: StackConfig, mysql: MariaDB, database: str
) -> None:
    """CREATE TABLE IF NOT EXISTS succeeds if any table has the name."""
    async with opened(stack_config(), complete=True) as backend:
        day = tomorrow(backend.days.today())
        mysql.query(f"DROP TABLE {database}.{table(day)}")
        foreign(mysql, database, day)
        # The gateway's list was made just before the other table appeared.
        backend.days.foreign = {}
        backend.days._know({backend.days.today()})

        with pytest.raises(Exception, match="rename the table"):
            await backend.days._create(day)

        assert not backend.days.exists(day)
        assert backend.readiness().status == "degraded"


async def test_a_partition_to_which_an_operator_adds_an_index_stays_ours(
    backend: Backend, mysql: MariaDB, database: str
) -> None:
    await backend.store.change(KEY, bump)
    mysql.query(f"ALTER TABLE {database}.{table(today())} ADD INDEX busy (version)")
    await backend.days.refresh()

    assert await count(backend.store, KEY) == 1
    assert backend.readiness().status == "ready"


# --- partitions of the first edition


async def test_partitions_of_the_first_edition_are_read_and_pruned_as_before(
    backend: Backend, mysql: MariaDB, database: str
) -> None:
    kept, due = ago(2), ago(40)
    for day in (kept, due):
        mysql.query(OF_THE_FIRST_EDITION.format(name=f"{database}.{table(day)}"))
    state = b'{"count":5}'.hex()
    mysql.query(f"INSERT INTO {database}.{table(kept)} VALUES (7, 11, 5, 2, x'{state}', '')")
    await backend.days.refresh()

    assert (await backend.store.load(KEY)) is not None
    assert backend.readiness().status == "ready"
    assert (await backend.pruner.prune()).dropped == (due,)


# --- the start


@pytest.mark.parametrize("ahead", [0, 1])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_gateway_does_not_start_if_a_foreign_table_has_today_s_or_tomorrow_s_name(
    gateway: Gateway, mysql: MariaDB, database: str, ahead: int, workers: int
) -> None:
    taken = today() + timedelta(days=ahead)
    foreign(mysql, database, taken)
    before = mysql.query(f"SHOW CREATE TABLE {database}.{table(taken)}")

    ended = cli(gateway, "serve", "--workers", str(workers))
    status, said = ended.returncode, ended.stdout + ended.stderr

    assert status == 1
    assert f"the table {table(taken)} has the name of a day partition" in said
    assert "rename the table, or give Tapedeck another partitions.prefix" in said
    assert "Traceback" not in said
    assert mysql.query(f"SHOW CREATE TABLE {database}.{table(taken)}") == before


def test_with_another_prefix_a_gateway_runs_beside_foreign_tables(
    gateway: Gateway, mysql: MariaDB, database: str
) -> None:
    theirs = {table(d) for d in (ago(40), ago(3), today(), tomorrow(today()))}
    foreign(mysql, database, *(ago(n) for n in (40, 3, 0, -1)))
    gateway.document["partitions"] = {"prefix": "tapes_", "prune_every": 1, "drop_after": 0}
    gateway.start()

    asyncio.run(put(gateway, 201))

    mine = {f"tapes_{d:%Y%m%d}" for d in (today(), tomorrow(today()))}
    assert theirs | mine <= tables(mysql, database)
    body = asyncio.run(get(gateway, "/partitions"))
    assert {f"tapes_{p['day']}" for p in body} == mine
    assert all(p["foreign"] == [] for p in body)
    listed = cli(gateway, "partitions", "list", "--json")
    assert [p["day"] for p in yaml.safe_load(listed.stdout)] == [p["day"] for p in body]


def test_foreign_tables_are_named_by_the_log_readyz_partitions_and_the_commands(
    gateway: Gateway, mysql: MariaDB, database: str
) -> None:
    foreign(mysql, database, ago(40), ago(3))
    gateway.start()

    body = asyncio.run(gateway.until("/readyz", lambda _, b: b["status"] == "degraded"))

    assert any(table(ago(3)) in reason for reason in body["reasons"])
    logged = {line["table"] for line in gateway.lines("foreign table ignored")}
    assert logged == {table(ago(40)), table(ago(3))}
    shown = asyncio.run(get(gateway, "/partitions"))
    assert {p["day"] for p in shown} <= {f"{d:%Y%m%d}" for d in (today(), tomorrow(today()))}
    assert all(p["foreign"] == [table(ago(40)), table(ago(3))] for p in shown)
    for command in (["list"], ["prune", "--force"]):
        said = cli(gateway, "partitions", *command)
        assert said.returncode == 0
        assert table(ago(40)) in said.stderr
    assert table(ago(40)) in tables(mysql, database)


def test_partitions_create_says_that_a_foreign_table_has_the_name(
    gateway: Gateway, mysql: MariaDB, database: str
) -> None:
    foreign(mysql, database, today())

    said = cli(gateway, "partitions", "create")

    assert said.returncode == 1
    assert "rename the table" in said.stderr
    assert "Traceback" not in said.stderr


# --- partitions that something else creates


def restore(mysql: MariaDB, database: str, day: date) -> None:
    """Create a partition with a state, as a restore does."""
    name = f"{database}.{table(day)}"
    mysql.query(create_table(day).replace(table(day), name, 1))
    mysql.query(f"INSERT INTO {name} VALUES (1, 7, 3, 2, '{{}}', '')")


async def put(gateway: Gateway, status: int) -> None:
    headers = {**gateway.key, "If-None-Match": "*", "Content-Type": "application/json"}
    async with (
        aiohttp.ClientSession(gateway.url) as http,
        http.put("/states/1/7", headers=headers, data=b"{}") as answer,
    ):
        assert answer.status == status


@pytest.mark.parametrize("workers", [1, 2])
def test_a_restored_partition_is_read_after_a_reload(
    gateway: Gateway, mysql: MariaDB, database: str, workers: int
) -> None:
    gateway.document["gateway"]["workers"] = workers
    gateway.start()
    restore(mysql, database, ago(2))

    async def reload() -> None:
        async with aiohttp.ClientSession(gateway.admin) as http, http.post("/reload") as answer:
            assert answer.status == 200

    asyncio.run(reload())
    for _ in range(4):  # any worker may get it
        asyncio.run(put(gateway, 412))


async def test_a_restored_partition_is_read_within_30_seconds(
    monkeypatch: pytest.MonkeyPatch, stack_config: StackConfig, mysql: MariaDB, database: str
) -> None:
    """The tables are listed again every LIST_EVERY seconds; the test makes it shorter."""
    assert days_module.LIST_EVERY <= 28
    monkeypatch.setattr(days_module, "LIST_EVERY", 0.05)
    async with opened(stack_config(), complete=True) as backend:
        assert await backend.store.load(Key(1, 7)) is None
        restore(mysql, database, ago(2))

        async with asyncio.timeout(20):
            while await backend.store.load(Key(1, 7)) is None:
                await asyncio.sleep(0.02)


async def test_a_table_replaced_between_the_list_and_the_drop_is_not_dropped(
    backend: Backend, mysql: MariaDB, database: str
) -> None:
    day = ago(40)
    await backend.primary.execute(create_table(day))

    class Slow(Pruner):
        async def _drop(self, session: Any, plan: Any) -> Any:
            mysql.query(f"DROP TABLE {database}.{table(day)}")
            foreign(mysql, database, day)
            return await super()._drop(session, plan)

    pruner = Slow(backend.primary, backend.days, backend.config.partitions)

    assert (await pruner.prune()).dropped == ()
    assert table(day) in tables(mysql, database)
