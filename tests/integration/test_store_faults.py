"""How locked rows and failed batches of some listeners affect others."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from datetime import timedelta

import pymysql
import pytest
from pymysql.cursors import Cursor
from structlog.testing import capture_logs

from sharding.backend import Backend
from sharding.partitions.calendar import table
from sharding.partitions.sql import create_table
from sharding.state import Key, Owner, Stored, TooLarge, Unavailable, Write
from stack.mariadb import MariaDB
from tests.conftest import StackConfig
from tests.support.backends import opened
from tests.support.states import bump, count

pytestmark = [pytest.mark.stack, pytest.mark.engines]


@contextlib.contextmanager
def holding(mysql: MariaDB, database: str, backend: Backend, keys: list[Key]) -> Iterator[Cursor]:
    """Lock the rows of these keys in an open transaction, like that of a gateway that froze."""
    day = table(backend.days.today())
    with mysql.connect(database) as connection, connection.cursor() as cursor:
        cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
        cursor.execute("START TRANSACTION")
        for user, playlist in keys:  # one by one: a scan would lock the rows between them too
            cursor.execute(
                f"SELECT 1 FROM {day} WHERE user_id = {user} AND playlist_id = {playlist}"
                " FOR UPDATE"
            )
        yield cursor
        with contextlib.suppress(pymysql.MySQLError):
            cursor.execute("ROLLBACK")


async def test_a_locked_row_delays_the_others_of_its_batch_only_briefly(
    stack_config: StackConfig, mysql: MariaDB, database: str
) -> None:
    keys = [Key(user, 1) for user in range(1, 31)]
    async with opened(stack_config()) as backend:
        await asyncio.gather(*(backend.store.change(key, bump) for key in keys))
        with holding(mysql, database, backend, keys[:1]):
            held = asyncio.create_task(backend.store.change(keys[0], bump))
            async with asyncio.timeout(4):
                others = [backend.store.change(key, bump) for key in keys[1:]]
                answers = await asyncio.gather(*others)
            assert {outcome.answer for outcome in answers} == {2}
            assert not held.done()

        assert (await held).answer == 2


async def test_many_locked_rows_leave_connections_for_other_listeners(
    stack_config: StackConfig, mysql: MariaDB, database: str
) -> None:
    """A gateway that freezes before the commit of a batch leaves many rows locked."""
    keys = [Key(user, 1) for user in range(1, 41)]
    other = Key(99, 1)
    async with opened(stack_config()) as backend:
        for key in (*keys, other):
            await backend.store.change(key, bump)
        with holding(mysql, database, backend, keys):
            held = [asyncio.create_task(backend.store.change(key, bump)) for key in keys]
            slowest = 0.0
            until = time.monotonic() + 5
            while time.monotonic() < until:
                started = time.monotonic()
                await backend.store.load(other)
                slowest = max(slowest, time.monotonic() - started)
                await asyncio.sleep(0.01)
        done = await asyncio.gather(*held)

        assert {outcome.answer for outcome in done} == {2}
        assert slowest < 0.5


async def test_changes_of_other_listeners_are_saved_while_many_rows_are_locked(
    stack_config: StackConfig, mysql: MariaDB, database: str
) -> None:
    keys = [Key(user, 1) for user in range(1, 41)]
    others = [Key(user, 2) for user in range(1, 6)]
    async with opened(stack_config()) as backend:
        for key in (*keys, *others):
            await backend.store.change(key, bump)
        with holding(mysql, database, backend, keys):
            held = []
            for wave in (keys[:20], keys[20:]):  # so that each batch under way has locked rows
                held += [asyncio.create_task(backend.store.change(key, bump)) for key in wave]
                await asyncio.sleep(0.1)
            async with asyncio.timeout(5):
                answers = await asyncio.gather(*(backend.store.change(key, bump) for key in others))
            assert {outcome.answer for outcome in answers} == {2}
        await asyncio.gather(*held)


@pytest.mark.parametrize("life", ["created", "changed in place", "moved into today"])
async def test_many_large_states_are_saved_even_if_mysql_takes_only_small_packets(
    stack_config: StackConfig, mysql: MariaDB, small_packets: int, life: str
) -> None:
    keys = [Key(user, 1) for user in range(1, 97)]
    body = b"x" * (64 << 10)

    def grow(stored: Stored | None) -> Write[int]:
        return Write(body, Owner.STATES_API, 0 if stored is None else stored.version)

    async with opened(stack_config()) as backend:
        if life != "created":
            await asyncio.gather(*(backend.store.change(key, bump) for key in keys))
        if life == "moved into today":
            today = backend.days.today()
            yesterday = today - timedelta(days=1)
            await backend.primary.execute(create_table(yesterday))
            await backend.primary.execute(
                f"INSERT INTO {table(yesterday)} SELECT * FROM {table(today)}"
            )
            await backend.primary.execute(f"DELETE FROM {table(today)}")
            await backend.days.refresh()
            backend.store.sessions.clear()

        outcomes = await asyncio.gather(
            *(backend.store.change(key, grow) for key in keys), return_exceptions=True
        )

        wanted = 1 if life == "created" else 2
        assert [getattr(outcome, "version", outcome) for outcome in outcomes] == [wanted] * 96


async def test_a_state_too_large_for_mysql_fails_and_the_others_of_its_batch_do_not(
    stack_config: StackConfig, mysql: MariaDB, small_packets: int
) -> None:
    keys = [Key(user, 1) for user in range(1, 11)]
    document = stack_config()
    document["mysql"] |= {"deadline": 2_000}
    async with opened(document) as backend:
        for key in keys:
            await backend.store.change(key, bump)
        too_large = b"x" * (small_packets // 2)  # a statement writes each byte as two digits

        answers = await asyncio.gather(
            backend.store.change(keys[0], lambda _: Write(too_large, Owner.PLAYER, -1)),
            *(backend.store.change(key, bump) for key in keys[1:]),
            return_exceptions=True,
        )

        assert isinstance(answers[0], TooLarge)
        assert "max_allowed_packet is 1048576" in str(answers[0])
        assert [getattr(a, "answer", a) for a in answers[1:]] == [2] * 9
        assert await count(backend.store, keys[0]) == 1


async def test_a_change_committed_after_its_statement_timed_out_is_made_once(
    stack_config: StackConfig, mysql: MariaDB, database: str
) -> None:
    """Its statement waits for a locked row while the server is frozen, and goes on afterwards."""
    key = Key(7, 11)
    document = stack_config()
    document["mysql"] |= {"statement_timeout": 300, "connect_timeout": 200}
    async with opened(document) as backend:
        for n in range(1, 6):
            await backend.store.change(key, bump)
            with holding(mysql, database, backend, [key]):
                changing = asyncio.create_task(backend.store.change(key, bump))
                while not mysql.query(
                    "SELECT 1 FROM information_schema.processlist"
                    " WHERE user = 'tapedeck' AND info LIKE 'UPDATE%'"
                ):
                    await asyncio.sleep(0.005)
                mysql.freeze()
                while backend.primary.adopted:
                    await asyncio.sleep(0.005)
                mysql.thaw()
            outcome = await changing

            assert (outcome.answer, outcome.version) == (2 * n, 2 * n)
            assert await count(backend.store, key) == 2 * n


async def test_a_change_cancelled_at_any_moment_is_made_completely_or_not_at_all(
    stack_config: StackConfig, mysql: MariaDB, database: str
) -> None:
    """And it blocks no later change."""
    keys = [Key(user, 1) for user in range(1, 5)]
    async with opened(stack_config()) as one, opened(stack_config()) as two:
        acknowledged = dict.fromkeys(keys, 0)
        begun = dict.fromkeys(keys, 0)

        async def client(backend: Backend, key: Key, patience: float) -> None:
            for _ in range(15):
                begun[key] += 1
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(patience):
                        await backend.store.change(key, bump)
                        acknowledged[key] += 1

        await asyncio.gather(
            *(
                client(backend, key, patience)
                for backend in (one, two)
                for key in keys
                for patience in (0.0005, 0.002, 0.005, 0.01, 0.05)
            )
        )

        for key in keys:
            final = await one.store.change(key, bump)
            assert final.version == final.answer
            assert acknowledged[key] < final.answer <= begun[key] + 1
        # No change is left in a queue, and every connection is free again.
        assert not one.store._groups
        async with asyncio.timeout(5):
            await asyncio.gather(*(one.primary.fetch("SELECT SLEEP(0.05)") for _ in range(16)))


async def test_a_stop_answers_all_requests_that_wait_for_one_key(
    stack_config: StackConfig, mysql: MariaDB
) -> None:
    """There are tens of thousands of them, more than the depth of Python's stack."""
    key = Key(1, 1)
    async with opened(stack_config()) as backend:
        await backend.store.change(key, bump)
        mysql.freeze()
        try:
            asked = [asyncio.create_task(backend.store.change(key, bump)) for _ in range(40_000)]
            while backend.store._groups.get(key) is None:
                await asyncio.sleep(0)
            await backend.close()
        finally:
            mysql.thaw()
        async with asyncio.timeout(5):
            told = await asyncio.gather(*asked, return_exceptions=True)
        assert {str(error) for error in told if isinstance(error, Unavailable)} == {
            "the gateway stops"
        }
        assert all(isinstance(error, Unavailable) for error in told)


