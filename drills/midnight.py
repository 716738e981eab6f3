"""Midnight when a drill wants it: the servers' clock, which the gateways may share, is shifted."""

from __future__ import annotations

from drills.scene import Scene

DAY = 86400


def shift_to_midnight(scene: Scene, seconds: float) -> float:
    """Shift the clock so that a midnight is so many seconds ahead; the moment, on the drill's."""
    now = scene.stage.clock_now()
    to_midnight = DAY - now % DAY
    scene.stage.shift_clock(to_midnight - seconds)
    return scene.client.now() + seconds


async def before_midnight(scene: Scene) -> None:
    """23:59 is where the load begins to write, so that it lives in the old day's partition."""
    await scene.do(shift_to_midnight, scene, 60)
    await scene.wait(1, 5)
