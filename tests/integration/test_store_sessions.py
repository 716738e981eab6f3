"""The cache of sessions and changes saved together, with real servers."""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import Any

import pytest
from prometheus_client import REGISTRY

from failover.mysql.clock_sql import MILLISECONDS
from sharding.backend import Backend
from sharding.partitions.calendar import table
from sharding.partitions.sql import NewRow, Row
from sharding.state import Keep, Key, Owner, Stored, Unavailable, Write
from sharding.store.plan import Plan
from stack.mariadb import MariaDB
from stack.redis import RedisServer
from tests.conftest import StackConfig
from tests.support import backends
from tests.support.clocks import shift, wall_of
from tests.support.cutting import AckCutter
from tests.support.states import bump, count, forget

pytestmark = [pytest.mark.stack, pytest.mark.engines]

KEY = Key(7, 11)
DAY = 86400


def opened(document: dict[str, Any], **how: Any) -> AbstractAsyncContextManager[Backend]:
    # Statements are counted, so none may be sent in the background.
    return backends.opened(document, complete=True, **how)


def statements(mysql: MariaDB) -> dict[str, int]:
    found = mysql.query(
        "SHOW GLOBAL STATUS WHERE variable_name IN"
        " ('Com_select', 'Com_update', 'Com_insert', 'Com_commit', 'Com_rollback')"
    )
    return {str(name)[4:]: int(value) for name, value in found}


