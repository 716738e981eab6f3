"""Drills of a Redis Cluster in the ring's place: a primary is lost, slots move, it is down."""

from __future__ import annotations

import asyncio

from drills.scene import Promise, Scenario, Scene, by_gateway
from drills.stage import Plan
from stack.redis import RedisServer
from stack.redis_cluster import RedisCluster

_SECONDS = 20.0
"""Within which a cluster has promoted a replica, and within which gateways have noticed."""


def _cluster(scene: Scene) -> RedisCluster:
    assert scene.stage.cluster is not None
    return scene.stage.cluster


def _primaries(cluster: RedisCluster) -> list[RedisServer]:
    return [server for server in cluster.servers if cluster.is_primary(server)]


def _degraded(scene: Scene) -> list[int]:
    """How many reasons each gateway gave when it was last asked."""
    last = {answer.gateway: answer for answer in scene.client.readyz if answer.status}
    return [len(answer.reasons) for answer in last.values()]


async def _all_well(scene: Scene) -> None:
    came = await scene.until(lambda: not any(_degraded(scene)), _SECONDS)
    scene.expect(
        "the gateways have all their hints again", came, f"reasons: {by_gateway(_degraded(scene))}"
    )


async def _killed(scene: Scene) -> None:
    cluster = _cluster(scene)
    victim = (await scene.do(_primaries, cluster))[0]
    await scene.inject(f"{victim.name}, a primary, is killed", victim.kill)
    replica = cluster.servers[cluster.servers.index(victim) + cluster.primaries]
    promoted = await scene.do(_promoted, cluster, replica)
    scene.expect("its replica is promoted", promoted, f"{replica.name} is a primary: {promoted}")
    scene.mark(f"{replica.name} is promoted")
    await _all_well(scene)
    await scene.wait(2, 30)
    await scene.heal(f"{victim.name} is started, a replica now", victim.start)
    await scene.do(cluster.until, cluster.healthy)
    await _all_well(scene)


def _promoted(cluster: RedisCluster, replica: RedisServer) -> bool:
    cluster.until(lambda: cluster.is_primary(replica), _SECONDS)
    return cluster.is_primary(replica)


async def _moved(scene: Scene) -> None:
    cluster = _cluster(scene)
    source, target, *_ = await scene.do(_primaries, cluster)
    # Slots that hold listeners of this drill, and of no other one: an empty slot shows nothing.
    held = await scene.do(cluster.slots_with_keys, source)
    slots = held[: int(scene.pick(40, 400))]
    await scene.inject(f"{len(slots)} slots go from {source.name} to {target.name}", lambda: None)
    for slot in slots:
        await scene.do(cluster.move_slot, slot, source, target)
        await asyncio.sleep(0.05)
    scene.healed = scene.client.now()
    scene.expect("slots with keys were moved", len(slots) > 5, f"{len(slots)} slots")
    await _all_well(scene)


async def _down(scene: Scene) -> None:
    cluster = _cluster(scene)
    victim = (await scene.do(_primaries, cluster))[0]
    replica = cluster.servers[cluster.servers.index(victim) + cluster.primaries]

    def kill() -> None:
        replica.kill()
        victim.kill()

    def start() -> None:
        victim.start()
        replica.start()

    await scene.inject(f"{victim.name} and its replica are killed: CLUSTERDOWN", kill)
    came = await scene.until(lambda: all(_degraded(scene)), _SECONDS)
    scene.expect("the gateways say so", came, f"reasons: {by_gateway(_degraded(scene))}")
    await scene.wait(3, 30)
    await scene.heal("both are started, empty", start)
    await _all_well(scene)


_CLUSTER = Plan(cluster=True, config={"sessions": {"enabled": False}})

CLUSTER_DRILLS = (
    Scenario(
        "cluster-primary-killed",
        "a primary of a Redis Cluster is killed, and its replica promoted",
        Promise(latency="hint"),
        _killed,
        _CLUSTER,
    ),
    Scenario(
        "cluster-slots-moved",
        "slots of a Redis Cluster move from one primary to another",
        Promise(),
        _moved,
        _CLUSTER,
    ),
    Scenario(
        "cluster-down",
        "a shard of a Redis Cluster is lost, and the others answer CLUSTERDOWN",
        Promise(),
        _down,
        _CLUSTER,
    ),
)
