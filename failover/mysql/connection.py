"""One connection to one MySQL host, with timeouts that the driver does not have.

aiomysql has no read timeout: a statement on a frozen server would wait for ever. Here every call
has a timeout, and a connection is closed after a call that timed out or was cancelled: the late
answer would be taken for that of the next statement.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import aiomysql
from pymysql.constants import CLIENT, COMMAND, CR
from pymysql.err import OperationalError

from config.model import HostPort, MySQL
from config.tls import TlsProblem, in_words
from failover.dns import connect_by_name
from failover.mysql import clock_sql, session_variables, sign_in
from failover.mysql.engine import Engine
from failover.mysql.errors import Fault, MySQLError, classify, is_ours
from failover.mysql.resultset import Answers, Ran
from failover.tls_contexts import context_for

Row = tuple[Any, ...]
Result = TypeVar("Result")

_HINTS = {
    1045: "or the user must come by TLS: mysql.tls",  # MariaDB and MySQL say no more to such a user
    1129: "an operator unblocks it there: FLUSH HOSTS",
    3159: "turn on mysql.tls",
}
"""What to do about a refused connect, by MySQL's error number."""
_SETTINGS = session_variables.statement()

PRIVATE = (
    # A connect step by step: it stops without TLS, or before a method that reveals the password.
    *("_connect", "_get_server_information", "_request_authentication", "_process_auth"),
    *("caching_sha2_password_auth", "_server_auth_plugin", "_ssl_context", "_secure", "_host"),
    # Ending a connection at once, and the address of the other side.
    "_writer",
    # A script's answers are read from the stream itself (`failover.mysql.resultset`).
    *("_execute_command", "_reader", "_next_seq_id"),
)
"""The names of aiomysql's Connection that are used here and are not in its documentation."""
PRIVATE_OF_CURSOR = ("_show_warnings",)
"""The same of its Cursor."""