def since(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    return {name: after[name] - before[name] for name in after if after[name] > before[name]}


def redis_commands(servers: list[RedisServer]) -> int:
    """The number of commands for hints, without those of checks and probes."""
    total = 0
    for server in servers:
        with server.client() as client:
            stats = client.info("commandstats")
            total += sum(
                each["calls"]
                for name, each in stats.items()
                if name.partition("_")[2] in ("hget", "hset", "hmget")
            )
    return total


def counted(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"tapedeck_{name}_total", labels) or 0.0


def read(stored: Stored | None) -> Keep[int | None]:
    return Keep(None if stored is None else int(stored.body))


async def set_clock(mysql: MariaDB, backend: Backend, seconds: float) -> None:
    shift(mysql, seconds)
    await backend.days.complete()


async def test_a_change_in_a_running_session_is_one_statement_and_asks_no_lookup_node(
    stack_config: StackConfig, mysql: MariaDB, lookup_servers: list[RedisServer]
) -> None:
    async with opened(stack_config()) as backend:
        await backend.store.change(KEY, bump)
        await backend.lookups.drain()
        mysql_before, redis_before = statements(mysql), redis_commands(lookup_servers)

        for expected in range(2, 22):
            assert (await backend.store.change(KEY, bump)).answer == expected

        assert since(mysql_before, statements(mysql)) == {"update": 20}
        assert redis_commands(lookup_servers) == redis_before


async def test_a_read_in_a_running_session_asks_only_mysql(
    stack_config: StackConfig, mysql: MariaDB, lookup_servers: list[RedisServer]
) -> None:
    async with opened(stack_config()) as one, opened(stack_config()) as two:
        await one.store.change(KEY, bump)
        await two.store.change(KEY, bump)
        await one.lookups.drain()
        await two.lookups.drain()
        redis_before = redis_commands(lookup_servers)

        assert await count(one.store, KEY) == 2

        assert redis_commands(lookup_servers) == redis_before


async def test_a_cached_state_that_another_gateway_changed_is_read_again(
    stack_config: StackConfig,
) -> None:
    async with opened(stack_config()) as one, opened(stack_config()) as two:
        for expected, backend in enumerate((one, two, one, two, two, one), 1):
            outcome = await backend.store.change(KEY, bump)
            assert (outcome.answer, outcome.version) == (expected, expected)


async def test_a_listener_who_alternates_between_gateways_causes_no_conflicts(
    stack_config: StackConfig, mysql: MariaDB, lookup_servers: list[RedisServer]
) -> None:
    async with opened(stack_config()) as one, opened(stack_config()) as two:
        for backend in (one, two, one, two):
            await backend.store.change(KEY, bump)
        for backend in (one, two):
            await backend.lookups.drain()
        conflicts, before = counted("conflicts"), statements(mysql)
        redis_before = redis_commands(lookup_servers)

        for expected in range(5, 25, 2):
            assert (await one.store.change(KEY, bump)).answer == expected
            assert (await two.store.change(KEY, bump)).answer == expected + 1

        assert counted("conflicts") == conflicts
        assert since(before, statements(mysql))["update"] == 20
        assert redis_commands(lookup_servers) == redis_before


@pytest.mark.parametrize("what", ["read", "deleted", "refused"])
async def test_a_request_that_changes_nothing_is_answered_from_mysql_not_from_the_cache(
    stack_config: StackConfig, what: str
) -> None:
    async with opened(stack_config()) as one, opened(stack_config()) as two:
        await one.store.change(KEY, bump)
        if what == "deleted":
            await one.store.change(KEY, forget)  # now its cache has a tombstone
            await two.store.change(KEY, bump)
            assert (await one.store.change(KEY, forget)).answer is True
            return
        await two.store.change(KEY, bump)
        if what == "read":
            assert (await one.store.change(KEY, read)).answer == 2
            return

        def refuse(stored: Stored | None) -> Write[int]:
            assert stored is not None
            raise ValueError(stored.version)

        with pytest.raises(ValueError, match="2"):
            await one.store.change(KEY, refuse)


async def test_a_condition_on_a_version_is_checked_against_mysql_s_row_not_the_cached_one(
    stack_config: StackConfig,
) -> None:
    """Like `If-Match` of the states API: the cached version matches, and MySQL's does not."""

    def put_on_1(stored: Stored | None) -> Write[bool] | Keep[bool]:
        if stored is None or stored.version != 1:
            return Keep(False)
        return Write(b"100", Owner.STATES_API, True)

    async with opened(stack_config()) as one, opened(stack_config()) as two:
        await one.store.change(KEY, bump)
        await two.store.change(KEY, bump)

        assert (await one.store.change(KEY, put_on_1)).answer is False
        assert await count(one.store, KEY) == 2


async def test_a_session_that_goes_on_after_midnight_is_moved_into_the_new_day(
    stack_config: StackConfig, mysql: MariaDB, database: str
) -> None:
    async with opened(stack_config(), wall=wall_of(mysql)) as backend:
        await backend.store.change(KEY, bump)
        yesterday = backend.days.today()
        await set_clock(mysql, backend, DAY)
        before = statements(mysql)

        outcome = await backend.store.change(KEY, bump)

        assert (outcome.answer, outcome.version) == (2, 2)
        assert outcome.day == yesterday + timedelta(days=1)
        assert since(before, statements(mysql)).get("rollback", 0) == 0
        assert mysql.query(f"SELECT COUNT(*) FROM {database}.{table(yesterday)}") == [(0,)]
        assert (await backend.store.change(KEY, bump)).answer == 3


async def test_a_cached_state_past_retention_is_not_used(
    stack_config: StackConfig, mysql: MariaDB
) -> None:
    document = stack_config(partitions={"retention_days": 2})
    async with opened(document, wall=wall_of(mysql)) as backend:
        await backend.store.change(KEY, bump)
        await set_clock(mysql, backend, 3 * DAY)

        outcome = await backend.store.change(KEY, bump)

        assert (outcome.answer, outcome.version) == (1, 1)


async def test_simultaneous_changes_of_one_key_do_not_conflict_with_each_other(
    stack_config: StackConfig, mysql: MariaDB
) -> None:
    async with opened(stack_config()) as backend:
        await backend.store.change(KEY, bump)
        before, conflicts = statements(mysql), counted("conflicts")
        answers: list[int] = []

        async def client() -> None:
            for _ in range(20):
                outcome = await backend.store.change(KEY, bump)
                assert outcome.version == outcome.answer
                answers.append(outcome.answer)

        await asyncio.gather(*(client() for _ in range(64)))

        assert answers == list(range(2, 1282))  # in the order of the requests
        assert counted("conflicts") == conflicts
        assert since(before, statements(mysql))["update"] < 1280 / 8


async def test_each_member_of_a_group_gets_its_own_answer_and_version(
    stack_config: StackConfig,
) -> None:
    def refuse(stored: Stored | None) -> Write[int]:
        raise ValueError("refused at", None if stored is None else int(stored.body))

    async with opened(stack_config()) as backend:
        await backend.store.change(KEY, bump)
        answers = await asyncio.gather(
            *(
                backend.store.change(KEY, transition)  # type: ignore[arg-type]
                for transition in (bump, bump, refuse, read, forget, read, bump, refuse, bump)
            ),
            return_exceptions=True,
        )

        told = [a.args[1] if isinstance(a, ValueError) else a.answer for a in answers]  # type: ignore
        assert told == [2, 3, 3, 3, True, None, 1, 1, 2]
        versions = [a.version for a in answers if not isinstance(a, BaseException)]
        assert versions == [2, 3, 3, 4, None, 5, 6]
        stored = await backend.store.load(KEY)
        assert stored is not None
        assert (stored.version, stored.body) == (6, b"2")


@pytest.mark.parametrize("cached", [True, False])
async def test_a_group_whose_answer_was_lost_is_made_once(
    stack_config: StackConfig, mysql: MariaDB, cached: bool
) -> None:
    async with AckCutter(mysql.port) as cutter:
        document = stack_config(
            mysql={"hosts": [f"127.0.0.1:{cutter.port}"]}, sessions={"enabled": cached}
        )
        async with opened(document) as backend:
            await backend.store.change(KEY, bump)
            expected = 1
            for _ in range(8):
                cutter.cut = 2
                outcomes = await asyncio.gather(
                    *(backend.store.change(KEY, bump) for _ in range(10))
                )
                cutter.cut = 0
                assert [(o.answer, o.version) for o in outcomes] == [
                    (expected + n, expected + n) for n in range(1, 11)
                ]
                expected += 10

            assert cutter.lost >= 8
            assert await count(backend.store, KEY) == expected


async def test_groups_in_one_batch_have_separate_versions(
    stack_config: StackConfig, mysql: MariaDB
) -> None:
    """The rows of a statement get different numbers of changes; another gateway adds one."""
    keys = [Key(user, 1) for user in range(1, 11)]
    async with opened(stack_config()) as one, opened(stack_config()) as two:
        totals = dict.fromkeys(keys, 1)
        for key in keys:
            await one.store.change(key, bump)
        for lap in range(6):
            if lap % 2:
                # A change by another gateway, which a comparison with version - 1 would miss.
                await asyncio.gather(*(two.store.change(key, bump) for key in keys[::3]))
                for key in keys[::3]:
                    totals[key] += 1
            wanted = [key for n, key in enumerate(keys) for _ in range(n % 4 + 1)]
            # The first change of each key is sent by itself, and the others wait and are grouped.
            outcomes = await asyncio.gather(*(one.store.change(key, bump) for key in wanted))
            for key, outcome in zip(wanted, outcomes, strict=True):
                totals[key] += 1
                assert (outcome.answer, outcome.version) == (totals[key], totals[key])

        assert [await count(two.store, key) for key in keys] == list(totals.values())


async def test_two_changes_saved_as_one_conflict_with_a_change_of_another_worker(
    stack_config: StackConfig,
) -> None:
    """Made from version 1 while the row has 2, version 3 must not count as the next one."""
    keys = [Key(1, 1), Key(2, 1)]
    async with opened(stack_config()) as backend:
        plans = []
        for key in keys:
            day = (await backend.store.change(key, bump)).day
            assert day is not None
            base = Row(day, 1, int(Owner.STATES_API), b"1", b"")
            row = NewRow(key, 1, 3, base.owner, b"3", b"w.1.3")
            plans.append(Plan(base, day, row, generation=backend.primary.generation))
            await backend.store.change(key, bump)

        loop = asyncio.get_running_loop()
        waiters: list[asyncio.Future[bool]] = [loop.create_future() for _ in plans]
        for plan, waiter in zip(plans, waiters, strict=True):
            backend.writer.save(plan, waiter)

        assert await asyncio.gather(*waiters) == [False, False]
        assert [await count(backend.store, key) for key in keys] == [2, 2]


async def test_a_cached_row_that_a_promotion_lost_is_not_used_even_by_changes_that_waited(
    stack_config: StackConfig, mysql: MariaDB, database: str
) -> None:
    """The new primary may have another row with the version that this worker has cached."""
    key = Key(1, 1)
    async with opened(stack_config()) as backend:
        for expected in (1, 2):
            assert (await backend.store.change(key, bump)).answer == expected
        day = table(backend.days.today())
        mysql.query("SET GLOBAL read_only = 1")
        async with asyncio.timeout(10):
            while backend.primary.adopted:
                await asyncio.sleep(0.01)
        waiting = [asyncio.create_task(backend.store.change(key, bump)) for _ in range(2)]
        await asyncio.sleep(0)  # the first of them is made from the cached row
        # As on a standby that lacked version 2, on which another gateway then made its own.
        mysql.query(f"UPDATE {database}.{day} SET state = '70' WHERE user_id = 1")
        mysql.query(f"UPDATE {database}.tapedeck_generation SET generation = generation + 1")
        mysql.query("SET GLOBAL read_only = 0")

        assert [(await change).answer for change in waiting] == [71, 72]
        assert (await backend.store.change(key, bump)).answer == 73


async def test_a_stale_row_in_a_batch_causes_no_further_statement_for_the_others(
    stack_config: StackConfig, mysql: MariaDB
) -> None:
    keys = [Key(user, 1) for user in range(1, 31)]
    async with opened(stack_config()) as one, opened(stack_config()) as two:
        await asyncio.gather(*(one.store.change(key, bump) for key in keys))
        await two.store.change(keys[0], bump)
        before = statements(mysql)

        outcomes = await asyncio.gather(*(one.store.change(key, bump) for key in keys))

        assert [o.answer for o in outcomes] == [3] + [2] * 29
        assert since(before, statements(mysql)).get("update", 0) <= 1


async def test_each_statement_of_a_script_has_its_own_clock(stack_config: StackConfig) -> None:
    """The protocol requires that moves and creates read the clock after the insert."""
    async with (
        opened(stack_config()) as backend,
        backend.primary.session(backend.primary.deadline()) as session,
    ):
        clock = f"SELECT {MILLISECONDS}"
        ran = await session.run_script([clock, "DO SLEEP(0.05)", clock])

        before, after = (int(each.rows[0][0]) for each in (ran[0], ran[2]))
        assert after - before >= 50


async def test_a_cache_with_room_for_one_state_serves_many_listeners(
    stack_config: StackConfig,
) -> None:
    """Each state is evicted while its change is under way."""
    keys = [Key(user, 1) for user in range(1, 21)]
    async with opened(stack_config(sessions={"max_entries": 1})) as backend:
        for expected in range(1, 6):
            outcomes = await asyncio.gather(*(backend.store.change(key, bump) for key in keys))
            assert {outcome.answer for outcome in outcomes} == {expected}
        assert len(backend.store.sessions) == 1


async def test_a_new_generation_of_the_primary_empties_the_cache(
    stack_config: StackConfig, mysql: MariaDB, database: str
) -> None:
    async with opened(stack_config()) as backend:
        await backend.store.change(KEY, bump)
        assert len(backend.store.sessions) == 1

        mysql.query(f"UPDATE {database}.tapedeck_generation SET generation = generation + 1")

        async with asyncio.timeout(10):
            while len(backend.store.sessions):
                await asyncio.sleep(0.01)
        assert (await backend.store.change(KEY, bump)).answer == 2


async def test_changes_that_wait_for_a_frozen_mysql_end_at_their_deadline_and_leave_nothing(
    stack_config: StackConfig, mysql: MariaDB
) -> None:
    document = stack_config()
    document["mysql"] |= {"deadline": 700, "statement_timeout": 300, "connect_timeout": 300}
    keys = [Key(user, 1) for user in range(1, 201)]
    async with opened(stack_config()) as patient:
        await asyncio.gather(*(patient.store.change(key, bump) for key in keys))
    async with opened(document) as backend:
        for key in keys:
            await backend.store.load(key)
        mysql.freeze()
        try:
            loop = asyncio.get_running_loop()
            started = loop.time()
            answers = await asyncio.gather(
                *(backend.store.change(key, bump) for key in keys for _ in "ab"),
                return_exceptions=True,
            )
            assert loop.time() - started < 5  # half the usual deadline
            assert all(isinstance(answer, Unavailable) for answer in answers)
        finally:
            mysql.thaw()
        async with asyncio.timeout(10):
            while backend.store._groups:
                await asyncio.sleep(0.02)
            while True:
                with contextlib.suppress(Unavailable):
                    outcomes = [await backend.store.change(key, bump) for key in keys]
                    break
        assert all(o.answer == o.version and 2 <= o.answer <= 4 for o in outcomes)


async def test_after_an_internal_error_the_key_can_be_changed_again(
    stack_config: StackConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(stack_config()) as backend:
        await backend.store.change(KEY, bump)
        with monkeypatch.context() as broken:
            broken.setattr(backend.store.sessions, "doubted", lambda _: 1 / 0)
            answers = await asyncio.gather(
                *(backend.store.change(KEY, bump) for _ in range(3)), return_exceptions=True
            )
            assert {type(answer) for answer in answers} == {ZeroDivisionError}

        assert (await backend.store.change(KEY, bump)).answer == 2
