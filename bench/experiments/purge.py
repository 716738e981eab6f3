"""The nightly purge under load: a partition is dropped, or a day's rows are deleted in batches.

Both designs have the same open-loop load. Each one's p99 during the purge is compared with its own
p99 right before, and the seconds of both purges with each other.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from bench import seed, stats, workloads
from bench.experiments.open_loop import saturation
from bench.lab import Lab
from bench.load import Measured
from bench.peers import processes as peers
from bench.peers.processes import Kind
from bench.servers import GATEWAY, TABLE
from sharding.partitions import sql
from sharding.partitions.calendar import table

BATCH = 2_000
"""Rows of one DELETE: small enough that no request waits long for its locks."""
SHARE = 0.5
"""The load meanwhile, as a share of what the slower of both reaches. (By night there is less.)"""
AFTER = 2.0
"""Seconds after the purge that count as `during` too: MySQL may still be busy with it."""
CONNECTIONS = 256


def purges(lab: Lab) -> None:
    """Measure both designs in turn, round by round."""
    both = (peers.GATEWAY, peers.GO_TABLE)
    rate = round(saturation(lab, workloads.WARM, both) * SHARE)
    wide = lab.scale.wide
    rounds = min(lab.scale.rounds, 3) if wide else 1
    for number in range(rounds):
        drop(lab, number, rate)
        _run(lab, peers.GO_TABLE, number, rate, 45.0 if wide else 16.0, _delete)


def drops(lab: Lab) -> None:
    """Measure dropped partitions only."""
    rate = round(saturation(lab, workloads.WARM, (peers.GO, peers.GATEWAY)) * SHARE)
    for number in range(min(lab.scale.rounds, 3)):
        drop(lab, number, rate)


def drop(lab: Lab, number: int, rate: int, experiment: str = "purge", **fields: str) -> None:
    """Drop one partition under load, and record it.

    Args:
        number: the round.
        rate: of the load meanwhile, requests a second.
        fields: more fields of the record.
    """
    seconds = 16.0 if lab.scale.wide else 8.0
    _run(lab, peers.GATEWAY, number, rate, seconds, _drop, experiment, **fields)


def _run(
    lab: Lab,
    kind: Kind,
    number: int,
    rate: int,
    seconds: float,
    purge: Callable[[Lab], float],
    experiment: str = "purge",
    **fields: str,
) -> None:
    past = seed.days_ago(seed.RETENTION + 1)
    users = workloads.new_listeners(lab.scale.purged)
    if kind is peers.GATEWAY:
        with lab.servers.connect(GATEWAY) as cursor:
            cursor.execute(sql.create_table(past))
        seed.gateway_rows(lab.servers, past, users, 1)
    else:
        seed.table_rows(lab.servers, past, users, 1)
    prepared, load = lab.under_way(kind, workloads.WARM, seconds, rate, CONNECTIONS)
    quiet = seconds * 0.3
    time.sleep(quiet)  # the load before the change, for comparison
    started = time.monotonic()
    took = purge(lab)
    ended = time.monotonic()
    measured = load.finish()
    prepared.path.unlink()
    before = measured.between(measured.began + lab.scale.warmup, started)
    during = measured.between(started, ended + AFTER)
    low, high = (stats.percentile(part, 0.99) if part else 0.0 for part in (before, during))
    record = lab.record(
        experiment,
        peer=kind.name,
        round=number,
        asked=rate,
        rows=lab.scale.purged,
        took=round(took, 4),
        p99_before=round(low, 3),
        p99_during=round(high, 3),
        errors=measured.errors,
        purge_started=round(started - measured.began, 3),
        purge_ended=round(ended - measured.began, 3),
        windows=windows(measured) if number == 0 else None,
        **lab.changes_lost(kind, prepared, measured),
        **fields,
    )
    how = "dropped" if kind is peers.GATEWAY else "deleted"
    lab.say(
        f"{lab.scale.purged} rows {how} in {took:.3f} s at {rate}/s, {kind.title}: "
        f"p99 {low:.1f} ms before, {high:.1f} ms during ({record['errors']} errors)"
    )


def windows(measured: Measured) -> list[list[float]]:
    """Quarter seconds of a run: start, requests, p50 and p99 in milliseconds."""
    cut = stats.windows(
        [s.due for s in measured.samples], [s.latency for s in measured.samples], 0.25
    )
    return [[w.start, w.count, round(w.p50, 3), round(w.p99, 3)] for w in cut]


def _drop(lab: Lab) -> float:
    """Run the pruner's statements; return the seconds that they took."""
    name = table(seed.days_ago(seed.RETENTION + 1))
    with lab.servers.connect(GATEWAY) as cursor:
        started = time.monotonic()
        cursor.execute("SET SESSION lock_wait_timeout = 1")
        cursor.execute(f"DROP TABLE IF EXISTS {name}")
        return time.monotonic() - started


def _delete(lab: Lab) -> float:
    """Delete a day by its index in batches, each a transaction; return the seconds that it took."""
    oldest = seed.days_ago(seed.RETENTION)
    statement = f"DELETE FROM player_state WHERE written_on < '{oldest:%Y-%m-%d}' LIMIT {BATCH}"
    with lab.servers.connect(TABLE) as cursor:
        started = time.monotonic()
        while cursor.execute(statement):
            pass
        return time.monotonic() - started
