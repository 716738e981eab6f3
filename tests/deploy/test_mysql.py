"""deploy/mysql on real servers: a pair is linked, fails over by hand, and is linked again."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pymysql
import pytest

from tapedeck.localstack import datadir
from tapedeck.localstack.datadir import Passwords
from tapedeck.localstack.mariadb import MariaDB
from tests.support.gateways import Gateway

pytestmark = pytest.mark.stack

StackConfig = Callable[..., dict[str, Any]]
DEPLOY = Path(__file__).resolve().parents[2] / "deploy"


class Host(MariaDB):
    """A server with deploy/mysql/pair.cnf as it is, but for the memory that it takes."""

    def start_as(self, *options: str) -> None:
        """Start it with more options and wait until it answers."""
        self.spawn(
            [
                datadir.executable(),
                f"--defaults-file={DEPLOY}/mysql/pair.cnf",
                *datadir.as_user(),
                *datadir.SMALL_AND_SAFE,
                f"--datadir={self.folder}",
                f"--port={self.port}",
                f"--server-id={self.port}",
                "--bind-address=127.0.0.1",
                "--socket=",
                f"--pid-file={self.folder}/mariadbd.pid",
                *options,
            ]
        )
        self.await_ready(self._answers, 60)

    def value(self, sql: str) -> Any:
        """Of a query that gives one."""
        ((value,),) = self.query(sql)
        return value


AS_STANDBY = ("--init-rpl-role=SLAVE", "--rpl-semi-sync-slave-enabled=1")


@pytest.fixture
def hosts(tmp_path: Path, data_template: Path, passwords: Passwords) -> Iterator[list[Host]]:
    hosts = []
    for name in ("mysql1", "mysql2"):
        datadir.copy(data_template, tmp_path / name)
        hosts.append(Host(name, tmp_path / name, passwords))
    try:
        for host in hosts:
            host.start_as()
            # As a fresh server: without a database and without the users of ours.
            with host.connect() as connection, connection.cursor() as cursor:
                cursor.execute("SET SESSION sql_log_bin = 0")
                cursor.execute("DROP DATABASE tapedeck")
                cursor.execute("DROP USER tapedeck@'127.0.0.1', replication@'127.0.0.1'")
        yield hosts
    finally:
        for host in hosts:
            host.kill()


@pytest.fixture
def link(tmp_path: Path, passwords: Passwords) -> Callable[[Host, Host], str]:
    """deploy/compose/link PRIMARY STANDBY; what it prints, or CalledProcessError."""
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    for name, value in (
        ("mysql_root", passwords.admin),
        ("mysql_gateway", passwords.gateway),
        ("mysql_replication", passwords.replication),
    ):
        (secrets / name).write_text(value)
    env = {**os.environ, "SETUP": f"{DEPLOY}/mysql", "SECRETS": str(secrets), "ADMIN": "stack"}

    def run(primary: Host, standby: Host) -> str:
        argv = ["sh", f"{DEPLOY}/compose/link", primary.address, standby.address]
        return subprocess.run(
            argv, env=env, check=True, stdin=subprocess.DEVNULL, capture_output=True, text=True
        ).stdout

    return run


@pytest.fixture
def promote(tmp_path: Path, passwords: Passwords) -> Callable[[Host], str]:
    """deploy/mysql/promote.sh for a host, likewise."""
    admin = tmp_path / "admin.cnf"
    admin.write_text(f"[client]\nuser=stack\npassword={passwords.admin}\nprotocol=tcp\n")

    def run(host: Host) -> str:
        argv = [f"{DEPLOY}/mysql/promote.sh", f"--defaults-extra-file={admin}"]
        argv += ["--host=127.0.0.1", f"--port={host.port}"]
        return subprocess.run(
            argv, check=True, stdin=subprocess.DEVNULL, capture_output=True, text=True
        ).stdout

    return run


async def change(gateway: Gateway, condition: dict[str, str], body: str) -> str:
    """Change a state through the gateway; its new ETag."""
    headers = {**gateway.key, "Content-Type": "application/json", **condition}
    async with (
        aiohttp.ClientSession(gateway.url) as http,
        http.put("/states/1/1", headers=headers, data=body) as answer,
    ):
        assert answer.status in (200, 201), await answer.text()
        return answer.headers["ETag"]


async def test_a_pair_is_linked_fails_over_by_hand_and_is_linked_again(
    hosts: list[Host],
    link: Callable[[Host, Host], str],
    promote: Callable[[Host], str],
    stack_config: StackConfig,
    passwords: Passwords,
    tmp_path: Path,
) -> None:
    first, second = hosts
    assert "generation 1" in link(first, second)
    assert second.value("SELECT @@read_only") == 1
    assert link(first, second), "a second run changes nothing"

    document = stack_config(
        mysql={
            "hosts": [first.address, second.address],
            "user": "tapedeck",
            "password": passwords.gateway,
            "database": "tapedeck",
        }
    )
    gateway = Gateway(document, tmp_path)
    try:
        await asyncio.to_thread(gateway.start)
        ready = lambda status, body: status == 200 and body["status"] == "ready"  # noqa: E731
        await gateway.until("/readyz", ready)
        etag = await change(gateway, {"If-None-Match": "*"}, '{"a": 1}')

        first.kill()
        said = await asyncio.to_thread(promote, second)
        assert "done, generation 2" in said
        # The change that was acknowledged is there, and the gateway goes on from it.
        etag = await change(gateway, {"If-Match": etag}, '{"a": 2}')
        body = await gateway.until("/readyz", lambda _, body: body["status"] == "degraded")
        assert body["reasons"] == [
            "the MySQL pair is not redundant: no standby acknowledges commits"
        ]

        first.start_as(*AS_STANDBY)
        with pytest.raises(subprocess.CalledProcessError) as refused:
            link(first, second)
        assert "was promoted (generation 2" in refused.value.stderr
        assert "generation 2" in link(second, first)
        await gateway.until("/readyz", ready)
        etag = await change(gateway, {"If-Match": etag}, '{"a": 3}')
    finally:
        gateway.kill()
    assert etag == '"3"'
    assert first.value("SELECT @@read_only") == 1
    day = first.value(
        "SELECT table_name FROM information_schema.tables WHERE table_schema = 'tapedeck'"
        " AND table_name LIKE 'player_state%' AND table_rows > 0"
    )
    assert first.value(f"SELECT version FROM tapedeck.{day}") == 3


def test_only_a_standby_is_promoted(
    hosts: list[Host], link: Callable[[Host, Host], str], promote: Callable[[Host], str]
) -> None:
    first, second = hosts
    with pytest.raises(subprocess.CalledProcessError) as refused:
        promote(second)
    assert "follows nobody: it is no standby; nothing is promoted" in refused.value.stderr
    link(first, second)
    with pytest.raises(subprocess.CalledProcessError) as refused:
        promote(first)
    assert "this host is writable: it is no standby; nothing is promoted" in refused.value.stderr
    second.kill()
    with pytest.raises(subprocess.CalledProcessError) as refused:
        promote(second)
    assert "the standby does not answer; nothing is promoted" in refused.value.stderr


def test_the_gateways_user_cannot_write_where_it_must_not(
    hosts: list[Host], link: Callable[[Host, Host], str], passwords: Passwords
) -> None:
    link(*hosts)
    # What the standby has it has by replication.
    hosts[1].query("SELECT MASTER_GTID_WAIT(%s, 10)", [hosts[0].value("SELECT @@gtid_binlog_pos")])
    connection = pymysql.connect(
        host="127.0.0.1", port=hosts[1].port, user="tapedeck", password=passwords.gateway
    )
    with connection, connection.cursor() as cursor:
        with pytest.raises(pymysql.MySQLError) as refused:
            cursor.execute("UPDATE tapedeck.tapedeck_generation SET generation = 9")
        assert refused.value.args[0] == 1290
        with pytest.raises(pymysql.MySQLError):
            cursor.execute("SET GLOBAL read_only = 0")
