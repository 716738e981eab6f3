"""Name look-ups for aiohttp's client, in the same way as for MySQL and the lookup nodes."""

from __future__ import annotations

import socket

from aiohttp.abc import AbstractResolver, ResolveResult

from failover.dns import NAMES


class Names(AbstractResolver):
    """A resolver that uses no thread of the event loop's executor."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST,
            )
            for address in await NAMES.look_up(host)
        ]

    async def close(self) -> None:
        """Does nothing."""
