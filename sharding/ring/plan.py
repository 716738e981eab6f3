"""What another ring would do to the nodes, for `ring plan`. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sharding.ring.placement import Placement, moved


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
    before: Placement, after: Placement, held: Mapping[str, Held | None] | None = None
) -> dict[str, Any]:
    """Compare two rings.

    Args:
        held: what each node of `before` has, by its name; None for a node that did not answer.

    Returns:
        moved: as `placement.moved`.
        keys: how many keys move; None unless all nodes answered.
        moves: by pair of nodes, largest share first; empty where every key is placed anew.
        nodes: each node before and after; keys and memory only if all nodes answered.
    """
    anew = before.rules != after.rules
    old_ring, new_ring = before.ring(), after.ring()
    moves = {} if anew else old_ring.moves(new_ring)
    shares, new_shares = old_ring.shares(), new_ring.shares()
    known = {name: what for name, what in (held or {}).items() if what is not None}
    complete = not anew and bool(held) and set(known) >= set(shares)

    def part(name: str, share: float) -> tuple[int, int]:
        """The keys and bytes in `share` of the key space, on the node that owns it now."""
        of_node = share / shares[name] if shares[name] else 0.0
        return round(known[name].keys * of_node), round(known[name].memory_bytes * of_node)

    pairs: list[dict[str, Any]] = []
    gained: dict[str, list[int]] = {name: [0, 0] for name in {*shares, *new_shares}}
    for (source, target), share in sorted(moves.items(), key=lambda move: -move[1]):
        keys, memory = part(source, share) if complete else (None, None)
        pairs.append({"from": source, "to": target, "share": share, "keys": keys})
        if keys is not None and memory is not None:
            for name, sign in ((source, -1), (target, 1)):
                gained[name][0] += sign * keys
                gained[name][1] += sign * memory

    servers = {server.name: server for server in (*before.servers, *after.servers)}
    old = {server.name: server.weight for server in before.servers}
    new = {server.name: server.weight for server in after.servers}
    nodes = []
    for name, server in servers.items():
        has = known.get(name, Held(0, 0))
        nodes.append(
            {
                "name": name,
                "address": str(server),
                "weight": new.get(name),
                "weight_before": old.get(name),
                "share": new_shares.get(name, 0.0),
                "share_before": shares.get(name, 0.0),
                "keys": max(0, has.keys + gained[name][0]) if complete else None,
                "keys_before": has.keys if complete else None,
                "memory_bytes": max(0, has.memory_bytes + gained[name][1]) if complete else None,
                "memory_bytes_before": has.memory_bytes if complete else None,
            }
        )
    return {
        "moved": moved(before, after),
        "keys": sum(pair["keys"] for pair in pairs) if complete else None,
        "moves": pairs,
        "nodes": nodes,
    }
