"""Importing states: each goes into its own day's partition, states that Tapedeck changed stay, and
every gateway finds an imported state at once, whatever filters it has."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pymysql
import pytest
import yaml

from failover.mysql.errors import Fault, MySQLError
from gateway.player.rules import body_of
from sharding.backend import Backend
from sharding.importing import run as run_module
from sharding.importing import sources as sources_module
from sharding.importing import target as target_module
from sharding.importing.exporting import write
from sharding.importing.mapping import Record, read_map
from sharding.importing.run import REJECTED, Done, Run
from sharding.importing.sources import BadSource, open_source
from sharding.importing.target import (
    AHEAD,
    CHANGED,
    MOVED,
    NEW,
    OLDER,
    OTHER,
    REPLACED,
    SAME,
    Target,
)
from sharding.partitions import import_opening, seal_mark, sealing, sql
from sharding.partitions.calendar import table
from sharding.partitions.ownership import COMMENT, OPEN, list_tables
from sharding.state import Key, Owner
from stack.process import free_port
from stack.redis import RedisServer
from stack.server import Server
from tests.conftest import StackConfig
from tests.support.backends import opened
from tests.support.clocks import shift
from tests.support.gateways import Gateway, put_mixes
from tests.support.serving import a_mix
from tests.support.states import bump, forget
from tests.support.terminal import eventually, tapedeck

pytestmark = pytest.mark.stack

MAP = """
user: user_id
playlist: playlist_id
updated: updated_at
player:
  played: tracks_played
  skips: skip_times
  listened: listened
"""


@pytest.fixture
def document(stack_config: StackConfig, tmp_path: Path) -> dict[str, Any]:
    folder = str(tmp_path / "filters")
    return stack_config(partitions={"filter_folder": folder, "seal_after": 0})


@pytest.fixture
async def gateway(document: dict[str, Any]) -> AsyncIterator[Backend]:
    async with opened(document, complete=True) as one:
        yield one


class App:
    """The system from which states are imported: it has a table for each day."""

    def __init__(self, gateway: Backend, mysql: Server, database: str) -> None:
        self._mysql, self._database = mysql, database
        user = f"tapedeck:{mysql.passwords.gateway}@{mysql.address}"
        self.dsn = f"mysql://{user}/{database}"
        self.today = gateway.days.today()

    def day(self, age: int) -> date:
        return self.today - timedelta(days=age)

    def put(self, age: int, *rows: tuple[Any, ...]) -> None:
        name = f"{self._database}.player_data_{self.day(age):%Y%m%d}"
        self._mysql.query(
            f"CREATE TABLE IF NOT EXISTS {name} (user_id VARCHAR(20), playlist_id BIGINT,"
            " tracks_played TEXT, skip_times TEXT, listened INT, updated_at DATETIME(3),"
            " PRIMARY KEY (user_id, playlist_id))"
        )
        for user, playlist, played in rows:
            self._mysql.query(
                f"REPLACE INTO {name} VALUES ('{user}', {playlist}, '{played}', '', 0,"
                " UTC_TIMESTAMP(3))"
            )


@pytest.fixture
def app(gateway: Backend, mysql: Server, database: str) -> App:
    return App(gateway, mysql, database)


async def run_import(
    gateway: Backend,
    wanted: str,
    tmp_path: Path,
    *,
    tables: str = "player_data_%Y%m%d",
    said: str = MAP,
    users: tuple[int, ...] = (),
    close: bool = True,
    dry: bool = False,
) -> tuple[Counter[str], str]:
    """Run an import; its counts and its rejects."""
    rejects = io.StringIO()
    source = open_source(wanted, tables, read_map(said), None, users)
    run = Run(source, body_of, 0, rejects.write, print)
    done = None if dry or users else Done(tmp_path / "progress", "")
    await run.into(gateway.primary, 30, done, dry=dry, close=close)
    if done is not None:
        done.over()
    return run.counts, rejects.getvalue()


async def rows_of(gateway: Backend, key: Key) -> dict[date, bytes]:
    """The bodies of a key's rows, by the day of their partition."""
    found: dict[date, bytes] = {}
    for day in (await list_tables(gateway.primary.fetch)).ours:
        rows = await gateway.primary.fetch(
            f"SELECT state FROM {table(day)} WHERE user_id={key[0]} AND playlist_id={key[1]}"
        )
        found.update((day, bytes(row[0])) for row in rows)
    return found


async def comments(gateway: Backend) -> dict[date, str]:
    return {
        day: kept.comment for day, kept in (await list_tables(gateway.primary.fetch)).ours.items()
    }


async def seal_all(gateway: Backend) -> None:
    """Seal all days that are over, and wait until the gateway uses their filters."""
    done = await gateway.sealer.seal()
    assert not done.failed
    days = {
        day for day in (await list_tables(gateway.primary.fetch)).ours if day < gateway.days.today()
    }
    await gateway.days.relist()
    async with asyncio.timeout(20):
        while set(gateway.filters.now.days) != days:
            await asyncio.sleep(0.02)


async def test_each_row_is_imported_into_the_partition_of_its_own_day(
    gateway: Backend, app: App, tmp_path: Path
) -> None:
    app.put(0, (1, 7, "70,71"))
    app.put(3, (2, 7, "[70]"), (1, 7, "70"))
    app.put(30, (3, 7, "70"))
    app.put(31, (4, 7, "70"))
    app.put(-2, (5, 7, "70"))
    counts, rejects = await run_import(gateway, app.dsn, tmp_path)
    assert counts == {NEW: 3, OLDER: 1, AHEAD: 1}, "tables past retention are not even read"
    assert json.loads(rejects)["reason"] == AHEAD
    for user, age, played in ((1, 0, [70, 71]), (2, 3, [70]), (3, 30, [70])):
        rows = await rows_of(gateway, Key(user, 7))
        assert {day: json.loads(body) for day, body in rows.items()} == {
            app.day(age): {"played": played}
        }
        stored = await gateway.store.load(Key(user, 7))
        assert stored is not None
        assert (stored.day, stored.version, stored.owner) == (app.day(age), 1, Owner.PLAYER)
    assert set((await comments(gateway)).values()) == {COMMENT}, "all days will be sealed again"


