"""Proxies: a listening port, an upstream, the toxics between them, and the live connections."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Any

from config.values import join_address, split_address
from drills.injector.connection import Connection, Side
from drills.injector.toxics import STREAMS, Toxic

_BACKLOG = 1024


class Proxy:
    """One proxy. It starts disabled.

    Attributes:
        listen: host:port; the real port once it has been enabled.
        enabled: whether it accepts connections.
        toxics: those upstream first, then in the order they were added.
    """

    def __init__(self, name: str, listen: str, upstream: str) -> None:
        self.name = name
        self.listen = listen
        self.upstream = upstream
        self.connections: set[Connection] = set()
        self._toxics: dict[str, Toxic] = {}
        self._server: asyncio.Server | None = None

    @property
    def enabled(self) -> bool:
        return self._server is not None

    @property
    def toxics(self) -> list[Toxic]:
        return sorted(self._toxics.values(), key=lambda toxic: STREAMS.index(toxic.stream))

    def as_json(self) -> dict[str, Any]:
        """PROXY in the words of the API."""
        return {
            "name": self.name,
            "listen": self.listen,
            "upstream": self.upstream,
            "enabled": self.enabled,
            "toxics": [toxic.as_json() for toxic in self.toxics],
        }

    async def enable(self) -> None:
        """Listen, if it does not.

        Raises:
            OSError: it cannot, or an address is malformed; it is disabled then.
        """
        if self.enabled:
            return
        try:
            upstream = split_address(self.upstream)
            host, port = split_address(self.listen)
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        except (OSError, ValueError) as error:
            # Python's own words repeat the address.
            number = error.errno or 0 if isinstance(error, OSError) else 0
            reason = os.strerror(number).lower() if number > 0 else str(error)
            raise OSError(f"listen tcp {self.listen}: {reason}") from None

        def accept() -> Side:
            connection = Connection(upstream, lambda: self.toxics, self.connections.discard)
            self.connections.add(connection)
            return connection.client

        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(accept, sock=listener, backlog=_BACKLOG)
        self.listen = join_address(host, listener.getsockname()[1])

    def disable(self) -> None:
        """Refuse connections and close the live ones. The toxics stay."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in list(self.connections):
            connection.cut()

    async def update(self, *, listen: str, upstream: str, enabled: bool) -> None:
        """Take other addresses, and be enabled or not.

        Raises:
            OSError: it cannot be enabled.
        """
        if (listen, upstream) != (self.listen, self.upstream):
            self.disable()
            self.listen, self.upstream = listen, upstream
        if enabled:
            await self.enable()
        else:
            self.disable()

    def toxic(self, name: str) -> Toxic | None:
        """The toxic of that name."""
        return self._toxics.get(name)

    def add(self, toxic: Toxic) -> None:
        """Expose all connections to it, also those that are open."""
        self._toxics[toxic.name] = toxic
        for connection in list(self.connections):
            connection.attach(toxic)

    def remove(self, toxic: Toxic) -> None:
        """Free all connections of it."""
        del self._toxics[toxic.name]
        for connection in list(self.connections):
            connection.detach(toxic)
