"""The ring: which lookup node has a key, exactly as in twemproxy 0.5.0.

Source of the rules: twemproxy 0.5.0, src/hashkit/nc_ketama.c, nc_modula.c, src/nc_server.c.

*ketama*: each node has points on a circle of 2^32, and a key belongs to the first point at or after
its hash. Points come in groups of four, from the MD5 of `name-0`, `name-1`, ...; 40 groups a node
on average, more or fewer by its weight's share. *modula*: each node has as many slots as its
weight, in the order of the names, and a key belongs to slot `hash mod slots`. An ejected node has
no points and no slots; both are computed anew for the others.

uhashring computes the points. The rest of it differs from twemproxy and is not used:
- uhashring hashes keys with the hash that made the points; twemproxy's `hash` is independent.
- A key that hashes exactly onto a point gets the next point in uhashring, this one in twemproxy.
- uhashring counts groups in whole numbers. twemproxy counts in single precision, where
  1/n * 40 * n may come out just below 40: then every node has 39 groups.
- If points of two nodes coincide, uhashring gives the point to the node that was added last,
  twemproxy to the one whose name is first in order (glibc's qsort is stable).
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise
from math import floor, lcm

from uhashring import HashRing

from config.model import Lookup, LookupServer
from sharding.ring.hashes import HASHES, bits

_POINTS = 160
# Two modula rings are compared at this many hash values, if they repeat only after more.
_MOST_SLOTS = 1 << 18
# Rings that are cached: one for each set of nodes that were ejected lately.
_MOST_RINGS = 128


def _single(value: float) -> float:
    """`value` rounded to single precision: C's `float`."""
    rounded: float = struct.unpack("f", struct.pack("f", value))[0]
    return rounded


def _groups(weight: int, total: int, nodes: int) -> int:
    """How many groups of four points a node has: 40 for an average weight."""
    share = _single(_single(weight) / _single(total))
    # 160 / 4 in this order, each step rounded; the addend is a C double.
    scaled = _single(_single(_single(share * _POINTS) / 4) * nodes)
    return floor(_single(scaled + 0.0000000001))


class _Ketama:
    """The points of some nodes."""

    def __init__(self, servers: Sequence[LookupServer]) -> None:
        total = sum(server.weight for server in servers)
        by_name = {server.name: server for server in servers}
        nodes = {
            server.name: {"vnodes": _groups(server.weight, total, len(servers))}
            # uhashring gives a shared point to the last node; reversed, that is the first one.
            for server in reversed(servers)
        }
        points = HashRing(nodes, hash_fn="ketama").get_points()
        self._values = [value for value, _ in points]
        self._servers = [by_name[name] for _, name in points]

    def at(self, value: int) -> LookupServer:
        index = bisect_left(self._values, value)
        return self._servers[index if index < len(self._servers) else 0]

    def steps(self, space: int) -> list[int]:
        """The last hash value of each arc, in order; the last one is space-1."""
        return [*(value for value in self._values if value < space - 1), space - 1]

    def counts(self, space: int) -> dict[str, int]:
        """How many of the hash values 0 to space-1 each node has."""
        counts: dict[str, int] = {}
        # A point has the values after the point before it; the first one also those after the last.
        starts = [0, *(min(value + 1, space) for value in self._values), space]
        owners = [*self._servers, self._servers[0]]
        for (start, end), server in zip(pairwise(starts), owners, strict=True):
            counts[server.name] = counts.get(server.name, 0) + end - start
        return counts


class _Modula:
    """The slots of some nodes."""

    def __init__(self, servers: Sequence[LookupServer]) -> None:
        self._slots = [server for server in servers for _ in range(server.weight)]

    def at(self, value: int) -> LookupServer:
        return self._slots[value % len(self._slots)]

    @property
    def slots(self) -> int:
        """How many slots there are: after so many hash values the nodes repeat."""
        return len(self._slots)

    def counts(self, space: int) -> dict[str, int]:
        """How many of the hash values 0 to space-1 each node has."""
        counts: dict[str, int] = {}
        each, more = divmod(space, len(self._slots))
        for slot, server in enumerate(self._slots):
            counts[server.name] = counts.get(server.name, 0) + each + (slot < more)
        return counts


_DISTRIBUTIONS: dict[str, type[_Ketama] | type[_Modula]] = {"ketama": _Ketama, "modula": _Modula}


