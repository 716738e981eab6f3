"""From listeners a day to nodes, memory, disk and IOPS: the formulas of docs/sizing.md.

    .venv/bin/python docs/sizing.py --listeners 500000
    .venv/bin/python docs/sizing.py --gateway-cpu-ms 0.25      with a figure of your own
    .venv/bin/python docs/sizing.py --write                    the tables of sizing.md

Each figure is an option: put in those that `make bench` measures on your machines.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Iterator
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import TypeVar

PAGE = Path(__file__).resolve().parent / "sizing.md"
DAY = 86_400
MIB = 1024**2
GIB = 1024**3
OTHERS = 100
"""MySQL's connections that are not the gateways': the standby, backups, monitoring, people."""


def named(default: float, text: str) -> float:
    """A figure with its meaning."""
    made: float = field(default=default, metadata={"text": text})
    return made


@dataclass(frozen=True)
class Load:
    """What listeners do. Yours."""

    listeners: float = named(500_000, "listeners a day")
    playlists: float = named(3, "playlists a listener plays a day")
    requests: float = named(20, "requests a playlist: play, next, skip, report")
    changes: float = named(0.95, "of those, the share that changes the state")
    peak: float = named(3, "the busiest hour against the mean")
    days_a_month: float = named(5, "days a month that a listener comes back on")
    retention: float = named(30, "partitions.retention_days")


@dataclass(frozen=True)
class Figures:
    """What `make bench` measured (docs/bench): one worker with its session cache, whole sessions at
    3,300 requests a second, on two shared cores. On purpose not at its limit: there, at five times
    that, batches are large and a request costs a third. Replace them by your own."""

    gateway_cpu_ms: float = named(0.165, "CPU of a gateway for a request")
    mysql_cpu_ms: float = named(0.1, "CPU of the MySQL primary for a request")
    lookup_cpu_ms: float = named(0.003, "CPU of the lookup nodes for a request")
    wide_cpu_ms: float = named(0.3, "CPU of MySQL for a load without a hint (31 partitions)")
    batch: float = named(1.3, "changes in one flush of the log at peak")
    row_bytes: float = named(520, "a state in a partition, InnoDB's overhead included")
    binlog_bytes: float = named(555, "the binlog of a change")
    user_bytes: float = named(155, "a user in Redis (layout packed)")
    entry_bytes: float = named(11.5, "each playlist of a user in Redis")
    gateway_mib: float = named(80, "MiB of a gateway without its session cache and filters")
    session_mib: float = named(64, "sessions.max_bytes, in MiB")
    filter_mib: float = named(64, "partitions.filter_bytes, in MiB: the most that filters take")
    connections: float = named(16, "mysql.connections, of one worker")
    looks: float = named(2, "connections of a worker that looks at MySQL: one, and its successor")


@dataclass(frozen=True)
class Machines:
    """How full a machine may be, and how large. Yours."""

    busy: float = named(0.6, "of a core at peak: above it latency grows before throughput does")
    mysql_cores: float = named(16, "cores of a MySQL host")
    lookup_gib: float = named(4, "memory of a lookup node: small ones, for their loss costs less")
    binlog_days: float = named(3, "days of binlog kept")
    full: float = named(0.6, "of a disk, and of a buffer pool, that may be used")


Kind = TypeVar("Kind", Load, Figures, Machines)


def options() -> Iterator[tuple[str, Field[float]]]:
    """Every named figure, with the option that sets it."""
    for kind in (Load, Figures, Machines):
        for one in fields(kind):
            yield "--" + one.name.replace("_", "-"), one


@dataclass(frozen=True)
class Size:
    """What is needed."""

    states: float
    requests_per_second: float
    changes_per_second: float
    gateways: int
    gateway_bytes: float
    connections: int
    lookups: int
    lookup_bytes: float
    mysql_cores: float
    mysql_cores_without_hints: float
    primaries: int
    data_bytes: float
    disk_bytes: float
    memory_bytes: float
    iops: float
    write_bytes_per_second: float


def size(load: Load, figures: Figures, machines: Machines) -> Size:
    """The formulas; sizing.md says them in words.

    Bytes are of the whole, of one MySQL host, of one gateway; IOPS at peak.
    """
    states_a_day = load.listeners * load.playlists
    states = states_a_day * load.retention
    requests = states_a_day * load.requests / DAY * load.peak
    changes = requests * load.changes

    # A bit a day in each place; a power of two of places, at least ten times a day's states.
    places = 2 ** math.ceil(math.log2(10 * states_a_day))
    filters = places * (4 if load.retention <= 32 else 8)
    # One more than is needed at peak, so that one may be away; two at least.
    gateways = max(2, math.ceil(requests * figures.gateway_cpu_ms / 1000 / machines.busy) + 1)

    # Entries outlive the retention by two days. A user who comes back has one hash for all of it.
    users = load.listeners * (load.retention + 2) / load.days_a_month
    entries = states_a_day * (load.retention + 2)
    lookup_bytes = users * figures.user_bytes + entries * figures.entry_bytes
    by_memory = lookup_bytes / (machines.lookup_gib * GIB * machines.full)
    by_cpu = requests * figures.lookup_cpu_ms / 1000 / machines.busy
    lookups = max(3, math.ceil(max(by_memory, by_cpu)) + 1)

    cores = requests * figures.mysql_cpu_ms / 1000 / machines.busy
    loads = states_a_day / DAY * load.peak * 2  # begun and come back to: the rest has its hint
    wide = loads * figures.wide_cpu_ms / 1000 / machines.busy

    data = states_a_day * (load.retention + 2) * figures.row_bytes
    binlog = changes / load.peak * DAY * machines.binlog_days * figures.binlog_bytes
    # A commit is two fsyncs (redo log, binlog). A change dirties a page of 16 KiB in today's
    # partition; pages are written once between checkpoints, several changes at a time.
    pages = changes * 0.3
    return Size(
        states=states,
        requests_per_second=requests,
        changes_per_second=changes,
        gateways=gateways,
        gateway_bytes=(figures.gateway_mib + figures.session_mib) * MIB
        + min(filters, figures.filter_mib * MIB),
        # An upgrade runs one more gateway for a while; commands (`tapedeck partitions`) take a few.
        connections=math.ceil((gateways + 1) * (figures.connections + figures.looks)) + 10,
        lookups=lookups,
        lookup_bytes=lookup_bytes,
        mysql_cores=cores,
        mysql_cores_without_hints=cores + wide,
        primaries=max(1, math.ceil(cores / machines.mysql_cores)),
        data_bytes=data,
        disk_bytes=(data + binlog) / machines.full,
        # Today's and yesterday's partitions are written to and read all day; of the others a tenth.
        memory_bytes=(2 * data / (load.retention + 2) + data * 0.1) / machines.full,
        iops=changes / figures.batch * 2 + pages,
        write_bytes_per_second=changes * figures.binlog_bytes * 2 + pages * 16_384,
    )


def in_words(found: Size, load: Load, machines: Machines) -> list[tuple[str, str]]:
    """A row each."""
    return [
        ("listeners a day", f"{load.listeners:,.0f}"),
        ("states in retention", f"{found.states / 1e6:,.0f} million"),
        ("requests a second at peak", f"{found.requests_per_second:,.0f}"),
        ("changes a second at peak", f"{found.changes_per_second:,.0f}"),
        ("gateways of one core (one may be away)", f"{found.gateways}"),
        ("memory of each gateway", _bytes(found.gateway_bytes)),
        ("lookup entries in memory, all nodes", _bytes(found.lookup_bytes)),
        (
            f"lookup nodes of {machines.lookup_gib:g} GiB (one may be away)",
            f"{found.lookups}",
        ),
        ("MySQL: cores of the primary", f"{found.mysql_cores:,.1f}"),
        ("the same with every lookup node down", f"{found.mysql_cores_without_hints:,.1f}"),
        ("MySQL: MAX_USER_CONNECTIONS of the gateways' user", f"{found.connections:,}"),
        ("MySQL: max_connections", f"{found.connections + OTHERS:,}"),
        (f"MySQL: primaries of {machines.mysql_cores:g} cores", f"{found.primaries}"),
        ("MySQL: data", _bytes(found.data_bytes)),
        ("MySQL: disk, binlog and room included", _bytes(found.disk_bytes)),
        ("MySQL: memory for the buffer pool", _bytes(found.memory_bytes)),
        ("MySQL: IOPS at peak", f"{found.iops:,.0f}"),
        ("MySQL: bytes written a second at peak", _bytes(found.write_bytes_per_second)),
    ]


def _bytes(value: float) -> str:
    for unit, scale in (("TiB", 1024**4), ("GiB", GIB), ("MiB", MIB)):
        if value >= scale:
            return f"{value / scale:,.1f} {unit}"
    return f"{value:,.0f} B"


def worked() -> str:
    """The table of sizing.md: the original's listeners, and a hundred times as many."""
    columns = []
    for listeners in (500_000, 50_000_000):
        load, machines = Load(listeners=listeners), Machines()
        columns.append(in_words(size(load, Figures(), machines), load, machines))
    lines = ["| | the original | a hundred times that |", "| --- | --- | --- |"]
    lines += [f"| {a[0]} | {a[1]} | {b[1]} |" for a, b in zip(*columns, strict=True)]
    return "\n".join(lines) + "\n"


