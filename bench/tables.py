"""A run's records as tables, for the terminal and for a page of Markdown. No I/O but printing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

import rich.box
from rich.console import Console
from rich.table import Table as RichTable

from bench import workloads
from bench.lab import Record
from bench.peers.processes import KINDS
from bench.stats import Summary, summary
from bench.targets import ratio, select, verdicts

PEERS = {kind.name: kind.title for kind in KINDS}
_PARTS = ("gateway", "mysql", "redis", "twemproxy")
WORKLOADS = {workload.name: workload.title for workload in workloads.ALL}


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        title: a few words.
        note: a sentence on how to read it; may be empty.
        columns: their heads; the first one is text, the others are numbers.
        rows: cells as text.
    """

    title: str
    note: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """The table as Markdown."""
        lines = [f"### {self.title}", ""]
        lines.append("| " + " | ".join(self.columns) + " |")
        lines.append("| " + " | ".join(["---", *["---:"] * (len(self.columns) - 1)]) + " |")
        lines += ["| " + " | ".join(row) + " |" for row in self.rows]
        return "\n".join([*lines, "", *([self.note, ""] if self.note else [])])

    def show(self, console: Console) -> None:
        """Print it."""
        table = RichTable(title=self.title, box=rich.box.SIMPLE, title_justify="left")
        for number, column in enumerate(self.columns):
            table.add_column(column, justify="right" if number else "left")
        for row in self.rows:
            table.add_row(*row)
        console.print(table)
        if self.note:
            console.print(self.note, style="dim")


def _number(value: float) -> str:
    if value == int(value) and abs(value) < 1000:
        return str(int(value))
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def spread(found: Summary, unit: str = "") -> str:
    """Median, lowest and highest: `3.4 (3.1 to 3.9)`."""
    if found.low == found.high:
        return f"{_number(found.median)}{unit}"
    return f"{_number(found.median)}{unit} ({_number(found.low)} to {_number(found.high)})"


def _cell(records: Iterable[Record], name: str) -> str:
    values = [float(r[name]) for r in records if r.get(name) is not None]
    return spread(summary(values)) if values else "-"


def _middle(records: Iterable[Record], name: str) -> str:
    """A median alone."""
    values = [float(r[name]) for r in records if r.get(name) is not None]
    return _number(summary(values).median) if values else "-"


def _groups(records: Sequence[Record], *names: str) -> list[tuple[object, ...]]:
    """The distinct values of these fields, in order of appearance."""
    return list(dict.fromkeys(tuple(r.get(name) for name in names) for r in records))


def targets(records: Sequence[Record]) -> Table:
    """To reach, and reached."""
    rows = []
    for verdict in verdicts(records):
        target = verdict.target
        less = "at most " if target.less_is_better else "at least "
        rows.append(
            [
                target.title,
                f"{less}{target.least:g}{target.unit}",
                f"{target.aim:g}{target.unit}" if target.aim is not None else "",
                spread(verdict.reached, target.unit) if verdict.reached else "-",
                str(verdict.reached.count) if verdict.reached else "0",
                verdict.words,
            ]
        )
    note = (
        "Median of the ratios within each round, with the lowest and the highest; lost updates are "
        "the sum over all runs of the gateway."
    )
    columns = ["figure", "to reach", "aim", "reached", "rounds", "verdict"]
    return Table("To reach", note, columns, rows)


