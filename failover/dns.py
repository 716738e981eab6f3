"""The addresses of hosts' names: a silent DNS server delays only connects to its own names.

`getaddrinfo` blocks its thread for as long as the resolver tries (10 s by glibc's defaults), so
each name is looked up in a thread (`blocking_calls.py`). While its look-up fails or does not
return, the last good addresses are used.

Otherwise no answer is cached: each connect looks the name up, because a name may move on a
failover. Caching within an answer's TTL is left to the system's resolver, which does not tell it.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from failover.blocking_calls import PATIENCE, SharedCall

LOOKUPS = 256
"""Most look-ups, and so threads, at once. (A Redis Cluster chooses its nodes' names itself.)"""
REMEMBERED = 4096
"""Most names whose addresses are remembered."""

Addresses = tuple[str, ...]
T = TypeVar("T")


class Names:
    def __init__(self, ask: Callable[[str], Addresses] | None = None) -> None:
        self._ask = ask or _ask_system
        self._names: dict[str, SharedCall[Addresses]] = {}

    async def look_up(self, host: str, patience: float = PATIENCE) -> Addresses:
        """The numeric addresses of a host, the best first; at least one.

        The caller sets a timeout for a name that was never looked up with success.

        Args:
            host: a name, or a numeric address, which is returned as it is.
            patience: as for `SharedCall.get`.

        Raises:
            OSError: the look-up failed, and no earlier one succeeded (`socket.gaierror`).
        """
        if is_numeric(host):
            return (host,)
        name = self._names.get(host)
        if name is None:
            while len(self._names) >= REMEMBERED:
                del self._names[next(iter(self._names))]
            name = self._names[host] = SharedCall(f"name-{host}", partial(self._ask, host))
        running = sum(one.running is not None for one in self._names.values())
        if not name.running and running >= LOOKUPS:
            if name.good is not None:
                return name.good
            raise socket.gaierror(socket.EAI_AGAIN, f"{LOOKUPS} names are being looked up already")
        return await name.get(patience)


def _ask_system(host: str) -> Addresses:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except UnicodeError as error:
        raise socket.gaierror(socket.EAI_NONAME, f"{host!r} is no name: {error}") from None
    return tuple(dict.fromkeys(str(address[0]) for *_, address in found))


NAMES = Names()


def is_numeric(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


async def connect_by_name(
    host: str, connect: Callable[[str], Awaitable[T]], patience: float = PATIENCE
) -> T:
    """Connect to the first address of a host that accepts a connection.

    Args:
        connect: connects to a numeric address; raises OSError if it is refused.

    Raises:
        OSError: no address accepted, or the name has none. After a failed TLS handshake, or a
            timeout, the other addresses are not tried.
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
