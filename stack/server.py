"""A real server that speaks MySQL's protocol, as a child process: MariaDB or MySQL.

The rest of the stack knows an engine only by what this class declares: how its data is made, its
options, and the words of its replication (`replication` has the steps).
"""

from __future__ import annotations

import contextlib
import os
import re
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import pymysql
from pymysql.cursors import Cursor

from stack import clock
from stack.datadir import GENERATION_TABLE, MAX_CONNECTIONS, Passwords
from stack.process import Child, ServerFailed, free_port

Role = Literal["alone", "primary", "standby", "member"]
"""Without a binlog and without fsync; the two of a semi-synchronous pair; one of a group."""


class Server(Child):
    """One server on 127.0.0.1.

    Args:
        folder: its data directory, which exists (see `make_data`).
        passwords: those that the data directory was made with.
        port: a free one by default; it is the server's id too.
        clock_file: its content, such as "+86400" or "-3600" (seconds, from now), shifts the
            server's clock, and may be rewritten while it runs. None: the real clock.
        options: more of the server's.
    """

    product: ClassVar[str]
    """What people call the engine."""
    source: ClassVar[str]
    """The word for a primary in the names of semi-sync's variables."""
    replica: ClassVar[str]
    """The word for a standby there."""
    committed_sql: ClassVar[str]
    """What the binlog has, as SQL: a position that `missing` understands."""
    applied_sql: ClassVar[str]
    """What a standby has applied, as SQL: a position."""
    wait_sql: ClassVar[str]
    """Waits until a position is applied: a call with the position and seconds."""
    received_column: ClassVar[str]
    """Of SHOW REPLICA STATUS: the position that the standby has received."""

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

    # --- what differs between engines

    @staticmethod
    @abstractmethod
    def make_data(folder: Path, passwords: Passwords) -> None:
        """Make a data directory with the users, the database `tapedeck` and generation 1.

        It has written no binlog: copies of it can be both ends of a pair.

        Raises:
            ServerFailed: the server is not installed (how to install it), or refused.
        """

    @abstractmethod
    def _options(self, role: Role) -> list[str]:
        """The program and its options, without the paths and the port of this server."""

    @abstractmethod
    def follow(self, cursor: Cursor, primary: Server) -> None:
        """Make this server, which follows no other one now, follow a source.

        Raises:
            Diverged: it has transactions that the primary lacks.
        """

    @abstractmethod
    def missing(self, cursor: Cursor, wanted: str, have: str) -> int:
        """How many transactions of `wanted` are not in `have`."""

    def begin_anew(self) -> None:
        """Tell a standby whose data is a copy of its primary's that it has nothing else."""
        self.query("RESET REPLICA ALL")

    # --- the process

    @property
    def address(self) -> str:
        """host:port"""
        return f"127.0.0.1:{self.port}"

    def start(self, role: Role = "alone") -> None:
        """Start it and wait until it answers. Both ends of a pair, and a member, start read-only.

        Raises:
            ServerFailed: it did not; after a minute at the latest.
        """
        # Not /tmp: a mariadbd that starts removes what others have there.
        temporary = self.folder.with_suffix(".tmp")
        temporary.mkdir(exist_ok=True)
        argv = self._options(role)
        argv += [
            f"--datadir={self.folder}",
            f"--port={self.port}",
            f"--server-id={self.port}",
            "--bind-address=127.0.0.1",
            "--socket=",  # its path could be too long, and nothing uses it
            f"--pid-file={self.folder}/server.pid",
            f"--tmpdir={temporary}",
            "--skip-name-resolve",
            f"--max-connections={MAX_CONNECTIONS}",
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
        return {**os.environ, **clock.shifted_by(self.clock_file)}

    def _answers(self) -> bool:
        try:
            # Another process may answer at this port.
            ((folder,),) = self.query("SELECT @@datadir")
            return Path(folder) == self.folder.absolute()
        except pymysql.MySQLError as error:
            if error.args and error.args[0] == 1045:
                raise ServerFailed(
                    f"{self.name} refuses the password of its administrator: the data in "
                    f"{self.folder} was made with other ones"
                ) from None
            return False

    # --- SQL

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
            # Else the driver reads the system's authorities at each connect, which takes 10 ms.
            ssl_disabled=True,
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
        self.query(GENERATION_TABLE.format(database=name))
        self.query(f"INSERT INTO `{name}`.tapedeck_generation VALUES (1, 1)")

    def drop_database(self, name: str) -> None:
        """Drop a database, if it is there."""
        self.query(f"DROP DATABASE IF EXISTS `{name}`")


class Diverged(Exception):
    """A server has transactions that its primary-to-be lacks."""
