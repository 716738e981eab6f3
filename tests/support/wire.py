"""Sockets on both sides of a proxy, and what arrives on them."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable

from drills.toxiproxy import Link


class Upstream:
    """A server whose side of each connection the test plays itself, through a socket."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(5)
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.sockets = contextlib.ExitStack()

    def accept(self) -> socket.socket:
        accepted = self.sockets.enter_context(self.listener.accept()[0])
        accepted.settimeout(5)
        return accepted

    def connect(self, link: Link) -> tuple[socket.socket, socket.socket]:
        """A connection through the proxy: the client's socket and the server's."""
        return self.knock(link), self.accept()

    def knock(self, link: Link) -> socket.socket:
        return self.sockets.enter_context(socket.create_connection((link.host, link.port), 5))

    def close(self) -> None:
        self.sockets.close()
        self.listener.close()


def read_exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = sock.recv(size - len(data))
        assert piece, f"EOF after {len(data)} of {size} bytes"
        data += piece
    return data


def silent(sock: socket.socket, seconds: float = 0.2) -> bool:
    """Whether nothing arrives and the connection stays open for so many seconds."""
    sock.settimeout(seconds)
    try:
        sock.recv(1)
    except TimeoutError:
        return True
    finally:
        sock.settimeout(5)
    return False


def closed(sock: socket.socket) -> bool:
    """Wait for what arrives next; return whether it is the connection's end, closed or reset."""
    try:
        return sock.recv(1) == b""
    except ConnectionError:
        return True


def took(act: Callable[[], object]) -> float:
    start = time.monotonic()
    act()
    return time.monotonic() - start
