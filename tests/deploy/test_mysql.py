"""deploy/mysql on real servers: a pair is linked, fails over by hand, and is linked again."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pymysql
import pytest

from stack import datadir
from stack.datadir import Passwords
from tests.support.gateways import Gateway
from tests.support.pair import AS_STANDBY, DEPLOY, Host
from tests.support.terminal import eventually

pytestmark = pytest.mark.stack

StackConfig = Callable[..., dict[str, Any]]


async def change(gateway: Gateway, condition: dict[str, str], body: str) -> str:
    """Change a state through the gateway; return its new ETag."""
    headers = {**gateway.key, "Content-Type": "application/json", **condition}
    async with (
        aiohttp.ClientSession(gateway.url) as http,
        http.put("/states/1/1", headers=headers, data=body) as answer,
    ):
        assert answer.status in (200, 201), await answer.text()
        return answer.headers["ETag"]


def test_both_passwords_sign_in_until_the_last_step_of_a_rotation(
    hosts: list[Host], linked: Path, passwords: Passwords, tmp_path: Path
) -> None:
    """Runs docs/operations.md, "Rotate MySQL's password", on MariaDB; the standby gets it too."""

    def signs_in(host: Host, password: str) -> bool:
        try:
            pymysql.connect(
                host="127.0.0.1", port=host.port, user="tapedeck", password=password
            ).close()
        except pymysql.err.OperationalError:
            return False
        return True

    def type_(line: str) -> None:
        for here, there in {
            "/etc/tapedeck/secrets/mysql_gateway": str(tmp_path / "old"),
            "/root/mysql_new": str(tmp_path / "new"),
            "/root/admin.cnf": str(linked),
            "--host=mysql1": f"--host=127.0.0.1 --port={hosts[0].port}",
        }.items():
            line = line.replace(here, there)
        subprocess.run(["bash", "-c", line], check=True, stdin=subprocess.DEVNULL)

    page = (DEPLOY.parent / "docs" / "operations.md").read_text()
    both, last = re.findall(r"^    (printf \"ALTER USER .*\| mariadb .*)$", page, re.MULTILINE)
    old = passwords.gateway
    (tmp_path / "old").write_text(old)
    (tmp_path / "new").write_text("new")
    assert signs_in(hosts[0], old)
    type_(both)
    assert signs_in(hosts[0], old)
    assert signs_in(hosts[0], "new")
    type_(last)
    assert not signs_in(hosts[0], old)
    assert eventually(lambda: signs_in(hosts[1], "new") and not signs_in(hosts[1], old))


TABLES = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'tapedeck'"
MADE_AT_THE_START = {"mix_index", "mix_tags", "tapedeck_heartbeat"}


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
    assert link(first, second), "a second run prints nothing"
    for host in hosts:
        # Gateways leave connections free, so that a lost standby can connect when it comes back.
        most = host.value("SELECT max_user_connections FROM mysql.user WHERE user = 'tapedeck'")
        assert 0 < most <= host.value("SELECT @@max_connections") - 100

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

        # MariaDB cannot undo DDL that its standby lacks, so wait until the standby has all tables.
        async with asyncio.timeout(20):
            while not {name for (name,) in second.query(TABLES)} >= MADE_AT_THE_START:
                await asyncio.sleep(0.02)
        first.kill()
        said = await asyncio.to_thread(promote, second)
        assert "done, generation 2" in said
        # The standby has the acknowledged change, and the gateway continues from it.
        etag = await change(gateway, {"If-Match": etag}, '{"a": 2}')
        body = await gateway.until("/readyz", lambda _, body: body["status"] == "degraded")
        assert body["reasons"] == ["MySQL is not redundant: no standby acknowledges commits"]

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
    partitions = first.query(
        "SELECT table_name FROM information_schema.tables WHERE table_schema = 'tapedeck'"
        " AND table_name LIKE 'player_state%'"
    )
    found = [first.query(f"SELECT version FROM tapedeck.{day}") for (day,) in partitions]
    assert [version for rows in found for (version,) in rows] == [3]


async def test_a_backup_is_restored_under_running_gateways(
    hosts: list[Host],
    link: Callable[[Host, Host], str],
    stack_config: StackConfig,
    passwords: Passwords,
    tmp_path: Path,
) -> None:
    """Runs docs/operations.md, "Restore from a backup"; the backup is a stopped server's copy."""
    server = hosts[0]
    link(*hosts)
    server.query("SET GLOBAL rpl_semi_sync_master_enabled = 0")

    def start_writable() -> None:
        server.start_as()
        server.query("SET GLOBAL read_only = 0")

    document = stack_config(
        mysql={
            "hosts": [server.address],
            "user": "tapedeck",
            "password": passwords.gateway,
            "database": "tapedeck",
        }
    )
    gateway = Gateway(document, tmp_path)
    try:
        await asyncio.to_thread(gateway.start)
        etag = await change(gateway, {"If-None-Match": "*"}, '{"a": 1}')
        server.stop()
        backup = tmp_path / "backup"
        datadir.copy(server.folder, backup)
        start_writable()
        await gateway.until("/readyz", lambda status, _: status == 200)
        late = await change(gateway, {"If-Match": etag}, '{"a": "a mistake"}')
        assert (etag, late) == ('"1"', '"2"')
        # A promotion since the backup raised the generation, and the gateways have seen it.
        server.query("UPDATE tapedeck.tapedeck_generation SET generation = generation + 1")
        await gateway.until("/readyz", lambda status, _: status == 200)
        async with aiohttp.ClientSession(gateway.admin) as http:
            while True:
                async with http.get("/metrics") as answer:
                    if "tapedeck_mysql_generation 2.0" in await answer.text():
                        break
                await asyncio.sleep(0.1)

        server.stop()
        shutil.rmtree(server.folder)
        datadir.copy(backup, server.folder)
        start_writable()
        body = await gateway.until("/readyz", lambda _, b: "a replaced primary" in str(b))
        assert body["status"] != "ready", "the restored host is used too early"
        server.query("UPDATE tapedeck.tapedeck_generation SET generation = generation + 1000")
        await gateway.until(
            "/readyz", lambda status, body: (status, body["status"]) == (200, "ready")
        )

        async with (
            aiohttp.ClientSession(gateway.url, headers=gateway.key) as http,
            http.get("/states/1/1") as answer,
        ):
            assert await answer.json() == {"a": 1}
            assert answer.headers["ETag"] == etag
        assert await change(gateway, {"If-Match": etag}, '{"a": 2}') == '"2"'
    finally:
        gateway.kill()


