"""`tapedeck ring show`: asks the nodes, and prints them as a table."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from msgspec import UNSET, Struct, UnsetType

from cli.common import fail, print_table

if TYPE_CHECKING:
    from config.model import Sections
    from sharding.backend import Backend
    from sharding.shown import Ring


async def find_cluster(backend: Backend) -> None:
    """Find the primaries of a Redis Cluster; a ring's nodes are in the configuration."""
    from failover.redis.cluster import ClusterNodes

    if isinstance(backend.nodes, ClusterNodes):
        await backend.nodes.refresh()
        if backend.nodes.problems:
            fail(backend.nodes.problems[0])


class NodeShown(Struct, kw_only=True):
    """A node: how it answers here, its capacity if it says it, and what a gateway knows of it."""

    name: str
    address: str
    weight: int
    share: float
    state: str
    keys: int | None = None
    memory_bytes: int | None = None
    maxmemory_bytes: int | UnsetType | None = UNSET
    maxmemory_policy: str | UnsetType = UNSET
    evicted: int | UnsetType = UNSET
    evicted_last_hour: int | UnsetType = UNSET
    ring: str | UnsetType = UNSET
    reason: str | UnsetType | None = UNSET


async def ask_nodes(sections: Sections) -> list[NodeShown]:
    """Ask each node of a configuration for its capacity."""
    from sharding.backend import Backend

    backend = Backend(sections)
    try:
        await find_cluster(backend)
        await backend.survey.check(backend.nodes)
        shares = backend.lookups.ring.shares()
        described = []
        for node in backend.nodes:
            found = backend.survey.found.get(node.name)
            state = "answers"
            if found is None:
                # The gateway's words for why the node does not answer.
                replies = await node.run([("PING",)])
                state = node.health.reason if replies is None else "refuses to say how it stands"
            described.append(
                NodeShown(
                    name=node.name,
                    address=str(node.server),
                    weight=node.server.weight,
                    share=shares[node.name],
                    state=state,
                    **({} if found is None else asdict(found)),
                )
            )
        return described
    finally:
        await backend.nodes.close()


def add_standing(nodes: list[NodeShown], ring: Ring) -> list[str]:
    """Add what only a gateway knows: which nodes are in its ring, and evictions of the last hour.

    Returns:
        The names of nodes that are only in the gateway's ring.
    """
    standing = {node.name: node for node in ring.nodes}
    for node in nodes:
        if seen := standing.pop(node.name, None):
            node.ring, node.reason = seen.state, seen.reason
            if seen.capacity:
                node.evicted_last_hour = seen.capacity.evicted_last_hour
    return list(standing)


def print_nodes(nodes: list[NodeShown], retention_days: int) -> None:
    """The table."""
    rows = []
    for node in nodes:
        evicted = "-"
        if node.evicted is not UNSET:
            evicted = f"[red]{node.evicted:,}[/red]" if node.evicted else "0"
        rows.append(
            (
                node.name,
                node.address,
                str(node.weight),
                f"{node.share:.1%}",
                "-" if node.keys is None else f"{node.keys:,}",
                _memory(node),
                evicted,
                _standing(node),
            )
        )
    columns = ("node", "address", "weight", "share", "keys", "memory", "evicted", "state")
    print_table(columns, rows)
    if any(node.evicted for node in nodes):
        print(f"evicted: entries that went before the retention of {retention_days} days was over")


def print_rings(rings: list[tuple[str, Ring]]) -> None:
    """Each gateway's ring, by the gateway's URL."""
    from rich.markup import escape

    rows = []
    for url, ring in rings:
        for node in ring.nodes:
            out = node.state != "live"
            why = f"since {node.since}: {node.reason}" if out else ""
            colour = "red" if out else "green"
            rows.append(
                (
                    url,
                    str(ring.generation),
                    node.name,
                    node.address,
                    str(node.weight),
                    f"{node.share:.1%}",
                    f"[{colour}]{node.state}[/]",
                    escape(why),
                )
            )
    columns = ("gateway", "generation", "node", "address", "weight", "share", "state", "")
    print_table(columns, rows)


def _standing(node: NodeShown) -> str:
    """Whether the node answers, and whether the gateway has ejected it."""
    if node.state != "answers":
        return f"[red]{node.state}[/red]"
    if node.ring == "ejected":
        return f"[red]answers; out of the ring: {node.reason}[/red]"
    return "live" if node.ring else "answers"


def _memory(node: NodeShown) -> str:
    if node.memory_bytes is None:
        return "-"
    used, most = f"{node.memory_bytes / 1e6:,.1f}", node.maxmemory_bytes
    return f"{used} of {most / 1e6:,.1f} MB" if most else f"{used} MB"
