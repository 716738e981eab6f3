"""A lookup node is killed during a run: what clients notice."""

from __future__ import annotations

import time

from bench import seed, stats, workloads
from bench.experiments.open_loop import saturation
from bench.lab import Lab
from bench.peers import processes as peers
from bench.peers.processes import Kind
from bench.servers import GATEWAY, PLAIN
from sharding.partitions.calendar import table

SHARE = 0.4
"""The load meanwhile, as a share of what the slower of both peers reaches."""
CONNECTIONS = 256


def losses(lab: Lab) -> None:
    """Kill the node that has a third of the lookups, while listeners come back after days."""
    rate = round(saturation(lab, workloads.BACK, (peers.GO, peers.GATEWAY)) * SHARE)
    wide = lab.scale.wide
    for number in range(min(lab.scale.rounds, 3) if wide else 1):
        for kind in (peers.GO, peers.GATEWAY):
            _run(lab, kind, number, rate, 12.0 if wide else 6.0)


def _run(lab: Lab, kind: Kind, number: int, rate: int, seconds: float) -> None:
    servers = lab.servers
    prepared, load = lab.under_way(kind, workloads.BACK, seconds, rate, CONNECTIONS)
    time.sleep(seconds / 3)  # the load before the change, for comparison
    killed = time.monotonic()
    servers.lookups[0].kill()
    measured = load.finish()
    prepared.path.unlink()
    lost = _places_lost(lab, kind, prepared.users)
    lab.lookups_again()
    before = measured.between(measured.began + lab.scale.warmup, killed)
    after = measured.between(killed, measured.began + seconds)
    low, high = (stats.percentile(part, 0.99) if part else 0.0 for part in (before, after))
    cut = stats.windows(
        [s.due for s in measured.samples], [s.latency for s in measured.samples], 0.25
    )
    lab.record(
        "node_loss",
        peer=kind.name,
        round=number,
        asked=rate,
        requests=len(measured.samples),
        errors=measured.errors,
        places_lost=lost,
        p99_before=round(low, 3),
        p99_after=round(high, 3),
        killed=round(killed - measured.began, 3),
        windows=[[w.start, w.count, round(w.p50, 3), round(w.p99, 3)] for w in cut]
        if number == 0
        else None,
    )
    lab.say(
        f"a lookup node killed at {rate}/s, {kind.title}: {measured.errors} errors, {lost} places "
        f"lost of {len(measured.samples)} requests, p99 {low:.1f} -> {high:.1f} ms"
    )


def _places_lost(lab: Lab, kind: Kind, users: range) -> int:
    """Count the listeners who began from the first track, though they had a state."""
    database = GATEWAY if kind.store == "gateway" else PLAIN
    with lab.servers.connect(database) as cursor:
        cursor.execute(
            f"SELECT COUNT(*) FROM {table(seed.today())}"
            f" WHERE user_id BETWEEN {users.start} AND {users.stop - 1}"
            f" AND version <= {seed.VERSION}"
        )
        return int(cursor.fetchone()[0])
