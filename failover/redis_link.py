"""Connections to lookup nodes: TLS, credentials, and a parser that no node can fill up.

A lookup node may lie. What it says is verified elsewhere; here it is kept from costing memory: a
reply has a limit in bytes and in elements, and what RESP2 does not have (pushes and other RESP3
types, which hiredis would read all the same) ends the connection.
"""

from __future__ import annotations

import re
import ssl
from typing import Any

from redis._parsers import _AsyncHiredisParser
from redis._parsers.hiredis import NOT_ENOUGH_DATA
from redis.asyncio import BlockingConnectionPool, Connection, ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse

from tapedeck.config.model import ClientTls, Lookup, LookupServer
from tapedeck.config.tls import ClientContexts

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
        stream: Any = self._stream
        reply = reader.gets(False) if disable_decoding else reader.gets()
        while reply is NOT_ENOUGH_DATA:
            data = await stream.read(self._read_size)
            if not data:
                raise RedisConnectionError("the node closed the connection")
            self._check(data)
            reader.feed(data)
            reply = reader.gets(False) if disable_decoding else reader.gets()
        self._bytes = self._promised = 0
        if reply.__class__ not in _RESP2:
            if isinstance(reply, RedisConnectionError):
                raise reply
            if not isinstance(reply, Exception):
                raise InvalidResponse(f"a reply of type {type(reply).__name__}, which nobody asked")
        return reply

    def _check(self, data: bytes) -> None:
        self._bytes += len(data)
        if self._bytes > REPLY_BYTES:
            raise InvalidResponse(f"a reply longer than {REPLY_BYTES} bytes")
        seen = self._line + data
        for match in _PROMISE.finditer(seen):
            # More digits than any number has: hiredis refuses them.
            self._promised += int(match[1][:20])
        if self._promised > ELEMENTS:
            raise InvalidResponse(f"a reply with more than {ELEMENTS} elements")
        last = seen.rfind(b"\n")
        self._line = seen[last : last + _HEADER_BYTES]


_NO_CERTIFICATE = "it may ask for a client certificate: lookup.tls_certificate_file"


class _Connection(Connection):
    """A connection that looks at the certificate files whenever it connects, also again."""

    def __init__(self, *, lookup: Lookup, contexts: ClientContexts, **words: Any) -> None:
        super().__init__(parser_class=BoundedParser, **words)
        self._lookup = lookup
        self._contexts = contexts

    def _connection_arguments(self) -> dict[str, Any]:
        return {**super()._connection_arguments(), "ssl": self._contexts.get(self._lookup)}

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


OF_CONNECTIONS = (
    *("timeout", "username", "password", "tcpkeepalive", "server_connections"),
    *ClientTls.model_fields,
)
"""The words of the configuration that a connection is made from."""


def connect(server: LookupServer, config: Lookup, seconds: float) -> Redis:
    """A client of one node, that tries each command once; it connects when it is used.

    Args:
        seconds: for a connect, and for an answer.
    """
    words: dict[str, Any] = {
        "connection_class": _Connection,
        "lookup": config,
        "contexts": ClientContexts(),
        "host": server.host,
        "port": server.port,
        "db": config.redis_db,
        "username": config.username,
        "password": config.password.get_secret_value() if config.password else None,
        "socket_timeout": seconds,
        "socket_connect_timeout": seconds,
        "socket_keepalive": config.tcpkeepalive,
        "retry": Retry(NoBackoff(), 0),
        "client_name": "tapedeck",
        "protocol": 2,
    }
    if config.server_connections is None:
        return Redis.from_pool(ConnectionPool(**words))
    # Whoever finds none free waits for one, within the time that its batch has anyway.
    most = config.server_connections
    return Redis.from_pool(BlockingConnectionPool(max_connections=most, timeout=None, **words))
