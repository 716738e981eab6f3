"""Drills of lookup nodes: whatever they do, it may cost time and never an answer."""

from __future__ import annotations

import asyncio
import secrets
import shutil
from pathlib import Path

from drills.scene import Promise, Scenario, Scene, by_gateway, each
from drills.stage import Plan
from drills.toxiproxy import Link
from stack.redis import RedisServer

_ONE_NODE = Promise(latency="hint")
_RETURN = 20.0
"""Seconds within which a healed node is expected back in the ring."""


def out_of_ring(scene: Scene) -> list[int]:
    """How many lookup nodes each gateway has out of its ring, as its last /readyz said."""
    last = {answer.gateway: answer for answer in scene.client.readyz if answer.status}
    return [
        sum("out of the ring" in reason for reason in answer.reasons) for answer in last.values()
    ]


def _words(scene: Scene) -> str:
    return f"nodes out of the ring: {by_gateway(out_of_ring(scene))}"


async def _ejected(scene: Scene, gateways: int = 2, nodes: int = 1) -> None:
    """Expect that so many gateways (if there are so many) take so many nodes out."""
    gateways = min(gateways, len(scene.stage.targets))
    came = await scene.until(
        lambda: sum(out >= nodes for out in out_of_ring(scene)) >= gateways, 6.0
    )
    scene.expect("the failing node leaves the ring", came, _words(scene))


async def _returned(scene: Scene) -> None:
    """Expect all nodes in all rings again."""
    came = await scene.until(lambda: not any(out_of_ring(scene)), _RETURN)
    scene.expect("healed, it returns to the ring", came, _words(scene))


async def _killed(scene: Scene) -> None:
    node = scene.stage.lookups[0]
    await scene.inject(f"{node.name} is killed", node.kill)
    await _ejected(scene)
    await scene.wait(2, 30)
    await scene.heal(f"{node.name} is started, empty", node.start)
    await _returned(scene)


async def _frozen(scene: Scene) -> None:
    node = scene.stage.lookups[0]
    await scene.inject(f"{node.name} is frozen (SIGSTOP)", node.freeze)
    await _ejected(scene)
    await scene.wait(2, 30)
    await scene.heal(f"{node.name} is thawed", node.thaw)
    await _returned(scene)


async def _toxic(scene: Scene, words: str, kind: str, **attributes: int) -> None:
    links = scene.stage.links("lookup", 0)
    name = scene.stage.lookups[0].name

    def add(link: Link) -> None:
        link.add(kind, stream="downstream", toxicity=1.0, name=None, **attributes)

    await scene.inject(f"{name} {words}", each(links, add))
    await _ejected(scene)
    await scene.wait(2, 30)
    await scene.heal(f"{name} is well", each(links, Link.heal))
    await _returned(scene)


async def _slow(scene: Scene) -> None:
    await _toxic(scene, "answers 2 s late", "latency", latency=2000)


async def _resetting(scene: Scene) -> None:
    await _toxic(scene, "resets every connection", "reset_peer", timeout=0)


async def _flapping(scene: Scene) -> None:
    links = scene.stage.links("lookup", 0)
    name = scene.stage.lookups[0].name
    flaps = int(scene.pick(6, 40))
    # At first long enough to be noticed: what comes after must not be noticed each time anew.
    await scene.inject(f"{name} goes", each(links, Link.disable))
    await _ejected(scene)
    await scene.heal(f"{name} comes", each(links, Link.enable))
    for _ in range(flaps - 1):
        await asyncio.sleep(0.7)
        await scene.inject(f"{name} goes", each(links, Link.disable))
        await asyncio.sleep(0.3)
        await scene.heal(f"{name} comes", each(links, Link.enable))
    counts = [_ejections(scene, gateway) for gateway in range(len(scene.stage.gateways))]
    scene.expect(
        f"{flaps} flaps take it out of the ring at most {flaps // 2 + 1} times",
        max(counts) <= flaps // 2 + 1,
        f"times out of the ring: {by_gateway(counts)}",
    )
    await _returned(scene)


def _ejections(scene: Scene, gateway: int) -> int:
    """How often a gateway was seen to take a node out."""
    out = [bool(answer.reasons) for answer in scene.client.readyz if answer.gateway == gateway]
    return sum(now and not before for before, now in zip([False, *out], out, strict=False))


def _snapshot(node: RedisServer) -> Path:
    """Copy the entries that a node has now."""
    with node.client() as client:
        client.save()
    snapshot = node.folder / "snapshot.rdb"
    shutil.copy(node.folder / "dump.rdb", snapshot)
    return snapshot


def _return_with(node: RedisServer, snapshot: Path) -> None:
    node.kill()
    shutil.copy(snapshot, node.folder / "dump.rdb")
    node.start()


async def _seed_a_week_ago(scene: Scene) -> None:
    """MySQL's clock is a week behind at first; what is written then is what the snapshots know."""
    await scene.wait(1, 5)
    await scene.do(_snapshot, scene.stage.lookups[0])
    scene.mark("a snapshot is taken, and a week passes")
    await scene.do(scene.stage.clock_file.write_text, "+0\n")
    await scene.wait(1, 3)


async def _old_snapshot(scene: Scene) -> None:
    node = scene.stage.lookups[0]
    await scene.inject(
        f"{node.name} returns with its entries of a week ago",
        lambda: _return_with(node, node.folder / "snapshot.rdb"),
    )
    await scene.wait(3, 30)
    scene.healed = scene.client.now()
    await _returned(scene)


