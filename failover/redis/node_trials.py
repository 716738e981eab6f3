"""Whether lookup nodes work by a new configuration, before a reload applies it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from config.model import Lookup
from failover.loop_lag import LoopLag
from failover.redis.connections import OF_SIGN_IN
from failover.redis.nodes import Node


async def problems(
    present: Iterable[Node], before: Lookup, after: Lookup, loop_lag: LoopLag
) -> list[str]:
    """Why nodes of a ring do not do their work by a new configuration, a sentence each.

    New nodes are asked to do it. Present ones are asked too if the gateway would sign in otherwise,
    but only those that work now: a reload need not wait for dead ones.
    """
    if after.mode == "cluster":
        return []
    known = {node.address: node.health for node in present}
    changed = [word for word in OF_SIGN_IN if getattr(before, word) != getattr(after, word)]
    names = ", ".join(f"lookup.{word}" for word in changed)
    asked = []
    for server in after.servers:
        health = known.get(str(server))
        if health is None:
            asked.append((server, "lookup.servers: the new node"))
        elif changed and health.live and not health.reason:
            asked.append((server, f"{names}: the node"))
    found = await asyncio.gather(*(Node(one, after, loop_lag).trial() for one, _ in asked))
    return [
        f"{what} {server.name} ({server}) does not work: {problem}"
        for (server, what), problem in zip(asked, found, strict=True)
        if problem is not None
    ]
