"""Drills of reloads: the ring changes under load, and no listener notices."""

from __future__ import annotations

from collections.abc import Sequence

from drills.gateway import Gateway
from drills.scene import Promise, Scenario, Scene
from drills.stage import Plan
from stack.redis import RedisServer

_TURNED = 10.0
"""Seconds within which a gateway has the ring that it was given."""


def _reload(gateways: Sequence[Gateway], nodes: Sequence[RedisServer]) -> None:
    """Give gateways another ring."""
    servers = [node.server for node in nodes]
    for gateway in gateways:
        gateway.reload("lookup", servers=servers)


async def _settled(scene: Scene, generation: int, nodes: int) -> None:
    """Expect every gateway on the new ring."""

    def settled() -> bool:
        rings = [gateway.ring() for gateway in scene.stage.gateways]
        return all(
            ring["generation"] == generation and len(ring["nodes"]) == nodes for ring in rings
        )

    came = await scene.until(settled, _TURNED)
    scene.expect("every gateway has the new ring", came, f"{nodes} nodes")


async def _added(scene: Scene) -> None:
    stage = scene.stage
    nodes = list(stage.lookups)
    for number, spare in enumerate(stage.spares[: int(scene.pick(1, 2))], 2):
        nodes.append(spare)
        await scene.inject(
            f"{spare.name} is added by a reload",
            lambda: _reload(stage.gateways, nodes),
        )
        await _settled(scene, number, len(nodes))
        await scene.wait(2, 20)
    await scene.heal("the ring has grown", lambda: None)


async def _removed(scene: Scene) -> None:
    stage = scene.stage
    first, *others = stage.lookups
    await scene.inject(
        f"{first.name} is removed by a reload", lambda: _reload(stage.gateways, others)
    )
    await _settled(scene, 2, len(others))
    await scene.wait(1, 10)
    await scene.heal(f"{first.name} is stopped: no gateway asks it", first.kill)
    await scene.wait(2, 20)
    out = {reason for look in scene.client.looks[-4:] for reason in look.reasons}
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
    await _settled(scene, 2, len(nodes))
    await scene.heal("all gateways have the same ring", lambda: None)


RELOAD_DRILLS = (
    Scenario(
        "shards-added",
        "shards are added by a reload under load",
        Promise(),
        _added,
        Plan(own_gateways=True, spares=2),
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
