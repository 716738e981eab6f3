"""Real servers for the tests, on free ports, in pytest's own temporary folder.

The tests of a session share the servers. Each test gets an empty database and empty lookup nodes.
No server outlives pytest, however pytest ends (see stack/process.py).
"""

from __future__ import annotations

import itertools
import os
import resource
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from stack import datadir, engines
from stack import mysql as mysql_engine
from stack.datadir import Passwords
from stack.group import Group
from stack.mariadb import MariaDB
from stack.mysql import MySQL
from stack.process import free_port
from stack.redis import RedisServer
from stack.server import Server
from tests.support.mysqld import WITHOUT_TLS, key_of, make_keys

# Tests open a thousand connections; a login often has a lower limit than it may have.
_, _most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (_most, _most))

# Hypothesis has no time limit: on a busy machine a test would fail because an example took long.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

_numbers = itertools.count(1)

StackConfig = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def passwords() -> Passwords:
    """The passwords of every server of this session; `.gateway` is that of the user `tapedeck`."""
    return Passwords()


@pytest.fixture(scope="session")
def data_template(tmp_path_factory: pytest.TempPathFactory, passwords: Passwords) -> Path:
    """A MariaDB data directory to copy (`datadir.copy`), so that a server starts in 0.2 s."""
    folder = tmp_path_factory.mktemp("mariadb") / "template"
    datadir.make(folder, passwords)
    return folder


@pytest.fixture(scope="session")
def mysql_template(tmp_path_factory: pytest.TempPathFactory, passwords: Passwords) -> Path:
    """A MySQL data directory to copy. A test that needs it is skipped if MySQL is not installed."""
    if mysql_engine.find() is None:
        pytest.skip(mysql_engine.HOW_TO_GET_IT)
    folder = tmp_path_factory.mktemp("mysql-template") / "template"
    MySQL.make_data(folder, passwords)
    make_keys(folder)
    return folder


@pytest.fixture(scope="session")
def _session_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RedisServer]]:
    folder = tmp_path_factory.mktemp("lookup")
    servers = [RedisServer(f"lookup{n}", folder / f"lookup{n}") for n in (1, 2, 3)]
    for server in servers:
        server.start()
    yield servers
    for server in servers:
        server.kill()


@pytest.fixture
def lookup_servers(_session_servers: list[RedisServer]) -> list[RedisServer]:
    """Three lookup nodes: running, empty and with their first settings, even if an earlier test
    killed, froze or stopped them."""
    for server in _session_servers:
        server.thaw()
        if not server.running:
            server.start()
        with server.client() as client:
            client.flushall()
            client.config_set("maxmemory", "0")
            client.config_set("maxmemory-policy", "noeviction")
            client.config_resetstat()
    return _session_servers


@pytest.fixture(scope="session")
def _session_mariadb(
    tmp_path_factory: pytest.TempPathFactory, data_template: Path, passwords: Passwords
) -> Iterator[MariaDB]:
    folder = tmp_path_factory.mktemp("mysql") / "data"
    datadir.copy(data_template, folder)
    server = MariaDB("mysql1", folder, passwords, clock_file=folder.parent / "clock")
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def _session_mysqld(
    tmp_path_factory: pytest.TempPathFactory, mysql_template: Path, passwords: Passwords
) -> Iterator[MySQL]:
    folder = tmp_path_factory.mktemp("mysqld")
    if os.environ.get(engines.CHOICE) == "group":
        for name in ("mysql1", "mysql2", "mysql3"):
            datadir.copy(mysql_template, folder / name)
        group = Group(folder, passwords)
        group.start()
        yield group.primary
        group.kill()
        return
    datadir.copy(mysql_template, folder / "data")
    data, clock_file = folder / "data", folder / "clock"
    server = MySQL("mysql1", data, passwords, clock_file=clock_file, options=WITHOUT_TLS)
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def server_class() -> type[Server]:
    """The class of this run's servers: MariaDB, unless TAPEDECK_ENGINE says MySQL."""
    return MySQL if engines.chosen("mysql") else MariaDB


@pytest.fixture(scope="session")
def template(request: pytest.FixtureRequest, server_class: type[Server]) -> Path:
    """A data directory to copy, for a server of `server_class`."""
    name = "mysql_template" if server_class is MySQL else "data_template"
    found: Path = request.getfixturevalue(name)
    return found


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests marked `engines` run on MariaDB, and on MySQL too if it is installed.

    If TAPEDECK_ENGINE (`engines.CHOICE`) is set, all tests run on the engine that it names.
    """
    marked = metafunc.definition.get_closest_marker("engines") is not None
    if os.environ.get(engines.CHOICE) or mysql_engine.find() is None:
        return
    if marked and "mysql" in metafunc.fixturenames:
        metafunc.parametrize("mysql", ["mariadb", "mysql"], indirect=True)


@pytest.fixture
def mysql(request: pytest.FixtureRequest, server_class: type[Server]) -> Server:
    """One writable server without a standby: running, and with the real time.

    It is a MariaDB; tests marked `engines` run on a MySQL too, if one is installed.
    `tests.support.clocks.shift` changes its clock at once.
    """
    default = "mysql" if server_class is MySQL else "mariadb"
    on_mysql = getattr(request, "param", default) == "mysql"
    server: Server = request.getfixturevalue("_session_mysqld" if on_mysql else "_session_mariadb")
    server.thaw()
    if server.clock_file is not None:
        server.clock_file.write_text("+0\n")
    if not server.running:
        server.start()
    server.query("SET GLOBAL read_only = 0")
    return server


@pytest.fixture
def small_packets(mysql: Server) -> Iterator[int]:
    """Let MySQL take no statement of more than 1 MiB, the default of older versions."""
    ((before,),) = mysql.query("SELECT @@global.max_allowed_packet")
    mysql.query("SET GLOBAL max_allowed_packet = 1048576")
    yield 1 << 20
    mysql.query(f"SET GLOBAL max_allowed_packet = {before}")


@pytest.fixture
def database(mysql: Server) -> Iterator[str]:
    """The name of a database of this test's own: empty, but for the table tapedeck_generation."""
    name = f"tapedeck_{next(_numbers)}"
    mysql.create_database(name)
    yield name
    mysql.thaw()
    if mysql.running:
        mysql.drop_database(name)


@pytest.fixture
def stack_config(
    lookup_servers: list[RedisServer], mysql: Server, database: str, tmp_path: Path
) -> StackConfig:
    """Makes a configuration document (for `config.load.parse`, or a YAML file).

    `stack_config(lookup={"layout": "flat"}, player={...})` replaces these values. Each call gets
    its own free ports; all calls in one test share the servers, the database and the keys.
    """
    auth = {"token_keys": [secrets.token_hex(32)], "service_keys": [secrets.token_hex(16)]}

    def make(**sections: Any) -> dict[str, Any]:
        document: dict[str, Any] = {
            "mode": "local",
            "gateway": {"host": "127.0.0.1", "port": free_port()},
            "admin": {"host": "127.0.0.1", "port": free_port()},
            "auth": dict(auth),
            "lookup": {"servers": [server.server for server in lookup_servers]},
            "mysql": {
                "hosts": [mysql.address],
                "user": "tapedeck",
                "password": mysql.passwords.gateway,
                "database": database,
                "public_key": key_of(mysql),
            },
            "partitions": {"filter_folder": str(tmp_path / "filters")},
        }
        for name, values in sections.items():
            if isinstance(values, dict):
                document[name] = {**document.get(name, {}), **values}
            else:
                document[name] = values
        return document

    return make
