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
"""`alone` has neither binary log nor fsync; `primary` and `standby` make a semi-synchronous pair;
`member` is one of a group."""


class Server(Child):
    """A server on 127.0.0.1.

    Args:
        folder: its data directory, which exists (see `make_data`).
        passwords: those that the data directory was made with.
        port: a free one by default; it is the server's id too.
        clock_file: its content, such as "+86400" or "-3600" (seconds), shifts the server's clock,
            and may be rewritten while it runs. None: the real clock.
        options: more options of the server.
    """

    product: ClassVar[str]
    """The engine's name."""
    source: ClassVar[str]
    """The word for a primary in the names of semi-sync's variables."""
    replica: ClassVar[str]
    """The word for a standby in these names."""
    committed_sql: ClassVar[str]
    """The SQL expression for the position of the binary log, which `missing` compares."""
    applied_sql: ClassVar[str]
    """The SQL expression for the position that a standby has applied."""
    wait_sql: ClassVar[str]
    """The SQL function that waits until a position is applied: its arguments are it and seconds."""
    received_column: ClassVar[str]
    """The column of SHOW REPLICA STATUS with the position that the standby has received."""

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

        It has no binary log, so copies of it can be both servers of a pair.

        Raises:
            ServerFailed: the server is not installed (the text says how to), or failed.
        """

    @abstractmethod
    def _options(self, role: Role) -> list[str]:
        """The program and its options, without the paths and the port of this server."""

    @abstractmethod
    def follow(self, cursor: Cursor, primary: Server) -> None:
        """Make this server, which follows no other server now, follow a primary.

        Raises:
            Diverged: it has transactions that the primary lacks.
        """

    @abstractmethod
    def missing(self, cursor: Cursor, wanted: str, have: str) -> int:
        """How many transactions of `wanted` are not in `have`."""

    def begin_anew(self) -> None:
        """Forget what a standby, whose data was just copied from its primary, followed before."""
        self.query("RESET REPLICA ALL")

    # --- the process

    @property
    def address(self) -> str:
        """host:port"""
        return f"127.0.0.1:{self.port}"

    def start(self, role: Role = "alone") -> None:
        """Start it and wait until it answers. In all roles but `alone` it starts read-only.

        Raises:
            ServerFailed: it does not answer within a minute.
        """
        # Not /tmp: a mariadbd that starts removes the temporary tables of other servers there.
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
                    f"{self.folder} was made with other passwords"
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
            # With TLS the driver reads the system's authorities at each connect (10 ms).
            ssl_disabled=True,
        )
        try:
            yield connection
        finally:
            with contextlib.suppress(pymysql.MySQLError, OSError):
                connection.close()

    def query(self, sql: str, args: Sequence[object] = (), *, timeout: float = 5) -> list[Any]:
        """Run one statement as the administrator; return its rows as tuples."""
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
    """A server has transactions that the primary, which it should follow, lacks."""
