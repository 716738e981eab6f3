"""The addresses of peers' names: a silent DNS server costs its own name only.

`getaddrinfo` blocks its thread for as long as the resolver tries (10 s by glibc's defaults): each
name is looked up aside (`aside.py`). While it is silent, or its look-up fails, the addresses that
were good last are used.

An answer is never kept for its own sake: each connect looks the name up, as names that move on a
failover demand. How long an answer holds (its TTL) is the business of the system's resolver, which
does not tell.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from failover.aside import PATIENCE, Aside

LOOKUPS = 256
"""At once, at most: as many threads. A Redis Cluster says itself which names its nodes have."""
REMEMBERED = 4096
"""Names at most."""

Addresses = tuple[str, ...]
T = TypeVar("T")


class Names:
    """Looks names up.

    Args:
        ask: gives a name's addresses, and may block.
    """

    def __init__(self, ask: Callable[[str], Addresses] | None = None) -> None:
        self._ask = ask or _ask_system
        self._names: dict[str, Aside[Addresses]] = {}

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
            name = self._names[host] = Aside(f"name-{host}", partial(self._ask, host))
        if not name.running and sum(map(_is_running, self._names.values())) >= LOOKUPS:
            if name.good is not None:
                return name.good
            raise socket.gaierror(socket.EAI_AGAIN, f"{LOOKUPS} names are being looked up already")
        return await name.get(patience)

    def _make_room(self) -> None:
        while len(self._names) >= REMEMBERED:
            oldest = next(iter(self._names))
            del self._names[oldest]


def _is_running(name: Aside[Addresses]) -> bool:
    return name.running is not None


def _ask_system(host: str) -> Addresses:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except UnicodeError as error:
        raise socket.gaierror(socket.EAI_NONAME, f"{host!r} is no name: {error}") from None
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
