"""Which node each key belongs to, as plain data: what a reload compares. No I/O."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from config.model import Lookup, LookupServer
from sharding.lookups.layout import Layout
from sharding.ring.ring import Ring
from sharding.state import Key

SAMPLE = 4_000
"""Keys by which a gateway tells what share moves: to about 0.7 %, in some 50 ms."""


@dataclass(frozen=True, slots=True)
class Placement:
    """What decides where an entry lies and what it looks like."""

    servers: tuple[LookupServer, ...]
    hash: str
    hash_tag: str
    distribution: str
    layout: Literal["packed", "flat"]

    @classmethod
    def of(cls, lookup: Lookup) -> Placement:
        """That of a configuration."""
        return cls(lookup.servers, lookup.hash, lookup.hash_tag, lookup.distribution, lookup.layout)

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> Placement:
        """What `as_json` made.

        Raises:
            KeyError, TypeError, ValueError: it did not.
        """
        servers = tuple(LookupServer.model_validate(server) for server in given["servers"])
        words = (given[name] for name in ("hash", "hash_tag", "distribution", "layout"))
        return cls(servers, *words)

    def as_json(self) -> dict[str, Any]:
        """Plain data, without secrets."""
        return {
            "servers": [server.model_dump() for server in self.servers],
            "hash": self.hash,
            "hash_tag": self.hash_tag,
            "distribution": self.distribution,
            "layout": self.layout,
        }

    @property
    def fingerprint(self) -> str:
        """32 hexadecimal digits that two gateways share if they place every key alike."""
        plain = self.as_json()
        plain["servers"] = sorted(plain["servers"], key=lambda server: str(server["name"]))
        text = json.dumps(plain, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def ring(self) -> Ring:
        """Its ring.

        Raises:
            ValueError: there can be none.
        """
        return Ring(
            self.servers, hash=self.hash, hash_tag=self.hash_tag, distribution=self.distribution
        )


class Moved(NamedTuple):
    """What a change of placement moves.

    Attributes:
        share: of the keys that get another address (or another shape), 0 to 1, by a sample.
        ideal: the least share that must, by the weights: 1/(n+1) for one more equal node.
    """

    share: float
    ideal: float


def moved(before: Placement, after: Placement, sample: int = SAMPLE) -> Moved:
    """The share of the keys that a change moves, by a sample that is always the same one.

    Raises:
        ValueError: one of them makes no ring.
    """
    if before.layout != after.layout:
        return Moved(1.0, 1.0)
    old, new = before.ring(), after.ring()
    layout = Layout(after.layout, 1)
    chance = random.Random(20120201)  # noqa: S311 - a sample, no secret
    count = 0
    for _ in range(sample):
        key = layout.ring_key(Key(chance.randrange(1, 10**9), chance.randrange(1, 10**6)))
        count += address(old.owner(key)) != address(new.owner(key))
    had, gets = _weights(before.servers), _weights(after.servers)
    ideal = sum(max(0.0, gets[at] - had.get(at, 0.0)) for at in gets)
    return Moved(count / sample, ideal)


def differences(before: Placement, after: Placement) -> list[str]:
    """What a change does to the nodes, a phrase each."""
    old = {server.name: server for server in before.servers}
    new = {server.name: server for server in after.servers}
    found = [f"{name} ({address(new[name])}) is added" for name in new if name not in old]
    found += [f"{name} ({address(old[name])}) is removed" for name in old if name not in new]
    for name in new:
        if name not in old:
            continue
        if address(old[name]) != address(new[name]):
            found.append(f"{name} moves from {address(old[name])} to {address(new[name])}")
        if old[name].weight != new[name].weight:
            found.append(f"{name} weighs {new[name].weight} instead of {old[name].weight}")
    for word in ("hash", "hash_tag", "distribution", "layout"):
        if getattr(before, word) != getattr(after, word):
            found.append(f"{word} is {getattr(after, word)!r}, was {getattr(before, word)!r}")
    return found


def address(server: LookupServer) -> str:
    """`host:port`: what tells servers apart, whatever they are called."""
    return str(server)


def _weights(servers: Sequence[LookupServer]) -> dict[str, float]:
    total = sum(server.weight for server in servers)
    shares: dict[str, float] = {}
    for server in servers:
        shares[address(server)] = shares.get(address(server), 0.0) + server.weight / total
    return shares