@pytest.mark.engines
async def test_a_gateway_with_the_filter_of_a_sealed_day_finds_a_state_imported_into_it(
    gateway: Backend, app: App, tmp_path: Path
) -> None:
    app.put(3, (2, 7, "70"))
    await run_import(gateway, app.dsn, tmp_path)
    await seal_all(gateway)
    assert await gateway.store.load(Key(5, 7)) is None
    app.put(3, (5, 7, "70,71"))
    counts, _ = await run_import(gateway, app.dsn, tmp_path, close=False)
    assert counts == {SAME: 1, NEW: 1}
    assert (await comments(gateway))[app.day(3)] == OPEN
    stored = await gateway.store.load(Key(5, 7))
    assert stored is not None, "the gateway used a filter that is older than the import"
    assert stored.day == app.day(3)

    await run_import(gateway, app.dsn, tmp_path)
    await seal_all(gateway)
    assert await gateway.store.load(Key(5, 7)) == stored


async def test_an_import_replaces_no_state_that_tapedeck_changed_or_deleted(
    gateway: Backend, app: App, tmp_path: Path
) -> None:
    app.put(3, (1, 7, "70"), (2, 7, "70"), (3, 7, "70"))
    said = MAP.split("player:")[0] + "body: CONCAT('1')\n"
    counts, rejects = await run_import(gateway, app.dsn, tmp_path, said=said)
    assert counts == {REJECTED: 3}, "a body must be a JSON object"
    assert "no JSON object" in rejects

    await run_import(gateway, app.dsn, tmp_path)
    await gateway.primary.execute(
        f"UPDATE {table(app.day(3))} SET state='1', owner=2 WHERE user_id < 3"
    )
    assert (await gateway.store.change(Key(1, 7), bump)).version == 2
    await gateway.store.change(Key(2, 7), forget)
    await gateway.store.change(Key(4, 7), bump)
    app.put(0, (1, 7, "70,71"), (2, 7, "70,71"), (3, 7, "70,71"), (4, 7, "70"))
    counts, _ = await run_import(gateway, app.dsn, tmp_path)
    assert counts == {CHANGED: 5, MOVED: 1, OLDER: 1}
    assert await rows_of(gateway, Key(1, 7)) == {app.today: b"2"}
    assert await gateway.store.load(Key(2, 7)) is None
    assert await rows_of(gateway, Key(3, 7)) == {app.today: b'{"played":[70,71]}'}
    assert await rows_of(gateway, Key(4, 7)) == {app.today: b"1"}


async def test_an_import_replaces_no_place_by_a_body_and_no_body_by_a_place(
    gateway: Backend, app: App, tmp_path: Path
) -> None:
    bodies = MAP.split("player:")[0] + "body: CONCAT('{}')\n"
    app.put(3, (1, 7, "70"))
    await run_import(gateway, app.dsn, tmp_path)
    app.put(2, (1, 7, "70"), (2, 7, "70"))
    counts, rejects = await run_import(gateway, app.dsn, tmp_path, said=bodies)
    assert counts == {OTHER: 2, NEW: 1}
    assert [json.loads(line)["reason"] for line in rejects.splitlines()] == [OTHER, OTHER]
    assert await rows_of(gateway, Key(1, 7)) == {app.day(3): b'{"played":[70]}'}
    assert (await run_import(gateway, app.dsn, tmp_path))[0] == {OTHER: 1, MOVED: 1, OLDER: 1}
    assert await rows_of(gateway, Key(2, 7)) == {app.day(2): b"{}"}


@pytest.mark.parametrize("sealed", [True, False], ids=["yesterday sealed", "yesterday open"])
async def test_an_import_finds_states_in_yesterday_s_and_tomorrow_s_partition(
    gateway: Backend, app: App, monkeypatch: pytest.MonkeyPatch, sealed: bool
) -> None:
    """A gateway may have saved them around midnight, or by a clock that was set back."""
    monkeypatch.setattr(target_module, "DIRECT", 0)
    keys = [Key(user, 7) for user in range(1, 5)]
    for day in (app.day(1), app.day(-1)):
        await gateway.primary.execute(sql.create_table(day))

    async def put(key: Key, age: int) -> None:
        await gateway.primary.execute(
            f"INSERT INTO {table(app.day(age))} VALUES ({key[0]}, {key[1]}, 1, 2, '9', 'w.1.1')"
        )

    await put(keys[0], 1)
    if sealed:
        await seal_all(gateway)
    async with Target.opened(gateway.primary, 30) as target:
        records = [Record(key, app.day(3), Owner.STATES_API, b"1") for key in keys]
        assert [step.outcome for step in await target.take(records[:1])] == [CHANGED]
        assert [step.outcome for step in await target.take(records[3:])] == [NEW]
        await put(keys[1], -1)
        if not sealed:
            await put(keys[2], 1)
        steps = await target.take(records)
    outcomes = {step.record.key: step.outcome for step in steps}
    assert outcomes == {
        keys[0]: CHANGED,
        keys[1]: CHANGED,
        keys[2]: NEW if sealed else CHANGED,
        keys[3]: SAME,
    }
    for key, outcome in outcomes.items():
        days = [app.day(3)] if outcome in (NEW, SAME) else [app.day(-1 if key == keys[1] else 1)]
        assert list(await rows_of(gateway, key)) == days


@pytest.mark.parametrize("direct", [0, target_module.DIRECT], ids=["filtered", "direct"])
async def test_what_listeners_began_days_after_the_import_began_is_left_alone(
    gateway: Backend, app: App, monkeypatch: pytest.MonkeyPatch, direct: int
) -> None:
    """Partitions are added while a long import runs."""
    monkeypatch.setattr(target_module, "DIRECT", direct)
    monkeypatch.setattr(target_module, "TODAY_SECONDS", 0)
    early, late = (Record(Key(user, 7), app.day(3), Owner.STATES_API, b"1") for user in (1, 2))
    async with Target.opened(gateway.primary, 30) as target:
        assert [step.outcome for step in await target.take([early])] == [NEW]
        # MySQL's day follows the newest sealed one: two midnights pass.
        await gateway.primary.execute(seal_mark.raise_to(app.day(-1)))
        await gateway.days.complete()
        await gateway.store.change(late.key, bump)
        assert [step.outcome for step in await target.take([late])] == [CHANGED]
    assert list(await rows_of(gateway, late.key)) == [app.day(-2)]