def throughput(records: Sequence[Record]) -> list[Table]:
    """One table a workload."""
    found = select(records, "throughput")
    tables = []
    for (name,) in _groups(found, "workload"):
        rows = []
        for (peer,) in _groups(select(found, "throughput", workload=name), "peer"):
            mine = select(found, "throughput", workload=name, peer=peer)
            against = (
                "1"
                if peer == "go"
                else _ratio(records, "throughput", "rate", str(peer), "go", workload=name)
            )
            rows.append(
                [
                    PEERS[str(peer)],
                    _cell(mine, "rate"),
                    against,
                    _middle(mine, "p50"),
                    _cell(mine, "p99"),
                    *(_middle(mine, f"cpu_{part}_us") for part in _PARTS),
                    _number(
                        median(sum(float(r[f"cpu_{part}_us"]) for part in _PARTS) for r in mine)
                    ),
                    _middle(mine, "redis_commands"),
                    str(sum(r["errors"] for r in mine)),
                    str(sum(r["lost"] or 0 for r in mine)),
                ]
            )
        columns = ["peer", "requests/s", "against Go", "p50 ms", "p99 ms", "gateway us"]
        columns += [
            "MySQL us",
            "Redis us",
            "twemproxy us",
            "all us",
            "Redis cmds",
            "errors",
            "lost",
        ]
        note = (
            "Closed loop, 64 connections. us: CPU time a request: says more than requests/s where "
            "the machine does other things too. lost: acknowledged changes."
        )
        tables.append(Table(WORKLOADS[str(name)], note, columns, rows))
    return tables


def _ratio(
    records: Sequence[Record], experiment: str, value: str, ours: str, theirs: str, **fields: object
) -> str:
    try:
        return spread(ratio(experiment, value, ours, theirs, **fields)(records))
    except ValueError:
        return "-"


def connections(records: Sequence[Record]) -> list[Table]:
    """By connections."""
    found = select(records, "connections")
    rows = [
        [
            f"{count}, {PEERS[str(peer)]}",
            *(
                _cell(select(found, "connections", connections=count, peer=peer), name)
                for name in ("rate", "p50", "p99")
            ),
        ]
        for count, peer in _groups(found, "connections", "peer")
    ]
    columns = ["connections", "requests/s", "p50 ms", "p99 ms"]
    return [Table("Warm sessions by connections", "", columns, rows)] if rows else []


def workers(records: Sequence[Record]) -> list[Table]:
    """One worker and two."""
    found = select(records, "workers")
    rows = []
    for name, place in _groups(found, "workload", "place"):
        one, two = (
            select(found, "workers", workload=name, place=place, peer=peer)
            for peer in ("gateway", "gateway2")
        )
        rows.append(
            [
                f"{WORKLOADS[str(name)]}, {place}",
                _cell(one, "rate"),
                _cell(two, "rate"),
                _ratio(
                    records, "workers", "rate", "gateway2", "gateway", workload=name, place=place
                ),
                _ceiling(one),
            ]
        )
    note = (
        "free: everybody on both cores; pinned: servers and load generator on the second core. "
        "The ceiling: if one worker used one core whole and two workers both cores whole, with the "
        "CPU a request that was measured, servers and load generator included."
    )
    columns = ["workload, placement", "1 worker /s", "2 workers /s", "ratio", "ceiling"]
    return [Table("One worker and two", note, columns, rows)] if rows else []


def _ceiling(one: Sequence[Record]) -> str:
    ratios = []
    for r in one:
        own = r["cpu_gateway_us"]
        rest = r["cpu_mysql_us"] + r["cpu_redis_us"] + r["cpu_generator_us"]
        ratios.append(max(1.0, 2 * own / (own + rest)))
    return spread(summary(ratios)) if ratios else "-"


def open_loop(records: Sequence[Record]) -> list[Table]:
    """By load."""
    found = select(records, "open_loop")
    rows = []
    for share, peer in _groups(found, "share", "peer"):
        mine = select(found, "open_loop", share=share, peer=peer)
        rows.append(
            [
                f"{float(str(share)):.0%}, {PEERS[str(peer)]}",
                *(_cell(mine, name) for name in ("asked", "rate", "p50", "p99", "p999")),
            ]
        )
    note = (
        "Loads are shares of the rate at which plain Go is saturated. Requests are due at the "
        "times of a Poisson process; latency counts from then (corrected for coordinated omission)."
    )
    columns = ["load", "asked /s", "answered /s", "p50 ms", "p99 ms", "p99.9 ms"]
    return [Table("Latency at a load that does not wait", note, columns, rows)] if rows else []


