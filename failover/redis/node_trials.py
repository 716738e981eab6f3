"""Whether lookup nodes do their work: for `check-config`, and before a reload changes them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from config.model import Lookup, LookupServer
from failover.loop_lag import LoopLag
from failover.redis.connections import OF_SIGN_IN
from failover.redis.nodes import Node


async def trial(
    present: Iterable[Node], before: Lookup, after: Lookup, loop_lag: LoopLag
) -> list[str]:
    """Why nodes of a ring would not do their work after a change, a sentence each.

    New nodes are asked to do it. Present ones are asked too if the gateway would sign in otherwise,
    but only those that work now: a reload need not wait for dead ones.
    """
    if after.mode == "cluster":
        return []
    known = {node.address: node.health for node in present}
    changed = before.differing(after, OF_SIGN_IN)
    names = ", ".join(f"lookup.{word}" for word in changed)
    asked: dict[str, str] = {}
    for server in after.servers:
        health = known.get(str(server))
        if health is None:
            asked[str(server)] = "lookup.servers: the new node"
        elif changed and health.live and not health.reason:
            asked[str(server)] = f"{names}: the node"
    servers = [server for server in after.servers if str(server) in asked]
    return [
        f"{asked[str(server)]} {server.name} ({server}) does not work: {problem}"
        for server, problem in await problems(servers, after, loop_lag)
    ]


async def problems(
    servers: Sequence[LookupServer], config: Lookup, loop_lag: LoopLag | None = None
) -> list[tuple[LookupServer, str]]:
    """Those of the servers that do not do a node's work, each with the reason."""
    found = await asyncio.gather(*(Node(one, config, loop_lag).trial() for one in servers))
    return [(one, why) for one, why in zip(servers, found, strict=True) if why is not None]
