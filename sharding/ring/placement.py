"""What decides which node has each key, as plain data that a reload compares. No I/O."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from config.model import Lookup, LookupServer
from sharding.ring.ring import Ring


@dataclass(frozen=True, slots=True)
class Placement:
    """What decides on which node an entry is, and in which layout."""

    servers: tuple[LookupServer, ...]
    hash: str
    hash_tag: str
    distribution: str
    layout: Literal["packed", "flat"]

    @classmethod
    def of(cls, lookup: Lookup) -> Placement:
        """The placement of a configuration."""
        return cls(lookup.servers, lookup.hash, lookup.hash_tag, lookup.distribution, lookup.layout)

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> Placement:
        """Read what `as_json` returned.

        Raises:
            KeyError, TypeError, ValueError: `given` is something else.
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
        """32 hexadecimal digits; two gateways that place every key alike have the same."""
        plain = self.as_json()
        plain["servers"] = sorted(plain["servers"], key=lambda server: str(server["name"]))
        text = json.dumps(plain, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    @property
    def rules(self) -> tuple[str, str, str, str]:
        """The hash, hash tag, distribution and layout."""
        return self.hash, self.hash_tag, self.distribution, self.layout

    def ring(self) -> Ring:
        """The ring of this placement.

        Raises:
            ValueError: the placement describes no valid ring.
        """
        return Ring(
            self.servers, hash=self.hash, hash_tag=self.hash_tag, distribution=self.distribution
        )


def moved(before: Placement, after: Placement) -> float:
    """The share of the keys that a change moves to another node, 0 to 1.

    It is the exact share of the hash's values that get another address; 1 if another hash, tag,
    distribution or layout places every key anew. The same figure stands in a reload's answer and
    in `tapedeck ring plan`.

    Raises:
        ValueError: one of the two describes no valid ring.
    """
    old, new = before.ring(), after.ring()
    return 1.0 if before.rules != after.rules else sum(old.moves(new).values())


def differences(before: Placement, after: Placement) -> list[str]:
    """What a change does to the nodes: one phrase for each difference."""
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
