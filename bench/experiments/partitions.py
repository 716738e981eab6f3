"""What a load costs by the number of partitions, and by the number of rows."""

from __future__ import annotations

import random
from pathlib import Path

from bench import seed, servers, workloads
from bench.lab import Lab, figures
from bench.load import Load
from bench.peers import processes as peers
from bench.peers.processes import Peer
from sharding.partitions import sql
from sharding.partitions.calendar import table
from sharding.state import Key

COUNTS = (3, 5, 10, 20, 30, 45, 60)
"""Partitions that a load without a hint reads: T+1, T, and those of so many days before."""
BY_COUNT = "tapedeck_counts"
BY_ROWS = "tapedeck_rows"
CONNECTIONS = (1, 64)


def by_count(lab: Lab) -> None:
    """Loads of states that exist nowhere, which read every partition."""
    server = lab.servers
    server.mysql.create_database(BY_COUNT)
    server.prepare(BY_COUNT)
    with server.connect(BY_COUNT) as cursor:
        for number in range(-1, max(COUNTS) - 1):
            cursor.execute(sql.create_table(seed.days_ago(number)))
    for number in range(1, max(COUNTS) - 1):
        users = range(number * 200_000, number * 200_000 + min(lab.scale.bulk, 10_000))
        seed.gateway_rows(server, seed.days_ago(number), users, 1, BY_COUNT)
    for count in COUNTS if lab.scale.wide else COUNTS[::3]:
        # Without pruning: the gateway would drop the older tables.
        document = server.gateway(
            BY_COUNT, partitions={"retention_days": count - 2, "prune": False, "seal": False}
        )
        peer = peers.gateway(server, document, label=f"gateway-{count}")
        peer.start()
        try:
            for connections in CONNECTIONS:
                prepared = workloads.unknown(server, 40_000)
                record = _measure(lab, peer, prepared.path, connections)
                lab.record("by_count", partitions=count, connections=connections, **record)
                lab.say(
                    f"a load over {count} partitions, {connections} connections: "
                    f"p50 {record['p50']:.2f} ms, {record['rate']:.0f}/s"
                )
        finally:
            peer.kill()
    server.mysql.drop_database(BY_COUNT)


def by_rows(lab: Lab) -> None:
    """Loads of states that exist, with a right hint: the data in memory, and larger than it."""
    server = lab.servers
    few = 20_000 if lab.scale.name == "tiny" else 300_000
    totals = (100_000, 1_000_000, 10_000_000) if lab.scale.wide else (few,)
    for total in totals:
        server.mysql.create_database(BY_ROWS)
        server.prepare(BY_ROWS)
        each = total // seed.RETENTION
        asked = []
        chance = random.Random(total)
        size = 0
        for number in range(1, seed.RETENTION + 1):
            # Ids above those of all other runs, whose hints are on the same nodes.
            day, first = seed.days_ago(number), (1 << 40) + number * 1_000_000
            with server.connect(BY_ROWS) as cursor:
                cursor.execute(sql.create_table(day))
            seed.gateway_rows(server, day, range(first, first + each), 1, BY_ROWS)
            asked += [(Key(first + chance.randrange(each), 1), day) for _ in range(1500)]
            with server.connect(BY_ROWS) as cursor:
                cursor.execute(
                    "SELECT data_length FROM information_schema.tables"
                    " WHERE table_schema = DATABASE() AND table_name = %s",
                    (table(day),),
                )
                size += int(cursor.fetchone()[0])
        chance.shuffle(asked)
        seed.gateway_lookups(server, asked)
        pools = {
            "large": max(servers.BUFFER_POOL, size * 3 // 2),
            "small": max(servers.CHUNK, size // 4),
        }
        peer = peers.gateway(
            server,
            server.gateway(BY_ROWS, partitions={"prune": False, "seal": False}),
            label=f"gateway-{total}",
        )
        peer.start()
        try:
            for pool, wanted in pools.items():
                memory = wanted // servers.CHUNK * servers.CHUNK
                server.set_buffer_pool(memory)
                for connections in CONNECTIONS:
                    path = workloads.known(server, [key for key, _ in asked])
                    record = _measure(lab, peer, path, connections)
                    lab.record(
                        "by_rows",
                        rows=total,
                        bytes=size,
                        pool=pool,
                        pool_bytes=memory,
                        connections=connections,
                        **record,
                    )
                    lab.say(
                        f"a load among {total} rows ({size >> 20} MB), {memory >> 20} MB of buffer "
                        f"pool, {connections} connections: p50 {record['p50']:.2f}, "
                        f"p99 {record['p99']:.2f} ms, {record['rate']:.0f}/s"
                    )
        finally:
            peer.kill()
            server.set_buffer_pool(servers.BUFFER_POOL)
            server.mysql.drop_database(BY_ROWS)


def _measure(lab: Lab, peer: Peer, path: Path, connections: int) -> dict[str, object]:
    load = Load(
        lab.generator,
        peer.port,
        path,
        connections=connections,
        seconds=lab.scale.seconds,
        warmup=lab.scale.warmup,
    )
    found = figures(load.finish())
    path.unlink()
    return found
