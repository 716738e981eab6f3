"""Days are sealed on a real server: no filter in use ever lacks a key of its day."""

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
    """Create partitions of these ages in days, each with keys of its own."""
    days = [backend.days.today() - timedelta(days=age) for age in ages]
    for day in days:
        await backend.primary.execute(create_table(day))
        await backend.primary.execute(insert(day, keys_of(day, count)))
    return days


async def used(backend: Backend, *days: date) -> None:
    """Wait until the gateway uses the filters of exactly these days."""
    await backend.days.relist()
    async with asyncio.timeout(20):
        while set(backend.filters.now.days) != set(days):
            await asyncio.sleep(0.02)


async def seals(backend: Backend) -> dict[date, str]:
    found = await list_tables(backend.primary.fetch)
    return {day: kept.seal for day, kept in found.ours.items() if kept.seal}


async def sealed(backend: Backend) -> set[date]:
    return set(await filter_table.usable(backend.primary.fetch, await seals(backend)))


async def test_a_sealed_day_is_ruled_out_for_keys_that_it_does_not_have(
    backend: Backend,
) -> None:
    old, newer = days = await past(backend, 3, 1)
    outcome = await backend.sealer.seal()
    assert [(one.day, one.keys) for one in outcome.sealed] == [(old, 50), (newer, 50)]
    assert outcome.failed == {}
    await used(backend, *days)

    today = backend.days.today()
    asked = (today, newer, old)
    filters = backend.filters.now
    for day in days:
        assert all(day in filters.maybe(key, asked) for key in keys_of(day))
    assert filters.maybe(ABSENT, asked) == [today]
    assert filters.complete(old)
    assert not filters.complete(today)
    assert (await seal_mark.read(backend.primary))[0] == newer
    assert (await backend.sealer.seal()).sealed == (), "sealed days are not sealed again"


