"""Who has which slot of a Redis Cluster, by what one of its nodes says.

A node may lie, or belong to another cluster than it should: what is not the answer to CLUSTER SLOTS
is refused as a whole, and how many servers it can name is bounded.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from itertools import count
from typing import Any

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from tapedeck.config.model import HostPort

SLOTS = REDIS_CLUSTER_HASH_SLOTS
MOST_PRIMARIES = 1_000
"""As many nodes as a Redis Cluster is made for (its specification, "Redis cluster goals")."""
_HOST = re.compile(rb"[A-Za-z0-9._:%-]{1,255}")


class NoSlotMap(ValueError):
    """A reply that is no map of slots; the text says why."""


@dataclass(slots=True)
class SlotMap:
    """A cluster as one of its nodes sees it.

    Attributes:
        primaries: by slot; None where nobody has it.
        replicas: they know the same, and one of them may be the next primary.
    """

    primaries: list[HostPort | None] = field(default_factory=lambda: [None] * SLOTS)
    replicas: set[HostPort] = field(default_factory=set)

    @property
    def covered(self) -> int:
        """How many slots have a primary."""
        return SLOTS - self.primaries.count(None)


def slot_map(reply: Any, asked: HostPort) -> SlotMap:
    """Read the reply to CLUSTER SLOTS.

    Args:
        reply: a list of `[first slot, last slot, primary, replica, ...]`, servers as
            `[host, port, ...]`.
        asked: who said it; it leaves its own host out where it does not know it.

    Raises:
        NoSlotMap: it is something else.
    """
    if not isinstance(reply, list):
        raise NoSlotMap(f"CLUSTER SLOTS was answered with {type(reply).__name__}, not with a list")
    found = SlotMap()
    primaries: set[HostPort] = set()
    for part in reply:
        if not isinstance(part, list) or len(part) < 3:
            raise NoSlotMap("CLUSTER SLOTS was answered with a range without a primary")
        first, last, *servers = part
        if not (isinstance(first, int) and isinstance(last, int) and 0 <= first <= last < SLOTS):
            raise NoSlotMap("CLUSTER SLOTS was answered with slots that there are not")
        primary, *replicas = (_server(server, asked) for server in servers)
        size = last + 1 - first
        if found.primaries[first : last + 1].count(None) != size:
            raise NoSlotMap(f"CLUSTER SLOTS names two primaries of one slot from {first} to {last}")
        found.primaries[first : last + 1] = [primary] * size
        if primary is not None:
            primaries.add(primary)
        if len(primaries) > MOST_PRIMARIES:
            raise NoSlotMap(f"CLUSTER SLOTS names more than {MOST_PRIMARIES} primaries")
        if len(found.replicas) < MOST_PRIMARIES:
            found.replicas.update(one for one in replicas if one is not None)
    return found


def _server(said: Any, asked: HostPort) -> HostPort | None:
    """A server's address; None where the node knows of none that we could reach."""
    if not isinstance(said, list) or len(said) < 2:
        raise NoSlotMap("CLUSTER SLOTS was answered with a server without an address")
    host, port = said[:2]
    if not isinstance(port, int) or not 0 < port < 65536:
        raise NoSlotMap("CLUSTER SLOTS was answered with a server without a port")
    # Unknown to the node itself ("?": it is to announce a hostname, and has none): the host that
    # was asked is the one that is known to work (Redis documentation, "CLUSTER SLOTS").
    if host in (None, b"", b"?"):
        return HostPort(host=asked.host, port=port)
    if not isinstance(host, bytes) or _HOST.fullmatch(host) is None:
        raise NoSlotMap("CLUSTER SLOTS was answered with a host that is no name and no address")
    return HostPort(host=host.decode(), port=port)


@cache
def probe_keys() -> list[bytes]:
    """For each slot a key that lies in it: what a probe of its primary writes and reads."""
    keys: dict[int, bytes] = {}
    for number in count():
        key = b"tapedeck:probe:%d" % number
        keys.setdefault(key_slot(key), key)
        if len(keys) == SLOTS:
            break
    return [keys[slot] for slot in range(SLOTS)]
