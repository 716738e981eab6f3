"""deploy/mysql on real MySQL servers: a pair that fails over by hand, and a group that elects."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pymysql
import pytest

from stack import datadir
from stack.datadir import Passwords
from tests.support.mysql_hosts import (
    MySQLHost,
    client,
    group_options,
    initialize_command,
)
from tests.support.pair import DEPLOY
from tests.support.terminal import eventually

# Where MySQL is installed these take minutes: too long for `make test`.
pytestmark = [pytest.mark.stack, pytest.mark.long]

Run = Callable[..., str]


@pytest.fixture
def env(tmp_path: Path, passwords: Passwords) -> dict[str, str]:
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "mysql_root").write_text(passwords.admin)
    (secrets / "mysql_gateway").write_text(passwords.gateway)
    (secrets / "mysql_replication").write_text(passwords.replication)
    return {**os.environ, "SECRETS": str(secrets), "ADMIN": "stack", "CLIENT": client()}


@pytest.fixture
def run(env: dict[str, str]) -> Run:
    """Runs a script of deploy/mysql; returns what it prints.

    Raises:
        CalledProcessError: the script failed.
    """

    def script(name: str, *words: str) -> str:
        try:
            return subprocess.run(
                [f"{DEPLOY}/mysql/{name}", *words],
                env=env,
                check=True,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
            ).stdout
        except subprocess.CalledProcessError as error:
            error.add_note(error.stderr)
            raise

    return script


@pytest.fixture
def hosts(tmp_path: Path, mysql_template: Path, passwords: Passwords) -> Iterator[list[MySQLHost]]:
    hosts = []
    for name in ("mysql1", "mysql2", "mysql3"):
        datadir.copy(mysql_template, tmp_path / name)
        hosts.append(MySQLHost(name, tmp_path / name, passwords))
    yield hosts
    for host in hosts:
        host.kill()


@pytest.fixture
def group(hosts: list[MySQLHost]) -> list[MySQLHost]:
    """Three running hosts that were never in a group."""
    for host in hosts:
        host.start_as("mysql-group.cnf", *group_options(host, hosts))
        host.empty()
    return hosts


@pytest.mark.parametrize("config", ["mysql-pair.cnf", "mysql-group.cnf"])
@pytest.mark.usefixtures("mysql_template")
def test_a_data_directory_can_be_made_with_the_file(tmp_path: Path, config: str) -> None:
    done = subprocess.run(
        initialize_command(tmp_path / "data", config), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "[ERROR]" not in done.stderr


def loose(config: str) -> dict[str, str]:
    """The options of plugins (`loose_...`): MySQL ignores those that it does not know."""
    text = (DEPLOY / "mysql" / config).read_text()
    return dict(re.findall(r"^loose_(\w+) = (.*)$", text, re.MULTILINE))


def in_effect(host: MySQLHost, name: str) -> str:
    value = str(host.value(f"SELECT @@{name}"))
    return {"0": "OFF", "1": "ON"}.get(value, value)


def test_every_option_of_the_plugins_is_known_and_in_effect(group: list[MySQLHost]) -> None:
    host = group[0]
    for name, value in loose("mysql-group.cnf").items():
        if name != "group_replication_group_seeds":  # the test has its own
            assert in_effect(host, name) == {"0": "OFF", "1": "ON"}.get(value, value), name
    host.kill()
    host.start_as("mysql-pair.cnf")
    for name, value in loose("mysql-pair.cnf").items():
        assert in_effect(host, name) == {"0": "OFF", "1": "ON"}.get(value, value), name


def state(host: MySQLHost) -> object:
    return host.value(
        "SELECT MAX(member_state) FROM performance_schema.replication_group_members"
        " WHERE member_port = @@port"
    )


def test_a_group_is_founded_elects_a_primary_and_is_founded_again_after_all_members_stopped(
    group: list[MySQLHost], run: Run, passwords: Passwords
) -> None:
    addresses = [host.address for host in group]
    said = run("group.sh", *addresses)
    assert f"{addresses[0]} founds the group" in said
    assert eventually(lambda: all(state(host) == "ONLINE" for host in group), 60)
    assert "joins" not in run("group.sh", *addresses), "a second run changes something"
    first, second, third = group
    assert first.value("SELECT @@read_only") == 0
    assert (second.value("SELECT @@super_read_only"), third.value("SELECT @@super_read_only")) == (
        (1, 1)
    )

    first.kill()
    assert eventually(lambda: 0 in (h.value("SELECT @@read_only") for h in (second, third)), 30)
    primary = second if second.value("SELECT @@read_only") == 0 else third
    with pytest.raises(subprocess.CalledProcessError) as refused:
        run("group.sh", *addresses)
    assert f"{first.address} does not answer: nothing is changed" in refused.value.stderr
    primary.query("CREATE TABLE tapedeck.t (id INT PRIMARY KEY)")
    first.start_as("mysql-group.cnf", *group_options(first, group))
    assert eventually(lambda: state(first) == "ONLINE", 90), "it does not join by itself"

    for host in group:
        host.kill()
    for host in group:
        host.start_as("mysql-group.cnf", *group_options(host, group))
    # Each member tries to join by itself, and finds no group.
    assert eventually(lambda: all(state(host) != "RECOVERING" for host in group), 90)
    assert "founds the group" in run("group.sh", *addresses)
    assert eventually(lambda: all(state(host) == "ONLINE" for host in group), 90)
    gateway = pymysql.connect(
        host="127.0.0.1",
        port=first.port,
        user="tapedeck",
        password=passwords.gateway,
        ssl={"check_hostname": False, "verify_mode": False},
    )
    with gateway, gateway.cursor() as cursor:
        cursor.execute("SELECT COUNT(*) FROM performance_schema.replication_group_members")
        assert cursor.fetchall() == ((3,),), "the gateway's user sees the members"
        with pytest.raises(pymysql.MySQLError):
            cursor.execute("SET GLOBAL read_only = 0")


def filled(name: str, primary: MySQLHost, passwords: Passwords) -> list[str]:
    text = (DEPLOY / "mysql" / name).read_text()
    for word, value in (
        ("CHANGE_ME_PRIMARY", "127.0.0.1"),
        ("CHANGE_ME_PORT", str(primary.port)),
        ("CHANGE_ME_REPLICATION", passwords.replication),
        ("CHANGE_ME_GATEWAY", passwords.gateway),
    ):
        text = text.replace(word, value)
    lines = [line for line in text.splitlines() if not line.startswith("--")]
    return [statement.strip() for statement in "\n".join(lines).split(";") if statement.strip()]


def type_sql(host: MySQLHost, name: str, primary: MySQLHost, passwords: Passwords) -> None:
    with host.connect(timeout=30) as connection, connection.cursor() as cursor:
        for statement in filled(name, primary, passwords):
            cursor.execute(statement)


def test_a_standby_is_cloned_linked_and_promoted_with_all_that_was_acknowledged(
    hosts: list[MySQLHost], run: Run, passwords: Passwords, tmp_path: Path
) -> None:
    first, second, _ = hosts
    for host in (first, second):
        host.start_as("mysql-pair.cnf")
        host.empty()
    type_sql(first, "users.sql", first, passwords)
    type_sql(first, "mysql-users.sql", first, passwords)
    first.query("CREATE TABLE tapedeck.t (id INT PRIMARY KEY)")
    # The primary's first binary logs are gone, so the standby needs a copy.
    first.query("FLUSH BINARY LOGS")
    first.query(f"PURGE BINARY LOGS TO '{first.query('SHOW BINARY LOGS')[-1][0]}'")
    with pytest.raises(pymysql.MySQLError):  # 3707: without a supervisor the server cannot restart
        type_sql(second, "mysql-clone.sql", first, passwords)
    assert eventually(lambda: not second.running, 60)
    second.start_as("mysql-pair.cnf")
    type_sql(second, "mysql-standby.sql", first, passwords)
    assert eventually(
        lambda: first.query("SHOW STATUS LIKE 'Rpl_semi_sync_source_clients'")[0][1] == "1"
    )
    type_sql(first, "mysql-primary.sql", first, passwords)
    # What it acknowledges from now on is received, and not applied for an hour.
    second.query("STOP REPLICA SQL_THREAD")
    second.query("CHANGE REPLICATION SOURCE TO SOURCE_DELAY = 3600")
    second.query("START REPLICA SQL_THREAD")
    first.query("INSERT INTO tapedeck.t VALUES (1)")

    admin = tmp_path / "admin.cnf"
    admin.write_text(f"[client]\nuser=stack\npassword={passwords.admin}\nprotocol=tcp\n")

    def promote(host: MySQLHost) -> str:
        words = (f"--defaults-extra-file={admin}", "--host=127.0.0.1", f"--port={host.port}")
        return run("promote.sh", *words)

    with pytest.raises(subprocess.CalledProcessError) as refused:
        promote(first)
    assert "this host is writable: it is no standby; nothing is promoted" in refused.value.stderr
    first.kill()
    second.query("STOP REPLICA")
    assert "done, generation 2" in promote(second)
    assert second.query("SELECT id FROM tapedeck.t") == [(1,)]
    assert second.value("SELECT @@read_only") == 0
    second.query("INSERT INTO tapedeck.t VALUES (2)")