async def test_an_internal_error_is_raised_for_all_requests_that_wait_for_one_key(
    stack_config: StackConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = Key(1, 1)
    async with opened(stack_config()) as backend:
        await backend.store.change(key, bump)
        asked = [asyncio.create_task(backend.store.change(key, bump)) for _ in range(40_000)]
        while backend.store._groups.get(key) is None:
            await asyncio.sleep(0)

        def fault(_: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(backend.store, "_first_plan", fault)
        with capture_logs():  # otherwise many tracebacks would be formatted, which takes long
            async with asyncio.timeout(20):
                told = await asyncio.gather(*asked, return_exceptions=True)
        assert {type(one) for one in told if isinstance(one, Exception)} == {ZeroDivisionError}
        monkeypatch.undo()
        assert (await backend.store.change(key, bump)).answer > 1


async def test_a_change_overdue_before_it_began_does_not_block_the_next_one(
    stack_config: StackConfig,
) -> None:
    """Overdue changes may be answered after a task is created and before its first step."""
    key = Key(1, 1)
    async with opened(stack_config()) as backend:
        store = backend.store
        change = store.change(key, bump)
        change.send(None)  # until it waits for its answer
        store._groups[key].members[0].deadline = 0
        store._answer_overdue()

        with pytest.raises(Unavailable):
            change.send(None)
        async with asyncio.timeout(2):
            assert (await store.change(key, bump)).answer == 1


async def test_a_change_that_has_not_begun_is_refused_when_the_gateway_stops(
    stack_config: StackConfig,
) -> None:
    async with opened(stack_config()) as backend:
        change = backend.store.change(Key(1, 1), bump)
        change.send(None)

        await backend.store.close()

        with pytest.raises(Unavailable, match="stops"):
            change.send(None)
