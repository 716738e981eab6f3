"""Which node each key belongs to, as plain data: what a reload compares. No I/O."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from config.model import Lookup, LookupServer
from sharding.ring.ring import Ring


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

    @property
    def rules(self) -> tuple[str, str, str, str]:
        """How a key is placed among the servers, and what its entry looks like."""
        return self.hash, self.hash_tag, self.distribution, self.layout

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
        share: of the key space that gets another address, 0 to 1. 1 if another hash, tag,
            distribution or layout places every key anew.
        ideal: the least share that must, by the weights: 1/(n+1) for one more equal node.
    """

    share: float
    ideal: float


def moved(before: Placement, after: Placement) -> Moved:
    """What a change moves.

    Raises:
        ValueError: one of them makes no ring.
    """
    old, new = before.ring(), after.ring()
    if before.rules != after.rules:
        return Moved(1.0, 1.0)
    return Moved(sum(old.moves(new).values()), ideal(before.servers, after.servers))


def ideal(before: Sequence[LookupServer], after: Sequence[LookupServer]) -> float:
    """The least share of the keys that must move: what the growing addresses gain by their weights.

    1/(n+1) for one more node of the same weight.
    """
    had, gets = _parts(before), _parts(after)
    return sum(max(0.0, part - had.get(at, 0.0)) for at, part in gets.items())


def _parts(servers: Sequence[LookupServer]) -> dict[str, float]:
    total = sum(server.weight for server in servers)
    parts: dict[str, float] = {}
    for server in servers:
        parts[str(server)] = parts.get(str(server), 0.0) + server.weight / total
    return parts


def differences(before: Placement, after: Placement) -> list[str]:
    """What a change does to the nodes, a phrase each."""
    old = {server.name: server for server in before.servers}
    new = {server.name: server for server in after.servers}
    found = [f"{name} ({new[name]}) is added" for name in new if name not in old]
    found += [f"{name} ({old[name]}) is removed" for name in old if name not in new]
    for name in new:
        if name not in old:
            continue
        if str(old[name]) != str(new[name]):
            found.append(f"{name} moves from {old[name]} to {new[name]}")
        if old[name].weight != new[name].weight:
            found.append(f"{name} weighs {new[name].weight} instead of {old[name].weight}")
    for word in ("hash", "hash_tag", "distribution", "layout"):
        if getattr(before, word) != getattr(after, word):
            found.append(f"{word} is {getattr(after, word)!r}, was {getattr(before, word)!r}")
    return found
