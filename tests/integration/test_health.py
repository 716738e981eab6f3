"""A gateway knows whether changes commit, and if not, asks MySQL why."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, cast

import aiohttp
import pymysql
import pytest

from config.model import Player
from failover.metrics import NODE_FAILURES
from failover.mysql.heartbeat import Heartbeat, Said
from gateway.health import Health, drift, hashes
from gateway.reload.runtime_config import RuntimeConfig, with_token_keys
from sharding.backend import Backend
from sharding.health_verdict import HOLD, Kind
from sharding.state import Key
from stack import datadir, replication
from stack.datadir import Passwords
from stack.mariadb import MariaDB
from stack.redis import RedisServer
from stack.server import Server
from tests.conftest import StackConfig
from tests.support.backends import opened
from tests.support.gateways import Gateway
from tests.support.states import bump
from tests.support.waiting import until

pytestmark = pytest.mark.stack


@contextlib.asynccontextmanager
async def beating(backend: Backend, **said: Any) -> AsyncIterator[Heartbeat]:
    heartbeat = Heartbeat(backend.primary, lambda: Said(**said))
    task = asyncio.create_task(heartbeat.run())
    try:
        yield heartbeat
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_commits_that_wait_for_a_lost_standby_are_named_and_go_on_without_it(
    tmp_path: Path, data_template: Path, passwords: Passwords, stack_config: StackConfig
) -> None:
    datadir.copy(data_template, tmp_path / "mysql1")
    primary = MariaDB("mysql1", tmp_path / "mysql1", passwords)
    primary.start("primary")
    try:
        replication.make_writable(primary)
        document = stack_config(mysql={"hosts": [primary.address], "database": "tapedeck"})
        async with opened(document, complete=True) as backend, beating(backend):
            await until(
                lambda: backend.primary.commits.quiet(asyncio.get_running_loop().time()) < 1
            )
            assert backend.readiness().status == "ready"
            replication.set_semi_sync(primary, on=True)
            await until(lambda: backend.readiness().causes == ["standby"])
            verdict = backend.readiness()
            assert verdict.status == "unavailable"
            assert verdict.reasons == [
                "changes do not commit: MySQL waits for a standby to acknowledge, and none does"
            ]
            waiting = primary.query("SHOW PROCESSLIST")
            assert sum("heartbeat" in str(row[7]) for row in waiting) == 1, "more than one waits"
            replication.set_semi_sync(primary, on=False)
            await until(lambda: backend.readiness().status == "ready")
    finally:
        primary.kill()


@pytest.mark.engines
async def test_commits_that_wait_for_a_global_lock_are_named(
    stack_config: StackConfig, mysql: Server
) -> None:
    async with opened(stack_config(), complete=True) as backend, beating(backend):
        with mysql.connect() as admin, admin.cursor() as cursor:
            cursor.execute("FLUSH TABLES WITH READ LOCK")  # as a backup does
            await until(lambda: backend.readiness().causes == ["lock"])
            assert backend.readiness().status == "unavailable"
            cursor.execute("UNLOCK TABLES")
        await until(lambda: backend.readiness().status == "ready")


async def test_without_requests_a_gateway_knows_that_changes_commit(
    stack_config: StackConfig, mysql: Server, database: str
) -> None:
    def beats() -> int:
        try:
            ((at,),) = mysql.query(f"SELECT MAX(at_ms) FROM {database}.tapedeck_heartbeat")
        except pymysql.ProgrammingError:
            return 0  # no table yet
        return int(at or 0)

    async with opened(stack_config(), complete=True) as backend, beating(backend):
        loop, commits = asyncio.get_running_loop(), backend.primary.commits
        await until(lambda: beats() > 0)
        first = beats()
        await until(lambda: beats() > first)
        assert commits.stall(loop.time()) is None
        await backend.store.change(Key(1, 1), bump)
        assert commits.quiet(loop.time()) < 1


async def test_gateways_report_from_heartbeats_that_their_configurations_differ(
    stack_config: StackConfig, database: str, mysql: Server
) -> None:
    async with opened(stack_config()) as one, opened(stack_config()) as other:
        own, others = hashes(one.config), hashes(other.config)
        assert own == others
        changed = hashes(other.config.model_copy(update={"player": {"skip_limit": 9}}))
        async with beating(one, name="a", **own) as first, beating(other, name="b", **changed):
            await until(lambda: len(first.others) == 1)
            assert drift(own, first.others) == [
                "the gateway b has another configuration: reload both"
            ]
            assert drift(changed, first.others) == []


async def test_a_worker_that_still_tells_the_configuration_before_a_reload_is_no_drift(
    stack_config: StackConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(cast(dict[Kind, Any], HOLD), "drift", (0, 0))
    document = stack_config(player={"skip_limit": 3})
    async with opened(document, complete=True) as backend:
        before = backend.config
        after = before.model_copy(update={"player": Player(skip_limit=4)})
        odd = before.model_copy(update={"player": Player(skip_limit=5)})
        live = RuntimeConfig(with_token_keys(before, "k" * 64))
        health = Health(backend, live, lambda: "")
        health.start()
        try:
            async with (
                beating(backend, name="sibling", **hashes(live.config)) as sibling,
                beating(backend, name="odd", **hashes(odd)),
            ):
                await until(lambda: len(sibling.others) == 2)
                await until(lambda: health.verdict().causes == ["drift"])
                expected = ["the gateway odd has another configuration: reload both"]
                assert health.verdict().reasons == expected
                live.replace(with_token_keys(after, "k" * 64))
                assert health.verdict().reasons == expected
        finally:
            await health.close()


@pytest.fixture
def gateway(stack_config: StackConfig, tmp_path: Path) -> Iterator[Gateway]:
    with Gateway(stack_config(), tmp_path) as gateway:
        yield gateway


async def test_readyz_names_the_causes_and_each_change_of_the_verdict_is_logged_once(
    gateway: Gateway, mysql: Server
) -> None:
    with mysql.connect() as admin, admin.cursor() as cursor:
        cursor.execute("FLUSH TABLES WITH READ LOCK")
        body = await gateway.until("/readyz", lambda status, _: status == 503)
        assert body["causes"] == ["lock"]
        async with aiohttp.ClientSession(gateway.admin) as http, http.get("/metrics") as answer:
            assert 'tapedeck_amiss{cause="disk"} 0.0' in await answer.text()
        cursor.execute("UNLOCK TABLES")
    await gateway.until("/readyz", lambda _, body: body["status"] == "ready")

    def said() -> list[str]:
        return [line["status"] for line in gateway.lines("verdict changed")]

    await until(lambda: said()[-2:] == ["unavailable", "ready"])
    assert len(said()) <= 4
    assert not any("request_id" in line for line in gateway.lines("verdict changed"))


async def test_a_starved_gateway_ejects_no_node_and_drops_no_primary_for_being_slow(
    stack_config: StackConfig, lookup_servers: list[RedisServer], mysql: Server
) -> None:
    document = stack_config(
        lookup={"timeout": 100, "server_failure_limit": 1},
        mysql={"connect_timeout": 200, "statement_timeout": 200},
    )
    async with opened(document, complete=True) as backend:
        backend.loop_lag.close()  # so that the value set here stays
        backend.loop_lag.starved = True
        lookup_servers[0].freeze()
        mysql.freeze()
        try:
            absent = NODE_FAILURES.labels("lookup1", "absent")._value
            before = absent.get()
            await until(lambda: absent.get() >= before + 2)
            await until(lambda: backend.primary.shown().hosts[0].error is not None)
            assert backend.primary.adopted
            assert backend.readiness().causes == ["starved"]
            backend.loop_lag.starved = False
            await until(lambda: set(backend.readiness().causes) == {"failover", "nodes"})
        finally:
            lookup_servers[0].thaw()
            mysql.thaw()
