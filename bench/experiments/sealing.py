"""A day is sealed under load, by the gateway that has the load.

The p99 from the moment when the gateway begins until it uses the new filter (it reads all keys of
the day, and then makes the file of all filters anew) is compared with the p99 right before, when
the day had no filter either.
"""

from __future__ import annotations

import time
from datetime import date

from bench import seed, stats, workloads
from bench.experiments.open_loop import saturation
from bench.experiments.purge import windows
from bench.lab import Lab
from bench.peers import processes as peers
from bench.servers import GATEWAY
from config.model import Partitions
from sharding.partitions import filter_table, sql
from sharding.partitions.calendar import table

SHARE = 0.5
"""The load meanwhile, as a share of what the slower of plain Go and the gateway reaches."""
CONNECTIONS = 256
KEYS_A_SECOND = Partitions().seal_rate
"""The gateway's default, `partitions.seal_rate`."""
AFTER = 1.0
"""Seconds after the file of all filters is there, in which the gateway begins to use it."""


def seals(lab: Lab) -> None:
    """Fill the oldest day and seal it, round by round."""
    day = seed.days_ago(seed.RETENTION)
    for number in range(_rounds(lab)):
        _empty(lab, day)
        users = workloads.new_listeners(lab.scale.sealed)
        seed.gateway_rows(lab.servers, day, users, 1)
        under_load(lab, day, number)
    _empty(lab, day)


def seals_again(lab: Lab) -> None:
    """Seal yesterday, round by round."""
    for number in range(_rounds(lab)):
        under_load(lab, seed.days_ago(1), number)


def _rounds(lab: Lab) -> int:
    return min(lab.scale.rounds, 3 if lab.scale.wide else 1)


def _empty(lab: Lab, day: date) -> None:
    with lab.servers.connect(GATEWAY) as cursor:
        cursor.execute(f"DROP TABLE IF EXISTS {table(day)}")
        cursor.execute(sql.create_table(day))


def under_load(lab: Lab, day: date, number: int) -> None:
    """Seal one day once under load. Its filter is removed first, if it has one."""
    kind = peers.GATEWAY
    rate = round(saturation(lab, workloads.WARM, (peers.GO, kind)) * SHARE)
    with lab.servers.connect(GATEWAY) as cursor:
        cursor.execute(f"DELETE FROM {filter_table.TABLE} WHERE partition_name='{table(day)}'")
    lab.stop(kind)  # its file of filters may contain that day's
    lab.take_filters(kind, seed.RETENTION - 1)
    quiet = 10.0 if lab.scale.wide else 2.5
    seconds = quiet + lab.scale.sealed / KEYS_A_SECOND + (45.0 if lab.scale.wide else 8.0)
    prepared, load = lab.under_way(kind, workloads.WARM, seconds, rate, CONNECTIONS)
    time.sleep(quiet)  # the load before the change, for comparison
    files = _files(lab)
    started = time.monotonic()
    lab.configure(kind, seal=True)
    end = started + seconds - quiet
    sealed = taken = None
    while taken is None and time.monotonic() < end:
        time.sleep(0.1)
        if sealed is None and _is_stored(lab, day):
            sealed = time.monotonic()
        if sealed is not None and _files(lab) - files:
            taken = time.monotonic() + AFTER
    lab.configure(kind, seal=False)
    measured = load.finish()
    prepared.path.unlink()
    before = measured.between(measured.began + lab.scale.warmup, started)
    during = measured.between(started, taken or end)
    low, high = (stats.percentile(part, 0.99) if part else 0.0 for part in (before, during))
    record = lab.record(
        "sealing",
        peer=kind.name,
        round=number,
        asked=rate,
        rows=lab.scale.sealed,
        took=round(sealed - started, 3) if sealed else None,
        filters_took=round(taken - AFTER - sealed, 3) if sealed and taken else None,
        p99_before=round(low, 3),
        p99_during=round(high, 3),
        errors=measured.errors,
        started=round(started - measured.began, 3),
        ended=round((taken or end) - measured.began, 3),
        windows=windows(measured) if number == 0 else None,
        **lab.changes_lost(kind, prepared, measured),
    )
    lab.say(
        f"{lab.scale.sealed} rows sealed in {record['took']} s at {rate}/s, all filters made anew "
        f"in {record['filters_took']} s more: p99 {low:.1f} ms before, {high:.1f} ms during "
        f"({measured.errors} errors)"
    )


def _is_stored(lab: Lab, day: date) -> bool:
    with lab.servers.connect(GATEWAY) as cursor:
        cursor.execute(
            f"SELECT COUNT(*) FROM {filter_table.TABLE} WHERE partition_name='{table(day)}'"
        )
        return bool(cursor.fetchone()[0])


def _files(lab: Lab) -> set[str]:
    """The names of the files of filters: asking for them takes no time of the gateway."""
    return {path.name for path in lab.servers.filters.glob("*.filters")}