async def _emptied(scene: Scene) -> None:
    node = scene.stage.lookups[0]

    def flush() -> None:
        with node.client() as client:
            client.flushall()

    for _ in range(int(scene.pick(3, 20))):
        await scene.inject(f"FLUSHALL on {node.name}", flush)
        await asyncio.sleep(1)
    scene.healed = scene.client.now()


def _limit(node: RedisServer, maxmemory: str, policy: str) -> None:
    with node.client() as client:
        client.config_set("maxmemory-policy", policy)
        client.config_set("maxmemory", maxmemory)


async def _refusing(scene: Scene) -> None:
    node = scene.stage.lookups[0]

    def fill() -> None:
        with node.client() as client:
            client.flushall()  # so that every load has something to write
        _limit(node, "1", "noeviction")

    def refused() -> int:
        with node.client() as client:
            stats = client.info("errorstats")
            return int(stats.get("errorstat_OOM", {}).get("count", 0))

    await scene.inject(f"{node.name} is full and refuses writes", fill)
    await scene.wait(4, 30)
    count = await scene.do(refused)
    scene.expect("writes are refused", count > 0, f"{count} answers of OOM")
    await scene.heal(f"{node.name} has room again", lambda: _limit(node, "0", "noeviction"))
    await _returned(scene)


async def _evicting(scene: Scene) -> None:
    node = scene.stage.lookups[0]

    def crowd() -> int:
        with node.client() as client:
            used = int(client.info("memory")["used_memory"])
            _limit(node, str(used + 300_000), "allkeys-lru")
            for _ in range(20):
                crowd = client.pipeline(transaction=False)
                for number in range(200):
                    crowd.set(f"crowd:{secrets.token_hex(4)}:{number}", "x" * 100)
                crowd.execute(raise_on_error=False)
            return int(client.info("stats")["evicted_keys"])

    evicted = 0
    for _ in range(int(scene.pick(3, 20))):
        await scene.inject(f"{node.name} is crowded and evicts entries", lambda: None)
        evicted = await scene.do(crowd)
        await asyncio.sleep(1)
    scene.expect("entries are evicted", evicted > 0, f"{evicted} evicted")
    await scene.heal(f"{node.name} has room again", lambda: _limit(node, "0", "noeviction"))


async def _all_dead(scene: Scene) -> None:
    nodes = scene.stage.lookups
    await scene.inject("all lookup nodes are killed", each(nodes, RedisServer.kill))
    await _ejected(scene, nodes=len(nodes))
    await scene.wait(3, 30)
    status = {answer.gateway: answer.status for answer in scene.client.readyz}
    scene.expect(
        "/readyz stays ready and says degraded",
        set(status.values()) == {200},
        f"status: {by_gateway(status[n] for n in sorted(status))}",
    )
    await scene.heal("all are started, empty", each(nodes, RedisServer.start))
    await _returned(scene)


async def _half_cut_off(scene: Scene) -> None:
    link = scene.stage.lookup_links[0, 0]
    await scene.inject("gateway1 is cut off from lookup1", link.disable)
    await _ejected(scene, gateways=1)
    await scene.wait(2, 30)
    await scene.heal("gateway1 reaches lookup1 again", link.enable)
    await _returned(scene)


_PROXIES = Plan(lookup_proxies=True)

LOOKUP_DRILLS = (
    Scenario("lookup-killed", "a lookup node is killed, and comes back", _ONE_NODE, _killed),
    Scenario("lookup-frozen", "a lookup node is frozen (SIGSTOP)", _ONE_NODE, _frozen),
    Scenario("lookup-slow", "a lookup node answers 2 s late", _ONE_NODE, _slow, _PROXIES),
    Scenario(
        "lookup-resetting", "a lookup node resets connections", _ONE_NODE, _resetting, _PROXIES
    ),
    Scenario("lookup-flapping", "a lookup node comes and goes", _ONE_NODE, _flapping, _PROXIES),
    Scenario(
        "lookup-old-snapshot",
        "a lookup node returns with a week-old snapshot",
        _ONE_NODE,
        _old_snapshot,
        # So that the old entries are asked for, not only by listeners who are new to a gateway.
        # (The week that passes gives no skips back: the load counts those of a whole run.)
        Plan(
            clock="-604800",
            gateways_clock=True,
            config={"sessions": {"enabled": False}, "player": {"skip_window": 30 * 86400}},
        ),
        prepare=_seed_a_week_ago,
    ),
    Scenario("lookup-emptied", "a lookup node is emptied (FLUSHALL)", _ONE_NODE, _emptied),
    Scenario(
        "lookup-refusing-writes",
        "a lookup node is full and refuses writes (noeviction)",
        _ONE_NODE,
        _refusing,
    ),
    Scenario(
        "lookup-evicting", "a lookup node is full and evicts (allkeys-lru)", _ONE_NODE, _evicting
    ),
    Scenario("lookups-all-dead", "all lookup nodes are dead", Promise(), _all_dead, rate=220),
    Scenario(
        "lookup-half-cut-off",
        "half of the gateways are cut off from one lookup node",
        _ONE_NODE,
        _half_cut_off,
        _PROXIES,
    ),
)
