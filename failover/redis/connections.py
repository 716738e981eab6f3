"""Connections to lookup nodes: TLS, credentials, and bounds that no node can exceed.

A lookup node may send anything. Hints are verified elsewhere; here a node is kept from using up
memory: a reply has a limit in bytes and in elements, and types that RESP2 does not have (pushes and
other RESP3 types, which hiredis would read) end the connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, cast

import hiredis

from config.model import ClientTls, HostPort, Lookup
from failover.blocking_calls import PATIENCE
from failover.dns import connect_by_name
from failover.tls_contexts import context_for

Command: TypeAlias = tuple[bytes | int | str, ...]
_pack: Callable[[Command], bytes] = hiredis.pack_command  # type: ignore[assignment]

REPLY_BYTES = 256 * 1024
"""Most bytes of one reply. The longest one, HSCAN's of a packed entry, has some tens of KiB."""
ELEMENTS = REPLY_BYTES // 4
"""Most elements of one reply, nested ones included: each takes four bytes or more. hiredis
allocates as many as a header announces, before they arrive. (Text that looks like a header is
counted too: our own never does, and another application's only ends that connection.)"""
_PROMISE = re.compile(rb"\n[*%~|>](\d+)\r")
_HEADER_BYTES = 32
_PIECE = 64 * 1024
"""Bytes that are parsed together."""
_RESP2 = frozenset({bytes, str, int, list, type(None)})
_MORE = object()


class NodeError(Exception):
    """A node's error reply to a command."""


def info_of(reply: object) -> dict[str, str]:
    """The values of an INFO reply, by name.

    Raises:
        ValueError: it is not a reply to INFO.
    """
    if not isinstance(reply, bytes):
        raise ValueError(f"INFO answered {reply!r}")
    lines = reply.decode(errors="replace").splitlines()
    return {word: value for word, colon, value in (line.partition(":") for line in lines) if colon}


class Connection(asyncio.Protocol):
    """A connection to one node, for one batch of commands at a time.

    Args:
        times: by how much a reply may exceed `REPLY_BYTES` and `ELEMENTS`.
    """

    def __init__(self, times: int = 1) -> None:
        self._most_bytes, self._most_elements = times * REPLY_BYTES, times * ELEMENTS
        self._reader = hiredis.Reader(replyError=_node_error, notEnoughData=_MORE)
        self._bytes = self._promised = 0
        # The beginning of an incomplete line, with the end of the line before it.
        self._line = b"\n"
        self._due = 0
        self._replies: list[Any] = []
        self._answer: asyncio.Future[list[Any]] | None = None
        self._transport: asyncio.Transport

    @property
    def usable(self) -> bool:
        return not self._transport.is_closing()

    async def ask(self, packed: bytes, count: int) -> list[Any]:
        """Send packed commands, and read `count` replies; an error reply is a `NodeError` in the
        list.

        Raises:
            Exception: the connection cannot be used any more.
        """
        if not self.usable:
            raise ConnectionError("the node closed the connection")
        if not count:
            return []
        self._due, self._replies = count, []
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(packed)
        try:
            return await self._answer
        finally:
            self._answer = None

    def drop(self) -> None:
        """Close the connection at once: a frozen node would delay an orderly close."""
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        error = ConnectionError("the node closed the connection")
        error.__cause__ = exc
        self._fail(error)

    def data_received(self, data: bytes) -> None:
        try:
            for start in range(0, len(data), _PIECE):
                self._read(data[start : start + _PIECE])
        except Exception as error:
            self._fail(error)
            self.drop()

    def _read(self, data: bytes) -> None:
        """Read the replies that are complete now.

        Raises:
            hiredis.ProtocolError: a reply is not RESP2, over a limit, or was not asked for.
        """
        self._check(data)
        self._reader.feed(data)
        answer = self._answer
        while answer is not None and len(self._replies) < self._due:
            reply = self._reader.gets()
            if reply is _MORE:
                return
            self._bytes = self._promised = 0
            if reply.__class__ not in _RESP2 and not isinstance(reply, NodeError):
                raise hiredis.ProtocolError(
                    f"a reply of type {type(reply).__name__}, which was not asked for"
                )
            self._replies.append(reply)
        if answer is not None and not answer.done():
            answer.set_result(self._replies)
        if self._reader.has_data() or answer is None:
            raise hiredis.ProtocolError("it said more than it was asked")

    def _check(self, data: bytes) -> None:
        self._bytes += len(data)
        if self._bytes > self._most_bytes:
            raise hiredis.ProtocolError(f"a reply longer than {self._most_bytes} bytes")
        seen = self._line + data
        for match in _PROMISE.finditer(seen):
            # hiredis refuses numbers with more digits.
            self._promised += int(match[1][:20])
        if self._promised > self._most_elements:
            raise hiredis.ProtocolError(f"a reply with more than {self._most_elements} elements")
        last = seen.rfind(b"\n")
        self._line = seen[last : last + _HEADER_BYTES]

    def _fail(self, error: Exception) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)