class _Connection(aiomysql.Connection):  # type: ignore[misc]
    """aiomysql's, but it never continues without TLS, protects the password, and closes at once.

    If TLS is configured and the server says that it has none, aiomysql continues without TLS. An
    attacker on the network can say so too. If the server asks for the password itself, aiomysql
    sends it (`failover.mysql.sign_in`).

    aiomysql's close, also after a cancellation, first sends what is buffered and, with TLS, waits
    for the server's close. With a frozen host both would last until it thaws.

    A firewall that restarts, or an address that moves, may lose a connection without telling: then
    nothing that is sent is acknowledged, and TCP would try for a quarter of an hour. (A frozen
    host's kernel still acknowledges.)

    Args:
        name: the name that the certificate must have; `host` is a numeric address.
        lost_ms: after so long without the acknowledgement of something sent, it is lost.
        reached: called when TCP is connected, before the server's greeting.
    """

    def __init__(self, name: str, lost_ms: int, reached: Callable[[], None], **words: Any) -> None:
        super().__init__(**words)
        self._name = name
        self._lost_ms = lost_ms
        self._reached = reached

    def close(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()
        super().close()

    async def _get_server_information(self) -> None:
        sock = self._writer.get_extra_info("socket")
        probe = max(1, self._lost_ms // 1000)  # while nothing is sent, every so many seconds
        for option, value in (
            (socket.TCP_USER_TIMEOUT, self._lost_ms),
            (socket.TCP_KEEPIDLE, probe),
            (socket.TCP_KEEPINTVL, probe),
        ):
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
        self._reached()
        await super()._get_server_information()

    async def _request_authentication(self) -> None:
        if self._ssl_context is not None and not self.server_capabilities & CLIENT.SSL:
            raise OperationalError(CR.CR_SSL_CONNECTION_ERROR, "the server offers no TLS")
        sign_in.check(self._server_auth_plugin, self._ssl_context is not None)
        # From here on aiomysql uses `_host` to verify the certificate, and in errors.
        self._host = self._name
        await super()._request_authentication()

    async def _process_auth(self, plugin_name: bytes, auth_packet: Any) -> Any:
        sign_in.check(plugin_name.decode("latin1"), self._secure)
        return await super()._process_auth(plugin_name, auth_packet)

    async def caching_sha2_password_auth(self, pkt: Any) -> Any:
        try:
            return await super().caching_sha2_password_auth(pkt)
        except ValueError:  # the text in the place of a key (sign_in.key)
            raise sign_in.no_key() from None


READ_ONLY = "(@@global.read_only NOT IN ('0','OFF') OR @@global.innodb_read_only)"
"""Whether the host refuses writes: read_only is a number, or a word on newer servers."""

STATUS_SQL = (
    "SELECT CONCAT_WS(':', @@hostname, @@port, @@server_id),"
    f" {READ_ONLY},"
    f" {clock_sql.MILLISECONDS}, VERSION(), @@version_comment, @@max_allowed_packet"
)
"""The server's identity, whether it refuses writes, its clock in ms since 1970 UTC, its version in
two parts, and the most bytes of a statement."""


BEGIN = "START TRANSACTION READ WRITE"
COMMIT = "COMMIT AND NO CHAIN NO RELEASE"
ROLLBACK = "ROLLBACK AND NO CHAIN NO RELEASE"
"""In full: the session's settings would decide what is left out."""


class _QuietCursor(aiomysql.Cursor):  # type: ignore[misc]
    """A cursor that does not fetch warnings, which costs a round trip for each statement."""

    async def _show_warnings(self, conn: object) -> None:
        return


@dataclass(frozen=True, slots=True)
class HostStatus:
    """A host's status, read on connect.

    Attributes:
        identity: names the server; the same for every name and address of it.
        read_only: whether it refuses an ordinary user's writes.
        generation: the primary's generation in its table; 0 if none was written yet.
        clock_ms: its clock, milliseconds since 1970 UTC.
        engine: MySQL or MariaDB, and which version.
        packet: most bytes of a command (max_allowed_packet): after a longer one the server closes
            the connection.
    """

    identity: str
    read_only: bool
    generation: int
    clock_ms: int
    engine: Engine
    packet: int = 1 << 20


class Session:
    """A connection with our `failover.mysql.session_variables`, and a timeout for each call.

    Only one task at a time may use it. What asks the server raises MySQLError, classified by
    `failover.mysql.errors`.
    """

    def __init__(self, connection: Any, cursor: Any, statement_seconds: float) -> None:
        self._connection = connection
        self._cursor = cursor
        self.statement_seconds = statement_seconds
        self.broken = False
        self.status: HostStatus | None = None
        self.unanswered = ""
        """The statement that the server may still run; empty once it has answered."""
        self.asked = 0.0
        """When the last statement was sent, on the loop's clock."""

    @property
    def number(self) -> int:
        """The last 32 bits of the connection's id on the server."""
        return int(self._connection.thread_id())

    @property
    def engine(self) -> Engine:
        """MySQL or MariaDB, and its version; known once `read_status` was called."""
        assert self.status is not None
        return self.status.engine

    @property
    def address(self) -> str:
        """The server's numeric address; empty once the connection is closed."""
        writer = self._connection._writer
        peer = writer.get_extra_info("peername") if writer is not None else None
        return str(peer[0]) if peer else ""

    @classmethod
    async def open(
        cls, host: HostPort, config: MySQL, handshake_seconds: float | None = None
    ) -> Session:
        """Connect. The name is looked up each time, because it may have moved.

        Args:
            handshake_seconds: the timeout once TCP is connected, if it is longer than
                `connect_timeout`: the server counts interrupted handshakes against this machine.

        Raises:
            MySQLError: the connect was refused or timed out, or the user may not sign in.
        """
        connection = None
        try:
            async with asyncio.timeout(config.connect_timeout / 1000) as bound:

                def reached() -> None:
                    if handshake_seconds is not None:
                        bound.reschedule(asyncio.get_running_loop().time() + handshake_seconds)

                connect = partial(_connect, host, config, reached)
                connection = await connect_by_name(host.host, connect)
                cursor = await connection.cursor(_QuietCursor)
                await cursor.execute(_SETTINGS)
        except BaseException as error:
            if connection is not None:
                connection.close()
            if not isinstance(error, Exception):
                raise
            known = _cannot_connect(error)
            hint = _HINTS.get(known.code)
            if hint is not None and not (config.tls and "mysql.tls" in hint):
                known = MySQLError(known.fault, known.code, f"{known.reason} ({hint})")
            raise known from error
        return cls(connection, cursor, config.statement_timeout / 1000)

    async def fetch(self, sql: str, args: tuple[Any, ...] | None = None) -> list[Row]:
        """Run a statement and return its rows."""
        await self._bounded(sql, self._cursor.execute(sql, args))
        return list(await self._cursor.fetchall())

    async def execute(self, sql: str, args: tuple[Any, ...] | None = None) -> int:
        """Run a statement and return how many rows it affected."""
        await self._bounded(sql, self._cursor.execute(sql, args))
        return int(self._cursor.rowcount)

    async def processlist(self) -> list[Row]:
        """SHOW PROCESSLIST: without any privilege the user's own connections.

        No rows if the server refuses it, as a proxy may.

        Raises:
            MySQLError: the connection is lost.
        """
        try:
            return await self.fetch("SHOW PROCESSLIST")
        except MySQLError:
            if self.broken:
                raise
            return []

    async def execute_many(self, sql: str, rows: Sequence[Row]) -> None:
        """Run a statement with each row, an INSERT with many at once; without rows once."""
        run = self._cursor.executemany(sql, rows) if rows else self._cursor.execute(sql)
        await self._bounded(sql, run)

    async def run_script(self, statements: Sequence[str]) -> list[Ran]:
        """Run statements in one round trip; the first one that fails ends it.

        Returns:
            The result of each statement; rows' values as bytes, as MySQL sends them.

        Raises:
            MySQLError: of the statement that failed. A transaction that was begun is still open.
        """
        connection = self._connection
        script = ";".join(statements)

        async def run() -> list[Ran]:
            await connection._execute_command(COMMAND.COM_QUERY, script)
            return await Answers(connection._reader, connection._next_seq_id).read()

        ran = await self._bounded(script, run())
        if len(ran) != len(statements):
            self.close()
            raise MySQLError(Fault.LOST, 0, "a script was answered in part")
        return ran

    async def _bounded(self, sql: str, answer: Awaitable[Result]) -> Result:
        self.unanswered, self.asked = sql, asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(self.statement_seconds):
                result = await answer
        except asyncio.CancelledError:
            self.close()
            raise
        except Exception as error:
            known = _known(error)
            if self.broken:
                known = MySQLError(Fault.LOST, 0, "the connection was closed meanwhile")
            if known.by_server:
                self.unanswered = ""
            if known.fault in (Fault.LOST, Fault.READ_ONLY):
                self.close()
            raise known from error
        self.unanswered = ""
        return result

    async def rollback(self) -> None:
        """Roll the transaction back; close the connection if that fails."""
        try:
            await self.execute(ROLLBACK)
        except MySQLError:
            self.close()

    async def read_status(self) -> HostStatus:
        """Ask the host for its status."""
        ((identity, read_only, clock_ms, version, comment, packet),) = await self.fetch(STATUS_SQL)
        try:
            found = await self.fetch("SELECT generation FROM tapedeck_generation WHERE id = 1")
        except MySQLError as error:
            if error.fault is not Fault.NO_TABLE:
                raise
            found = []
        self.status = HostStatus(
            identity=str(identity),
            read_only=bool(read_only),
            generation=int(found[0][0]) if found else 0,
            clock_ms=int(clock_ms),
            engine=Engine.of(str(version), str(comment)),
            packet=int(packet),
        )
        return self.status

    def close(self) -> None:
        """Close the connection at once, without sending what is buffered."""
        self.broken = True
        self._connection.close()


async def _connect(
    host: HostPort, config: MySQL, reached: Callable[[], None], address: str
) -> _Connection:
    connection = _Connection(
        host.host,
        config.connect_timeout,
        reached,
        host=address,
        port=host.port,
        user=config.user,
        password=config.password.get_secret_value(),
        db=config.database,
        charset="utf8mb4",
        autocommit=None,  # _SETTINGS turns it on, and saves a round trip
        # No connect_timeout: aiomysql's is asyncio.wait_for, which before Python 3.12
        # swallows a cancellation that comes with the connection (bpo-37658).
        ssl=await context_for(config),
        server_public_key=sign_in.key(config.public_key),
    )
    try:
        await connection._connect()
    except BaseException as error:
        connection.close()
        if isinstance(error, OperationalError) and isinstance(error.__cause__, OSError):
            raise error.__cause__ from None  # the driver's own error only says "Can't connect"
        raise
    return connection


def _cannot_connect(error: Exception) -> MySQLError:
    if isinstance(error, OSError) and not isinstance(error, TimeoutError):
        reason = f"cannot connect: {in_words(error)}"
        fault = Fault.OURS if is_ours(error) else Fault.LOST
        return MySQLError(fault, CR.CR_CONN_HOST_ERROR, reason)
    return _known(error)


def _known(error: Exception) -> MySQLError:
    """The MySQLError for an exception of the driver.

    An exception that is not MySQL's means that the connection is in a state that the driver did not
    expect (uvloop raises RuntimeError on a transport that was reset while idle): it counts as lost.
    """
    if isinstance(error, TlsProblem):
        return MySQLError(Fault.OURS, 0, f"mysql.{error}")
    return classify(error) or MySQLError(Fault.LOST, 0, repr(error))
