"""What one listener's trouble may cost another: rows that somebody holds, batches that fail."""

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
    """Somebody else's open transaction on the rows of these keys, as of a gateway that froze."""
    day = table(backend.days.today())
    with mysql.connect(database) as connection, connection.cursor() as cursor:
        cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
        cursor.execute("START TRANSACTION")
        for user, playlist in keys:  # one by one: a scan would hold the rows between them too
            cursor.execute(
                f"SELECT 1 FROM {day} WHERE user_id = {user} AND playlist_id = {playlist}"
                " FOR UPDATE"
            )
        yield cursor
        with contextlib.suppress(pymysql.MySQLError):
            cursor.execute("ROLLBACK")


async def test_a_row_that_somebody_holds_delays_nobody_else_in_its_batch_for_long(
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


async def test_many_rows_that_somebody_holds_leave_connections_for_everybody_else(
    stack_config: StackConfig, mysql: MariaDB, database: str
) -> None:
    """As when a gateway freezes within the commit of a batch."""
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


async def test_changes_of_other_listeners_pass_while_many_rows_are_held(
    stack_config: StackConfig, mysql: MariaDB, database: str
) -> None:
    keys = [Key(user, 1) for user in range(1, 41)]
    others = [Key(user, 2) for user in range(1, 6)]
    async with opened(stack_config()) as backend:
        for key in (*keys, *others):
            await backend.store.change(key, bump)
        with holding(mysql, database, backend, keys):
            held = []
            for wave in (keys[:20], keys[20:]):  # so that every batch under way has met them
                held += [asyncio.create_task(backend.store.change(key, bump)) for key in wave]
                await asyncio.sleep(0.1)
            async with asyncio.timeout(5):
                answers = await asyncio.gather(*(backend.store.change(key, bump) for key in others))
            assert {outcome.answer for outcome in answers} == {2}
        await asyncio.gather(*held)


@pytest.mark.parametrize("life", ["created", "changed in place", "moved into today"])
async def test_large_states_at_once_are_saved_whatever_packets_mysql_takes(
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


async def test_a_state_that_mysql_will_not_take_fails_alone(
    stack_config: StackConfig, mysql: MariaDB, small_packets: int
) -> None:
    keys = [Key(user, 1) for user in range(1, 11)]
    document = stack_config()
    document["mysql"] |= {"deadline": 2_000}
    async with opened(document) as backend:
        for key in keys:
            await backend.store.change(key, bump)
        too_large = b"x" * (small_packets // 2)  # a statement spells each byte with two

        answers = await asyncio.gather(
            backend.store.change(keys[0], lambda _: Write(too_large, Owner.PLAYER, -1)),
            *(backend.store.change(key, bump) for key in keys[1:]),
            return_exceptions=True,
        )

        assert isinstance(answers[0], TooLarge)
        assert "max_allowed_packet is 1048576" in str(answers[0])
        assert [getattr(a, "answer", a) for a in answers[1:]] == [2] * 9
        assert await count(backend.store, keys[0]) == 1


async def test_a_change_that_lands_after_its_connection_was_given_up_is_counted_once(
    stack_config: StackConfig, mysql: MariaDB, database: str
) -> None:
    """Its statement waits for a row while the server freezes; it goes on when the server does."""
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


async def test_changes_given_up_at_any_moment_leave_nothing_half_done(
    stack_config: StackConfig, mysql: MariaDB, database: str
) -> None:
    """A cancelled change happened whole or not at all, and blocks nobody after it."""
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
        # Nobody was left in a queue, and every connection is free again.
        assert not one.store._groups
        async with asyncio.timeout(5):
            await asyncio.gather(*(one.primary.fetch("SELECT SLEEP(0.05)") for _ in range(16)))


async def test_a_stop_tells_everybody_who_waits_for_one_hot_key(
    stack_config: StackConfig, mysql: MariaDB
) -> None:
    """Tens of thousands: more turns than Python's stack is deep."""
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


async def test_a_fault_of_ours_is_told_to_everybody_who_waits_for_one_hot_key(
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
        with capture_logs():  # (a traceback for each of a thousand groups takes its time)
            async with asyncio.timeout(20):
                told = await asyncio.gather(*asked, return_exceptions=True)
        assert {type(one) for one in told if isinstance(one, Exception)} == {ZeroDivisionError}
        monkeypatch.undo()
        assert (await backend.store.change(key, bump)).answer > 1


async def test_a_change_given_up_before_it_began_leaves_its_key_to_the_next_one(
    stack_config: StackConfig,
) -> None:
    """The look for what is overdue may come between a task's making and its first step."""
    key = Key(1, 1)
    async with opened(stack_config()) as backend:
        store = backend.store
        change = store.change(key, bump)
        change.send(None)  # up to where it waits for its answer
        store._groups[key].members[0].deadline = 0
        store._answer_overdue()

        with pytest.raises(Unavailable):
            change.send(None)
        async with asyncio.timeout(2):
            assert (await store.change(key, bump)).answer == 1


async def test_changes_that_have_not_begun_are_told_when_the_gateway_stops(
    stack_config: StackConfig,
) -> None:
    async with opened(stack_config()) as backend:
        change = backend.store.change(Key(1, 1), bump)
        change.send(None)

        await backend.store.close()

        with pytest.raises(Unavailable, match="stops"):
            change.send(None)