def _node_error(said: str) -> NodeError:
    return NodeError(said[:200])


class Link:
    """A few connections to one node, each for one batch at a time (`times` as of `Connection`)."""

    def __init__(self, server: HostPort, config: Lookup, times: int = 1) -> None:
        self._server = server
        self._config = config
        self._times = times
        self._free: list[Connection] = []
        most = config.server_connections
        # A batch that finds no free connection waits for one, within its own timeout.
        self._places = asyncio.Semaphore(most) if most is not None else contextlib.nullcontext()
        self._closed = False

    async def ask(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands in one round trip; return their replies, errors as `NodeError` in the list.

        The caller sets a timeout.

        Raises:
            Exception: the connect failed, or the connection did.
        """
        packed = b"".join([_pack(command) for command in commands])
        async with self._places:
            connection = self._take()
            if connection is None:
                connection, replies = await self._ask_first(packed, len(commands))
            else:
                try:
                    replies = await connection.ask(packed, len(commands))
                except BaseException:
                    connection.drop()
                    raise
            if self._closed:
                connection.drop()
            else:
                self._free.append(connection)
            return replies

    def _take(self) -> Connection | None:
        """The connection that was used last, if one is usable."""
        while self._free:
            connection = self._free.pop()
            if connection.usable:
                return connection
        return None

    async def _ask_first(self, packed: bytes, count: int) -> tuple[Connection, list[Any]]:
        """Connect, log in, and send a batch.

        Raises:
            NodeError: the node refused the login.
            Exception: the connect failed, or the connection did.
        """
        config = self._config
        context = await context_for(config)
        login = _login(config)
        # The look-up gets at most a quarter of the time.
        patience = min(PATIENCE, config.timeout / 4000)
        connection = await connect_by_name(
            self._server.host, lambda address: self._connect(address, context), patience
        )
        try:
            for reply in await connection.ask(b"".join(map(_pack, login)), len(login)):
                if isinstance(reply, NodeError):
                    raise reply
            return connection, await connection.ask(packed, count)
        except ConnectionError as error:
            connection.drop()
            # With TLS 1.3 a node checks our certificate after the handshake. If it then closes the
            # connection without reading our first command, its alert gets lost.
            said_why = isinstance(error.__cause__, ssl.SSLError)
            if said_why or context is None or config.tls_certificate_file:
                raise
            raise ConnectionError(
                f"{error}; it may ask for a client certificate: lookup.tls_certificate_file"
            ) from None
        except BaseException:
            connection.drop()
            raise

    async def _connect(self, address: str, context: ssl.SSLContext | None) -> Connection:
        loop = asyncio.get_running_loop()
        transport, connection = await loop.create_connection(
            lambda: Connection(self._times),
            address,
            self._server.port,
            ssl=context,
            server_hostname=self._server.host if context is not None else None,
        )
        if self._config.tcpkeepalive:
            sock = transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return connection

    def renew(self) -> None:
        """Close idle connections, so that the next batch connects anew.

        Batches under way are not interrupted.
        """
        while self._free:
            self._free.pop().drop()

    def close(self) -> None:
        """Close idle connections. A batch under way is not interrupted, and closes its own."""
        self._closed = True
        self.renew()


OF_SIGN_IN = ("username", "password", *ClientTls.model_fields)
"""The values of the configuration for which a node may refuse a connection."""
OF_CONNECTIONS = (*OF_SIGN_IN, "timeout", "tcpkeepalive", "server_connections")
"""The values of the configuration that connections depend on."""


def _login(config: Lookup) -> list[Command]:
    """The first commands of a connection. No CLIENT SETNAME, no CLIENT SETINFO: some nodes (renamed
    commands, Envoy, KeyDB, twemproxy) refuse them, or close the connection."""
    commands: list[Command] = []
    if config.password is not None:
        user = [config.username] if config.username else []
        commands.append(("AUTH", *user, config.password.get_secret_value()))
    if config.redis_db:
        commands.append(("SELECT", config.redis_db))
    return commands
