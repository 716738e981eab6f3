"""MariaDB and MySQL beside each other, in one run; and how each reads the hot path's statements."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date
from typing import Any

from bench import seed, workloads
from bench.experiments import purge
from bench.experiments.open_loop import saturation
from bench.lab import Lab
from bench.peers import processes as peers
from bench.servers import GATEWAY
from sharding.partitions import sealing, sql
from sharding.partitions.calendar import table, yesterday
from sharding.partitions.sql import NewRow
from sharding.state import Key, Owner
from stack.mysql import MySQL, find

WORKLOADS = (workloads.WARM, workloads.COLD, workloads.MISS)


def beside_each_other(lab: Lab) -> None:
    """Warm sessions, first touches and the nightly drop, in turn, round by round."""
    if find() is None:
        lab.say("left out: MySQL is not here (python3 stack/engines.py install mysql-9)")
        return
    server = lab.servers.another_mysql(MySQL, "mysql")
    server.start()
    try:
        other = lab.beside(lab.servers.on(server, "on-mysql"))
        other.seed_bulk()
        try:
            _compare((lab, other))
        finally:
            other.stop_all()
    finally:
        server.kill()


def _compare(labs: Sequence[Lab]) -> None:
    rounds = min(labs[0].scale.rounds, 3)
    rate = round(saturation(labs[0], workloads.WARM, (peers.GO, peers.GATEWAY)) * purge.SHARE)
    named = [(lab, lab.servers.engine) for lab in labs]
    for number in range(rounds):
        for lab, engine in named if number % 2 else named[::-1]:
            for workload in WORKLOADS:
                for kind in (peers.GO, peers.GATEWAY):
                    lab.run("engines", kind, workload, number, engine=engine)
            purge.drop(lab, number, rate, "engines_drop", engine=engine)
    for lab, engine in named:
        for title, statement in _statements():
            for plan in _explained(lab, statement):
                lab.record("explain", engine=engine, statement=title, **plan)


def _statements() -> Iterator[tuple[str, str]]:
    """The statements of the hot path, on keys that `seed_bulk` wrote into yesterday's partition
    only."""
    today = seed.today()
    keys = [Key(seed.BULK_A_DAY + number, 1) for number in range(12)]
    key = keys[0]
    row = NewRow(key, 6, 7, Owner.PLAYER, b"{}", b"")
    month = [seed.days_ago(n) for n in range(-1, seed.RETENTION + 1)]
    yield "a load: one key, today and yesterday", sql.read(_all(month[1:3], [key]))
    yield "a load: 12 keys, today and yesterday", sql.read(_all(month[1:3], keys))
    yield "a load without any filter: 32 partitions", sql.read(_all(month, [key]))
    yield "a save of one row", sql.update(yesterday(today), row)
    yield "a move: the old row goes", sql.delete(yesterday(today), {key: 6})
    one = f"user_id={key.user_id} AND playlist_id={key.playlist_id}"
    look = f"SELECT 1 FROM {table(month[0])} WHERE {one} FOR UPDATE"
    yield "a create: its look at the next day", look
    yield "sealing: a page of keys", sealing.page(yesterday(today), key)


def _all(days: Sequence[date], keys: Sequence[Key]) -> dict[date, Sequence[Key]]:
    return dict.fromkeys(days, keys)


def _explained(lab: Lab, statement: str) -> list[dict[str, Any]]:
    """The steps that EXPLAIN names for a statement. Equal steps are one, with their number."""
    with lab.servers.connect(GATEWAY) as cursor:
        cursor.execute(f"EXPLAIN FORMAT=TRADITIONAL {statement}")
        names = [str(column[0]).lower() for column in cursor.description]
        plans = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
    found: dict[tuple[str, ...], int] = {}
    for plan in plans:
        where = "partition" if "player_state_" in str(plan["table"]) else str(plan["table"] or "")
        shown = (where, *(str(plan[name] or "") for name in ("type", "key", "rows", "extra")))
        found[shown] = found.get(shown, 0) + 1
    return [
        {"table": where, "times": times, "type": kind, "key": key, "rows": count, "extra": extra}
        for (where, kind, key, count, extra), times in found.items()
        if kind or "const" in extra  # else no table is read
    ]
