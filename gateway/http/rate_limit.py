"""Rate limits of one client: token buckets by address and by listener. No I/O.

Memory is bounded: the least recently used bucket is removed first, so its owner then has a full
one. If more addresses than that are active, only the limits of connections apply.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache

_IPV6_PREFIX = 64
"""The least that one customer of a network has (RFC 6177): addresses in it are one client."""


class Buckets:
    """A token bucket for each key, of at most `remembered` keys.

    A key has one number, the time at which its bucket is full again (the generic cell rate
    algorithm, ITU-T I.371). That is equivalent to counting tokens, with half the work. `rate`
    tokens a second come in; a bucket starts with the most that it may have, `burst`.

    >>> buckets = Buckets(rate=1, burst=2, remembered=100)
    >>> [buckets.take("a", now=10.0) for _ in range(3)]
    [0.0, 0.0, 1.0]
    >>> buckets.take("a", now=11.0)
    0.0
    """

    __slots__ = ("_each", "_full", "_remembered", "_span", "settings")

    def __init__(self, rate: float, burst: float, remembered: int) -> None:
        self.settings = rate, burst, remembered
        self._each = 1 / rate
        self._span = burst / rate
        self._remembered = remembered
        self._full: OrderedDict[object, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._full)

    def take(self, key: object, now: float) -> float:
        """Take a token and return 0; or take none and return the seconds until there is one."""
        full = self._full
        at = full.get(key)
        if at is None:
            if len(full) >= self._remembered:
                full.popitem(last=False)
            full[key] = now + self._each
            return 0.0
        full.move_to_end(key)
        at = (at if at > now else now) + self._each
        wait = at - now - self._span
        # Less than a nanosecond is a rounding error.
        if wait > 1e-9:
            return wait
        full[key] = at
        return 0.0


class Addresses:
    """Finds the client's address of a request.

    Args:
        trusted: networks of proxies, such as `10.0.0.0/8`.

    >>> addresses = Addresses(["10.0.0.0/8"])
    >>> addresses.client("10.1.2.3", "198.51.100.7, 10.9.9.9")
    '198.51.100.7'
    >>> addresses.client("203.0.113.5", "198.51.100.7")
    '203.0.113.5'
    """

    def __init__(self, trusted: Sequence[str]) -> None:
        self._trusted = tuple(ipaddress.ip_network(network) for network in trusted)
        self._is_proxy = lru_cache(maxsize=4096)(self._is_trusted)

    def _is_trusted(self, address: str) -> bool:
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        mapped = getattr(parsed, "ipv4_mapped", None) or parsed
        return any(mapped in network for network in self._trusted)

    def is_proxy(self, address: str) -> bool:
        return bool(self._trusted) and self._is_proxy(address)

    def client(self, peer: str, forwarded: str | None) -> str | None:
        """The address that a request counts for; None for a trusted proxy's own request (a probe).

        X-Forwarded-For (several headers joined by commas) is read from its end, as long as the
        writer of an entry is a trusted proxy: a client may have invented the entries before.
        """
        if not self.is_proxy(peer):
            return one_client(peer)
        for entry in reversed((forwarded or "").split(",")):
            address = _bare(entry)
            if address is None:
                return None
            if not self.is_proxy(address):
                return one_client(address)
        return None


@lru_cache(maxsize=4096)
def one_client(address: str) -> str:
    """The address under which a client is counted: an IPv6 network, or an IPv4 address.

    >>> one_client("2001:db8:1:2:3:4:5:6"), one_client("::ffff:192.0.2.1")
    ('2001:db8:1:2::', '192.0.2.1')
    """
    if ":" not in address:
        return address
    try:
        parsed = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    kept = int(parsed) >> (128 - _IPV6_PREFIX) << (128 - _IPV6_PREFIX)
    return str(ipaddress.IPv6Address(kept))


def _bare(entry: str) -> str | None:
    """An entry of X-Forwarded-For without its port; None if it is not an address."""
    entry = entry.strip()
    if entry.startswith("["):
        entry = entry[1:].partition("]")[0]
    elif entry.count(":") == 1:
        entry = entry.partition(":")[0]
    try:
        return str(ipaddress.ip_address(entry))
    except ValueError:
        return None
