"""A real MariaDB server as a child process: alone, or one end of a semi-synchronous pair."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import pymysql
from pymysql.cursors import Cursor

from tapedeck.localstack import datadir
from tapedeck.localstack.datadir import Passwords
from tapedeck.localstack.process import Child, ServerFailed, free_port

Role = Literal["alone", "primary", "standby"]

_SAFE = ("--innodb-flush-log-at-trx-commit=1", "--sync-binlog=1")
# A process that is killed loses nothing without fsync; only a machine that fails would.
_FAST = ("--innodb-flush-log-at-trx-commit=2", "--skip-log-bin", "--innodb-flush-method=nosync")
# The wait point's default answers before the standby has it; a short timeout falls back to
# asynchronous in silence, and so does wait_no_slave=0.
_PAIR = (
    *_SAFE,
    "--log-bin=binlog",
    "--relay-log=relay",
    "--log-slave-updates",
    "--binlog-format=ROW",
    "--max-binlog-size=64M",
    "--expire-logs-days=3",
    "--gtid-strict-mode=1",
    "--relay-log-recovery=1",
    # Each event's fsync would make a standby too slow to catch up with a primary under load. A
    # killed process loses nothing without it, and both hosts share this machine's disk.
    "--sync-relay-log=0",
    "--skip-slave-start",
    "--slave-net-timeout=5",
    "--slave-parallel-threads=4",  # commits in groups, as the primary does
    "--rpl-semi-sync-master-wait-point=AFTER_SYNC",
    "--rpl-semi-sync-master-timeout=1000000000",
    "--rpl-semi-sync-master-wait-no-slave=1",
    "--rpl-semi-sync-slave-kill-conn-timeout=1",
    # Nobody writes before the roles are settled, whoever starts.
    "--read-only=1",
)
# Recovers as a standby does: cuts off what a crashed primary had written and nobody acknowledged.
_STANDBY = ("--init-rpl-role=SLAVE", "--rpl-semi-sync-slave-enabled=1")

FAKETIME = (
    "/usr/lib/{}/faketime/libfaketimeMT.so.1",
    "/usr/lib/faketime/libfaketimeMT.so.1",
)


def faketime_library() -> Path:
    """Where libfaketime is.

    Raises:
        ServerFailed: it is not installed.
    """
    for pattern in FAKETIME:
        for triplet in (f"{os.uname().machine}-linux-gnu",):
            path = Path(pattern.format(triplet))
            if path.is_file():
                return path
    raise ServerFailed("libfaketime is not installed: apt-get install libfaketime")


class MariaDB(Child):
    """One server on 127.0.0.1.

    Args:
        folder: its data directory, which exists (see `datadir`).
        passwords: those that the data directory was made with.
        port: a free one by default; it is the server's id too.
        clock_file: its content, such as "+86400" or "-3600" (seconds, from now), shifts the
            server's clock, and may be rewritten while it runs. None: the real clock.
        options: more of mariadbd's.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        passwords: Passwords,
        *,
        port: int | None = None,
        log: Path | None = None,
        pid_file: Path | None = None,
        clock_file: Path | None = None,
        options: Sequence[str] = (),
    ) -> None:
        super().__init__(name, log or folder.parent / f"{name}.log", pid_file)
        self.folder = folder
        self.passwords = passwords
        self.port = port or free_port()
        self.clock_file = clock_file
        self.options = tuple(options)

    @property
    def address(self) -> str:
        """host:port"""
        return f"127.0.0.1:{self.port}"

    def start(self, role: Role = "alone") -> None:
        """Start it and wait until it answers. Both ends of a pair start read-only.

        Raises:
            ServerFailed: it did not; after a minute at the latest.
        """
        roles: dict[Role, Sequence[str]] = {
            "alone": _FAST,
            "primary": _PAIR,
            "standby": (*_PAIR, *_STANDBY),
        }
        temporary = self.folder.with_suffix(".tmp")
        temporary.mkdir(exist_ok=True)
        argv = [datadir.executable(), "--no-defaults", *datadir.as_user()]
        argv += [*datadir.SMALL_AND_SAFE, *roles[role]]
        argv += [
            f"--datadir={self.folder}",
            f"--port={self.port}",
            f"--server-id={self.port}",
            "--bind-address=127.0.0.1",
            "--socket=",  # its path could be too long, and nobody uses it
            f"--pid-file={self.folder}/mariadbd.pid",
            # Not /tmp: a mariadbd that starts removes what others have there.
            f"--tmpdir={temporary}",
            "--skip-name-resolve",
            "--max-connections=500",
            "--character-set-server=utf8mb4",
            *self.options,
        ]
        self.spawn(argv, env=self._environment())
        self.await_ready(self._answers, 60)

    def _environment(self) -> dict[str, str] | None:
        if self.clock_file is None:
            return None
        if not self.clock_file.exists():
            self.clock_file.write_text("+0\n")
        return {
            **os.environ,
            "LD_PRELOAD": str(faketime_library()),
            "FAKETIME_TIMESTAMP_FILE": str(self.clock_file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def _answers(self) -> bool:
        try:
            # Whoever answers at this port is not always this process.
            ((folder,),) = self.query("SELECT @@datadir")
            return Path(folder) == self.folder.absolute()
        except pymysql.MySQLError as error:
            if error.args and error.args[0] == 1045:
                raise ServerFailed(
                    f"{self.name} refuses the password of its administrator: the data in "
                    f"{self.folder} was made with other ones"
                ) from None
            return False

    @contextlib.contextmanager
    def connect(
        self, database: str | None = None, *, timeout: float = 5
    ) -> Iterator[pymysql.Connection[Cursor]]:
        """A connection of the administrator, autocommit.

        Args:
            timeout: seconds, for the connect and for each answer.
        """
        connection = pymysql.connect(
            host="127.0.0.1",
            port=self.port,
            user="stack",
            password=self.passwords.admin,
            database=database,
            autocommit=True,
            connect_timeout=max(1, round(timeout)),
            read_timeout=timeout,
            write_timeout=timeout,
        )
        try:
            yield connection
        finally:
            with contextlib.suppress(pymysql.MySQLError, OSError):
                connection.close()

    def query(self, sql: str, args: Sequence[object] = (), *, timeout: float = 5) -> list[Any]:
        """Run one statement as the administrator; its rows as tuples."""
        with self.connect(timeout=timeout) as connection, connection.cursor() as cursor:
            cursor.execute(sql, args or None)
            return list(cursor.fetchall())

    def create_database(self, name: str) -> None:
        """Make an empty database that the gateway's user has its rights on.

        Raises:
            ValueError: the name is not `tapedeck...`.
        """
        if re.fullmatch(r"tapedeck[a-z0-9_]*", name) is None:
            raise ValueError(f"{name!r}: the gateway's user has rights on tapedeck... only")
        self.query(f"CREATE DATABASE `{name}`")
        self.query(datadir.GENERATION_TABLE.format(database=name))
        self.query(f"INSERT INTO `{name}`.tapedeck_generation VALUES (1, 1)")

    def drop_database(self, name: str) -> None:
        """Drop a database, if it is there."""
        self.query(f"DROP DATABASE IF EXISTS `{name}`")