async def test_another_import_replaces_only_changed_states(
    gateway: Backend, app: App, tmp_path: Path
) -> None:
    app.put(3, (1, 7, "70"), (2, 7, "70"))
    await run_import(gateway, app.dsn, tmp_path)
    assert (await gateway.store.load(Key(1, 7))) is not None, "the gateway now has it in its cache"
    app.put(3, (1, 7, "70,71"))
    app.put(2, (2, 7, "70,72"))
    counts, _ = await run_import(gateway, app.dsn, tmp_path)
    assert counts == {MOVED: 1, REPLACED: 1, OLDER: 1}
    assert await rows_of(gateway, Key(1, 7)) == {app.day(3): b'{"played":[70,71]}'}
    assert await rows_of(gateway, Key(2, 7)) == {app.day(2): b'{"played":[70,72]}'}
    stored = await gateway.store.load(Key(1, 7))
    assert stored is not None
    assert stored.version == 2, "so that a gateway's cached row is no longer valid"
    assert (await run_import(gateway, app.dsn, tmp_path))[0] == {SAME: 2, OLDER: 1}


@pytest.mark.engines
async def test_listeners_who_begin_during_their_import_have_one_row_and_lose_no_change(
    gateway: Backend, document: dict[str, Any], app: App, tmp_path: Path
) -> None:
    """Two gateways, one of them with filters, create the keys that are being imported."""
    app.put(3, (10**6, 7, "70"))
    await run_import(gateway, app.dsn, tmp_path)
    await seal_all(gateway)
    keys = [Key(user, 7) for user in range(1, 101)]
    day = app.day(3)
    records = [Record(key, day, Owner.STATES_API, b"1000") for key in keys]

    async def listen(one: Backend, key: Key) -> int:
        return (await one.store.change(key, bump)).answer

    async with opened(document, complete=True) as other:

        async def write() -> list[target_module.Step]:
            async with Target.opened(gateway.primary, 30) as target:
                steps = []
                for first in range(0, len(records), 10):
                    steps += await target.take(records[first : first + 10])
                await target.close()
                return steps

        writing = asyncio.create_task(write())
        counted = await asyncio.gather(
            *(listen(gateway if n % 2 else other, key) for n, key in enumerate(keys * 2))
        )
        steps = await writing
    said: dict[Key, list[int]] = {}
    for key, answer in zip(keys * 2, counted, strict=True):
        said.setdefault(key, []).append(answer)
    outcomes = {step.record.key: step.outcome for step in steps}
    assert set(outcomes.values()) <= {NEW, CHANGED}
    for key in keys:
        rows = await rows_of(gateway, key)
        assert len(rows) == 1, (key, rows)
        base = 1000 if outcomes[key] == NEW else 0
        assert sorted(said[key]) == [base + 1, base + 2], key
        assert list(rows.values()) == [b"%d" % (base + 2)]


