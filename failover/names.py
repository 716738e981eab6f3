"""The addresses of peers' names: a silent DNS server costs its own name only.

`getaddrinfo` blocks its thread for as long as the resolver tries (10 s by glibc's defaults), and
nothing can cancel it. An event loop has few such threads for everything. Here each name has one
look-up under way at most, in a thread of its own, and everybody who wants the name waits for that
one. The last good addresses of a name are kept: while it is silent, or its look-up fails, they are
used.

An answer is never kept for its own sake: each connect looks the name up, as names that move on a
failover demand. How long an answer holds (its TTL) is the business of the system's resolver, which
does not tell.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import TypeVar

PATIENCE = 0.25
"""Seconds to wait for a name whose last good addresses are known, at most."""
LOOKUPS = 256
"""At once, at most: as many threads. A Redis Cluster says itself which names its nodes have."""
REMEMBERED = 4096
"""Names at most."""

Addresses = tuple[str, ...]
T = TypeVar("T")


class _Name:
    """What is known of one name.

    Attributes:
        addresses: the last good ones; empty before the first.
        looking: the look-up that is under way.
        silent: whether the last look-up failed or did not answer in time.
    """

    __slots__ = ("addresses", "looking", "silent")

    def __init__(self) -> None:
        self.addresses: Addresses = ()
        self.looking: Future[Addresses] | None = None
        self.silent = False


class Names:
    """Looks names up.

    Args:
        ask: gives a name's addresses, and may block.
    """

    def __init__(self, ask: Callable[[str], Addresses] | None = None) -> None:
        self._ask = ask or _ask_system
        self._names: dict[str, _Name] = {}

    async def look_up(self, host: str, patience: float = PATIENCE) -> Addresses:
        """The addresses of a host, numeric, the best first; at least one.

        The caller bounds the time that it has for a name that was never known.

        Args:
            host: a name, or a numeric address, which is given back.
            patience: seconds until the last good addresses are used, where there are some. A name
                that did not answer last time is not waited for.

        Raises:
            OSError: the look-up failed, and the name was never known (`socket.gaierror`).
        """
        if is_numeric(host):
            return (host,)
        name = self._names.get(host)
        if name is None:
            self._make_room()
            name = self._names[host] = _Name()
        known = name.addresses
        try:
            looking = name.looking or self._begin(host, name)
            if known and name.silent:
                return known
            # Whoever is cancelled leaves the look-up to the others: a running one takes no cancel.
            async with asyncio.timeout(patience if known else None):
                return await asyncio.wrap_future(looking)
        except OSError:  # also TimeoutError
            if not known:
                raise
            name.silent = True
            return known

    def _begin(self, host: str, name: _Name) -> Future[Addresses]:
        if sum(known.looking is not None for known in self._names.values()) >= LOOKUPS:
            raise socket.gaierror(socket.EAI_AGAIN, f"{LOOKUPS} names are being looked up already")
        looking: Future[Addresses] = Future()
        looking.set_running_or_notify_cancel()
        name.looking = looking
        # A daemon: the process ends without waiting for a resolver.
        thread = threading.Thread(
            target=self._run, args=(host, name, looking), name=f"name-{host}", daemon=True
        )
        try:
            thread.start()
        except (RuntimeError, MemoryError) as error:
            name.looking = None
            raise socket.gaierror(socket.EAI_MEMORY, f"no thread to look it up: {error}") from None
        return looking

    def _run(self, host: str, name: _Name, looking: Future[Addresses]) -> None:
        try:
            found = self._ask(host)
        except Exception as error:
            name.looking = None
            looking.set_exception(error if isinstance(error, OSError) else OSError(str(error)))
        else:
            name.addresses = found
            name.silent = False
            name.looking = None
            looking.set_result(found)

    def _make_room(self) -> None:
        while len(self._names) >= REMEMBERED:
            oldest = next(iter(self._names))
            del self._names[oldest]


def _ask_system(host: str) -> Addresses:
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(str(address[0]) for *_, address in found))


NAMES = Names()
"""Those of this process."""


def is_numeric(host: str) -> bool:
    """Whether it is an address, so that there is nothing to look up."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


async def connect_by_name(
    host: str, connect: Callable[[str], Awaitable[T]], patience: float = PATIENCE
) -> T:
    """Connect to the first address of a host that takes a connection.

    Args:
        host: a name or an address.
        connect: connects to a numeric address; raises OSError where there is nobody.
        patience: as for `Names.look_up`.

    Raises:
        OSError: no address took it, or the name has none. A TLS handshake that failed, and time
            that ran out, are not tried again elsewhere.
    """
    *first, last = await NAMES.look_up(host, patience)
    for address in first:
        try:
            return await connect(address)
        except (ssl.SSLError, TimeoutError):
            raise
        except OSError:
            continue
    return await connect(last)
