"""The servers that the tests and the local stack start."""

from __future__ import annotations

import os
import random
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pymysql
import pytest
import redis

from config.load import parse
from stack import datadir
from stack.datadir import Passwords
from stack.mariadb import MariaDB
from stack.process import Child, ServerFailed, free_port
from stack.redis import RedisServer
from stack.server import Server
from tests.support.clocks import shift
from tests.support.terminal import eventually, exists

pytestmark = pytest.mark.stack


def as_gateway(server: MariaDB, database: str) -> pymysql.Connection[pymysql.cursors.Cursor]:
    return pymysql.connect(
        host="127.0.0.1",
        port=server.port,
        user="tapedeck",
        password=server.passwords.gateway,
        database=database,
        autocommit=True,
    )


def test_a_query_to_a_server_reads_no_certificates(
    mysql: MariaDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stack queries its servers several times a second, and reading takes 10 ms."""
    read: list[object] = []
    monkeypatch.setattr(ssl.SSLContext, "load_default_certs", lambda *words: read.append(words))

    assert mysql.query("SELECT 1") == [(1,)]

    assert not read


def test_a_killed_lookup_node_can_be_started_again(
    lookup_servers: list[RedisServer],
) -> None:
    node = lookup_servers[0]
    before = node.pid
    node.kill()
    assert not node.running
    assert node.pid is None
    with node.client() as client, pytest.raises(redis.ConnectionError):
        client.ping()
    node.start()
    assert node.pid != before
    with node.client() as client:
        assert client.ping()


def test_a_frozen_lookup_node_answers_again_when_thawed(lookup_servers: list[RedisServer]) -> None:
    node = lookup_servers[1]
    node.freeze()
    assert eventually(lambda: node.stopped)
    node.thaw()
    with node.client() as client:
        assert client.ping()


def test_a_stopped_lookup_node_keeps_its_entries_in_its_snapshot(tmp_path: Path) -> None:
    node = RedisServer("lookup1", tmp_path / "lookup1")
    node.start()
    with node.client() as client:
        client.set("key", "value")
    node.stop()
    node.start()
    with node.client() as client:
        assert client.get("key") == b"value"
    node.kill()


def test_the_gateway_s_user_has_no_global_rights(mysql: MariaDB, database: str) -> None:
    with as_gateway(mysql, database) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id INT PRIMARY KEY)")
        cursor.execute("INSERT INTO t VALUES (1)")
        cursor.execute("SELECT generation FROM tapedeck_generation WHERE id = 1")
        assert cursor.fetchall() == ((1,),)
        mysql.query("SET GLOBAL read_only = 1")
        with pytest.raises(pymysql.MySQLError, match="1290"):
            cursor.execute("INSERT INTO t VALUES (2)")
        for forbidden in ("SET GLOBAL read_only = 0", "CREATE DATABASE other"):
            with pytest.raises(pymysql.MySQLError):
                cursor.execute(forbidden)


@pytest.mark.parametrize(("user", "password"), [("", ""), ("root", ""), ("tapedeck", "")])
def test_a_login_without_a_password_is_refused(mysql: MariaDB, user: str, password: str) -> None:
    with pytest.raises(pymysql.MySQLError, match="1045"):
        pymysql.connect(host="127.0.0.1", port=mysql.port, user=user, password=password)


@pytest.mark.engines
def test_a_server_s_clock_is_shifted_at_once_and_its_waits_are_not(
    mysql: Server,
) -> None:
    with mysql.connect() as connection, connection.cursor() as cursor:
        for seconds in (86_400, -3_600, 366 * 86_400, 0):
            shift(mysql, seconds)
            cursor.execute("SELECT UNIX_TIMESTAMP(), UNIX_TIMESTAMP(UTC_TIMESTAMP())")
            ((local, utc),) = cursor.fetchall()
            assert abs(float(local) - time.time() - seconds) < 5
            assert abs(float(utc) - time.time() - seconds) < 5
            began = time.monotonic()
            cursor.execute("SELECT SLEEP(0.2)")
            assert 0.2 <= time.monotonic() - began < 4
            # Threads of the server that wait for each other still do.
            cursor.execute("SELECT COUNT(*) FROM tapedeck.tapedeck_generation")
            assert cursor.fetchall() == ((1,),)


def test_the_configuration_of_the_tests_is_valid(
    stack_config: Callable[..., dict[str, object]],
) -> None:
    one, two = (parse(stack_config(lookup={"layout": "flat"})) for _ in range(2))
    assert one.lookup.layout == "flat"
    assert [server.name for server in one.lookup.servers] == ["lookup1", "lookup2", "lookup3"]
    assert one.mysql == two.mysql
    assert one.auth == two.auth
    assert one.gateway.port != two.gateway.port


def test_a_server_that_cannot_start_shows_the_end_of_its_log(
    tmp_path: Path, lookup_servers: list[RedisServer], mysql: MariaDB
) -> None:
    taken = RedisServer("lookup9", tmp_path / "lookup9", port=lookup_servers[0].port)
    with pytest.raises(ServerFailed, match=r"lookup9 .*\n(.*\n)*.*Address already in use"):
        taken.start()
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ServerFailed, match=r"mysql9 ended at its start(.*\n)*.*'mysql\.\w+'"):
        MariaDB("mysql9", empty, Passwords()).start()


def test_data_made_with_other_passwords_is_reported(tmp_path: Path, data_template: Path) -> None:
    datadir.copy(data_template, tmp_path / "data")
    server = MariaDB("mysql1", tmp_path / "data", Passwords())
    with pytest.raises(ServerFailed, match="made with other passwords"):
        server.start()
    server.kill()


PARENT = """
import sys, threading, time
from pathlib import Path
from stack.process import Child
child = Child("sleeper", Path(sys.argv[1]) / "log", Path(sys.argv[1]) / "pid")
# The thread that starts the child ends at once; the child must go on.
starter = threading.Thread(target=child.spawn, args=(["sleep", "600"],))
starter.start(); starter.join()
time.sleep(0.2)
assert child.running
print("up", flush=True)
time.sleep(600)
"""


def test_a_port_given_to_one_process_is_given_to_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    argv = [
        sys.executable,
        "-c",
        "from stack.process import *; print(free_port(), flush=True); input()",
    ]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        taken = int(other.stdout.readline())
        free = free_port()
        ports = iter([taken, taken, free - 1, free + 1, free + 2, free + 3])
        monkeypatch.setattr(random, "randrange", lambda *_: next(ports))
        assert free_port() != taken
        other.communicate("\n")


def test_a_child_ends_with_its_killed_parent_and_not_with_a_thread(
    tmp_path: Path,
) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"up\n"
    pid = int((tmp_path / "pid").read_text())
    assert exists(pid)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert eventually(lambda: not exists(pid))


def test_a_child_does_not_get_the_terminal_s_signals(tmp_path: Path) -> None:
    child = Child("sleeper", tmp_path / "log")
    child.spawn(["sleep", "600"])
    assert child.pid is not None
    assert os.getpgid(child.pid) != os.getpgid(0)
    child.stop()
    assert child.exit_status == -signal.SIGTERM
