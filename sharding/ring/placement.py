"""What decides which node has each key, and what a change of it does. No I/O."""

from __future__ import annotations

from config.model import Lookup
from sharding.ring.ring import ring_of

_RULES = ("hash", "hash_tag", "distribution", "layout")
PLACING = ("servers", *_RULES)
"""The words of `lookup` that decide where keys are."""


def rules(lookup: Lookup) -> list[str]:
    """What places keys besides the servers: another value of one places every key anew."""
    return [getattr(lookup, word) for word in _RULES]


def alike(one: Lookup, other: Lookup) -> bool:
    """Whether two configurations place every key alike. The order of the servers is no matter."""
    servers = [sorted(lookup.servers, key=lambda server: server.name) for lookup in (one, other)]
    return rules(one) == rules(other) and servers[0] == servers[1]


def moved(before: Lookup, after: Lookup) -> float:
    """The share of the keys that a change moves to another node, 0 to 1.

    It is the exact share of the hash's values that get another address; 1 if another hash, tag,
    distribution or layout places every key anew. The same figure stands in a reload's answer and
    in `tapedeck ring plan`.
    """
    old, new = ring_of(before), ring_of(after)
    return 1.0 if rules(before) != rules(after) else sum(old.moves(new).values())


def differences(before: Lookup, after: Lookup) -> list[str]:
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
    for word, was, now in zip(_RULES, rules(before), rules(after), strict=True):
        if was != now:
            found.append(f"{word} is {now!r}, was {was!r}")
    return found
