"""`tapedeck ring show`: asks the nodes, and prints them as a table."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from cli.common import fail, print_table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sharding.backend import Backend


async def find_cluster(backend: Backend) -> None:
    """Find the primaries of a Redis Cluster; a ring's nodes are in the configuration."""
    from failover.redis.cluster import ClusterNodes

    if isinstance(backend.nodes, ClusterNodes):
        await backend.nodes.refresh()
        if backend.nodes.problems:
            fail(backend.nodes.problems[0])


async def look_at(backend: Backend, shares: Mapping[str, float]) -> list[dict[str, Any]]:
    """Ask each node for its capacity. Connections stay open.

    Args:
        shares: of the key space, by node name.
    """
    await backend.survey.check(backend.nodes)
    described = []
    for node in backend.nodes:
        found = backend.survey.found.get(node.name)
        state = "answers"
        if found is None:
            # The gateway's words for why the node does not answer.
            replies = await node.run([("PING",)])
            state = node.health.reason if replies is None else "refuses to say how it stands"
        described.append(
            {
                "name": node.name,
                "address": str(node.server),
                "weight": node.server.weight,
                "share": shares[node.name],
                "state": state,
                **(asdict(found) if found is not None else {"keys": None, "memory_bytes": None}),
            }
        )
    return described


def print_nodes(nodes: list[dict[str, Any]], retention_days: int) -> None:
    """The table."""
    rows = []
    for node in nodes:
        alive = node["state"] == "answers"
        evicted = node.get("evicted")
        rows.append(
            (
                node["name"],
                node["address"],
                str(node["weight"]),
                f"{node['share']:.1%}",
                f"{node['keys']:,}" if alive else "-",
                _memory(node) if alive else "-",
                "-" if evicted is None else f"[red]{evicted:,}[/red]" if evicted else "0",
                _standing(node),
            )
        )
    columns = ("node", "address", "weight", "share", "keys", "memory", "evicted", "state")
    print_table(columns, rows)
    if any(node.get("evicted") for node in nodes):
        print(f"evicted: entries that went before the retention of {retention_days} days was over")


def print_rings(rings: Mapping[str, dict[str, Any]]) -> None:
    """What each gateway makes of the nodes, by its URL."""
    rows = []
    for url, ring in rings.items():
        for node in ring["nodes"]:
            out = node["state"] != "live"
            why = f"since {node['since']}: {node['reason']}".replace("[", r"\[") if out else ""
            colour = "red" if out else "green"
            rows.append(
                (
                    url,
                    str(ring["generation"]),
                    node["name"],
                    node["address"],
                    str(node["weight"]),
                    f"{node['share']:.1%}",
                    f"[{colour}]{node['state']}[/]",
                    why,
                )
            )
    columns = ("gateway", "generation", "node", "address", "weight", "share", "state", "")
    print_table(columns, rows)


def _standing(node: dict[str, Any]) -> str:
    """Whether the node answers, and whether the gateway has ejected it."""
    if node["state"] != "answers":
        return f"[red]{node['state']}[/red]"
    if node.get("ring") == "ejected":
        return f"[red]answers; out of the ring: {node['reason']}[/red]"
    return "live" if node.get("ring") else "answers"


def _memory(node: dict[str, Any]) -> str:
    used = f"{node['memory_bytes'] / 1e6:,.1f}"
    most = node["maxmemory_bytes"]
    return f"{used} of {most / 1e6:,.1f} MB" if most else f"{used} MB"
