"""Days are sealed on a real MariaDB: no key is ever missing from a filter that is believed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from datetime import date, timedelta
from pathlib import Path

import pytest
import yaml
from prometheus_client import REGISTRY

from config.load import parse
from failover.mysql.errors import PrimaryUnavailable
from failover.mysql.locks import lock_name, try_lock
from sharding import metrics
from sharding.backend import Backend
from sharding.partitions import filter_table, seal_mark, sealing
from sharding.partitions.calendar import table
from sharding.partitions.ownership import COMMENT, list_tables, sealed_as
from sharding.partitions.sealing import CannotSeal, Sealer
from sharding.partitions.sql import create_table
from sharding.state import Key
from stack.mariadb import MariaDB
from tests.conftest import StackConfig
from tests.support.backends import opened
from tests.support.clocks import shift

pytestmark = [pytest.mark.stack, pytest.mark.engines]

STEPS = ("mark", "wait", "scan", "name", "store")
ABSENT = Key(10**12, 5)


@pytest.fixture
def document(stack_config: StackConfig, tmp_path: Path) -> dict[str, object]:
    folder = str(tmp_path / "filters")
    return stack_config(partitions={"filter_folder": folder, "seal_after": 0})


@pytest.fixture
async def backend(document: dict[str, object]) -> AsyncIterator[Backend]:
    async with opened(document, complete=True) as one:
        yield one


def keys_of(day: date, count: int = 50) -> list[Key]:
    return [Key(1000 * day.day + number, 1 + number % 3) for number in range(1, count + 1)]


def insert(day: date, keys: list[Key]) -> str:
    rows = ",".join(f"({user},{playlist},1,2,'{{}}','')" for user, playlist in keys)
    return f"INSERT INTO {table(day)} VALUES {rows}"


async def past(backend: Backend, *ages: int, count: int = 50) -> list[date]:
    """Partitions of so many days ago, each with keys of its own."""
    days = [backend.days.today() - timedelta(days=age) for age in ages]
    for day in days:
        await backend.primary.execute(create_table(day))
        await backend.primary.execute(insert(day, keys_of(day, count)))
    return days


async def believed(backend: Backend, *days: date) -> None:
    """Return once the gateway believes the filters of exactly these days."""
    await backend.days.relist()
    async with asyncio.timeout(20):
        while set(backend.filters.now.days) != set(days):
            await asyncio.sleep(0.02)


async def seals(backend: Backend) -> dict[date, str]:
    found = await list_tables(backend.primary.fetch)
    return {day: kept.seal for day, kept in found.ours.items() if kept.seal}


async def sealed(backend: Backend) -> set[date]:
    return set(await filter_table.usable(backend.primary.fetch, await seals(backend)))


async def test_a_sealed_day_is_ruled_out_for_the_keys_that_it_does_not_have(
    backend: Backend,
) -> None:
    old, newer = days = await past(backend, 3, 1)
    outcome = await backend.sealer.seal()
    assert [(one.day, one.keys) for one in outcome.sealed] == [(old, 50), (newer, 50)]
    assert outcome.failed == {}
    await believed(backend, *days)

    today = backend.days.today()
    asked = (today, newer, old)
    filters = backend.filters.now
    for day in days:
        assert all(day in filters.maybe(key, asked) for key in keys_of(day))
    assert filters.maybe(ABSENT, asked) == [today]
    assert filters.complete(old)
    assert not filters.complete(today)
    assert (await seal_mark.read(backend.primary))[0] == newer
    assert (await backend.sealer.seal()).sealed == (), "once is enough"


async def test_a_gateway_seals_by_itself_and_then_reads_two_partitions_for_a_new_listener(
    document: dict[str, object],
) -> None:
    async with opened(document, complete=True) as before:
        days = await past(before, *range(1, 6))
    gateway = await Backend.open(parse(document), prune=False, seal=True)
    try:
        async with asyncio.timeout(30):
            while not all(gateway.filters.now.complete(day) for day in days):
                await gateway.days.relist()
                await asyncio.sleep(0.05)
        read = metrics.PARTITIONS_READ._sum
        before_load = read.get()
        assert await gateway.store.load(ABSENT) is None
        assert read.get() - before_load == 2
        for day in days:
            found = await gateway.store.load(keys_of(day)[0])
            assert found is not None
            assert found.day == day
    finally:
        await gateway.close()


async def test_a_lookup_node_is_asked_only_where_the_filters_leave_many_partitions(
    backend: Backend,
) -> None:
    newest, *older = days = await past(backend, *range(1, 6))
    daily = Key(999_999, 1)
    for day in days:
        await backend.primary.execute(insert(day, [daily]))
    await backend.sealer.seal()
    for day in older:
        await backend.primary.execute(f"DELETE FROM {table(day)} WHERE user_id = {daily.user_id}")
    await believed(backend, *days)

    asked = sum(metrics.LOOKUPS.counts.values())
    assert await backend.store.load(ABSENT) is None
    for day in days:
        found = await backend.store.load(keys_of(day)[0])
        assert found is not None
        assert found.day == day
    assert sum(metrics.LOOKUPS.counts.values()) == asked

    found = await backend.store.load(daily)
    assert found is not None
    assert found.day == newest
    assert sum(metrics.LOOKUPS.counts.values()) == asked + 1


async def test_days_that_are_not_over_stay_unsealed(backend: Backend) -> None:
    today = backend.days.today()
    assert (await backend.sealer.seal()).sealed == ()
    for day in (today, today + timedelta(days=1)):
        with pytest.raises(CannotSeal, match="not over yet"):
            await backend.sealer.seal(day)
        assert (await list_tables(backend.primary.fetch)).ours[day].comment == COMMENT
    with pytest.raises(CannotSeal, match="no partition"):
        await backend.sealer.seal(today - timedelta(days=9))
    assert (await seal_mark.read(backend.primary))[0] < today - timedelta(days=1)


async def test_a_day_of_several_pages_and_empty_ones_are_sealed_whole(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealing, "PAGE_KEYS", 7)
    full, empty = await past(backend, 2, 1)
    await backend.primary.execute(insert(full, [Key(2**63 - 1, 2**63 - 1), Key(1, 2**62)]))
    await backend.primary.execute(f"DELETE FROM {table(empty)}")
    outcome = await backend.sealer.seal()
    assert [(one.day, one.keys) for one in outcome.sealed] == [(full, 52), (empty, 0)]
    await believed(backend, full, empty)
    for key in (*keys_of(full), Key(2**63 - 1, 2**63 - 1), Key(1, 2**62)):
        assert backend.filters.now.maybe(key, (full, empty)) == [full]


async def test_a_listener_of_many_playlists_across_pages_loses_none(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealing, "PAGE_KEYS", 7)
    (day,) = await past(backend, 1)
    many = [Key(77, playlist) for playlist in range(1, 31)]
    await backend.primary.execute(insert(day, many))
    assert [one.keys for one in (await backend.sealer.seal()).sealed] == [80]
    await believed(backend, day)
    assert all(backend.filters.now.maybe(key, (day,)) == [day] for key in many)


async def test_a_transaction_that_writes_into_the_day_is_waited_for(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    (day,) = await past(backend, 1)
    late = Key(999_999, 1)
    waited = asyncio.Event()
    monkeypatch.setattr(sealing, "ALTER_PAUSE", 0.01)
    reached: list[str] = []

    def at_step(name: str) -> None:
        reached.append(name)
        if name == "wait":
            waited.set()

    sealer = Sealer(backend.primary, backend.days, backend.config.partitions, at_step=at_step)
    async with backend.primary.session(backend.primary.deadline()) as session:
        await session.execute("START TRANSACTION")
        await session.execute(insert(day, [late]))
        work = asyncio.create_task(sealer.seal(day))
        await waited.wait()
        await asyncio.wait({work}, timeout=1.5)
        assert reached[-1] == "wait", "the scan waits for it"
        await session.execute("COMMIT")
    assert [one.keys for one in (await work).sealed] == [51]
    await believed(backend, day)
    assert backend.filters.now.maybe(late, (day,)) == [day]


async def test_writers_of_the_day_never_make_a_key_that_its_filter_lacks(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writers that obey the mark, as the gateway's do, while the day is sealed."""
    monkeypatch.setattr(sealing, "PAGE_KEYS", 5)
    (day,) = await past(backend, 1)
    begun, committed = asyncio.Event(), []

    async def write(number: int) -> None:
        # A gateway whose clock says that the day goes on: only the mark holds it up.
        for turn in range(10_000):
            key = Key(2_000_000 + number, 1 + turn)
            async with backend.primary.session(backend.primary.deadline()) as session:
                await session.execute("START TRANSACTION")
                await session.execute(insert(day, [key]))
                over = f"SELECT sealed >= '{day}' FROM {seal_mark.TABLE}"
                if (await session.fetch(over))[0][0]:
                    await session.rollback()
                    return
                await asyncio.sleep(0.002)
                await session.execute("COMMIT")
            committed.append(key)
            begun.set()

    async with asyncio.TaskGroup() as group:
        for number in range(4):
            group.create_task(write(number))
        await begun.wait()
        outcome = await backend.sealer.seal(day)
    assert [one.keys for one in outcome.sealed] == [50 + len(committed)]
    await believed(backend, day)
    assert all(backend.filters.now.maybe(key, (day,)) == [day] for key in committed)


