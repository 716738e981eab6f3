"""Connections to lookup nodes: TLS, credentials, and a parser that no node can fill up.

A lookup node may lie. What it says is verified elsewhere; here it is kept from costing memory: a
reply has a limit in bytes and in elements, and what RESP2 does not have (pushes and other RESP3
types, which hiredis would read all the same) ends the connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import hiredis
from redis._parsers import _AsyncHiredisParser
from redis._parsers.helpers import parse_info
from redis._parsers.hiredis import NOT_ENOUGH_DATA
from redis.asyncio import Connection as RedisConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse

from config.model import ClientTls, HostPort, Lookup
from failover.aside import PATIENCE
from failover.dns import connect_by_name
from failover.tls_contexts import context_for

Command: TypeAlias = tuple[bytes | int | str, ...]
_pack: Callable[[Command], bytes] = hiredis.pack_command  # type: ignore[assignment]

REPLY_BYTES = 256 * 1024
"""Of one reply at most. The longest that is asked for, HSCAN's of a packed entry, has some tens."""
ELEMENTS = REPLY_BYTES // 4
"""Of one reply at most, however nested: each takes four bytes or more. hiredis makes room for as
many as a header promises, before any of them came. (Text that looks like a header counts as one:
ours never does, and a neighbour's key ends no more than a look at it.)"""
_PROMISE = re.compile(rb"\n[*%~|>](\d+)\r")
_HEADER_BYTES = 32
_RESP2 = frozenset({bytes, str, int, list, type(None)})


class BoundedParser(_AsyncHiredisParser):
    """redis-py's parser on hiredis, for RESP2 alone and with limits."""

    __slots__ = ("_bytes", "_line", "_promised")
    most_bytes = REPLY_BYTES
    most_elements = ELEMENTS

    def on_connect(self, connection: Any) -> None:
        """A connection begins."""
        super().on_connect(connection)  # type: ignore[no-untyped-call]
        self._bytes = self._promised = 0
        # What came of a line that is not complete yet, from the end of the line before.
        self._line = b"\n"

    async def read_response(
        self, disable_decoding: bool = False, push_request: bool = False
    ) -> Any:
        """The next reply.

        Raises:
            redis.exceptions.ConnectionError: the connection is closed.
            redis.exceptions.InvalidResponse: what came is no RESP2, or too much.
        """
        if not self._connected:
            raise RedisConnectionError("the node closed the connection")
        reader: Any = self._reader
        reply = reader.gets(False) if disable_decoding else reader.gets()
        while reply is NOT_ENOUGH_DATA:
            await self._feed()
            reply = reader.gets(False) if disable_decoding else reader.gets()
        self._bytes = self._promised = 0
        if reply.__class__ not in _RESP2:
            if isinstance(reply, RedisConnectionError):
                raise reply
            if not isinstance(reply, Exception):
                raise InvalidResponse(f"a reply of type {type(reply).__name__}, which nobody asked")
        return reply

    @property
    def idle(self) -> bool:
        """Whether nothing came but what was asked for."""
        # redis-py waits for a read that times out to know this.
        reader: Any = self._reader
        stream: Any = self._stream
        return not reader.has_data() and not stream._buffer

    async def _feed(self) -> None:
        stream: Any = self._stream
        reader: Any = self._reader
        data = await stream.read(self._read_size)
        if not data:
            raise RedisConnectionError("the node closed the connection")
        self._check(data)
        reader.feed(data)

    def _check(self, data: bytes) -> None:
        self._bytes += len(data)
        if self._bytes > self.most_bytes:
            raise InvalidResponse(f"a reply longer than {self.most_bytes} bytes")
        seen = self._line + data
        for match in _PROMISE.finditer(seen):
            # More digits than any number has: hiredis refuses them.
            self._promised += int(match[1][:20])
        if self._promised > self.most_elements:
            raise InvalidResponse(f"a reply with more than {self.most_elements} elements")
        last = seen.rfind(b"\n")
        self._line = seen[last : last + _HEADER_BYTES]


class ClusterParser(BoundedParser):
    """The same, for nodes of a cluster: a thousand primaries with their replicas, and some ranges
    of slots each, take a megabyte."""

    __slots__ = ()
    most_bytes = 16 * REPLY_BYTES
    most_elements = 16 * ELEMENTS


_NO_CERTIFICATE = "it may ask for a client certificate: lookup.tls_certificate_file"


def info_of(reply: object) -> dict[str, Any]:
    """What INFO said, by word.

    Raises:
        ValueError: it is no answer to INFO.
    """
    if isinstance(reply, dict):
        return reply
    if not isinstance(reply, bytes):
        raise ValueError(f"INFO answered {reply!r}")
    parse: Callable[[object], dict[str, Any]] = parse_info
    return parse(reply)


