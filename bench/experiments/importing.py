"""States are imported while a gateway has a moderate load, on the same cores and the same MySQL.

The p99 while rows come in is compared with the p99 right before. The CPU time a row of the command
and of MySQL is measured too. An import of a month takes an hour. To be like it, a short one's p99
leaves out the start of the command, when the day is opened, and the end, when it is closed; the p99
of the whole run is recorded too. The rate leaves nothing out.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from typing import NamedTuple

import msgspec

from bench import measure, seed, stats, workloads
from bench.experiments.open_loop import saturation
from bench.lab import Lab
from bench.peers import processes as peers
from bench.peers.processes import ROOT
from bench.servers import GATEWAY
from sharding.partitions import sql
from sharding.partitions.calendar import table
from stack.process import ServerFailed

SOURCE = "tapedeck_source"
"""The database of the system that states come from."""
SHARE = 0.2
"""The load meanwhile, as a share of what the gateway reaches."""
CONNECTIONS = 256
DAYS_BACK = 3
"""The day of all rows, which is sealed when the import begins."""
STARTS, ENDS = 3.0, 1.0
"""Seconds at the start and at the end of the command that its p99 leaves out."""
RATES = {"as fast as it may": 0, "at a bound": 5_000}
"""The rate that the command is given, in rows a second (0: no limit), by its name in tables."""
_MAP = ROOT / "config" / "import.yml"


class Ran(NamedTuple):
    """A run of the command: rows a second, seconds of CPU, and monotonic times of start and end."""

    rate: float
    cpu: float
    began: float
    ended: float


def beside(lab: Lab) -> None:
    """Import at both rates, in turn, round by round."""
    lab.servers.mysql.create_database(SOURCE)
    for number in range(min(lab.scale.rounds, 3 if lab.scale.wide else 1)):
        for name, rate in RATES.items():
            _beside(lab, number, name, rate)


def _beside(lab: Lab, number: int, name: str, bound: int) -> None:
    kind, day = peers.GATEWAY, seed.days_ago(DAYS_BACK)
    load_rate = round(saturation(lab, workloads.WARM, (kind,)) * SHARE)
    rows = lab.scale.imported // (4 if bound else 1)
    _fill(lab, day, rows)
    quiet = 10.0 if lab.scale.wide else 4.0
    seconds = quiet + rows / (bound or 10_000) + 5.0  # the command starts in a second or two
    prepared, load = lab.under_way(kind, workloads.WARM, seconds, load_rate, CONNECTIONS)
    time.sleep(quiet / 2)
    servers, pid = lab.servers, lab.peer(kind).pid
    first = measure.usage(servers, pid)
    time.sleep(quiet / 2)  # the load before the change, for comparison
    before = measure.usage(servers, pid)
    ran = _import(servers.folder, servers.folder / f"{kind.name}.yml", _address(lab), bound)
    after = measure.usage(servers, pid)
    measured = load.finish()
    prepared.path.unlink()
    whole = measured.between(ran.began, ran.ended)
    low, high, all_of_it = (
        stats.percentile(part, 0.99) if part else 0.0
        for part in (
            measured.between(measured.began + lab.scale.warmup, before.at),
            measured.between(ran.began + STARTS, ran.ended - ENDS) or whole,
            whole,
        )
    )
    load_mysql = (before.cpu["mysql"] - first.cpu["mysql"]) / (before.at - first.at)
    mysql = after.cpu["mysql"] - before.cpu["mysql"] - load_mysql * (after.at - before.at)
    record = lab.record(
        "importing",
        peer=kind.name,
        round=number,
        how=name,
        asked=load_rate,
        rows=rows,
        rows_a_second=round(ran.rate),
        cpu_import_us=round(ran.cpu / rows * 1e6, 1),
        cpu_mysql_us=round(max(0.0, mysql) / rows * 1e6, 1),
        p99_before=round(low, 3),
        p99_during=round(high, 3),
        p99_whole=round(all_of_it, 3),
        errors=measured.errors,
        **lab.changes_lost(kind, prepared, measured),
    )
    lab.say(
        f"{rows} rows imported {name}, {record['rows_a_second']}/s, at {load_rate} requests/s: p99 "
        f"{low:.1f} ms before, {high:.1f} ms during ({all_of_it:.1f} ms with start and end); "
        f"{record['cpu_import_us']} us of the command's CPU a row, "
        f"{record['cpu_mysql_us']} us of MySQL's ({measured.errors} errors)"
    )


def _address(lab: Lab) -> str:
    servers = lab.servers
    return f"mysql://tapedeck:{servers.passwords.gateway}@{servers.mysql.address}/{SOURCE}"


def _fill(lab: Lab, day: date, rows: int) -> None:
    """Fill one day's table of the source, and empty the gateway's partition of that day."""
    users = workloads.new_listeners(rows)
    played = msgspec.json.encode(msgspec.json.decode(seed.state_body(1))["played"]).decode()
    with lab.servers.connect(GATEWAY) as cursor:
        cursor.execute(f"DROP TABLE IF EXISTS {table(day)}")
        cursor.execute(sql.create_table(day))
    with lab.servers.connect(SOURCE) as cursor:
        name = f"player_data_{day:%Y%m%d}"
        cursor.execute(f"DROP TABLE IF EXISTS {name}")
        cursor.execute(
            f"CREATE TABLE {name} (user_id BIGINT, playlist_id BIGINT, tracks_played TEXT,"
            " skipped_at TEXT, listened TINYINT, updated_at DATETIME(3),"
            " PRIMARY KEY (user_id, playlist_id))"
        )
        cursor.execute(
            f"INSERT INTO {name} SELECT seq, 1, '{played}', '[]', 0, '{day} 12:00:00'"
            f" FROM {lab.servers.numbers(users.start, users.stop)}"
        )


def _import(folder: Path, config: Path, address: str, bound: int) -> Ran:
    mapped = folder / "import.yml"
    mapped.write_text(_MAP.read_text())
    argv = [sys.executable, "-m", "cli", "import", "--from", address, "--map", str(mapped)]
    argv += ["--tables", "player_data_%Y%m%d", "--config", str(config), "--rate", str(bound)]
    began = time.monotonic()
    cpu = os.times()
    done = subprocess.run(
        argv,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,  # as in a terminal of its own: it lowers its session's priority
    )
    used, ended = os.times(), time.monotonic()
    rows = re.findall(r": ([\d,]+) rows", done.stderr)
    if done.returncode or not rows:
        raise ServerFailed(f"the import failed: {done.stderr or done.stdout}")
    spent = used.children_user + used.children_system - cpu.children_user - cpu.children_system
    # The time includes the command's start, some tenths of a second.
    return Ran(float(rows[-1].replace(",", "")) / (ended - began), spent, began, ended)
