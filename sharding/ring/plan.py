"""What another ring would do to the nodes, for `ring plan`. No I/O."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from config.model import Lookup
from sharding.ring.placement import moved, rules
from sharding.ring.ring import ring_of


class Held(Struct, frozen=True):
    """The keys that a node has now.

    Attributes:
        keys: as Redis counts them (in the packed layout one for each user).
        memory_bytes: of these keys, without the memory of an empty node.
    """

    keys: int
    memory_bytes: int


class Move(Struct, rename={"source": "from", "target": "to"}):
    """The keys that one node would get from another.

    Attributes:
        share: of all keys.
        keys: how many; None if `source` did not answer.
    """

    source: str
    target: str
    share: float
    keys: int | None


class NodeForecast(Struct):
    """A node before and after. Its weights are None while it is not in the ring. Keys and memory
    are None where they depend on a node that did not answer, or every key is placed anew."""

    name: str
    address: str
    weight: int | None
    weight_before: int | None
    share: float
    share_before: float
    keys: int | None
    keys_before: int | None
    memory_bytes: int | None
    memory_bytes_before: int | None


class Forecast(Struct):
    """What a change would do.

    Attributes:
        moved: as `placement.moved`.
        keys: how many keys move; None unless all nodes that keys leave answered.
        moves: largest share first; empty where every key is placed anew.
    """

    moved: float
    keys: int | None
    moves: list[Move]
    nodes: list[NodeForecast]


def forecast(
    before: Lookup, after: Lookup, held: Mapping[str, Held | None] | None = None
) -> Forecast:
    """Compare two rings.

    Args:
        held: what each node of `before` has, by its name; None for a node that did not answer.
    """
    anew = rules(before) != rules(after)
    old_ring, new_ring = ring_of(before), ring_of(after)
    shares, new_shares = old_ring.shares(), new_ring.shares()
    known = {name: what for name, what in (held or {}).items() if what is not None and not anew}
    silent = shares.keys() - known

    def part(name: str, share: float) -> tuple[int, int]:
        """The keys and bytes in `share` of the key space, on the node that owns it now."""
        of_node = share / shares[name] if shares[name] else 0.0
        return round(known[name].keys * of_node), round(known[name].memory_bytes * of_node)

    moves: list[Move] = []
    unknown = {*silent, *new_shares} if anew else set(silent)  # afterwards
    gained: dict[str, list[int]] = {name: [0, 0] for name in {*shares, *new_shares}}
    by_share = {} if anew else old_ring.moves(new_ring)
    for (source, target), share in sorted(by_share.items(), key=lambda move: -move[1]):
        if source in silent:
            moves.append(Move(source, target, share, None))
            unknown.add(target)
            continue
        keys, memory = part(source, share)
        moves.append(Move(source, target, share, keys))
        for name, sign in ((source, -1), (target, 1)):
            gained[name][0] += sign * keys
            gained[name][1] += sign * memory

    old = {server.name: server.weight for server in before.servers}
    new = {server.name: server.weight for server in after.servers}
    nodes = []
    for name, server in {one.name: one for one in (*before.servers, *after.servers)}.items():
        has = known.get(name, Held(0, 0))
        keys_after, memory_after = has.keys + gained[name][0], has.memory_bytes + gained[name][1]
        nodes.append(
            NodeForecast(
                name=name,
                address=str(server),
                weight=new.get(name),
                weight_before=old.get(name),
                share=new_shares.get(name, 0.0),
                share_before=shares.get(name, 0.0),
                keys=None if name in unknown else max(0, keys_after),
                keys_before=None if name in silent else has.keys,
                memory_bytes=None if name in unknown else max(0, memory_after),
                memory_bytes_before=None if name in silent else has.memory_bytes,
            )
        )
    moving = [move.keys for move in moves if move.keys is not None]
    all_known = not anew and len(moving) == len(moves)
    return Forecast(moved(before, after), sum(moving) if all_known else None, moves, nodes)
