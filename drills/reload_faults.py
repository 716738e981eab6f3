"""Drills of reloads: the ring changes under load, and no listener notices."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from config.model import Lookup
from drills.client import Unanswered
from drills.gateway import Gateway
from drills.scene import Promise, Scenario, Scene
from drills.stage import Plan
from sharding.lookups.layout import Layout
from sharding.ring.ring import ring_of
from sharding.state import Key
from stack.redis import RedisServer

_TURNED = 10.0
"""Seconds within which a gateway has the ring that it was given."""
_PLACES = 9_000
"""Places that have a hint before shards are added: of them more than 2,000 move."""
_FIRST_USER = 500_000_000
"""Of those places; the load's own users are others."""
_AT_ONCE = 32
"""Requests for these places under way at once, before anything is measured."""


def _reload(gateways: Sequence[Gateway], nodes: Sequence[RedisServer]) -> None:
    """Give gateways another ring."""
    servers = [node.server for node in nodes]
    for gateway in gateways:
        gateway.reload("lookup", servers=servers)


async def _turned(scene: Scene, generation: int, nodes: int) -> None:
    """Expect every gateway on the new ring."""

    def all_turned() -> bool:
        rings = [gateway.ring() for gateway in scene.stage.gateways]
        return all(
            ring["generation"] == generation and len(ring["nodes"]) == nodes for ring in rings
        )

    came = await scene.until(all_turned, _TURNED)
    scene.expect("every gateway has the new ring", came, f"{nodes} nodes")


async def _ask(scene: Scene, user: int, method: str = "GET") -> bool:
    """Write a place, or read it; whether it is there as it was written."""
    headers = {"Authorization": f"Bearer {scene.stage.key}"}
    more: dict[str, str] = {}
    if method == "PUT":
        more = {"If-None-Match": "*", "Content-Type": "application/json"}
    try:
        answer = await scene.client.ask(
            method,
            f"/states/{user}/1",
            what="state",
            headers=headers | more,
            body=b'{"n": %d}' % user if more else None,
            allowed=frozenset({200, 201}),
        )
    except Unanswered:
        return False
    return answer.status == 201 if more else answer.json() == {"n": user}


async def _write_places(scene: Scene) -> None:
    """Thousands of places, each with its hint, before the shards come."""
    waiting = iter(range(_FIRST_USER, _FIRST_USER + _PLACES))

    async def write() -> int:
        return sum([await _ask(scene, user, "PUT") for user in waiting])

    written = sum(await asyncio.gather(*(write() for _ in range(_AT_ONCE))))
    scene.expect(f"{_PLACES:,} places are written before", written == _PLACES, f"{written:,}")


async def _load_moved(
    scene: Scene, before: Sequence[RedisServer], after: Sequence[RedisServer], seconds: float
) -> tuple[set[int], int]:
    """Load the places whose hint belongs to another node by the second ring, at a steady rate.

    Returns:
        Their users, and how many of the places are not there.
    """
    old, new = (
        ring_of(Lookup.model_validate({"servers": [node.server for node in nodes]}))
        for nodes in (before, after)
    )
    layout = Layout("packed", 30)
    loads: dict[int, asyncio.Task[bool]] = {}
    pause = seconds * len(after) / _PLACES
    for user in range(_FIRST_USER, _FIRST_USER + _PLACES):
        key = layout.ring_key(Key(user, 1))
        if old.owner(key).name != new.owner(key).name:
            loads[user] = asyncio.create_task(_ask(scene, user))
            await asyncio.sleep(pause)
    return set(loads), sum(not found for found in await asyncio.gather(*loads.values()))


async def _added(scene: Scene) -> None:
    stage = scene.stage
    nodes = list(stage.lookups)
    places: set[int] = set()
    missing = 0
    for number, spare in enumerate(stage.spares[: int(scene.pick(1, 2))], 2):
        nodes.append(spare)
        await scene.inject(
            f"{spare.name} is added by a reload",
            lambda: _reload(stage.gateways, nodes),
        )
        await _turned(scene, number, len(nodes))
        moved, lost = await _load_moved(scene, nodes[:-1], nodes, scene.pick(8, 20))
        places |= moved
        missing += lost
    scene.expect(
        "thousands of keys move, and each of their places is found without its hint",
        len(places) >= 2_000 and not missing,
        f"{len(places):,} of {_PLACES:,} keys moved, {missing} places not found",
    )
    await scene.heal("the ring has grown", lambda: None)


async def _removed(scene: Scene) -> None:
    stage = scene.stage
    first, *others = stage.lookups
    await scene.inject(
        f"{first.name} is removed by a reload", lambda: _reload(stage.gateways, others)
    )
    await _turned(scene, 2, len(others))
    await scene.wait(1, 10)
    await scene.heal(f"{first.name} is stopped: no gateway asks it", first.kill)
    await scene.wait(2, 20)
    out = {reason for answer in scene.client.readyz[-4:] for reason in answer.reasons}
    scene.expect("no gateway misses it", not out, "; ".join(out) or "/readyz names nothing")


async def _apart(scene: Scene) -> None:
    stage = scene.stage
    nodes = [*stage.lookups, *stage.spares[:1]]
    for number, gateway in enumerate(stage.gateways, 1):
        await scene.inject(
            f"{gateway.name} has {nodes[-1].name} in its ring",
            lambda: _reload([gateway], nodes),  # noqa: B023 - called at once
        )
        if number < len(stage.gateways):
            await scene.wait(4, 30)
            rings = [len((await scene.do(g.ring))["nodes"]) for g in stage.gateways]
            scene.expect(
                "for a while the gateways have two rings", len(set(rings)) == 2, f"nodes: {rings}"
            )
    await _turned(scene, 2, len(nodes))
    await scene.heal("all gateways have the same ring", lambda: None)


RELOAD_DRILLS = (
    Scenario(
        "shards-added",
        "shards are added by a reload under load, and thousands of keys move",
        # No node is ejected here: for as long as places move, the p99 may grow by the hint's
        # deadline at most.
        Promise(latency="hint"),
        _added,
        Plan(own_gateways=True, spares=2),
        prepare=_write_places,
    ),
    Scenario(
        "shard-removed",
        "a shard is removed by a reload under load",
        Promise(),
        _removed,
        Plan(own_gateways=True),
    ),
    Scenario(
        "reload-apart",
        "two gateways are reloaded at different times",
        Promise(),
        _apart,
        Plan(own_gateways=True, spares=1),
    ),
)