async def test_a_gateway_seals_by_itself_and_then_reads_two_partitions_for_a_new_key(
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


async def test_a_lookup_node_is_asked_only_if_the_filters_leave_many_partitions(
    backend: Backend,
) -> None:
    newest, *older = days = await past(backend, *range(1, 6))
    daily = Key(999_999, 1)
    for day in days:
        await backend.primary.execute(insert(day, [daily]))
    await backend.sealer.seal()
    for day in older:
        await backend.primary.execute(f"DELETE FROM {table(day)} WHERE user_id = {daily.user_id}")
    await used(backend, *days)

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


async def test_a_day_that_is_not_over_cannot_be_sealed(backend: Backend) -> None:
    today = backend.days.today()
    assert (await backend.sealer.seal()).sealed == ()
    for day in (today, today + timedelta(days=1)):
        with pytest.raises(CannotSeal, match="not over yet"):
            await backend.sealer.seal(day)
        assert (await list_tables(backend.primary.fetch)).ours[day].comment == COMMENT
    with pytest.raises(CannotSeal, match="no partition"):
        await backend.sealer.seal(today - timedelta(days=9))
    assert (await seal_mark.read(backend.primary))[0] < today - timedelta(days=1)


async def test_days_of_several_pages_and_empty_days_are_sealed_completely(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealing, "PAGE_KEYS", 7)
    full, empty = await past(backend, 2, 1)
    await backend.primary.execute(insert(full, [Key(2**63 - 1, 2**63 - 1), Key(1, 2**62)]))
    await backend.primary.execute(f"DELETE FROM {table(empty)}")
    outcome = await backend.sealer.seal()
    assert [(one.day, one.keys) for one in outcome.sealed] == [(full, 52), (empty, 0)]
    await used(backend, full, empty)
    for key in (*keys_of(full), Key(2**63 - 1, 2**63 - 1), Key(1, 2**62)):
        assert backend.filters.now.maybe(key, (full, empty)) == [full]


async def test_the_filter_has_all_playlists_of_a_listener_on_several_pages(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealing, "PAGE_KEYS", 7)
    (day,) = await past(backend, 1)
    many = [Key(77, playlist) for playlist in range(1, 31)]
    await backend.primary.execute(insert(day, many))
    assert [one.keys for one in (await backend.sealer.seal()).sealed] == [80]
    await used(backend, day)
    assert all(backend.filters.now.maybe(key, (day,)) == [day] for key in many)


async def test_sealing_waits_for_a_transaction_that_wrote_into_the_day(
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
        assert reached[-1] == "wait", "the scan did not wait for the transaction"
        await session.execute("COMMIT")
    assert [one.keys for one in (await work).sealed] == [51]
    await used(backend, day)
    assert backend.filters.now.maybe(late, (day,)) == [day]


async def test_no_key_committed_during_sealing_is_missing_from_the_filter(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writers check the mark, as gateways do, while the day is sealed."""
    monkeypatch.setattr(sealing, "PAGE_KEYS", 5)
    (day,) = await past(backend, 1)
    begun, committed = asyncio.Event(), []

    async def write(number: int) -> None:
        # As a gateway whose clock is late: only the mark stops it.
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
    await used(backend, day)
    assert all(backend.filters.now.maybe(key, (day,)) == [day] for key in committed)


async def test_a_day_that_a_transaction_holds_is_sealed_later_and_the_others_at_once(
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


async def test_only_one_process_seals_at_a_time(backend: Backend) -> None:
    await past(backend, 1)
    name = lock_name("seal", backend.primary.database)
    async with (
        backend.primary.session(backend.primary.deadline()) as session,
        try_lock(session, name) as taken,
    ):
        assert taken
        assert (await backend.sealer.seal()).elsewhere
    assert len((await backend.sealer.seal()).sealed) == 1


# A process that kills itself when it comes to a step.
CRASHES = """
import asyncio, os, signal, sys, time
from config.load import load
from failover.mysql.primary import Primary
from sharding.partitions.days import Days
from sharding.partitions.sealing import Sealer

async def main(path, step):
    config = load(path)
    primary = Primary(config.mysql, lambda status: days.observe(status.clock_ms))
    days = Days(primary, 30)
    await primary.start()
    def at_step(name):
        if name == step:
            os.kill(os.getpid(), signal.SIGKILL)
    await Sealer(primary, days, config.partitions, at_step=at_step).seal()

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize("step", STEPS)
async def test_a_day_whose_sealing_was_killed_at_any_step_is_sealed_by_the_next_process(
    backend: Backend, document: dict[str, object], tmp_path: Path, step: str
) -> None:
    (day,) = await past(backend, 1)
    (tmp_path / "tapedeck.yml").write_text(yaml.safe_dump(document))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CRASHES, str(tmp_path / "tapedeck.yml"), step
    )
    assert await process.wait() == -signal.SIGKILL
    assert await sealed(backend) == set()

    # The next sealing finds a key that was written after the crash.
    await backend.primary.execute(insert(day, [Key(555_555, 1)]))
    async with asyncio.timeout(20):
        while (
            outcome := await backend.sealer.seal()
        ).elsewhere:  # the server still has the connection
            await asyncio.sleep(0.05)
    assert [one.keys for one in outcome.sealed] == [51]
    await used(backend, day)
    assert backend.filters.now.maybe(Key(555_555, 1), (day,)) == [day]


async def test_the_filter_of_a_table_that_was_created_again_is_not_used(
    backend: Backend,
) -> None:
    day, other = await past(backend, 2, 1)
    await backend.sealer.seal()
    await used(backend, day, other)

    await backend.primary.execute(f"DROP TABLE {table(day)}")
    await backend.primary.execute(create_table(day))
    await backend.primary.execute(insert(day, [ABSENT]))

    await used(backend, other)
    assert backend.filters.now.maybe(ABSENT, (other, day)) == [day]
    assert REGISTRY.get_sample_value("tapedeck_filter_days") == 1
    assert not backend.filters.now.complete(day)
    assert [one.day for one in (await backend.sealer.seal()).sealed] == [day]
    await used(backend, day, other)
    assert backend.filters.now.maybe(ABSENT, (other, day)) == [day]


async def test_the_filter_of_a_table_restored_from_before_its_sealing_is_not_used(
    backend: Backend, mysql: MariaDB, database: str
) -> None:
    (day,) = await past(backend, 1)
    await backend.primary.execute(f"CREATE TABLE kept LIKE {table(day)}")
    await backend.primary.execute(f"INSERT INTO kept SELECT * FROM {table(day)}")
    gone = keys_of(day)[0]
    await backend.primary.execute(f"DELETE FROM {table(day)} WHERE user_id={gone.user_id}")
    await backend.sealer.seal()
    await used(backend, day)
    assert backend.filters.now.maybe(gone, (day,)) == []

    await backend.primary.execute(f"DROP TABLE {table(day)}")
    await backend.primary.execute(f"RENAME TABLE kept TO {table(day)}")

    await used(backend)
    assert backend.filters.now.maybe(gone, (day,)) == [day]


async def test_a_table_that_replaced_the_scanned_one_is_not_sealed(
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


async def test_the_filter_of_a_table_with_another_seal_is_not_used(
    backend: Backend,
) -> None:
    """Such a table may be restored from a copy of another sealing."""
    day, other = await past(backend, 2, 1)
    await backend.sealer.seal()
    seal = (await seals(backend))[other]
    await backend.primary.execute(f"ALTER TABLE {table(day)} COMMENT='{sealed_as(seal)}'")
    assert await sealed(backend) == {other}
    await used(backend, other)


async def test_a_filter_is_discarded_even_while_no_other_can_be_fetched(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    day, other = await past(backend, 2, 1)
    await backend.sealer.seal()
    await used(backend, day, other)

    async def fails(*_: object) -> object:
        raise PrimaryUnavailable("not now")

    monkeypatch.setattr(filter_table, "usable", fails)
    await backend.primary.execute(f"ALTER TABLE {table(day)} COMMENT='{COMMENT}'")
    await used(backend, other)
    assert metrics.FILTER_DAYS._value.get() == 1
    assert backend.filters.now.maybe(ABSENT, (other, day)) == [day]
    assert REGISTRY.get_sample_value("tapedeck_filter_days") == 1


async def test_a_row_written_by_hand_is_found_after_sealing_again(backend: Backend) -> None:
    (day,) = await past(backend, 1)
    await backend.sealer.seal()
    await used(backend, day)
    await backend.primary.execute(insert(day, [ABSENT]))
    assert (await backend.sealer.seal(day)).sealed == ()

    (again,) = (await backend.sealer.seal(day, again=True)).sealed
    assert again.keys == 51
    async with asyncio.timeout(20):
        while backend.filters.now.maybe(ABSENT, (day,)) != [day]:
            await asyncio.sleep(0.02)


async def test_a_day_opened_by_hand_is_read_and_stays_open_until_it_is_sealed_again(
    backend: Backend,
) -> None:
    """The operator's procedure for inserts into a sealed day."""
    (day,) = await past(backend, 1)
    await backend.sealer.seal()
    await used(backend, day)
    await backend.primary.execute(f"ALTER TABLE {table(day)} COMMENT='{COMMENT}, open'")
    await used(backend)
    assert (await backend.sealer.seal()).sealed == ()
    await backend.primary.execute(insert(day, [ABSENT]))
    assert [one.keys for one in (await backend.sealer.seal(day, again=True)).sealed] == [51]
    await used(backend, day)
    assert backend.filters.now.maybe(ABSENT, (day,)) == [day]


async def test_the_command_seals_the_days_that_are_due_and_one_day_again(
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
    for written in (f"{day:%Y%m%d}", f"{day}"):
        assert f"Sealed {day}: 50 keys" in (await command("seal", "--again", written))[1]

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


async def test_a_damaged_filter_is_not_used_and_the_others_are(
    document: dict[str, object], mysql: MariaDB, database: str, tmp_path: Path
) -> None:
    async with opened(document, complete=True) as before:
        bad, good = await past(before, 2, 1)
        await before.sealer.seal()
    mysql.query(
        f"UPDATE {database}.{filter_table.TABLE} SET content = INSERT(content, 100, 1, 'x')"
        f" WHERE partition_name = '{table(bad)}'"
    )
    # On another machine: this one may have both filters in its folder already.
    document["partitions"] = {"filter_folder": str(tmp_path / "another"), "seal_after": 0}
    async with opened(document, complete=True) as backend:
        await used(backend, good)
        assert backend.filters.now.maybe(ABSENT, (good, bad)) == [bad]


async def test_a_sealed_day_stays_over_when_mysql_s_clock_is_set_back(
    backend: Backend, mysql: MariaDB
) -> None:
    (yesterday,) = await past(backend, 1)
    await backend.sealer.seal()
    shift(mysql, -86400)
    ((day, by_clock),) = await backend.primary.fetch(f"SELECT {seal_mark.MYSQL_DAY}, UTC_DATE()")
    assert by_clock == yesterday
    assert day == yesterday + timedelta(days=1)


async def test_after_a_failover_filters_are_checked_again(
    backend: Backend, mysql: MariaDB, database: str
) -> None:
    """A forced promotion may have lost changes that the filters depend on."""
    (day,) = await past(backend, 1)
    await backend.sealer.seal()
    await used(backend, day)
    before = backend.filters.now
    mysql.query(f"UPDATE {database}.tapedeck_generation SET generation = generation + 1")
    mysql.query(f"ALTER TABLE {database}.{table(day)} COMMENT='{COMMENT}'")
    async with asyncio.timeout(20):
        while backend.filters.now is before or backend.filters.now.days:
            await asyncio.sleep(0.02)
    assert backend.filters.now.maybe(ABSENT, (day,)) == [day]


async def test_a_filter_is_deleted_with_its_partition(backend: Backend) -> None:
    old, kept = await past(backend, 30, 1)
    await backend.sealer.seal()
    assert await sealed(backend) == {old, kept}
    await backend.primary.execute(f"DROP TABLE {table(old)}")
    await backend.sealer.seal()
    assert set(await filter_table.beginnings(backend.primary.fetch)) == {kept}


async def test_the_list_of_partitions_shows_which_are_sealed(backend: Backend) -> None:
    (day,) = await past(backend, 1)
    await backend.sealer.seal()
    shown = {one.day: (one.sealed, one.filter_bytes) for one in await backend.partitions()}
    assert shown[f"{day:%Y%m%d}"] == (True, 128)
    assert shown[f"{backend.days.today():%Y%m%d}"] == (False, 0)


async def test_a_later_worker_uses_the_existing_file_of_filters(
    backend: Backend, document: dict[str, object], tmp_path: Path
) -> None:
    days = await past(backend, 2, 1)
    await backend.sealer.seal()
    await used(backend, *days)
    (made,) = (tmp_path / "filters").glob("*.filters")
    was = made.stat()
    async with opened(document) as another:
        await used(another, *days)
        assert another.filters.now.maybe(ABSENT, days) == []
    assert [made] == list((tmp_path / "filters").glob("*.filters"))
    assert made.stat().st_ino == was.st_ino
    assert made.stat().st_mtime_ns == was.st_mtime_ns
    assert was.st_mode & 0o777 == 0o600
    assert os.geteuid() == was.st_uid
