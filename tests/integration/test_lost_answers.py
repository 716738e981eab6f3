"""A change whose answer was lost is made once, whatever MySQL's clock and other workers do."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator

import pytest

from failover.tasks import stop
from sharding.backend import Backend
from sharding.partitions.calendar import table
from sharding.state import Key, Outcome, Unavailable
from sharding.store.idempotency import KEPT, new_worker
from sharding.store.plan import Loaded
from stack.mariadb import MariaDB
from tests.conftest import StackConfig
from tests.support.backends import opened
from tests.support.clocks import shift
from tests.support.cutting import AckCutter
from tests.support.states import bump, count

pytestmark = [pytest.mark.stack, pytest.mark.engines]

KEY = Key(7, 11)


@contextlib.asynccontextmanager
async def answer_lost(
    stack_config: StackConfig, mysql: MariaDB, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[asyncio.Task[Outcome[int]], asyncio.Event, Backend]]:
    """The second change of a state: it was committed, but its answer was lost.

    The gateway reads the row again when the event is set. The other gateway goes on meanwhile.
    """
    async with AckCutter(mysql.port) as cutter:
        cut = stack_config(mysql={"hosts": [f"127.0.0.1:{cutter.port}"]})
        # Nothing else runs whose answer could be cut instead.
        async with opened(cut, complete=True) as backend, opened(stack_config()) as other:
            await backend.store.change(KEY, bump)
            read, may_read = backend.store._read, asyncio.Event()

            async def read_later(key: Key, before: Loaded | None) -> Loaded:
                await may_read.wait()
                return await read(key, before)

            monkeypatch.setattr(backend.store, "_read", read_later)
            cutter.cut = 1
            changing = asyncio.create_task(backend.store.change(KEY, bump))
            async with asyncio.timeout(5):
                while not cutter.lost:
                    await asyncio.sleep(0.001)
            try:
                yield changing, may_read, other
            finally:
                changing.cancel()


async def change_as_another_worker(backend: Backend) -> None:
    backend.store._worker = new_worker()
    backend.store.sessions.clear()
    await backend.store.change(KEY, bump)


async def test_a_change_whose_answer_is_lost_is_made_once_even_if_mysql_s_clock_jumps(
    stack_config: StackConfig, mysql: MariaDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    shift(mysql, -1830)
    async with answer_lost(stack_config, mysql, monkeypatch) as (changing, may_read, other):
        shift(mysql, 1830)
        assert (await other.store.change(KEY, bump)).answer == 3

        may_read.set()

        outcome = await changing
        assert (outcome.answer, outcome.version) == (2, 2)
        assert await count(other.store, KEY) == 3


@pytest.mark.parametrize("others", [KEPT - 1, KEPT])
async def test_a_change_whose_entry_other_workers_displaced_is_not_made_again(
    stack_config: StackConfig, mysql: MariaDB, monkeypatch: pytest.MonkeyPatch, others: int
) -> None:
    async with answer_lost(stack_config, mysql, monkeypatch) as (changing, may_read, other):
        for _ in range(others):
            await change_as_another_worker(other)

        may_read.set()

        if others < KEPT:
            assert (await changing).version == 2
        else:
            with pytest.raises(Unavailable, match="not known whether"):
                await changing
        assert await count(other.store, KEY) == 2 + others


async def test_a_change_that_was_not_committed_is_made_after_other_workers_changes(
    stack_config: StackConfig, mysql: MariaDB, monkeypatch: pytest.MonkeyPatch, database: str
) -> None:
    """No entry was dropped yet, so its missing entry proves that it was not made."""
    async with answer_lost(stack_config, mysql, monkeypatch) as (changing, may_read, other):
        partition = f"{database}.{table(other.days.today())}"
        # Pretend that its statement never arrived.
        mysql.query(f"UPDATE {partition} SET version = 1, state = '1', operations = ''")
        for _ in range(KEPT - 1):
            await change_as_another_worker(other)

        may_read.set()

        outcome = await changing
        assert (outcome.answer, outcome.version) == (KEPT + 1, KEPT + 1)


async def test_a_row_with_a_log_in_the_earlier_format_is_changed(
    stack_config: StackConfig, mysql: MariaDB, database: str
) -> None:
    async with opened(stack_config()) as backend, opened(stack_config()) as other:
        day = (await backend.store.change(KEY, bump)).day
        assert day is not None
        entries = "".join(f"{n:016x}.1f.{n:x}.1796000000;" for n in range(1, 100))
        mysql.query(f"UPDATE {database}.{table(day)} SET version = 100, operations = '{entries}'")

        assert (await other.store.change(KEY, bump)).version == 101
        assert (await backend.store.change(KEY, bump)).version == 102

        ((log,),) = mysql.query(f"SELECT operations FROM {database}.{table(day)}")
        assert bytes(log).count(b";") == KEPT - 1


async def test_many_workers_make_no_change_twice_while_answers_are_lost_and_the_clock_jumps(
    stack_config: StackConfig, mysql: MariaDB
) -> None:
    """More workers than a row's log has entries change one key; each gets its own answer."""
    told: list[int] = []
    unknown = 0

    async def client(backend: Backend) -> None:
        nonlocal unknown
        for _ in range(20):
            try:
                outcome = await backend.store.change(KEY, bump)
            except Unavailable:
                unknown += 1
                continue
            assert outcome.answer == outcome.version
            told.append(outcome.answer)

    async with AckCutter(mysql.port) as cutter, contextlib.AsyncExitStack() as stack:
        cut = stack_config(mysql={"hosts": [f"127.0.0.1:{cutter.port}"]})
        backends = [
            await stack.enter_async_context(opened(cut, complete=True)) for _ in range(KEPT + 4)
        ]

        async def trouble() -> None:
            for seconds in itertools.cycle((-1830, 1830)):
                if mysql.clock_file is not None:
                    shift(mysql, seconds)
                cutter.cut = 2
                await asyncio.sleep(0.02)

        troubling = asyncio.create_task(trouble())
        async with asyncio.timeout(60):
            await asyncio.gather(*(client(backend) for backend in backends))
        await stop(troubling)
        cutter.cut = 0

        assert cutter.lost > 5
        assert len(set(told)) == len(told)
        assert len(told) <= await count(backends[0].store, KEY) <= len(told) + unknown
