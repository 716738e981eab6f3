"""Drills of names: what DNS says of a peer is no more than where to look for it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from drills.dns import RESOLVER_SECONDS
from drills.scene import Promise, Scenario, Scene
from drills.stage import Plan, Stage, name_of

_PLAN = Plan(mysql="pair", named=True)


def _out(stage: Stage) -> list[str]:
    """Why each lookup node is out of the ring that is."""
    nodes = [node for gateway in stage.gateways for node in gateway.ring()["nodes"]]
    return [f"{node['name']}: {node['reason']}" for node in nodes if node["state"] != "live"]


def _unanswered(said: str, answer: str | None) -> Callable[[Scene], Awaitable[None]]:
    async def steps(scene: Scene) -> None:
        stage = scene.stage
        dns, pair = stage.dns, stage.pair
        assert dns is not None
        assert pair is not None
        others = [server for server in pair.servers.values() if server is not pair.primary]
        names = [name_of(server) for server in (*others, *stage.lookups)]
        asked = sum(dns.asked.values())
        await scene.inject(
            f"the names of {others[0].name}, the standby, and of all lookup nodes are {said}",
            lambda: dns.names.update(dict.fromkeys(names, answer)),
        )
        await scene.wait(2, 20)
        scene.mark("the connections to the lookup nodes are closed: each is made anew by its name")
        for node in stage.lookups:
            with node.client() as client:
                await scene.do(client.client_kill_filter, _type="normal", skipme=True)
        # Of a silent server: longer than a resolver tries.
        await scene.wait(RESOLVER_SECONDS + 1, 25)
        found = await scene.until(lambda: not _out(stage), 5)
        out = await scene.do(_out, stage)
        scene.expect("the lookup nodes are found all the same", found, f"out of the ring: {out}")
        more = sum(dns.asked.values()) - asked
        scene.expect("gateways asked for names meanwhile", more > 0, f"{more} questions")
        await scene.heal(
            "the names lead to their servers again",
            lambda: dns.names.update(dict.fromkeys(names, "127.0.0.1")),
        )

    return steps


NAME_DRILLS = (
    Scenario(
        "dns-silent",
        "DNS does not answer for the standby and the lookup nodes",
        Promise(),
        _unanswered("silent", None),
        _PLAN,
    ),
    Scenario(
        "dns-gone",
        "DNS says that the standby and the lookup nodes have no address (NXDOMAIN)",
        Promise(),
        _unanswered("gone (NXDOMAIN)", ""),
        _PLAN,
    ),
)
