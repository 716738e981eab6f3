"""Listening sockets: bound with helpful errors, closed without losing a connection."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable
from functools import partial
from typing import Any

import structlog

from config.model import ServerTls
from config.tls import TlsProblem, server_context
from config.values import join_address
from failover import tasks
from failover.blocking_calls import in_thread
from gateway.http.application import Application
from gateway.http.protocol import HttpConnection, Server

BACKLOG = 1024
SETTLE_SECONDS = 0.25
"""Seconds that the last accepted connections have to send a request."""
HANDSHAKE_SECONDS = 10.0
"""Most seconds of a TLS handshake."""
LAST_HANDSHAKES_SECONDS = 2.0
"""Most seconds that a stop waits for TLS handshakes: two round trips of a distant client."""
_ACCEPT_AT_ONCE = BACKLOG // 2
"""Most connections that a turn of the event loop accepts. An accept takes some 0.1 ms."""
_ACCEPT_AT_MOST = 65_536
_GOODBYE_SECONDS = 1.0
"""Seconds that a client has to end its side of TLS."""
NONE_LEFT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_PAUSE_SECONDS = 0.1
"""Seconds until the next accept, if there was no descriptor or memory for one."""

_log = structlog.get_logger()


class PortTaken(Exception):
    """A port cannot be bound; says what to do."""


def bind(host: str, port: int, value: str, option: str, *, shared: bool = False) -> socket.socket:
    """A bound TCP socket that does not listen yet. Raises PortTaken.

    Args:
        port: 0 for any free one.
        value, option: the port's name in the configuration and on the command line, for errors.
        shared: bind with SO_REUSEPORT, beside other sockets of ours.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        section = value.partition(".")[0]
        raise PortTaken(f"{section}.host {host!r} cannot be resolved: {error.strerror}") from None
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(address)
    except OSError as error:
        sock.close()
        raise PortTaken(
            f"port {port} on {host} cannot be used ({error.strerror}): "
            f"change {value} in the configuration, or give {option}"
        ) from None
    return sock


def bind_shared(host: str, port: int, count: int, value: str, option: str) -> list[socket.socket]:
    """`count` sockets on one port; the kernel spreads connections over those that listen.

    Raises PortTaken, even if another process shares the port.
    """
    # With SO_REUSEPORT we would silently share a port of another gateway: try without it first.
    with bind(host, port, value, option) as probe:
        port = probe.getsockname()[1]
    return [bind(host, port, value, option, shared=True) for _ in range(count)]


class Listening:
    """An application on a bound socket. A UNIX socket has no TLS; `tls` returns that of a TCP port
    now.
    """

    def __init__(
        self,
        application: Application,
        sock: socket.socket,
        tls: Callable[[], ServerTls] = ServerTls,
    ) -> None:
        self.application = application
        self._sock = sock
        self._tls = tls
        self._server = Server(application)
        self._context: ssl.SSLContext | None = None
        self._renewing: asyncio.Task[None] | None = None
        self._opening: set[asyncio.Task[None]] = set()

    @property
    def connections(self) -> int:
        return len(self._server.connections)

    @property
    def accepted(self) -> int:
        return self._server.accepted

    def close_idle(self, seconds: float) -> None:
        """Close the connections on which nothing was asked for that long."""
        for connection in self._server.connections:
            if isinstance(connection, HttpConnection):
                connection.close_idle(seconds)

    @property
    def address(self) -> str:
        return join_address(*self._sock.getsockname()[:2])

    async def start(self) -> None:
        self._sock.setblocking(False)
        self._sock.listen(BACKLOG)
        await self._read_certificate()
        self._accept_again()

    def _accept_again(self) -> None:
        if self._sock.fileno() >= 0:
            asyncio.get_running_loop().add_reader(self._sock, self._accept_waiting, _ACCEPT_AT_ONCE)

    def _accept_waiting(self, most: int) -> None:
        """Accept connections that wait.

        An event loop accepts one connection in each of its turns: with many busy connections, whose
        turns are long, new ones would wait for seconds.
        """
        admission = self.application.admission
        for _ in range(most):
            try:
                connection, address = self._sock.accept()
            except (BlockingIOError, ConnectionError):
                return
            except OSError as error:
                if error.errno in NONE_LEFT:
                    loop = asyncio.get_running_loop()
                    loop.remove_reader(self._sock)
                    loop.call_later(_PAUSE_SECONDS, self._accept_again)
                return
            opening = asyncio.create_task(self._open(connection))
            self._opening.add(opening)
            opening.add_done_callback(self._opening.discard)
            if admission is not None:
                if self._context is not None:
                    admission.handshake_begun(connection, address[0])
                if admission.must_wait(connection.fileno()):
                    return

    async def _open(self, connection: socket.socket) -> None:
        """Serve a connection, after its TLS handshake."""
        connection.setblocking(False)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                partial(self._server, connection), connection, **self._tls_options()
            )
        except OSError:
            pass  # it has gone, or its TLS handshake failed
        finally:
            if self.application.admission is not None:
                self.application.admission.handshake_failed(connection)

    def _tls_options(self) -> dict[str, Any]:
        if self._context is None:
            return {}
        return {
            "ssl": self._context,
            "ssl_handshake_timeout": HANDSHAKE_SECONDS,
            "ssl_shutdown_timeout": _GOODBYE_SECONDS,
        }

    async def _read_certificate(self) -> None:
        if self._sock.family != socket.AF_UNIX:
            self._context = await in_thread("tls-files", partial(server_context, self._tls()))

    def renew(self) -> None:
        """Read the certificate files again, for new connections; open ones stay."""
        if self._sock.family != socket.AF_UNIX:
            self._renewing = asyncio.get_running_loop().create_task(self._renew(self._renewing))

    async def _renew(self, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await before
        try:
            await self._read_certificate()
        except (TlsProblem, OSError) as error:
            # The files have changed again since the reload checked them.
            _log.error("certificate refused", reason=str(error))

    async def stop_accepting(self) -> None:
        """Refuse new connections; those that the kernel has accepted are served."""
        if self._renewing is not None:
            await self._renewing
        if self._sock.fileno() < 0:
            return
        asyncio.get_running_loop().remove_reader(self._sock)
        self._accept_waiting(_ACCEPT_AT_MOST)
        self._sock.close()

    async def stop(self, seconds: float) -> bool:
        """Stop accepting, finish what is in flight, close; return whether everything was finished.

        After `seconds` requests in flight are cut off.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        await self.stop_accepting()
        finished = True
        if self._opening:
            # The clients of these TLS handshakes have sent no request yet.
            await asyncio.wait(self._opening, timeout=min(seconds, LAST_HANDSHAKES_SECONDS))
        try:
            async with asyncio.timeout_at(end):
                if self._server.connections or self._opening:
                    await asyncio.sleep(SETTLE_SECONDS)
                await self.application.quiet()
        except TimeoutError:
            finished = not self.application.in_flight
        await tasks.stop(*self._opening)
        self._server.pre_shutdown()
        await self._server.shutdown(max(end - loop.time(), 0.1))
        return finished
