"""Requests to services that an operator names: other gateways, and the login service."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from config.model import ClientTls
from failover.dns import NAMES
from failover.tls_contexts import context_for
from gateway.http.request_body import read_whole

MOST_BYTES = 64 * 1024
"""Most bytes of an answer."""


class _Names(AbstractResolver):
    """Looks names up as for MySQL and the lookup nodes: in no thread of the loop's executor."""

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


async def ask(
    method: str, url: str, tls: ClientTls, seconds: float, **sent: Any
) -> tuple[int, bytes]:
    """Send a request, and return the answer's status and body.

    Redirects are not followed: no other server may get the token or the password.

    Args:
        tls: how an https server is verified.
        seconds: for the whole answer.
        sent: arguments of aiohttp's request: `json`, `headers`.

    Raises:
        OSError, TimeoutError, aiohttp.ClientError: no answer.
        TlsProblem: a file of `tls` cannot be used.
        ValueError: the answer has more than MOST_BYTES.
    """
    async with asyncio.timeout(seconds):
        context = await context_for(tls) if url.startswith("https:") else None
        connector = aiohttp.TCPConnector(resolver=_Names(), force_close=True)
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.request(
                method, url, allow_redirects=False, ssl=context or True, **sent
            ) as answer,
        ):
            body = await read_whole(answer.content, MOST_BYTES)
            if body is None:
                raise ValueError(f"it answers more than {MOST_BYTES} bytes")
            return answer.status, body