@pytest.mark.parametrize("why", ["STOP SLAVE SQL_THREAD", "STOP SLAVE", "delay"])
def test_a_standby_that_applied_nothing_has_every_acknowledged_change_once_it_is_promoted(
    hosts: list[Host], link: Callable[[Host, Host], str], promote: Callable[[Host], str], why: str
) -> None:
    first, second = hosts
    link(first, second)
    first.query("CREATE TABLE tapedeck.t (id INT PRIMARY KEY)")
    second.query("SELECT MASTER_GTID_WAIT(%s, 10)", [first.value("SELECT @@gtid_binlog_pos")])
    if why == "delay":
        for sql in ("STOP SLAVE", "CHANGE MASTER TO MASTER_DELAY = 3600", "START SLAVE"):
            second.query(sql)
    else:
        second.query("STOP SLAVE SQL_THREAD")
    first.query("INSERT INTO tapedeck.t VALUES (1)")  # returns when the standby has received it
    first.kill()
    if why == "STOP SLAVE":
        second.query(why)
    assert "done, generation 2" in promote(second)
    assert second.query("SELECT id FROM tapedeck.t") == [(1,)]


def test_a_promotion_that_failed_succeeds_without_loss_once_its_cause_is_gone(
    hosts: list[Host], link: Callable[[Host, Host], str], promote: Callable[[Host], str]
) -> None:
    first, second = hosts

    def unlogged(sql: str) -> None:
        with second.connect() as connection, connection.cursor() as cursor:
            cursor.execute("SET sql_log_bin = 0")
            cursor.execute(sql)

    link(first, second)
    first.query("CREATE TABLE tapedeck.t (id INT PRIMARY KEY)")
    second.query("SELECT MASTER_GTID_WAIT(%s, 10)", [first.value("SELECT @@gtid_binlog_pos")])
    unlogged("INSERT INTO tapedeck.t VALUES (1)")
    first.query("INSERT INTO tapedeck.t VALUES (1)")
    first.query("INSERT INTO tapedeck.t VALUES (2)")
    first.kill()
    with pytest.raises(subprocess.CalledProcessError) as refused:
        promote(second)
    assert "Duplicate entry '1'" in refused.value.stderr
    unlogged("DELETE FROM tapedeck.t")
    second.query("START SLAVE SQL_THREAD")  # as one would, although the error says not to
    assert "done, generation 2" in promote(second)
    assert second.query("SELECT id FROM tapedeck.t") == [(1,), (2,)]


def test_only_a_standby_is_promoted(
    hosts: list[Host], link: Callable[[Host, Host], str], promote: Callable[[Host], str]
) -> None:
    first, second = hosts
    with pytest.raises(subprocess.CalledProcessError) as refused:
        promote(second)
    assert (
        "is no standby: it replicates from no other host; nothing is promoted"
        in refused.value.stderr
    )
    link(first, second)
    with pytest.raises(subprocess.CalledProcessError) as refused:
        promote(first)
    assert "this host is writable: it is no standby; nothing is promoted" in refused.value.stderr
    second.query("STOP SLAVE")
    second.query("SET GLOBAL replicate_ignore_table = 'tapedeck.player_state_20261020'")
    with pytest.raises(subprocess.CalledProcessError) as refused:
        promote(second)
    assert "Replicate_Ignore_Table: tapedeck.player_state_20261020" in refused.value.stderr
    second.kill()
    with pytest.raises(subprocess.CalledProcessError) as refused:
        promote(second)
    assert "the standby does not answer; nothing is promoted" in refused.value.stderr


def test_the_gateways_user_can_neither_write_to_a_standby_nor_make_it_writable(
    hosts: list[Host], link: Callable[[Host, Host], str], passwords: Passwords
) -> None:
    link(*hosts)
    # The standby gets the user by replication.
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