async def test_while_somebody_holds_the_day_the_others_are_sealed_and_it_follows_later(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, free = await past(backend, 2, 1)
    monkeypatch.setattr(sealing, "TRIES", 1)
    async with backend.primary.session(backend.primary.deadline()) as session:
        await session.execute("START TRANSACTION")
        await session.fetch(f"SELECT COUNT(*) FROM {table(held)}")
        outcome = await backend.sealer.seal()
        assert [one.day for one in outcome.sealed] == [free]
        assert set(outcome.failed) == {held}
        await session.execute("COMMIT")
    assert [one.day for one in (await backend.sealer.seal()).sealed] == [held]


async def test_one_process_seals_at_a_time(backend: Backend) -> None:
    await past(backend, 1)
    name = lock_name("seal", backend.primary.database)
    async with (
        backend.primary.session(backend.primary.deadline()) as session,
        try_lock(session, name) as taken,
    ):
        assert taken
        assert (await backend.sealer.seal()).elsewhere
    assert len((await backend.sealer.seal()).sealed) == 1


# A process of its own that is killed as it comes to a step.
CRASHES = """
import asyncio, os, signal, sys, time
from config.load import load
from failover.mysql.primary import Primary
from sharding.partitions.clock import Days
from sharding.partitions.sealing import Sealer

async def main(path, step):
    config = load(path)
    days = Days(30, time.monotonic)
    primary = Primary(config.mysql, on_status=days.on_status)
    days.attach(primary)
    await primary.start()
    def at_step(name):
        if name == step:
            os.kill(os.getpid(), signal.SIGKILL)
    await Sealer(primary, days, config.partitions, at_step=at_step).seal()

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize("step", STEPS)
async def test_a_seal_whose_process_is_killed_at_any_step_is_made_by_the_next(
    backend: Backend, document: dict[str, object], tmp_path: Path, step: str
) -> None:
    (day,) = await past(backend, 1)
    (tmp_path / "tapedeck.yml").write_text(yaml.safe_dump(document))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CRASHES, str(tmp_path / "tapedeck.yml"), step
    )
    assert await process.wait() == -signal.SIGKILL
    assert await sealed(backend) == set()

    # What was written between the crash and the next try is not missed.
    await backend.primary.execute(insert(day, [Key(555_555, 1)]))
    async with asyncio.timeout(20):
        while (outcome := await backend.sealer.seal()).elsewhere:  # the server sees it go
            await asyncio.sleep(0.05)
    assert [one.keys for one in outcome.sealed] == [51]
    await believed(backend, day)
    assert backend.filters.now.maybe(Key(555_555, 1), (day,)) == [day]


async def test_a_table_that_was_made_anew_is_not_believed_from_its_old_filter(
    backend: Backend,
) -> None:
    day, other = await past(backend, 2, 1)
    await backend.sealer.seal()
    await believed(backend, day, other)

    await backend.primary.execute(f"DROP TABLE {table(day)}")
    await backend.primary.execute(create_table(day))
    await backend.primary.execute(insert(day, [ABSENT]))

    await believed(backend, other)
    assert backend.filters.now.maybe(ABSENT, (other, day)) == [day]
    assert REGISTRY.get_sample_value("tapedeck_filter_days") == 1
    assert not backend.filters.now.complete(day)
    assert [one.day for one in (await backend.sealer.seal()).sealed] == [day]
    await believed(backend, day, other)
    assert backend.filters.now.maybe(ABSENT, (other, day)) == [day]


async def test_a_table_that_was_restored_from_before_its_sealing_is_not_believed(
    backend: Backend, mysql: MariaDB, database: str
) -> None:
    (day,) = await past(backend, 1)
    await backend.primary.execute(f"CREATE TABLE kept LIKE {table(day)}")
    await backend.primary.execute(f"INSERT INTO kept SELECT * FROM {table(day)}")
    gone = keys_of(day)[0]
    await backend.primary.execute(f"DELETE FROM {table(day)} WHERE user_id={gone.user_id}")
    await backend.sealer.seal()
    await believed(backend, day)
    assert backend.filters.now.maybe(gone, (day,)) == []

    await backend.primary.execute(f"DROP TABLE {table(day)}")
    await backend.primary.execute(f"RENAME TABLE kept TO {table(day)}")

    await believed(backend)
    assert backend.filters.now.maybe(gone, (day,)) == [day]


async def test_a_table_that_takes_the_place_of_the_one_that_was_read_is_not_sealed(
    backend: Backend, mysql: MariaDB, database: str
) -> None:
    (day,) = await past(backend, 1)

    def at_step(name: str) -> None:
        if name == "name":
            mysql.query(f"CREATE TABLE {database}.another LIKE {database}.{table(day)}")
            mysql.query(f"ALTER TABLE {database}.another COMMENT='{COMMENT}'")
            mysql.query(f"DROP TABLE {database}.{table(day)}")
            mysql.query(f"RENAME TABLE {database}.another TO {database}.{table(day)}")

    sealer = Sealer(backend.primary, backend.days, backend.config.partitions, at_step=at_step)
    outcome = await sealer.seal()
    assert outcome.sealed == ()
    assert "another table" in outcome.failed[day]
    assert await sealed(backend) == set()


async def test_a_table_with_another_seal_is_not_believed_from_this_filter(
    backend: Backend,
) -> None:
    """One that was put there from a copy of after another sealing."""
    day, other = await past(backend, 2, 1)
    await backend.sealer.seal()
    seal = (await seals(backend))[other]
    await backend.primary.execute(f"ALTER TABLE {table(day)} COMMENT='{sealed_as(seal)}'")
    assert await sealed(backend) == {other}
    await believed(backend, other)


async def test_a_filter_is_not_believed_any_more_even_while_no_other_can_be_fetched(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    day, other = await past(backend, 2, 1)
    await backend.sealer.seal()
    await believed(backend, day, other)

    async def fails(*_: object) -> object:
        raise PrimaryUnavailable("not now")

    monkeypatch.setattr(filter_table, "usable", fails)
    await backend.primary.execute(f"ALTER TABLE {table(day)} COMMENT='{COMMENT}'")
    await believed(backend, other)
    assert metrics.FILTER_DAYS._value.get() == 1
    assert backend.filters.now.maybe(ABSENT, (other, day)) == [day]
    assert REGISTRY.get_sample_value("tapedeck_filter_days") == 1


async def test_what_was_written_by_hand_is_there_after_sealing_again(backend: Backend) -> None:
    (day,) = await past(backend, 1)
    await backend.sealer.seal()
    await believed(backend, day)
    await backend.primary.execute(insert(day, [ABSENT]))
    assert (await backend.sealer.seal(day)).sealed == ()

    (again,) = (await backend.sealer.seal(day, again=True)).sealed
    assert again.keys == 51
    async with asyncio.timeout(20):
        while backend.filters.now.maybe(ABSENT, (day,)) != [day]:
            await asyncio.sleep(0.02)


async def test_a_day_that_is_opened_by_hand_is_read_and_stays_open_until_it_is_sealed_again(
    backend: Backend,
) -> None:
    """The operator's procedure for inserts into a sealed day."""
    (day,) = await past(backend, 1)
    await backend.sealer.seal()
    await believed(backend, day)
    await backend.primary.execute(f"ALTER TABLE {table(day)} COMMENT='{COMMENT}, open'")
    await believed(backend)
    assert (await backend.sealer.seal()).sealed == ()
    await backend.primary.execute(insert(day, [ABSENT]))
    assert [one.keys for one in (await backend.sealer.seal(day, again=True)).sealed] == [51]
    await believed(backend, day)
    assert backend.filters.now.maybe(ABSENT, (day,)) == [day]


async def test_the_command_seals_what_is_due_and_one_day_again(
    backend: Backend, document: dict[str, object], tmp_path: Path
) -> None:
    old, day = await past(backend, 2, 1)
    path = tmp_path / "tapedeck.yml"
    path.write_text(yaml.safe_dump(document))

    async def command(*words: str) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "cli", "partitions", *words, "--config", str(path)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await process.communicate()
        return process.returncode or 0, said.decode()

    status, said = await command("seal", "--json")
    assert status == 0
    made = [(one["day"], one["keys"], one["filter_bytes"]) for one in json.loads(said)["sealed"]]
    assert made == [(f"{old:%Y%m%d}", 50, 128), (f"{day:%Y%m%d}", 50, 128)]
    assert (await command("seal")) == (0, "Nothing is due: what is over is sealed.\n")
    assert f"Sealed {day}: 50 keys" in (await command("seal", "--again", f"{day:%Y%m%d}"))[1]

    status, said = await command("seal", f"{backend.days.today():%Y%m%d}")
    assert (status, "not over yet" in said) == (1, True)
    assert (await command("seal", "soon"))[0] == 1

    _, said = await command("list", "--json")
    shown = {one["day"]: one["sealed"] for one in json.loads(said)}
    assert [shown[f"{one:%Y%m%d}"] for one in (old, day, backend.days.today())] == [
        True,
        True,
        False,
    ]


async def test_a_damaged_filter_is_not_believed_and_the_others_are(
    backend: Backend, mysql: MariaDB, database: str
) -> None:
    bad, good = await past(backend, 2, 1)
    await backend.sealer.seal()
    mysql.query(
        f"UPDATE {database}.{filter_table.TABLE} SET content = INSERT(content, 100, 1, 'x')"
        f" WHERE partition_name = '{table(bad)}'"
    )
    await believed(backend, good)
    assert backend.filters.now.maybe(ABSENT, (good, bad)) == [bad]


async def test_a_clock_that_steps_back_leaves_a_sealed_day_over(
    backend: Backend, mysql: MariaDB
) -> None:
    (yesterday,) = await past(backend, 1)
    await backend.sealer.seal()
    shift(mysql, -86400)
    ((day, by_clock),) = await backend.primary.fetch(f"SELECT {seal_mark.MYSQL_DAY}, UTC_DATE()")
    assert by_clock == yesterday
    assert day == yesterday + timedelta(days=1)


async def test_another_primary_s_filters_are_looked_at_anew(
    backend: Backend, mysql: MariaDB, database: str
) -> None:
    """A forced promotion may have lost the changes that a filter was made after."""
    (day,) = await past(backend, 1)
    await backend.sealer.seal()
    await believed(backend, day)
    before = backend.filters.now
    mysql.query(f"UPDATE {database}.tapedeck_generation SET generation = generation + 1")
    mysql.query(f"ALTER TABLE {database}.{table(day)} COMMENT='{COMMENT}'")
    async with asyncio.timeout(20):
        while backend.filters.now is before or backend.filters.now.days:
            await asyncio.sleep(0.02)
    assert backend.filters.now.maybe(ABSENT, (day,)) == [day]


async def test_the_filter_goes_with_its_partition(backend: Backend) -> None:
    old, kept = await past(backend, 30, 1)
    await backend.sealer.seal()
    assert await sealed(backend) == {old, kept}
    await backend.primary.execute(f"DROP TABLE {table(old)}")
    await backend.sealer.seal()
    assert set(await filter_table.beginnings(backend.primary.fetch)) == {kept}


async def test_the_list_says_what_is_sealed(backend: Backend) -> None:
    (day,) = await past(backend, 1)
    await backend.sealer.seal()
    shown = {one.day: (one.sealed, one.filter_bytes) for one in await backend.partitions()}
    assert shown[f"{day:%Y%m%d}"] == (True, 128)
    assert shown[f"{backend.days.today():%Y%m%d}"] == (False, 0)


async def test_workers_share_one_file_and_a_later_one_finds_it(
    backend: Backend, document: dict[str, object], tmp_path: Path
) -> None:
    days = await past(backend, 2, 1)
    await backend.sealer.seal()
    await believed(backend, *days)
    (made,) = (tmp_path / "filters").glob("*.filters")
    was = made.stat()
    async with opened(document) as another:
        await believed(another, *days)
        assert another.filters.now.maybe(ABSENT, days) == []
    assert [made] == list((tmp_path / "filters").glob("*.filters"))
    assert made.stat().st_ino == was.st_ino
    assert made.stat().st_mtime_ns == was.st_mtime_ns
    assert was.st_mode & 0o777 == 0o600
    assert os.geteuid() == was.st_uid
