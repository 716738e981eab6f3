"""Drills of reloads: the ring changes under load, and nobody notices."""

from __future__ import annotations

from collections.abc import Sequence

from tapedeck.drills.gateway import Gateway
from tapedeck.drills.scene import Promise, Scenario, Scene
from tapedeck.drills.stage import Plan
from tapedeck.localstack.redis import RedisServer

_MOVED = 30.0
"""Seconds within which entries are copied and the previous ring is forgotten."""
_TOLERANCE = 0.2
"""By how much the share of moved entries may differ from the ideal: a drill has few entries."""


def _reload(gateways: Sequence[Gateway], nodes: Sequence[RedisServer]) -> list[int]:
    """Give gateways another ring; their generations then."""
    servers = [node.server for node in nodes]
    return [
        int(gateway.reload("lookup", servers=servers)["ring"]["generation"]) for gateway in gateways
    ]


async def _settled(scene: Scene, generation: int, nodes: int) -> None:
    """Expect every gateway on the new ring, with all entries copied, and the old one forgotten."""

    def settled() -> bool:
        rings = [gateway.ring() for gateway in scene.stage.gateways]
        return all(
            ring["generation"] == generation
            and len(ring["nodes"]) == nodes
            and ring["move"]["state"] == "done"
            and not ring["move"]["previous_rings"]
            for ring in rings
        )

    came = await scene.until(settled, _MOVED)
    moves = [gateway.ring()["move"] for gateway in scene.stage.gateways]
    copied = sum(move["copied"] for move in moves)
    failed = sum(move["failed"] for move in moves)
    scene.expect(
        "every entry is copied and the previous ring forgotten",
        came and copied > 0 and not failed,
        f"{copied} copied, {sum(move['kept'] for move in moves)} known already, {failed} failed",
    )


async def _share(scene: Scene, ideal: float) -> None:
    """Report the share of the entries that moved, and what asking previous owners saved."""
    shares = [
        move["moved_share"]
        for gateway in scene.stage.gateways
        if (move := (await scene.do(gateway.ring))["move"])["moved_share"] is not None
    ]
    hits = sum([(await scene.do(g.ring))["warm_up"]["hit"] for g in scene.stage.gateways])
    share = max(shares, default=0.0)
    scene.expect(
        f"about the ideal share of the keys moves, {ideal:.0%}",
        0 < share < ideal + _TOLERANCE,
        f"{share:.1%}; {hits} hints came from previous owners",
    )


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
        await _share(scene, 1 / len(nodes))
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
    await scene.heal(f"{first.name} is stopped: nobody asks it", first.kill)
    await scene.wait(2, 20)
    out = {reason for look in scene.client.looks[-4:] for reason in look.reasons}
    scene.expect("nobody misses it", not out, "; ".join(out) or "/readyz names nothing")


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
