"""Makes data directories of MariaDB, and says what the data of every engine has.

`mariadb-install-db` needs a package (with my_print_defaults) that the server itself does not. So
this module gives the same SQL to `mariadbd --bootstrap`. It leaves out the help tables and the sys
schema: nothing here reads them, and the data is made in half the time without them.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from stack import engines
from stack.process import ServerFailed

SMALL_AND_SAFE = (
    "--innodb-buffer-pool-size=64M",
    "--innodb-log-file-size=16M",
    "--innodb-log-buffer-size=2M",
    "--key-buffer-size=1M",
    "--aria-pagecache-buffer-size=1M",
    "--performance-schema=0",
)
_SHARE = Path("/usr/share/mysql"), Path("/usr/share/mariadb")
# 11.x calls mysql_system_tables.sql mariadb_system_tables.sql.
_SYSTEM_SQL = ("{}_system_tables", "{}_performance_tables", "{}_system_tables_data")

GENERATION_TABLE = (
    "CREATE TABLE IF NOT EXISTS `{database}`.tapedeck_generation "
    "(id TINYINT PRIMARY KEY, generation BIGINT UNSIGNED NOT NULL)"
)
"""The fencing generation of the primary; a promotion raises it."""

MAX_CONNECTIONS = 500
"""Connections that a server of ours accepts."""
GATEWAY_CONNECTIONS = 450
"""How many of them gateways may have, so that a standby and an administrator can always connect."""


@dataclass(frozen=True)
class Passwords:
    """The passwords of a server's users. A server of ours has only these three users.

    Attributes:
        admin: of `stack`, which may do everything, read_only or not.
        replication: of `replication`, which may read the binlog.
        gateway: of `tapedeck`, an ordinary user with rights on the databases `tapedeck%` only.
    """

    admin: str = field(default_factory=lambda: secrets.token_hex(16), repr=False)
    replication: str = field(default_factory=lambda: secrets.token_hex(16), repr=False)
    gateway: str = field(default_factory=lambda: secrets.token_hex(16), repr=False)


def executable() -> str:
    """The path of mariadbd.

    Raises:
        ServerFailed: it is not installed.
    """
    if name := engines.chosen("mariadb"):
        return str(engines.find(name))
    found = shutil.which("mariadbd", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/libexec")
    if found is None:
        raise ServerFailed("mariadbd is not installed: apt-get install mariadb-server-core")
    return found


def as_user() -> list[str]:
    """The option without which a server refuses to run as root."""
    return ["--user=root"] if os.geteuid() == 0 else []


def make(folder: Path, passwords: Passwords) -> None:
    """Make a data directory with the users, the database `tapedeck` and generation 1 (0.5 s).

    It has no binary log, so copies of it can be both servers of a pair.

    Raises:
        ServerFailed: mariadbd is not installed, or failed.
    """
    folder.mkdir(parents=True)
    folder.chmod(0o700)
    sql = "\n".join(
        [
            # --bootstrap ends a statement at the end of a line.
            "CREATE DATABASE IF NOT EXISTS mysql;",
            "USE mysql;",
            "SET @auth_root_socket=NULL;",
            *(_system_sql(name) for name in _SYSTEM_SQL),
            "DELETE FROM mysql.global_priv WHERE User <> 'mariadb.sys';",
            "DELETE FROM mysql.db;",
            "DELETE FROM mysql.proxies_priv;",
            "FLUSH PRIVILEGES;",
            users_sql(passwords),
        ]
    )
    argv = [executable(), "--no-defaults", "--bootstrap", *as_user(), *SMALL_AND_SAFE]
    argv += [f"--datadir={folder}", "--log-warnings=0", "--enforce-storage-engine="]
    # Without flushes: after a crash half-way the caller begins anew.
    argv += ["--innodb-flush-log-at-trx-commit=0", "--max-allowed-packet=8M"]
    # Not /tmp: a mariadbd that starts removes the temporary tables of other servers there.
    with tempfile.TemporaryDirectory() as temporary:
        argv.append(f"--tmpdir={temporary}")
        done = subprocess.run(argv, input=sql, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        end = "\n".join(done.stderr.splitlines()[-15:])
        raise ServerFailed(f"mariadbd could not make the data directory {folder}:\n{end}")


def _system_sql(name: str) -> str:
    chosen = engines.chosen("mariadb")
    for folder in (engines.files(chosen) / "usr/share/mariadb",) if chosen else _SHARE:
        for product in ("mysql", "mariadb"):
            path = folder / f"{name.format(product)}.sql"
            if path.is_file():
                return path.read_text()
    raise ServerFailed(
        f"{_SHARE[0]}/{name.format('mysql')}.sql is missing: apt-get install mariadb-server-core"
    )


def users_sql(passwords: Passwords, replication: str = "REPLICATION SLAVE") -> str:
    """The users, the database `tapedeck` and generation 1, one statement a line.

    Args:
        replication: the rights of the user `replication`.
    """
    ordinary = "SELECT, INSERT, UPDATE, DELETE, CREATE, DROP, ALTER, INDEX"
    return "\n".join(
        [
            f"CREATE USER stack@'127.0.0.1' IDENTIFIED BY '{passwords.admin}';",
            "GRANT ALL PRIVILEGES ON *.* TO stack@'127.0.0.1' WITH GRANT OPTION;",
            f"CREATE USER replication@'127.0.0.1' IDENTIFIED BY '{passwords.replication}';",
            f"GRANT {replication} ON *.* TO replication@'127.0.0.1';",
            f"CREATE USER tapedeck@'127.0.0.1' IDENTIFIED BY '{passwords.gateway}';",
            f"ALTER USER tapedeck@'127.0.0.1' WITH MAX_USER_CONNECTIONS {GATEWAY_CONNECTIONS};",
            f"GRANT {ordinary} ON `tapedeck%`.* TO tapedeck@'127.0.0.1';",
            "CREATE DATABASE tapedeck;",
            GENERATION_TABLE.format(database="tapedeck") + ";",
            "INSERT INTO tapedeck.tapedeck_generation VALUES (1, 1);\n",
        ]
    )


def copy(source: Path, target: Path) -> None:
    """Copy a data directory of a server that is not running (0.04 s)."""
    shutil.copytree(source, target)
