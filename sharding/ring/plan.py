"""What another ring would do to the nodes, for `ring plan`. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from config.model import Lookup
from sharding.ring.placement import moved, rules
from sharding.ring.ring import ring_of


@dataclass(frozen=True, slots=True)
class Held:
    """The keys that a node has now.

    Attributes:
        keys: as Redis counts them (in the packed layout one for each user).
        memory_bytes: of these keys, without the memory of an empty node.
    """

    keys: int
    memory_bytes: int


def forecast(
    before: Lookup, after: Lookup, held: Mapping[str, Held | None] | None = None
) -> dict[str, Any]:
    """Compare two rings.

    Args:
        held: what each node of `before` has, by its name; None for a node that did not answer.

    Returns:
        moved: as `placement.moved`.
        keys: how many keys move; None unless all nodes that keys leave answered.
        moves: by pair of nodes, largest share first; empty where every key is placed anew.
        nodes: each node before and after; keys and memory are None where they depend on a node
            that did not answer, and where every key is placed anew.
    """
    anew = rules(before) != rules(after)
    old_ring, new_ring = ring_of(before), ring_of(after)
    moves = {} if anew else old_ring.moves(new_ring)
    shares, new_shares = old_ring.shares(), new_ring.shares()
    known = {name: what for name, what in (held or {}).items() if what is not None and not anew}
    silent = shares.keys() - known

    def part(name: str, share: float) -> tuple[int, int]:
        """The keys and bytes in `share` of the key space, on the node that owns it now."""
        of_node = share / shares[name] if shares[name] else 0.0
        return round(known[name].keys * of_node), round(known[name].memory_bytes * of_node)

    pairs: list[dict[str, Any]] = []
    unknown = {*silent, *new_shares} if anew else set(silent)  # afterwards
    gained: dict[str, list[int]] = {name: [0, 0] for name in {*shares, *new_shares}}
    for (source, target), share in sorted(moves.items(), key=lambda move: -move[1]):
        keys, memory = (None, None) if source in silent else part(source, share)
        pairs.append({"from": source, "to": target, "share": share, "keys": keys})
        if keys is None or memory is None:
            unknown.add(target)
        else:
            for name, sign in ((source, -1), (target, 1)):
                gained[name][0] += sign * keys
                gained[name][1] += sign * memory

    servers = {server.name: server for server in (*before.servers, *after.servers)}
    old = {server.name: server.weight for server in before.servers}
    new = {server.name: server.weight for server in after.servers}
    nodes = []
    for name, server in servers.items():
        has = known.get(name, Held(0, 0))
        keys_after = max(0, has.keys + gained[name][0])
        memory_after = max(0, has.memory_bytes + gained[name][1])
        nodes.append(
            {
                "name": name,
                "address": str(server),
                "weight": new.get(name),
                "weight_before": old.get(name),
                "share": new_shares.get(name, 0.0),
                "share_before": shares.get(name, 0.0),
                "keys": None if name in unknown else keys_after,
                "keys_before": None if name in silent else has.keys,
                "memory_bytes": None if name in unknown else memory_after,
                "memory_bytes_before": None if name in silent else has.memory_bytes,
            }
        )
    moving = [pair["keys"] for pair in pairs]
    return {
        "moved": moved(before, after),
        "keys": None if anew or None in moving else sum(moving),
        "moves": pairs,
        "nodes": nodes,
    }