async def test_a_create_whose_load_was_before_the_import_uses_the_imported_state(
    gateway: Backend, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, other = Key(5, 7), Key(6, 7)
    records = [Record(one, app.day(3), Owner.STATES_API, b"1000") for one in (other, key)]
    loaded, go_on = asyncio.Event(), asyncio.Event()
    load = gateway.reader.load

    async def slowly(wanted: Key) -> Any:
        found = await load(wanted)
        loaded.set()
        await go_on.wait()
        return found

    monkeypatch.setattr(gateway.reader, "load", slowly)
    async with Target.opened(gateway.primary, 30) as target:
        await target.take(records[:1])  # the day is open now, and the opening stays the same
        changing = asyncio.create_task(gateway.store.change(key, bump))
        await loaded.wait()
        assert [step.outcome for step in await target.take(records[1:])] == [NEW]
    go_on.set()
    assert (await changing).answer == 1001
    assert await rows_of(gateway, key) == {app.today: b"1001"}


async def test_an_import_does_not_replace_a_state_created_after_it_read_the_partitions(
    gateway: Backend, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = Key(5, 7)
    steps = Target.steps
    answers: list[int] = []

    async def then_create(self: Target, records: Any, today: date) -> Any:
        found = await steps(self, records, today)
        if not answers:
            answers.append((await gateway.store.change(key, bump)).answer)
        return found

    monkeypatch.setattr(Target, "steps", then_create)
    async with Target.opened(gateway.primary, 30) as target:
        record = Record(key, app.day(3), Owner.STATES_API, b"1000")
        assert [step.outcome for step in await target.take([record])] == [CHANGED]
    assert await rows_of(gateway, key) == {app.today: b"1"}


@pytest.mark.parametrize("die_at", range(1, 7))
async def test_an_import_that_died_at_any_step_is_continued_by_the_same_command(
    gateway: Backend, app: App, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, die_at: int
) -> None:
    """One of its steps fails, and no imported state is lost meanwhile."""
    app.put(1, (1, 7, "70"), (2, 7, "70"))
    app.put(3, (1, 7, "70"), (3, 7, "70"))
    await run_import(gateway, app.dsn, tmp_path, users=(2,))
    await seal_all(gateway)
    calls = 0

    def dying(original: Any) -> Any:
        async def call(*args: Any, **words: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == die_at:
                raise MySQLError(Fault.FINAL, 0, "the process died")
            return await original(*args, **words)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(target_module, "set_comment", dying(sealing.set_comment))
        patch.setattr(import_opening, "renew", dying(import_opening.renew))
        patch.setattr(Target, "take", dying(Target.take))
        with pytest.raises(MySQLError):
            await run_import(gateway, app.dsn, tmp_path)
    assert await gateway.store.load(Key(2, 7)) is not None
    await run_import(gateway, app.dsn, tmp_path)
    assert set((await comments(gateway)).values()) == {COMMENT}
    for user, age in ((1, 1), (2, 1), (3, 3)):
        assert list(await rows_of(gateway, Key(user, 7))) == [app.day(age)]
    await seal_all(gateway)
    for user in (1, 2, 3):
        assert await gateway.store.load(Key(user, 7)) is not None


async def test_after_a_lost_connection_to_mysql_the_part_is_imported_again(
    gateway: Backend, app: App, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mysql: Server
) -> None:
    app.put(3, (1, 7, "70"), (2, 7, "70"))
    monkeypatch.setattr(run_module, "AGAIN_SECONDS", 0.05)
    take, takes = Target.take, 0

    async def cut_off(self: Target, *args: Any) -> Any:
        nonlocal takes
        takes += 1
        if takes == 1:
            mysql.query(f"KILL {self._session.number}")
        return await take(self, *args)

    monkeypatch.setattr(Target, "take", cut_off)
    assert (await run_import(gateway, app.dsn, tmp_path))[0] == {NEW: 2}


async def test_an_import_of_many_days_survives_more_lost_connections_than_one_day_may_have(
    gateway: Backend, app: App, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for age in range(4):
        app.put(age, (age + 1, 7, "70"))
    monkeypatch.setattr(run_module, "AGAIN_SECONDS", 0.0)
    monkeypatch.setattr(run_module, "AGAIN", 1)
    take, lost = Target.take, set[Key]()

    async def lost_once(self: Target, records: Any, *args: Any) -> Any:
        key = records[0].key if records else None
        if key and key not in lost:
            lost.add(key)
            raise MySQLError(Fault.LOST, 2013, "the server closed the connection")
        return await take(self, records, *args)

    monkeypatch.setattr(Target, "take", lost_once)
    assert (await run_import(gateway, app.dsn, tmp_path))[0] == {NEW: 4}


async def test_after_a_lost_connection_to_the_source_its_part_is_read_again(
    gateway: Backend, app: App, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mysql: Server
) -> None:
    """Rows that were read twice are counted once."""
    app.put(3, (1, 7, "70"))
    app.put(4, *((user, 7, "70") for user in range(2, 6)))
    monkeypatch.setattr(run_module, "AGAIN_SECONDS", 0.05)
    monkeypatch.setattr(sources_module, "BATCH", 1)
    raw_rows, read = sources_module._raw_rows, list[Any]()

    def cut_off(stream: Any, columns: int) -> Any:
        for row in raw_rows(stream, columns):
            yield row
            read.append(row)
            if len(read) == 3:
                raise pymysql.err.OperationalError(2013, "Lost connection to MySQL server")

    monkeypatch.setattr(sources_module, "_raw_rows", cut_off)
    counts, _ = await run_import(gateway, app.dsn, tmp_path)
    assert len(read) == 3 + 4
    assert sum(counts.values()) == 5, "only the second day is read again"
    for user in range(1, 6):
        assert len(await rows_of(gateway, Key(user, 7))) == 1


@pytest.mark.engines
@pytest.mark.parametrize(
    ("kind", "stamp", "clock", "zone"),
    [
        ("DATETIME", "UTC_TIMESTAMP()", 0, "SYSTEM"),
        ("DATE", "UTC_DATE()", 0, "SYSTEM"),
        ("DATETIME", "NOW()", -900, "SYSTEM"),
        ("DATETIME", "NOW()", 900, "SYSTEM"),
        ("DATETIME", "NOW()", 0, "-05:00"),
        ("DATETIME", "NOW()", 0, "+09:30"),
        ("TIMESTAMP", "NOW()", 0, "-05:00"),
    ],
)
def test_what_changed_since_is_read_whatever_the_source_s_clock_and_zone_and_column(
    mysql: Server, database: str, kind: str, stamp: str, clock: int, zone: str
) -> None:
    since = datetime.now(UTC) - timedelta(seconds=60)
    mysql.query(f"CREATE TABLE {database}.places (u BIGINT, p BIGINT, t TEXT, d DATE, at {kind})")
    said = read_map("user: u\nplaylist: p\nday: d\nupdated: at\nplayer:\n  played: t\n")
    wanted = f"mysql://tapedeck:{mysql.passwords.gateway}@{mysql.address}/{database}"
    shift(mysql, clock)
    mysql.query(f"SET GLOBAL time_zone = '{zone}'")
    try:
        for user, at in ((1, stamp), (2, f"{stamp} - INTERVAL 2 DAY")):
            mysql.query(f"INSERT INTO {database}.places VALUES ({user}, 7, '70', UTC_DATE(), {at})")
        source = open_source(wanted, "places", said, since, ())
        parts = source.parts(since.date(), since.date() + timedelta(days=1))
        rows = [row for part in parts for batch in source.rows(part) for row in batch]
    finally:
        mysql.query("SET GLOBAL time_zone = 'SYSTEM'")
    assert [values["user"] for _, values in rows] == [b"1"]


@pytest.mark.parametrize(("zone", "tables"), [("SYSTEM", 1), ("-12:00", 2)])
def test_without_an_update_time_the_table_of_the_zone_s_day_is_read(
    mysql: Server, database: str, zone: str, tables: int
) -> None:
    since = datetime.now(UTC).replace(hour=0, minute=0, second=0)
    for age in range(3):
        day = since - timedelta(days=age)
        mysql.query(f"CREATE TABLE {database}.t_{day:%Y%m%d} (u BIGINT, p BIGINT, t TEXT)")
    said = read_map("user: u\nplaylist: p\nplayer:\n  played: t\n")
    wanted = f"mysql://tapedeck:{mysql.passwords.gateway}@{mysql.address}/{database}"
    mysql.query(f"SET GLOBAL time_zone = '{zone}'")
    try:
        source = open_source(wanted, "t_%Y%m%d", said, since, ())
        assert len(source.parts(date(2000, 1, 1), since.date())) == tables
    finally:
        mysql.query("SET GLOBAL time_zone = 'SYSTEM'")


async def test_a_continued_import_omits_the_finished_days_except_the_last_two(
    gateway: Backend, app: App, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app.put(0, (1, 7, "70"))
    app.put(3, (2, 7, "70"))
    app.put(4, (3, 7, "70"))
    take, taken = Target.take, list[int]()

    async def die_on_the_last(self: Target, records: Any, *args: Any) -> Any:
        taken.extend(record.key.user_id for record in records)
        if 3 in taken:
            raise MySQLError(Fault.FINAL, 0, "the process died")
        return await take(self, records, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Target, "take", die_on_the_last)
        with pytest.raises(MySQLError):
            await run_import(gateway, app.dsn, tmp_path)
    assert taken == [1, 2, 3]
    app.put(0, (1, 7, "70,71"))
    counts, _ = await run_import(gateway, app.dsn, tmp_path)
    assert counts == {REPLACED: 1, NEW: 1}, "today's change, and the day that was not finished"


def test_the_command_names_wrong_rows_and_mistakes_in_its_map(
    document: dict[str, Any], tmp_path: Path
) -> None:
    today = datetime.now(UTC).date()
    config, said, rows = (tmp_path / name for name in ("t.yml", "map.yml", "places.jsonl"))
    config.write_text(yaml.safe_dump(document))
    rows.write_text(f'{{"u": 1, "p": 7, "t": [70], "d": "{today}"}}\n{{"u": "x", "p": 7}}\n')

    def run(*args: str) -> tuple[int, str, str]:
        done = tapedeck(
            *("import", "--from", str(rows), "--map", str(said), "--config", str(config), *args)
        )
        return done.returncode, done.stdout, done.stderr

    said.write_text("usr: u\nplaylist: p\nday: d\nplayer:\n  played: t\n")
    status, _, why = run()
    assert status == 1
    assert "map.yml: line 1: there is no 'usr': did you mean 'user'?" in why
    said.write_text("user: u\nplaylist: p\nday: d?\nplayer:\n  played: t?\n")
    status, told, why = run("--dry-run")
    assert f"user 1, playlist 7, partition {today:%Y%m%d}: track 70, 1 played" in told
    assert "The catalog lacks 1 mix (7)" in told
    assert status == 1, "a row is wrong"
    status, told, why = run()
    assert "1 bad row, 1 imported" in told
    assert "The catalog lacks 1 mix (7)" in told
    assert status == 1
    assert "2 rows\n" in why, "no rate is shown for so few rows"
    assert "map.yml.rejects names it. The first: line 2: user: 'x' is no whole number" in why
    _, bad = map(json.loads, (tmp_path / "map.yml.rejects").read_text().splitlines())
    assert bad["row"] == "line 2"
    assert "user: 'x' is no whole number" in bad["reason"]
    assert bad["values"] == {"user": "x", "playlist": 7}
    assert not (tmp_path / "map.yml.progress").exists()
    rows.unlink()
    status, _, why = run()
    assert status == 1
    assert why.endswith("places.jsonl: there is no such file\n")
    assert len((tmp_path / "map.yml.rejects").read_text().splitlines()) == 2, (
        "the rejects of both runs"
    )
    (tmp_path / "map.yml.rejects").unlink()
    said.write_text(said.read_text().replace("?", ""))
    status, _, why = run("--from", f"mysql://a@127.0.0.1:{free_port()}/b", "--tables", "t%Y%m%d")
    assert status == 1
    assert why.startswith("tapedeck: the source's MySQL: 2003 "), why
    assert why.count("\n") == 1, "one sentence"
    assert not (tmp_path / "map.yml.rejects").exists(), "it has no row"


AUTOGROUP = Path("/proc/self/autogroup")


@pytest.mark.skipif(not AUTOGROUP.exists(), reason="this kernel does not group by session")
def test_a_long_run_gives_way_to_other_sessions_and_leaves_its_terminal_as_it_was(
    document: dict[str, Any], tmp_path: Path
) -> None:
    today = datetime.now(UTC).date()
    config, said, rows = (tmp_path / name for name in ("t.yml", "map.yml", "places.jsonl"))
    config.write_text(yaml.safe_dump(document))
    said.write_text("user: u\nplaylist: p\nday: d\nplayer:\n  played: t\n")
    line = f'"p": 7, "t": [70], "d": "{today}"}}\n'
    rows.write_text("".join(f'{{"u": {user}, {line}' for user in range(1, 16_001)))
    command = [sys.executable, "-m", "cli", "import", "--from", str(rows), "--map", str(said)]
    command += ["--config", str(config), "--rate", "8000"]
    with subprocess.Popen(
        ["sh", "-c", '"$@"; cat /proc/self/autogroup', "sh", *command],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # as a terminal does
    ) as terminal:
        niceness = Path(f"/proc/{terminal.pid}/autogroup")
        assert eventually(lambda: niceness.read_text().endswith("nice 19\n"))
        told, _ = terminal.communicate(timeout=60)
    assert "16,000 imported" in told
    assert told.endswith("nice 0\n")


@pytest.mark.parametrize("verify", [(), ("--verify",)], ids=["import", "verify"])
@pytest.mark.parametrize("kind", ["mysql", "pipe"])
def test_an_import_whose_source_does_not_answer_says_so_and_ctrl_c_ends_it(
    document: dict[str, Any], tmp_path: Path, kind: str, verify: tuple[str, ...]
) -> None:
    config, said, pipe = (tmp_path / name for name in ("t.yml", "map.yml", "places.jsonl"))
    config.write_text(yaml.safe_dump(document))
    said.write_text("user: u\nplaylist: p\nday: d\nplayer:\n  played: t\n")
    os.mkfifo(pipe)
    with socket.create_server(("127.0.0.1", 0)) as silent, os.fdopen(os.open(pipe, os.O_RDWR)):
        host, port = silent.getsockname()
        wanted = f"mysql://a@{host}:{port}/b" if kind == "mysql" else str(pipe)
        command = [sys.executable, "-m", "cli", "import", "--from", wanted, "--tables", "t"]
        command += ["--map", str(said), "--config", str(config), *verify]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as child:
            assert child.stderr is not None
            assert "nothing was read for 5 s" in child.stderr.readline()
            child.send_signal(signal.SIGINT)
            _, told = child.communicate(timeout=10)
    assert child.returncode == 130
    assert "Traceback" not in told


async def test_an_import_does_not_begin_while_another_runs(
    gateway: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target_module, "WAIT", 0)
    async with Target.opened(gateway.primary, 30):
        with pytest.raises(target_module.Refused, match="another import runs"):
            async with Target.opened(gateway.primary, 30):
                pass


def test_the_bad_rows_of_an_import_are_kept_though_another_with_the_same_map_ends_meanwhile(
    document: dict[str, Any], tmp_path: Path
) -> None:
    """The one that ended without a bad row removed the file that the other was writing."""
    config, said, places = (tmp_path / name for name in ("t.yml", "map.yml", "places.jsonl"))
    config.write_text(yaml.safe_dump(document))
    said.write_text("user: u\nplaylist: p\nday: d\nplayer:\n  played: t\n")
    row = json.dumps({"u": 1, "p": 7, "t": [1], "d": f"{datetime.now(UTC):%Y-%m-%d}"})
    places.write_text(row + "\n")
    fifo = tmp_path / "slow.jsonl"
    os.mkfifo(fifo)
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    command = ("import", "--map", str(said), "--config", str(config), "--from")
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(tapedeck, *command, str(fifo))
        with fifo.open("w") as source:  # waits until the slow one reads
            source.write(row + "\n")
            source.flush()
            quick = tapedeck(*command, str(empty), "--verify")
            assert quick.returncode == 0, quick.stderr
            source.write("nonsense\n")
        done = slow.result(timeout=60)
    assert "1 bad row was left out" in done.stderr, done.stderr
    assert "is no JSON object" in said.with_name("map.yml.rejects").read_text()


@pytest.mark.engines
async def test_an_import_whose_wait_for_another_one_was_killed_says_so(
    gateway: Backend, mysql: Server
) -> None:
    waits = asyncio.Event()
    async with Target.opened(gateway.primary, 30):

        async def wait() -> None:
            async with Target.opened(gateway.primary, 30, 0, lambda _: waits.set()):
                pass

        waiting = asyncio.create_task(wait())
        await waits.wait()
        while not waiting.done():
            for (number,) in mysql.query(
                "SELECT id FROM information_schema.processlist WHERE info LIKE '%GET_LOCK(%60)%'"
                " AND id <> CONNECTION_ID()"
            ):
                mysql.query(f"KILL QUERY {number}")
            await asyncio.sleep(0.05)
    with pytest.raises(MySQLError, match=r"ended the wait for|interrupted"):
        await waiting


@pytest.mark.engines
async def test_the_opening_cannot_be_renewed_while_a_create_is_under_way(gateway: Backend) -> None:
    """Otherwise it could be renewed between the create's check and its commit."""
    async with gateway.primary.session_apart(gateway.primary.deadline()) as one:
        await one.execute("START TRANSACTION")
        await one.execute(sql.require_absent(gateway.days.today(), {}, gateway.days.opening))
        async with gateway.primary.session_apart(gateway.primary.deadline()) as other:
            with pytest.raises(MySQLError) as refused:
                await other.execute(f"UPDATE {seal_mark.TABLE} SET opening=1 WHERE id=1")
            assert refused.value.fault is Fault.OVERTAKEN


@pytest.mark.engines
async def test_an_import_with_a_filter_in_memory_finds_every_row(
    gateway: Backend, app: App, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is used for many keys, and has those that the run itself wrote."""
    monkeypatch.setattr(target_module, "DIRECT", 0)
    app.put(2, *((user, 7, "70,71") for user in range(1, 60)))
    app.put(5, *((user, 7, "70") for user in range(30, 90)))
    counts, _ = await run_import(gateway, app.dsn, tmp_path)
    assert counts == {NEW: 89, OLDER: 30}
    await seal_all(gateway)
    counts, _ = await run_import(gateway, app.dsn, tmp_path)
    assert counts == {SAME: 89, OLDER: 30}
    await gateway.store.change(Key(3, 7), forget)
    assert (await run_import(gateway, app.dsn, tmp_path))[0] == {SAME: 88, OLDER: 30, CHANGED: 1}


async def test_a_batch_that_does_not_read_today_replaces_no_state_created_meanwhile(
    gateway: Backend, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While no batch has met a gateway's state, only its transaction looks at today."""
    monkeypatch.setattr(target_module, "DIRECT", 0)
    mine, another, before = Key(5, 7), Key(6, 7), Key(7, 7)
    records = {key: Record(key, app.day(3), Owner.STATES_API, b"1000") for key in (mine, another)}
    looked = list[set[date]]()
    read = Target._rows

    async def noted(self: Target, wanted: dict[date, list[Key]]) -> Any:
        looked.append(set(wanted))
        return await read(self, wanted)

    monkeypatch.setattr(Target, "_rows", noted)
    async with Target.opened(gateway.primary, 30) as target:
        await target.take([Record(before, app.day(3), Owner.STATES_API, b"1000")])
        await gateway.store.change(mine, bump)
        steps = await target.take(list(records.values()))
    assert {step.record.key: step.outcome for step in steps} == {mine: CHANGED, another: NEW}
    assert [app.today in days for days in looked] == [True, False, True], "read after a failure"
    assert await rows_of(gateway, mine) == {app.today: b"1"}
    assert await rows_of(gateway, another) == {app.day(3): b"1000"}


async def test_every_kind_of_source_gives_the_same_state(
    gateway: Backend, app: App, tmp_path: Path, mysql: Server, database: str,
    lookup_servers: list[RedisServer], capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """One table with a date, Redis hashes and JSON, CSV, and JSON lines."""
    day = app.day(4)
    when = f"{day}T10:00:00"
    mysql.query(f"CREATE TABLE {database}.places (u BIGINT, p BIGINT, t TEXT, d DATETIME)")
    mysql.query(f"INSERT INTO {database}.places VALUES (1, 7, '[70,71]', '{when}')")
    mysql.query(f"INSERT INTO {database}.places VALUES (1, 8, '[80]', '{app.day(40)}')")
    mysql.query(f"INSERT INTO {database}.places VALUES (1, 9, '[90]', NULL)")
    mysql.query(f"INSERT INTO {database}.places VALUES (1, 10, '[100]', '2199-01-01')")
    mysql.query(f"INSERT IGNORE INTO {database}.places VALUES (1, 11, '[110]', '0000-00-00')")
    csv = tmp_path / "places.csv"
    csv.write_text(f'u,p,t,d\n2,7,"70,71",{day}\n\nx,7,70,{day}\n')
    lines = tmp_path / "places.jsonl"
    lines.write_text(
        json.dumps({"u": 3, "p": 7, "at": {"t": [70, 71]}, "d": f"{day:%Y%m%d}"}) + "\nnonsense\n"
    )
    seconds = int((day - date(1970, 1, 1)).total_seconds()) + 3600
    with lookup_servers[0].client() as client:
        client.hset("place:4:7", mapping={"t": "70,71", "d": seconds})
        client.set("place:5:7", json.dumps({"t": [70, 71], "d": seconds * 1000}))
        client.set("place:6:7", "[]")
        client.set("other:6:7", "{}")
        client.set("place:x:7", "{}")
        client.rpush("place:7:7", "70")
    plain = "user: u\nplaylist: p\nday: d\nplayer:\n  played: t\n"
    keyed = "key: place:{user}:{playlist}\nday: d\nplayer:\n  played: t\n"
    for wanted, said, counts in (
        (app.dsn, plain, {NEW: 1, REJECTED: 2, AHEAD: 1}),
        (str(csv), plain, {NEW: 1, REJECTED: 1}),
        (str(lines), plain.replace(" t\n", " at.t\n"), {NEW: 1, REJECTED: 1}),
        (f"redis://127.0.0.1:{lookup_servers[0].port}", keyed, {NEW: 2, REJECTED: 3}),
    ):
        found, _ = await run_import(gateway, wanted, tmp_path, tables="places", said=said)
        assert found == counts, wanted
        if wanted == app.dsn:
            lines_of_output = capsys.readouterr().out.splitlines()
            told = [line for line in lines_of_output if line.startswith("places")]
            assert told == [
                "places without a day, or later: 3 rows",
                f"places {day:%Y%m%d}: 4 rows",
            ]
    for user in range(1, 6):
        assert await rows_of(gateway, Key(user, 7)) == {day: b'{"played":[70,71]}'}, user
    with pytest.raises(BadSource, match=r"no key is called as .*: places:\{user"):
        await run_import(gateway, wanted, tmp_path, said=keyed.replace("place:", "places:"))


@pytest.mark.engines
async def test_sql_of_an_export_keeps_texts_and_what_the_map_does_not_name(
    gateway: Backend, app: App, mysql: Server, database: str
) -> None:
    bodies = [json.dumps({"a": a}, ensure_ascii=False) for a in ("it's", "a\\b", "é\n", '"; --')]

    async def states(statement: str) -> Any:
        rows = [(n, 7, Owner.STATES_API, body.encode()) for n, body in enumerate(bodies, 1)]
        return rows if "user_id>0 " in statement else ()

    async def days() -> list[date]:
        return [app.today]

    said = read_map("user: u\nplaylist: p\nupdated: at\nbody: b\n")
    file = io.StringIO()
    await write(file, states, ".sql", said, "back_%Y%m%d", days, ())
    name = f"back_{app.today:%Y%m%d}"
    await gateway.primary.execute(
        f"CREATE TABLE {name} (u BIGINT, p BIGINT, at DATETIME(3), b TEXT CHARACTER SET utf8mb4,"
        " note TEXT, PRIMARY KEY (u, p))"
    )
    mysql.query(  # the gateway's user may make no foreign key
        f"CREATE TABLE {database}.skips (u BIGINT, p BIGINT,"
        f" FOREIGN KEY (u, p) REFERENCES {database}.{name} (u, p) ON DELETE CASCADE)"
    )
    await gateway.primary.execute(f"INSERT INTO {name} VALUES (1, 7, NULL, '{{}}', 'mine')")
    await gateway.primary.execute("INSERT INTO skips VALUES (1, 7)")
    for statement in file.getvalue().splitlines():
        await gateway.primary.execute(statement.removesuffix(";"))
    rows = await gateway.primary.fetch(f"SELECT b, DATE(at) FROM {name} ORDER BY u")
    assert [tuple(row) for row in rows] == [(body, app.today) for body in bodies]
    assert await gateway.primary.fetch(f"SELECT note FROM {name} WHERE u=1") == [("mine",)]
    assert len(await gateway.primary.fetch("SELECT * FROM skips")) == 1


async def _export_sql(gateway: Backend, said: str, tables: str) -> str:
    file = io.StringIO()

    async def days() -> list[date]:
        return sorted((await list_tables(gateway.primary.fetch)).ours)

    await write(file, gateway.primary.fetch, ".sql", read_map(said), tables, days, ())
    return file.getvalue()


@pytest.mark.engines
async def test_sql_of_an_export_is_refused_by_an_enum_and_goes_into_a_column_added_beside_it(
    gateway: Backend, app: App, mysql: Server, database: str, tmp_path: Path
) -> None:
    """An ENUM takes the number 1 for its first word: `listened` would come back as 'no'."""
    mysql.query(
        f"CREATE TABLE {database}.places (u BIGINT, p BIGINT, t TEXT, d DATE,"
        " done ENUM('no','yes'), PRIMARY KEY (u, p))"
    )
    mysql.query(
        f"INSERT INTO {database}.places VALUES (1, 7, '70', '{app.day(1)}', 'yes'),"
        f" (2, 7, '70', '{app.day(1)}', 'no')"
    )
    said = "user: u\nplaylist: p\nday: d\nplayer:\n  played: t\n  listened: done\n"
    await run_import(gateway, app.dsn, tmp_path, tables="places", said=said)
    with mysql.connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"USE {database}")
        *before, check = (await _export_sql(gateway, said, "places")).splitlines()[:3]
        for line in before:
            cursor.execute(line)
        with pytest.raises(pymysql.MySQLError, match="done is an ENUM, which takes 1 for its firs"):
            cursor.execute(check)
        cursor.execute("ALTER TABLE places ADD listened TINYINT")
        cursor.execute("UPDATE places SET done = 'no'")
        said = said.replace("done", "(done = 'yes')")
        for line in (await _export_sql(gateway, said, "places")).splitlines():
            cursor.execute(line)
        cursor.execute("UPDATE places SET done = IF(listened, 'yes', 'no')")
        cursor.execute("SELECT u, done FROM places ORDER BY u")
        assert cursor.fetchall() == ((1, "yes"), (2, "no"))


@pytest.mark.engines
async def test_skips_in_rows_of_their_own_are_imported_however_many_they_are(
    gateway: Backend, app: App, mysql: Server, database: str, tmp_path: Path
) -> None:
    """MySQL cuts GROUP_CONCAT to 1,024 bytes, and only warns."""
    app.put(1, (1, 7, "70"), (2, 7, "70"))
    mysql.query(f"CREATE TABLE {database}.skips (user_id VARCHAR(20), playlist_id BIGINT, at INT)")
    first = 1_700_000_000
    rows = ", ".join(f"('1', 7, {first + n})" for n in reversed(range(300)))
    mysql.query(f"INSERT INTO {database}.skips VALUES {rows}")
    said = MAP.replace(
        "skip_times",
        "(SELECT GROUP_CONCAT(at ORDER BY at) FROM (SELECT user_id AS u, playlist_id AS p, at"
        " FROM skips) s WHERE u = user_id AND p = playlist_id)",
    )
    counts, _ = await run_import(gateway, app.dsn, tmp_path, said=said)
    assert counts == {NEW: 2}
    (body,) = (await rows_of(gateway, Key(1, 7))).values()
    assert json.loads(body)["skips"] == [first + n for n in range(300)]
    assert await rows_of(gateway, Key(2, 7)) == {app.day(1): b'{"played":[70]}'}


async def test_an_export_survives_the_midnight_after_which_its_oldest_day_is_dropped(
    gateway: Backend, app: App, tmp_path: Path
) -> None:
    for age in (30, 3):
        app.put(age, (age, 7, "[70]"))
    await run_import(gateway, app.dsn, tmp_path)
    kept = [[app.day(30), app.day(3)], [app.day(3)], [app.day(3)]]
    drops = [f"DROP TABLE {table(app.day(30))}"]

    async def fetch(statement: str) -> Any:
        while drops:
            await gateway.primary.execute(drops.pop())
        return await gateway.primary.fetch(statement)

    async def days() -> list[date]:
        return kept.pop(0) if len(kept) > 1 else kept[0]

    file = io.StringIO()
    count = await write(file, fetch, ".jsonl", read_map(MAP), "", days, ())
    assert count.states == 1
    assert json.loads(file.getvalue())["user_id"] == 3
    drops += [f"DROP TABLE {table(app.day(3))}"]
    with pytest.raises(MySQLError, match="doesn't exist"):  # it is not past retention
        await write(file, fetch, ".jsonl", read_map(MAP), "", days, ())


def test_verify_lists_states_that_differ_from_the_source_and_changes_nothing(
    document: dict[str, Any], mysql: Server, tmp_path: Path
) -> None:
    put_mixes(document, [a_mix(7)])
    config, said, bodies = (tmp_path / name for name in ("t.yml", "map.yml", "bodies.yml"))
    config.write_text(yaml.safe_dump(document))
    places, states = tmp_path / "places.jsonl", tmp_path / "states.jsonl"
    said.write_text("user: u\nplaylist: p\nday: d\nplayer:\n  played: t\n")
    bodies.write_text("user: u\nplaylist: p\nday: d\nbody: b\n")
    day = (datetime.now(UTC) - timedelta(days=3)).date()

    def put(file: Path, *rows: dict[str, Any]) -> None:
        file.write_text("".join(json.dumps({"p": 7, "d": f"{day}", **row}) + "\n" for row in rows))

    def command(mapped: Path, *args: str) -> tuple[int, str]:
        done = tapedeck(*args, "--map", str(mapped), "--config", str(config))
        assert done.stdout, done.stderr
        return done.returncode, done.stdout

    def imported(file: Path, mapped: Path, *args: str) -> tuple[int, Any]:
        status, said = command(mapped, "import", "--json", "--from", str(file), *args)
        return status, json.loads(said)

    def rows() -> Any:
        database = document["mysql"]["database"]
        names = mysql.query(f"SHOW TABLES FROM {database} LIKE 'player_state%'")
        return {name: mysql.query(f"SELECT * FROM {database}.{name}") for (name,) in names}

    right = {"u": 1, "t": [701, 702]}
    odd = [{"u": 5, "p": 8, "t": [801]}, {"u": 6, "t": [701, 999]}]
    with Gateway(document, tmp_path):
        put(places, right, {"u": 2, "t": [701]}, {"u": 3, "t": [701]}, *odd)
        assert imported(places, said)[0] == 0
        put(states, {"u": 9, "b": {"at": 1}})
        assert imported(states, bodies)[0] == 0
        database = document["mysql"]["database"]
        mysql.query(f"UPDATE {database}.{table(day)} SET operations='w.1.2' WHERE user_id=2")
        again = {"u": 1, "t": [702]}  # the last row of a day counts, as in an import
        put(
            places,
            again,
            right,
            {"u": 2, "t": [702]},
            {"u": 3, "t": [702]},
            {"u": 4, "t": [701]},
            *odd,
        )
        before = rows()
        status, told = imported(places, said, "--verify")
        assert status == 1
        assert [(one["user"], one["what"]) for one in told["differences"]] == [
            (3, "Tapedeck has another state than the source"),
            (4, "Tapedeck has no such state"),
        ]
        assert [(one["user"], one["what"]) for one in told["lacking"]] == [
            (5, "the catalog lacks mix 8"),
            (6, "the catalog's mix lacks track 999"),
        ]
        assert told["compared"][CHANGED] == told["compared"][SAME] == told["compared"][OLDER] == 1
        assert told["compared"][REPLACED] == 1
        assert imported(states, bodies, "--verify") == (
            0,
            {"compared": {SAME: 1}, "differences": [], "lacking": []},
        )
        assert rows() == before
    back = tmp_path / "back.jsonl"
    status, told = command(said, "export", "--to", str(back))
    assert status == 0
    assert f"Wrote 5 states to {back}." in told
    assert "Left out 1 state of the states API, for which this map has no column" in told
    assert [json.loads(line)["u"] for line in back.read_text().splitlines()] == [1, 2, 3, 5, 6]