class Ring:
    """The nodes of a pool, and the rule that gives each key one of them.

    Args:
        servers: at least one, in any order; with distinct names.
        hash: a name in `hashes.HASHES`.
        hash_tag: empty, or two ASCII characters. If a key has the first one and, somewhere after
            it, the second, only the bytes between them are hashed, unless there are none.
        distribution: `ketama` or `modula`.
    """

    def __init__(
        self,
        servers: Sequence[LookupServer],
        *,
        hash: str,  # noqa: A002 - twemproxy's word
        hash_tag: str = "",
        distribution: str = "ketama",
    ) -> None:
        self.servers = tuple(servers)
        # As conf_validate_server (nc_conf.c) sorts them: shorter names first, then by bytes.
        self._sorted = sorted(
            servers, key=lambda server: (len(server.name.encode()), server.name.encode())
        )
        self._hash = HASHES[hash]
        self._space = 1 << bits(hash)
        self._tag = hash_tag.encode()
        self._layout = _DISTRIBUTIONS[distribution]
        self._whole = self._layout(self._sorted)
        self._without: dict[frozenset[str], _Ketama | _Modula | None] = {}

    def owner(self, key: bytes) -> LookupServer:
        """The node of `key` when every node is live."""
        return self._whole.at(self._value(key))

    def route(self, key: bytes, out: frozenset[str] = frozenset()) -> LookupServer | None:
        """The node of `key` while the nodes called `out` are ejected; None when all are."""
        if not out:
            return self._whole.at(self._value(key))
        try:
            ring = self._without[out]
        except KeyError:
            ring = self._lay_out(out)
        return None if ring is None else ring.at(self._value(key))

    def order(self, key: bytes) -> list[LookupServer]:
        """All nodes: the owner, the one that has the key while the owner is out, and so on."""
        order: list[LookupServer] = []
        while len(order) < len(self.servers):
            server = self.route(key, frozenset(server.name for server in order))
            assert server is not None
            order.append(server)
        return order

    def shares(self) -> dict[str, float]:
        """The exact share of the hash's values that each node owns, by its name; the sum is 1.

        The share is of the values that the hash can have: crc32 has 2^15, which reach at most the
        first point or two of a ketama ring, so that one node has nearly all keys.
        """
        counts = self._whole.counts(self._space)
        return {server.name: counts.get(server.name, 0) / self._space for server in self.servers}

    def moves(self, after: Ring) -> dict[tuple[str, str], float]:
        """The share of the hash's values that moves, by the names of the old and the new node.

        Exact for ketama, and for modula rings with few slots; else to about 0.1 %.

        Args:
            after: the new ring, with the same hash and distribution.
        """
        one, two, space = self._whole, after._whole, self._space
        moved: dict[tuple[str, str], float] = {}
        if isinstance(one, _Ketama) and isinstance(two, _Ketama):
            steps = sorted({*one.steps(space), *two.steps(space)})
            sizes = [step - before for before, step in pairwise([-1, *steps])]
            total = space
        else:
            assert isinstance(one, _Modula)
            assert isinstance(two, _Modula)
            cycle = min(lcm(one.slots, two.slots), space)
            # An odd stride, so that the sample has every residue of the slots equally often.
            stride = 1 if cycle <= _MOST_SLOTS else (space // _MOST_SLOTS) | 1
            steps = [n * stride % space for n in range(min(cycle, _MOST_SLOTS))]
            sizes, total = [1] * len(steps), len(steps)
        for step, size in zip(steps, sizes, strict=True):
            source, target = one.at(step), two.at(step)
            if str(source) != str(target):
                pair = source.name, target.name
                moved[pair] = moved.get(pair, 0) + size
        return {pair: size / total for pair, size in moved.items()}

    def outline(self, parts: int, out: frozenset[str] = frozenset()) -> list[str | None]:
        """The nodes that have the hash values at `parts` evenly spaced places, to draw the ring.

        Args:
            out: names of ejected nodes. Places are None if all nodes are out.
        """
        ring = self._lay_out(out) if out else self._whole
        places = (part * self._space // parts for part in range(parts))
        return [None if ring is None else ring.at(place).name for place in places]

    def _value(self, key: bytes) -> int:
        if self._tag:
            start = key.find(self._tag[:1]) + 1
            end = key.find(self._tag[1:], start) if start else -1
            if end > start:
                key = key[start:end]
        return self._hash(key) if key else 0  # nc_server.c, server_pool_hash

    def _lay_out(self, out: frozenset[str]) -> _Ketama | _Modula | None:
        live = [server for server in self._sorted if server.name not in out]
        ring = self._layout(live) if live else None
        if len(self._without) >= _MOST_RINGS:
            del self._without[next(iter(self._without))]
        self._without[out] = ring
        return ring


def ring_of(config: Lookup) -> Ring:
    return Ring(
        config.servers,
        hash=config.hash,
        hash_tag=config.hash_tag,
        distribution=config.distribution,
    )
