"""A MariaDB pair with the files of deploy/mysql, for tests of its scripts and of docs/."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stack import datadir
from stack.datadir import Passwords
from tests.support.pair import DEPLOY, Host


@pytest.fixture
def hosts(tmp_path: Path, data_template: Path, passwords: Passwords) -> Iterator[list[Host]]:
    hosts = []
    for name in ("mysql1", "mysql2"):
        datadir.copy(data_template, tmp_path / name)
        hosts.append(Host(name, tmp_path / name, passwords))
    try:
        for host in hosts:
            host.start_as()
            # Like a fresh server: without our database and our users.
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
    """Runs deploy/compose/link PRIMARY STANDBY; returns what it prints.

    Raises:
        CalledProcessError: the script failed.
    """
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
def admin(tmp_path: Path, passwords: Passwords) -> Path:
    """The option file with which MariaDB's client signs in as the administrator of every server."""
    path = tmp_path / "admin.cnf"
    path.write_text(f"[client]\nuser=stack\npassword={passwords.admin}\nprotocol=tcp\n")
    return path


@pytest.fixture
def linked(hosts: list[Host], link: Callable[[Host, Host], str], admin: Path) -> Path:
    """Links `hosts` as a pair, with the first one as the primary; returns `admin`."""
    link(*hosts)
    return admin


@pytest.fixture
def promote(admin: Path) -> Callable[[Host], str]:
    """Runs deploy/mysql/promote.sh on a host; returns what it prints.

    Raises:
        CalledProcessError: the script failed.
    """

    def run(host: Host) -> str:
        argv = [f"{DEPLOY}/mysql/promote.sh", f"--defaults-extra-file={admin}"]
        argv += ["--host=127.0.0.1", f"--port={host.port}"]
        return subprocess.run(
            argv, check=True, stdin=subprocess.DEVNULL, capture_output=True, text=True
        ).stdout

    return run
