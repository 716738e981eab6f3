"""Drills of MySQL: requests wait for it and are then carried out, once."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import timedelta

from drills.measure import Met
from drills.midnight import before_midnight, shift_to_midnight
from drills.scene import Promise, Scenario, Scene, each
from drills.stage import Plan, Supervised
from drills.toxiproxy import Link
from sharding.partitions.calendar import oldest_kept, table, utc_day
from sharding.partitions.sql import create_table
from stack import replication
from stack.redis import RedisServer
from stack.server import Server

_FAILOVER = Promise(latency="outage")
_PAIR = Plan(mysql="pair")
_PROXIES = Plan(mysql_proxies=True)


def _pair(scene: Scene) -> Supervised:
    assert scene.stage.pair is not None
    return scene.stage.pair


def _standby(scene: Scene) -> Server:
    """A server that is not the primary."""
    primary = scene.stage.primary
    return next(host for host in scene.stage.mysql_hosts if host.name != primary.name)


def _words(pair: Supervised) -> str:
    found = pair.status()
    redundant = "redundant" if found["redundant"] else "not redundant"
    return f"{found['primary']} is the primary, generation {found['generation']}, {redundant}"


async def _replaced(scene: Scene, old: str) -> None:
    """Wait until the pair has another primary; that is the end of the outage."""
    pair = _pair(scene)
    came = await scene.until(lambda: pair.primary.name != old, 20)
    scene.outage_over(f"{pair.primary.name} is the primary" if came else "nothing was promoted")
    scene.expect("the standby is promoted", came, f"the primary is {pair.primary.name}")


async def _redundant(scene: Scene) -> None:
    pair = _pair(scene)
    came = await scene.until(lambda: pair.redundant, 20)
    scene.expect("the pair is redundant again", came, _words(pair))


async def _primary_killed(scene: Scene) -> None:
    pair = _pair(scene)
    old = pair.primary
    await scene.inject(f"{old.name}, the primary, is killed", old.kill)
    await _replaced(scene, old.name)
    await scene.wait(2, 20)
    await scene.heal(f"{old.name} is started again", lambda: pair.start_server(old.name))
    await _redundant(scene)


async def _primary_frozen(scene: Scene) -> None:
    pair = _pair(scene)
    old = pair.primary
    await scene.inject(f"{old.name}, the primary, is frozen (SIGSTOP)", old.freeze)
    await _replaced(scene, old.name)
    await scene.wait(2, 20)
    await scene.heal(f"{old.name} is started again", lambda: pair.start_server(old.name))
    await _redundant(scene)


async def _primary_thawed(scene: Scene) -> None:
    if scene.stage.elects:
        old = scene.stage.primary
        await scene.inject(f"{old.name}, the primary, is frozen (SIGSTOP)", old.freeze)
        await _replaced(scene, old.name)
        await scene.wait(3, 20)
        await scene.heal(f"{old.name} is thawed: two hosts say that they are the primary", old.thaw)
        await scene.wait(3, 20)
        return
    old, new = scene.stage.mysql_hosts
    await scene.inject(f"{old.name}, the primary, is frozen (SIGSTOP)", old.freeze)
    await scene.do(replication.promote, new, lambda _: None)
    scene.stage.promoted = new
    scene.outage_over(f"{new.name} is promoted; {old.name} is not killed")
    await scene.wait(3, 20)

    def thaw() -> None:
        old.thaw()
        # As a primary whose patience with its lost standby has ended: it answers commits alone.
        replication.set_semi_sync(old, on=False)

    await scene.heal(f"{old.name} is thawed: two hosts are writable", thaw)
    await scene.wait(3, 20)


async def _standby_killed(scene: Scene) -> None:
    pair = _pair(scene)
    standby = _standby(scene)
    await scene.inject(f"{standby.name}, the standby, is killed", standby.kill)
    if scene.stage.elects:
        await scene.wait(3, 20)
        await scene.heal(
            f"{standby.name} is started again", lambda: pair.start_server(standby.name)
        )
        return
    lost = await scene.until(lambda: not pair.redundant, 10)
    back = await scene.until(lambda: pair.redundant, 20)
    scene.outage_over(f"{standby.name} follows again")
    scene.healed = scene.client.now()
    scene.expect("the standby is restarted and linked", lost and back, _words(pair))


async def _without_standby(scene: Scene) -> None:
    pair = _pair(scene)
    name = _standby(scene).name
    scene.mark(f"{name}, the standby, is stopped; {pair.primary.name} goes on alone, openly")
    await scene.do(pair.stop_server, name)
    await scene.do(replication.set_semi_sync, pair.primary, False)
    await scene.wait(0.5, 2)


async def _killed_alone(scene: Scene) -> None:
    pair = _pair(scene)
    old, standby = scene.stage.primary, _standby(scene)
    await scene.inject(f"{old.name} is killed while the pair is not redundant", old.kill)
    scene.mark(f"{standby.name} is started: it lacks acknowledged changes")
    await scene.do(pair.start_server, standby.name)
    await scene.wait(3, 15)
    scene.expect(
        "nothing is promoted in silence",
        pair.primary is old,
        f"the primary is {pair.primary.name}",
    )
    await scene.heal(f"{old.name} is started again", lambda: pair.start_server(old.name))
    await _redundant(scene)


async def _cut(scene: Scene) -> None:
    links = scene.stage.links("mysql")

    def delay(link: Link) -> None:
        link.add("latency", latency=40)

    for _ in range(int(scene.pick(6, 40))):
        # So that there are always answers on their way, to changes that have happened.
        await scene.inject("answers of MySQL take 40 ms", each(links, delay))
        await asyncio.sleep(0.25)
        scene.mark("connections to MySQL are cut")
        await scene.do(each(links, Link.disable))
        await scene.heal("and may be opened again", each(links, Link.heal))
        await asyncio.sleep(0.2)
    found = await scene.do(scene.stage.metric, "tapedeck_recovered_changes_total")
    scene.expect(
        "changes whose answer was lost are found by their operation ids",
        found > 0,
        f"{found:.0f} found",
    )


def _hold(link: Link) -> None:
    link.add("timeout", timeout=0)


async def _connections_frozen(scene: Scene) -> None:
    links = scene.stage.links("mysql")
    await scene.inject("answers of MySQL do not arrive", each(links, _hold))
    await scene.wait(2.5, 7)
    await scene.heal("connections work again", each(links, Link.heal))


async def _read_only(scene: Scene) -> None:
    primary = scene.stage.primary
    await scene.inject(
        "MySQL is read-only", lambda: primary.query("SET GLOBAL read_only = 1", timeout=20)
    )
    await scene.wait(3, 10)
    await scene.heal(
        "MySQL is writable", lambda: primary.query("SET GLOBAL read_only = 0", timeout=20)
    )


async def _past_deadline(scene: Scene) -> None:
    primary = scene.stage.primary
    await scene.inject("MySQL is killed", primary.kill)
    await scene.wait(4, 15)
    await scene.heal("MySQL is started again", lambda: primary.start())
    busy = sum(t.met is Met.BUSY for t in scene.client.tries)
    scene.expect("it is gone for longer than the deadline", busy > 0, f"{busy} answers of 503")


# --- the calendar


async def _midnight(scene: Scene) -> None:
    nodes = scene.stage.lookups

    def die() -> None:
        for node in nodes:
            with node.client() as client:
                client.save()
            node.kill()

    before = await scene.do(scene.stage.partitions)
    await scene.inject("all lookup nodes are killed, shortly before midnight", die)
    midnight = await scene.do(shift_to_midnight, scene, 1.5)
    await asyncio.sleep(midnight - scene.client.now())
    scene.mark("midnight, UTC")
    await scene.wait(2, 15)
    await scene.heal(
        "they are started with the entries of yesterday", each(nodes, RedisServer.start)
    )
    after = await scene.do(scene.stage.partitions)
    moved = await scene.do(scene.stage.rows_by_partition)
    scene.expect(
        "states move to the new day",
        len(after) > len(before) and moved.get(after[-2], 0) > 0,
        "rows: " + ", ".join(f"{count} in {name}" for name, count in moved.items()),
    )


async def _thirty_days(scene: Scene) -> None:
    """Partitions as after a month: the oldest is past retention once midnight comes."""
    await before_midnight(scene)

    def fill() -> None:
        today = utc_day(scene.stage.clock_now())
        day = oldest_kept(today, 30)
        primary = scene.stage.primary
        with primary.connect("tapedeck", timeout=20) as connection:
            cursor = connection.cursor()
            while day < today:
                cursor.execute(create_table(day))
                day += timedelta(days=1)
            oldest = table(oldest_kept(today, 30))
            for begin in range(0, 20_000, 1_000):
                rows = ",".join(
                    f"({1_000_000_000_000_000 + begin + n}, 1, 1, 1, '{{}}', '')"
                    for n in range(1_000)
                )
                cursor.execute(
                    f"INSERT INTO {oldest}"
                    f" (user_id, playlist_id, version, owner, state, operations) VALUES {rows}"
                )

    await scene.do(fill)
    await scene.wait(1, 5)


async def _nightly_drop(scene: Scene) -> None:
    before = await scene.do(scene.stage.partitions)
    oldest = before[0]
    reading = contextlib.ExitStack()

    def read() -> None:
        """A reader's open transaction, as a backup's: the drop must not queue behind it."""
        connection = reading.enter_context(scene.stage.primary.connect("tapedeck", timeout=20))
        cursor = connection.cursor()
        cursor.execute("START TRANSACTION")
        cursor.execute(f"SELECT COUNT(*) FROM {oldest}")

    # Before midnight: what is past retention may be dropped at once.
    await scene.do(read)
    with reading:
        midnight = await scene.do(shift_to_midnight, scene, 1.0)
        await asyncio.sleep(midnight - scene.client.now())
        await scene.inject(f"midnight: {oldest} is past retention", lambda: None)
        await scene.wait(2, 5)
    scene.mark("a reader of it has ended")
    gone = await scene.until(lambda: oldest not in scene.stage.partitions(), 15)
    scene.healed = scene.client.now()
    scene.mark(f"{oldest} is dropped" if gone else f"{oldest} is still there")
    left = await scene.do(scene.stage.partitions)
    scene.expect(
        "the partition past retention is dropped, and no other",
        gone and set(before) - set(left) == {oldest},
        f"dropped: {', '.join(sorted(set(before) - set(left))) or 'none'}",
    )


MYSQL_DRILLS = (
    Scenario(
        "mysql-primary-killed",
        "the MySQL primary is killed and its standby promoted",
        _FAILOVER,
        _primary_killed,
        _PAIR,
    ),
    Scenario(
        "mysql-primary-frozen",
        "the MySQL primary is frozen, ended and replaced",
        _FAILOVER,
        _primary_frozen,
        _PAIR,
    ),
    Scenario(
        "mysql-primary-thawed",
        "the MySQL primary is frozen, replaced and thawed: two writable hosts",
        _FAILOVER,
        _primary_thawed,
        Plan(mysql="unsupervised pair"),
    ),
    Scenario(
        "mysql-standby-killed",
        "the MySQL standby is killed: commits wait for it",
        _FAILOVER,
        _standby_killed,
        _PAIR,
    ),
    Scenario(
        "mysql-primary-killed-alone",
        "the MySQL primary is killed before the pair is redundant again",
        Promise(errors=frozenset({Met.BUSY})),
        _killed_alone,
        _PAIR,
        prepare=_without_standby,
    ),
    Scenario("mysql-connections-cut", "connections to MySQL are cut", _FAILOVER, _cut, _PROXIES),
    Scenario(
        "mysql-connections-frozen",
        "connections to MySQL stay open and answer nothing",
        _FAILOVER,
        _connections_frozen,
        _PROXIES,
    ),
    Scenario(
        "mysql-read-only",
        "MySQL is read-only for a while",
        _FAILOVER,
        _read_only,
        Plan(config={"mysql": {"deadline": 15_000}}),
    ),
    Scenario(
        "mysql-past-deadline",
        "MySQL is gone for longer than the deadline",
        Promise(errors=frozenset({Met.BUSY}), recovery=2.0),
        _past_deadline,
        Plan(config={"mysql": {"deadline": 2_000}}),
    ),
    Scenario(
        "midnight-outage",
        "midnight passes while all lookup nodes are dead; they return with yesterday's entries",
        Promise(),
        _midnight,
        Plan(clock="before midnight", gateways_clock=True, config={"sessions": {"enabled": False}}),
        prepare=before_midnight,
    ),
    Scenario(
        "nightly-drop",
        "a partition past retention is dropped under load, behind a reader",
        Promise(),
        _nightly_drop,
        Plan(
            clock="before midnight",
            gateways_clock=True,
            config={"partitions": {"prune_every": 1, "drop_after": 0}},
        ),
        prepare=_thirty_days,
    ),
)
