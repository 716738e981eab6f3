"""The drill that breaks nothing: it checks a load while you break something."""

from __future__ import annotations

from drills.measure import Met
from drills.scene import Promise, Scenario, Scene

NAME = "by-hand"


def by_hand(seconds: float | None = None) -> Scenario:
    """Args:
    seconds: how long the load runs; by default 20 in short, 120 at length.
    """

    async def steps(scene: Scene) -> None:
        length = scene.pick(20, 120) if seconds is None else seconds
        await scene.inject(f"break what you like: {length:g} s", lambda: None)
        await scene.wait(length, length)
        scene.healed = scene.client.now()

    return Scenario(
        NAME,
        "nothing is broken by the drill: break something yourself while the load is checked",
        Promise(errors=frozenset({Met.BUSY, Met.CUT})),
        steps,
        words=() if seconds is None else ("--seconds", f"{seconds:g}"),
    )