def inputs() -> str:
    """The named figures."""
    lines = ["| option | default | |", "| --- | --- | --- |"]
    for option, one in options():
        lines.append(f"| `{option}` | {one.default:,} | {one.metadata['text']} |")
    return "\n".join(lines) + "\n"


def page(text: str) -> str:
    """sizing.md with its tables as they are now."""
    for name, table in (("worked", worked()), ("inputs", inputs())):
        text = re.sub(
            rf"(<!-- {name} -->\n).*?(<!-- end -->)", rf"\g<1>{table}\g<2>", text, flags=re.DOTALL
        )
    return text


def main(arguments: list[str]) -> int:
    """Print, or write; the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="write the tables of sizing.md")
    for option, one in options():
        help_ = f"{one.metadata['text']} (default: {one.default:,})"
        parser.add_argument(option, type=float, default=one.default, help=help_)
    given = vars(parser.parse_args(arguments))
    if given.pop("write"):
        PAGE.write_text(page(PAGE.read_text()))
        return 0

    def of(kind: type[Kind]) -> Kind:
        return kind(**{one.name: given[one.name] for one in fields(kind)})

    load, machines = of(Load), of(Machines)
    for what, value in in_words(size(load, of(Figures), machines), load, machines):
        print(f"{what:45} {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