def purge(records: Sequence[Record]) -> list[Table]:
    """The nightly purge."""
    rows = _simple(
        records, "purge", ("asked", "took", "p99_before", "p99_during", "errors", "lost")
    )
    gone = max((int(r["rows"]) for r in select(records, "purge")), default=0)
    note = (
        f"{gone:,} rows go under load: the gateway drops a partition, the big table deletes in "
        "batches of 2,000. during: from the start until 2 s after the last row went."
    )
    columns = ["design", "load /s", "seconds", "p99 before", "p99 during", "errors", "lost"]
    return [Table("The nightly purge", note, columns, rows)] if rows else []


def node_loss(records: Sequence[Record]) -> list[Table]:
    """A lookup node lost."""
    names = ("asked", "requests", "errors", "places_lost", "p99_before", "p99_after")
    rows = _simple(records, "node_loss", names)
    note = "One of three lookup nodes is killed; listeners come back whose state lies days back."
    columns = ["peer", "load /s", "requests", "errors", "places lost", "p99 before", "p99 after"]
    return [Table("A lookup node lost in mid-run", note, columns, rows)] if rows else []


def _simple(records: Sequence[Record], experiment: str, names: Sequence[str]) -> list[list[str]]:
    found = select(records, experiment)
    return [
        [
            PEERS[str(peer)],
            *(_cell(select(found, experiment, peer=peer), name) for name in names),
        ]
        for (peer,) in _groups(found, "peer")
    ]


def memory(records: Sequence[Record]) -> list[Table]:
    """Bytes a lookup."""
    found = select(records, "memory")
    rows = [[str(r["layout"]), str(r["bytes"])] for r in found]
    columns = ["layout", "bytes a lookup"]
    return [Table("Redis memory, 30 playlists a user", "", columns, rows)] if rows else []


def evictions(records: Sequence[Record]) -> list[Table]:
    """Redis alone."""
    rows = [
        [
            f"{r['maxmemory'] >> 20} MB",
            *(f"{r[name]:,}" for name in ("written", "kept", "bytes_a_state")),
        ]
        for r in select(records, "evictions")
    ]
    note = "The design without MySQL: what does not fit is lost, without a word."
    columns = ["maxmemory", "states written", "still there", "bytes a state"]
    return [Table("Redis alone, allkeys-lru", note, columns, rows)] if rows else []


def loads(records: Sequence[Record]) -> list[Table]:
    """By partitions, and by rows."""
    tables = []
    found = select(records, "by_count")
    if found:
        rows = [
            [str(r["partitions"]), str(r["connections"])]
            + [_number(r[name]) for name in ("rate", "p50", "p99")]
            for r in found
        ]
        note = "Loads of states that exist nowhere: each partition is read."
        columns = ["partitions", "connections", "loads/s", "p50 ms", "p99 ms"]
        tables.append(Table("A load by the number of partitions", note, columns, rows))
    found = select(records, "by_rows")
    if found:
        rows = [
            [
                f"{r['rows']:,} rows, {r['bytes'] >> 20} MB",
                f"{r['pool_bytes'] >> 20} MB",
                str(r["connections"]),
            ]
            + [_number(r[name]) for name in ("rate", "p50", "p99")]
            for r in found
        ]
        note = "Loads of states that exist, with a right hint; pool: InnoDB's buffer pool."
        tables.append(
            Table(
                "A load by the number of rows",
                note,
                ["data", "pool", "connections", "loads/s", "p50 ms", "p99 ms"],
                rows,
            )
        )
    return tables


_ALL: tuple[Callable[[Sequence[Record]], list[Table]], ...] = (
    throughput,
    connections,
    open_loop,
    workers,
    purge,
    node_loss,
    memory,
    evictions,
    loads,
)


def tables(records: Sequence[Record]) -> list[Table]:
    """Everything that was measured; what is to be reached comes last."""
    return [*(table for make in _ALL for table in make(records)), targets(records)]
