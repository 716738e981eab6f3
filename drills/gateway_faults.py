"""Drills of the gateways themselves."""

from __future__ import annotations

from drills.measure import Met
from drills.scene import Promise, Scenario, Scene
from drills.stage import Plan


async def _killed(scene: Scene) -> None:
    gateway = scene.stage.gateways[0]
    await scene.inject(f"{gateway.name} is killed", gateway.kill)
    await scene.wait(2, 20)
    await scene.heal(f"{gateway.name} is started", gateway.start)
    cut = [t for t in scene.client.tries if t.met is Met.CUT]
    begin = scene.injections[0]
    strangers = sum(t.gateway != 0 or not t.sent - 0.05 <= begin <= t.ended + 0.05 for t in cut)
    scene.expect(
        "only connections that were open to it are lost",
        not strangers,
        f"{len(cut)} requests lost with it, {strangers} others",
    )


async def _rolling(scene: Scene) -> None:
    for _ in range(int(scene.pick(1, 3))):
        for gateway in scene.stage.gateways:
            await scene.inject(f"{gateway.name} is stopped (SIGTERM)", gateway.stop_patiently)
            await scene.heal(f"{gateway.name} is started", gateway.start)
            await scene.wait(0.5, 5)


GATEWAY_DRILLS = (
    Scenario(
        "gateway-killed",
        "a gateway is killed under load",
        Promise(errors=frozenset({Met.CUT})),
        _killed,
        Plan(own_gateways=True),
    ),
    Scenario(
        "rolling-restart",
        "the gateways are restarted one by one",
        Promise(),
        _rolling,
        Plan(own_gateways=True),
    ),
)
