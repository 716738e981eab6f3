"""One blocking connection to the present MySQL primary, for commands.

The gateway uses `failover.mysql.primary`, with a pool; both choose the primary by
`failover.mysql.fencing`.
"""

from __future__ import annotations

import contextlib
from math import ceil
from typing import Any

import pymysql
from pymysql.cursors import Cursor

from config.model import HostPort, MySQL
from config.tls import client_context
from failover.mysql import settings, sign_in
from failover.mysql.connection import GREETING, Hello
from failover.mysql.fencing import Adopt, View, decide

_NO_SUCH_TABLE = 1146
_SILENT_SECONDS = 3600
"""Seconds after which the server closes a command's idle connection and its transaction."""


class NoPrimary(Exception):
    """None of the hosts is the primary; says what is wrong with each."""


def connect_primary(
    config: MySQL, statement_seconds: float | None = None
) -> pymysql.Connection[Cursor]:
    """Connect to the primary: the writable host with the newest generation.

    The session has the settings of `failover.mysql.settings`, without autocommit. The caller closes
    the connection.

    Args:
        config: the hosts and the user.
        statement_seconds: the timeout of a statement; None: `mysql.statement_timeout`.

    Raises:
        NoPrimary: no host is the primary; names what is wrong with each.
    """
    if statement_seconds is None:
        statement_seconds = config.statement_timeout / 1000
    connections: dict[str, pymysql.Connection[Cursor]] = {}
    views = []
    chosen: str | None = None
    try:
        for host in config.hosts:
            try:
                connection = _connect(host, config, statement_seconds)
                connections[str(host)] = connection
                views.append(View(str(host), _greet(connection)))
            except (pymysql.MySQLError, OSError) as error:
                views.append(View(str(host), error=_words(error)))
        verdict = decide(views, seen=0, identity=None)
        if not isinstance(verdict, Adopt):
            raise NoPrimary(f"no MySQL host can be written to: {verdict.reason}")
        chosen = verdict.address
        return connections[chosen]
    finally:
        for address, connection in connections.items():
            if address != chosen:
                with contextlib.suppress(pymysql.MySQLError, OSError):
                    connection.close()


_Driver: Any = pymysql.Connection  # whose stubs leave out what is redefined here


class _Connection(_Driver):  # type: ignore[misc]
    """PyMySQL's, but it never sends the password readably (`failover.mysql.sign_in`)."""

    def _request_authentication(self) -> None:
        sign_in.check(str(self._auth_plugin_name), self.ssl)
        try:
            super()._request_authentication()
        except OSError:
            raise  # an error of TLS is a ValueError too
        except ValueError:  # the text in the place of a key (sign_in.key)
            raise sign_in.no_key() from None

    def _process_auth(self, plugin_name: bytes, auth_packet: Any, handler: Any = None) -> Any:
        sign_in.check(plugin_name.decode("latin1"), self.ssl)
        return super()._process_auth(plugin_name, auth_packet, handler)


def _connect(host: HostPort, config: MySQL, statement_seconds: float) -> pymysql.Connection[Cursor]:
    connection: pymysql.Connection[Cursor] = _Connection(
        host=host.host,
        port=host.port,
        user=config.user,
        password=config.password.get_secret_value(),
        database=config.database,
        charset="utf8mb4",
        connect_timeout=config.connect_timeout / 1000,
        # Only these timeouts notice a frozen server.
        read_timeout=statement_seconds,
        write_timeout=statement_seconds,
        # A command may wait for a gateway's locks, and be idle while it reads a file.
        init_command=settings.statement(
            innodb_lock_wait_timeout=ceil(statement_seconds),
            lock_wait_timeout=ceil(statement_seconds),
            wait_timeout=_SILENT_SECONDS,
            idle_transaction_timeout=_SILENT_SECONDS,
        ),
        ssl=client_context(config),
        # Otherwise the driver uses the server's TLS unverified, and sends it the password.
        ssl_disabled=not config.tls,
        server_public_key=sign_in.key(config.public_key),
    )
    return connection


def _greet(connection: pymysql.Connection[Cursor]) -> Hello:
    with connection.cursor() as cursor:
        cursor.execute(GREETING)
        row = cursor.fetchone()
        assert row is not None
        generation = 0
        try:
            cursor.execute("SELECT generation FROM tapedeck_generation WHERE id = 1")
            known = cursor.fetchone()
            generation = int(known[0]) if known is not None else 0
        except pymysql.MySQLError as error:
            # Without the table no gateway has used this host yet: its generation is 0.
            if error.args[:1] != (_NO_SUCH_TABLE,):
                raise
    connection.rollback()
    return Hello.read(row, generation)


def _words(error: Exception) -> str:
    if isinstance(error, pymysql.MySQLError) and len(error.args) > 1:
        return f"{error.args[0]} {error.args[1]}"
    return str(error) or type(error).__name__