class Connection(RedisConnection):
    """A connection that looks at the certificate files whenever it connects, also again."""

    def __init__(self, *, lookup: Lookup, **words: Any) -> None:
        super().__init__(**words)
        self._lookup = lookup
        self._context: ssl.SSLContext | None = None
        self._address: str = self.host
        self._seconds = float(words["socket_connect_timeout"])

    def _connection_arguments(self) -> dict[str, Any]:
        words: dict[str, Any] = {"host": self._address, "port": self.port}
        if self._context is not None:
            words |= {"ssl": self._context, "server_hostname": self.host}
        return words

    async def _connect(self) -> None:
        connect: Any = super()._connect

        async def to(address: str) -> None:
            self._address = address
            await connect()

        seconds: float = self._seconds
        async with asyncio.timeout(seconds):
            self._context = await context_for(self._lookup)
            # Most of the time is the node's.
            await connect_by_name(self.host, to, min(PATIENCE, seconds / 4))

    async def on_connect_check_health(self, check_health: bool = True) -> None:
        """Log in.

        Raises:
            redis.exceptions.RedisError: the node turned us away.
        """
        try:
            await super().on_connect_check_health(check_health)
        except (RedisConnectionError, OSError, RuntimeError) as error:
            # With TLS 1.3 a node judges our certificate after the handshake; where it closes with
            # our first command unread, the alert that says so is lost on the way.
            said_why = isinstance(error.__cause__ or error.__context__, ssl.SSLError) or (
                isinstance(error, RedisConnectionError) and type(error) is not RedisConnectionError
            )
            if said_why or not self._lookup.tls or self._lookup.tls_certificate_file:
                raise
            raise RedisConnectionError(f"{error}; {_NO_CERTIFICATE}") from None

    async def disconnect(self, *args: Any, **words: Any) -> None:
        """Close it at once: a frozen node takes neither what is still to be sent nor TLS's
        farewell."""
        writer: Any = self._writer
        if writer is not None:
            writer.transport.abort()
        await super().disconnect(*args, **words)

    async def ask(self, packed: bytes, count: int) -> list[Any]:
        """Send commands, packed, and read as many replies; an error stands as the exception.

        The way of redis-py's pipelines takes some fifty microseconds a command, for what nobody
        uses here: retries, decoding, callbacks, observability.

        Raises:
            Exception: the connection is of no use any more.
        """
        writer: Any = self._writer
        parser: Any = self._parser
        writer.write(packed)
        await writer.drain()
        return [await parser.read_response() for _ in range(count)]

    @property
    def usable(self) -> bool:
        """Whether another batch can be sent: connected, and nothing unasked came."""
        reader: Any = self._reader
        writer: Any = self._writer
        parser: Any = self._parser
        return (
            reader is not None
            and not reader.at_eof()
            and reader.exception() is None
            and not writer.is_closing()
            and parser.idle
        )

    def drop(self) -> None:
        """Close it at once, whatever is under way."""
        writer: Any = self._writer
        parser: Any = self._parser
        if writer is not None:
            writer.transport.abort()
        parser.on_disconnect()
        self._reader = self._writer = None


class Link:
    """A few connections to one node, each for one batch at a time.

    Args:
        seconds: for a connect, and for the first batch after it.
    """

    def __init__(self, server: HostPort, config: Lookup, seconds: float) -> None:
        self._words = _words(server, config, seconds)
        self._seconds = seconds
        self._free: list[Connection] = []
        most = config.server_connections
        # Whoever finds none free waits for one, within the time that its batch has anyway.
        self._places = asyncio.Semaphore(most) if most is not None else contextlib.nullcontext()
        self._closed = False
        self._busy = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def ask(self, commands: Sequence[Command]) -> list[Any]:
        """A reply for each command, in one round trip; an error stands as the exception.

        Raises:
            Exception: no connection, or it failed.
        """
        packed = b"".join([_pack(command) for command in commands])
        self._busy += 1
        self._idle.clear()
        try:
            async with self._places:
                connection = self._take()
                try:
                    if connection.is_connected:
                        replies = await connection.ask(packed, len(commands))
                    else:
                        await connection.connect()  # type: ignore[no-untyped-call]
                        # A bound of its own: redis-py may have swallowed the caller's while it
                        # logged in (see failover.tasks).
                        async with asyncio.timeout(self._seconds):
                            replies = await connection.ask(packed, len(commands))
                except BaseException:
                    connection.drop()
                    raise
                if self._closed:
                    connection.drop()
                else:
                    self._free.append(connection)
                return replies
        finally:
            self._busy -= 1
            if not self._busy:
                self._idle.set()

    def _take(self) -> Connection:
        """A connection, perhaps not made yet; the one that was used last, if it is in order."""
        while self._free:
            connection = self._free.pop()
            if connection.usable:
                return connection
            connection.drop()
        return Connection(**self._words)

    def renew(self) -> None:
        """Close those that wait for a batch, so that the next batch connects anew.

        What is under way ends as it will.
        """
        while self._free:
            self._free.pop().drop()

    async def close(self, patience: float) -> None:
        """Close them once what is under way was answered; what comes later closes its own.

        Args:
            patience: seconds to wait for that.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while self._busy:
                    await self._idle.wait()
        self._closed = True
        self.renew()


OF_CONNECTIONS = (
    *("timeout", "username", "password", "tcpkeepalive", "server_connections"),
    *ClientTls.model_fields,
)
"""The words of the configuration that a connection is made from."""


def cluster_words(config: Lookup) -> dict[str, Any]:
    """What redis-py's cluster client makes its connections from."""
    words = _words(config.servers[0], config, config.timeout / 1000)
    for word in ("host", "port", "retry"):
        del words[word]
    return {**words, "parser_class": ClusterParser}


def _words(server: HostPort, config: Lookup, seconds: float) -> dict[str, Any]:
    return {
        "parser_class": BoundedParser,
        "lookup": config,
        "host": server.host,
        "port": server.port,
        "db": config.redis_db,
        "username": config.username,
        "password": config.password.get_secret_value() if config.password else None,
        "socket_timeout": seconds,
        "socket_connect_timeout": seconds,
        "socket_keepalive": config.tcpkeepalive,
        "retry": Retry(NoBackoff(), 0),
        # No CLIENT SETNAME, no CLIENT SETINFO: there are nodes (renamed commands, Envoy, KeyDB,
        # twemproxy) that refuse them, or hang up.
        "driver_info": None,
        "protocol": 2,
    }
