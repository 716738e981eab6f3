"""A primary is killed at any step of a sealing: on the next one the day is sealed again."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from failover.mysql.errors import MySQLError, PrimaryUnavailable
from sharding.backend import Backend
from sharding.partitions import filter_table, seal_mark
from sharding.partitions.calendar import table
from sharding.partitions.ownership import list_tables
from sharding.partitions.sealing import Sealer
from sharding.partitions.sql import create_table
from sharding.state import Key
from stack import datadir
from stack.datadir import Passwords
from stack.mariadb import MariaDB
from stack.mysql import MySQL
from stack.pair import Pair
from stack.server import Server
from tests.conftest import StackConfig
from tests.support.backends import opened

pytestmark = pytest.mark.stack

STEPS = ("scan", "name", "store")
"""Steps before which something was changed that the next primary may lack."""


@pytest.fixture(params=[MariaDB, MySQL])
def pair(tmp_path: Path, request: pytest.FixtureRequest, passwords: Passwords) -> Iterator[Pair]:
    template = "data_template" if request.param is MariaDB else "mysql_template"
    for name in ("mysql1", "mysql2"):
        datadir.copy(request.getfixturevalue(template), tmp_path / "data" / name)
    made = Pair(tmp_path / "data", passwords, request.param)
    made.start()
    yield made
    made.kill()


def _public_key(folder: Path) -> str:
    """The key of both MySQL servers, with which the password is encrypted; empty for MariaDB."""
    key = folder / "data" / "mysql1" / "public_key.pem"
    return key.read_text() if key.exists() else ""


async def until_sealed(backend: Backend, sealer: Sealer) -> int:
    """Try to seal until it succeeds; the number of keys."""
    async with asyncio.timeout(60):
        while True:
            try:
                outcome = await sealer.seal()
            except (MySQLError, PrimaryUnavailable):
                outcome = None
            if outcome is not None and outcome.sealed:
                return outcome.sealed[0].keys
            await asyncio.sleep(0.05)


async def test_no_filter_lacks_a_key_after_a_failover_at_any_step(
    pair: Pair, stack_config: StackConfig, tmp_path: Path
) -> None:
    document = stack_config(
        mysql={
            "hosts": [pair.primary.address, pair.standby.address],
            "database": "tapedeck",
            "password": pair.primary.passwords.gateway,
            "deadline": 1500,
            "public_key": _public_key(tmp_path),
        },
        partitions={"seal_after": 0, "filter_folder": str(tmp_path / "filters")},
    )
    async with opened(document, complete=True) as backend:
        for age, step in zip(range(len(STEPS), 0, -1), STEPS, strict=True):
            day = backend.days.today() - timedelta(days=age)
            await backend.primary.execute(create_table(day))
            insert = f"INSERT INTO {table(day)} VALUES (%s,1,1,2,'{{}}','')"
            await backend.primary.execute(insert.replace("%s", "1"))
            victim: list[Server] = []

            def at_step(name: str, step: str = step, victim: list[Server] = victim) -> None:
                if name == step and not victim:
                    victim.append(pair.primary)
                    pair.primary.kill()

            sealer = Sealer(
                backend.primary, backend.days, backend.config.partitions, at_step=at_step
            )
            with contextlib.suppress(MySQLError, PrimaryUnavailable):
                assert not (await sealer.seal()).sealed
            assert victim, "the sealing did not come to its step"
            async with asyncio.timeout(60):
                while backend.primary.address in (None, victim[0].address):
                    await asyncio.sleep(0.02)
            # The new primary gets a key of the day.
            await backend.primary.execute(insert.replace("%s", "2"))
            assert await until_sealed(backend, sealer) == 2
            assert (await seal_mark.read(backend.primary))[0] == day

            await asyncio.to_thread(pair.start_server, victim[0].name)
            await backend.days.relist()
            async with asyncio.timeout(30):
                while not backend.filters.now.complete(day):
                    await asyncio.sleep(0.02)
            for user in (1, 2):
                assert backend.filters.now.maybe(Key(user, 1), (day,)) == [day]
            found = await list_tables(backend.primary.fetch)
            seals = {one: kept.seal for one, kept in found.ours.items() if kept.seal}
            assert day in await filter_table.usable(backend.primary.fetch, seals)
