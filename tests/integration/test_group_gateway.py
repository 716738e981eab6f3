"""A gateway on MySQL Group Replication: three members, and MySQL elects the primary."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sharding.backend import Backend
from sharding.state import Key
from stack import datadir
from stack.datadir import Passwords
from stack.group import Group
from stack.redis import RedisServer
from tests.support.backends import opened
from tests.support.mysqld import public_key
from tests.support.states import bump, count
from tests.support.waiting import until

pytestmark = pytest.mark.stack

MEMBERS = "performance_schema.replication_group_members"


@pytest.fixture(scope="module")
def group(
    tmp_path_factory: pytest.TempPathFactory, mysql_template: Path, passwords: Passwords
) -> Iterator[Group]:
    folder = tmp_path_factory.mktemp("group")
    for name in ("mysql1", "mysql2", "mysql3"):
        datadir.copy(mysql_template, folder / name)
    made = Group(folder, passwords)
    made.start()
    yield made
    made.kill()


@pytest.fixture
def document(group: Group, lookup_servers: list[RedisServer], mysql_template: Path) -> Any:
    return {
        "auth": {"token_keys": ["a" * 64], "service_keys": ["b" * 32]},
        "lookup": {"servers": [server.server for server in lookup_servers]},
        "mysql": {
            "hosts": [server.address for server in group.servers.values()],
            "user": "tapedeck",
            "password": group.primary.passwords.gateway,
            "database": "tapedeck",
            "public_key": public_key(mysql_template),
            "deadline": 60_000,
        },
    }


def reasons(backend: Backend) -> list[str]:
    return [reason for reason in backend.readiness().reasons if "redundant" in reason]


async def test_a_group_with_all_members_online_is_ready_and_redundant(document: Any) -> None:
    async with opened(document, complete=True) as backend:
        await until(lambda: backend.primary.redundant is True)
        shown = backend.primary.shown()

        assert reasons(backend) == []
        assert (shown.engine or "").startswith("MySQL ")
        assert shown.redundancy == "3 of 3 members of the group are online"
        assert [host.role for host in shown.hosts].count("standby") == 2


async def test_without_the_right_to_see_the_members_redundancy_is_reported_as_unknown(
    document: Any, group: Group
) -> None:
    group.primary.query(f"REVOKE SELECT ON {MEMBERS} FROM tapedeck@'127.0.0.1'")
    async with opened(document) as backend:
        await until(lambda: bool(reasons(backend)))
        (reason,) = reasons(backend)

        assert backend.primary.redundant is None
        assert reason.startswith("whether MySQL is redundant is not known")
        assert f"GRANT SELECT ON {MEMBERS}" in reason

        group.primary.query(f"GRANT SELECT ON {MEMBERS} TO tapedeck@'127.0.0.1'")
        await until(lambda: backend.primary.redundant is True)


async def test_after_a_killed_primary_no_change_is_lost_and_one_member_stays_primary(
    document: Any, group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = group.primary
    async with opened(document, complete=True) as backend:
        keys = [Key(user, 1) for user in range(101, 109)]
        counts = dict.fromkeys(keys, 0)
        going = True
        losses: list[str] = []
        drop = backend.primary._drop

        def drop_and_count(reason: str) -> None:
            if backend.primary.adopted:
                losses.append(reason)
            drop(reason)

        monkeypatch.setattr(backend.primary, "_drop", drop_and_count)

        async def client(key: Key) -> None:
            while going:
                counts[key] += 1
                assert (await backend.store.change(key, bump)).answer == counts[key]

        clients = [asyncio.create_task(client(key)) for key in keys]
        await until(lambda: min(counts.values()) > 3)
        await asyncio.to_thread(old.kill)
        await until(lambda: backend.primary.address not in (None, old.address))
        before = dict(counts)
        await until(lambda: all(counts[key] > before[key] + 3 for key in keys))
        await until(lambda: backend.primary.redundant is True)
        going = False
        await asyncio.gather(*clients)

        assert [await count(backend.store, key) for key in keys] == list(counts.values())
        assert backend.primary.redundancy == "2 of 3 members of the group are online"
        assert backend.primary.generation == 2
        assert len(losses) == 1, losses


async def test_a_primary_cut_off_from_the_other_members_is_not_read(
    document: Any, group: Group
) -> None:
    """They may have elected another where this gateway cannot see it.

    The last test here: members that were frozen may leave the group for some seconds.
    """
    key = Key(100, 1)
    async with opened(document, complete=True) as backend:
        before = await count(backend.store, key)
        await backend.store.change(key, bump)
        running = [server for server in group.servers.values() if server.running]
        others = [server for server in running if server.address != backend.primary.address]
        for server in others:
            server.freeze()
        try:
            await until(lambda: not backend.primary.adopted, 30)
            assert "1 of 3 members of the group is online" in backend.primary.problem
            reading = asyncio.create_task(count(backend.store, key))
            assert not (await asyncio.wait([reading], timeout=0.3))[0]
        finally:
            for server in others:
                server.thaw()
        assert await reading == before + 1
