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
from bench.stats import Summary, paired, summary
from bench.targets import by_round, ratio, select, verdicts

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
    """Only the median."""
    values = [float(r[name]) for r in records if r.get(name) is not None]
    return _number(summary(values).median) if values else "-"


def _groups(records: Sequence[Record], *names: str) -> list[tuple[object, ...]]:
    """The distinct values of these fields, in order of appearance."""
    return list(dict.fromkeys(tuple(r.get(name) for name in names) for r in records))


def targets(records: Sequence[Record]) -> Table:
    """Each target, and the figure that was measured."""
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
    """Requests a second, CPU time and latency of each peer: a table for each workload."""
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
    """Requests a second by number of connections."""
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
    """Requests a second of one worker beside those of two."""
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
    """Latency by load, in shares of plain Go's limit."""
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
    """Latency and seconds of the nightly purge, by design."""
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


def sealing(records: Sequence[Record]) -> list[Table]:
    """Latency and cost while a day is sealed under load."""
    names = ("asked", "rows", "took", "filters_took", "p99_before", "p99_during", "errors", "lost")
    rows = _simple(records, "sealing", names)
    note = (
        "The gateway that has the load seals a day, at most 20,000 keys a second (its default), "
        "and makes the file of all filters anew. before: the day has no filter, and nothing "
        "happens; during: from the beginning until the new filters are used."
    )
    columns = ["peer", "load /s", "rows", "seconds, sealing", "seconds, filters"]
    columns += ["p99 before", "p99 during", "errors", "lost"]
    return [Table("A day is sealed under load", note, columns, rows)] if rows else []


def importing(records: Sequence[Record]) -> list[Table]:
    """Speed of an import, and latency while it runs."""
    found = select(records, "importing")
    names = ("asked", "rows", "rows_a_second", "cpu_import_us", "cpu_mysql_us", "p99_before")
    rows = [
        [
            str(how),
            *(
                _cell(select(found, "importing", how=how), name)
                for name in (*names, "p99_during", "errors", "lost")
            ),
        ]
        for (how,) in _groups(found, "how")
    ]
    note = (
        "The load is a fifth of what the gateway reaches; source, gateway and import have the same "
        "MySQL and the same cores. us: CPU time a row, of the command from its start to its end, "
        "and of MySQL beyond what the load takes. p99 during: without the command's first "
        "three seconds and its last one, in which days are opened and closed."
    )
    columns = ["import", "load /s", "rows", "rows/s", "command us", "MySQL us", "p99 before"]
    columns += ["p99 during", "errors", "lost"]
    return [Table("States are imported under load", note, columns, rows)] if rows else []


def lookups_dead(records: Sequence[Record]) -> list[Table]:
    """First touches while all lookup nodes are dead, beside those while all are alive."""
    found = select(records, "lookups_dead")
    rows = []
    for (name,) in _groups(found, "workload"):
        alive, dead = (
            select(found, "lookups_dead", workload=name, lookups=state)
            for state in ("alive", "dead")
        )
        both = by_round(dead, "rate"), by_round(alive, "rate")
        rows.append(
            [
                WORKLOADS[str(name)],
                _cell(alive, "rate"),
                _cell(dead, "rate"),
                spread(paired(*both)) if both[0].keys() & both[1].keys() else "-",
                _cell(alive, "p99"),
                _cell(dead, "p99"),
                str(sum(r["errors"] for r in dead)),
            ]
        )
    columns = ["first touches", "all alive /s", "all dead /s", "ratio", "p99 alive", "p99 dead"]
    columns += ["errors, dead"]
    note = "Tapedeck, 1 worker, 64 connections; all three lookup nodes are killed."
    return [Table("All lookup nodes dead", note, columns, rows)] if rows else []


def first_request(records: Sequence[Record]) -> list[Table]:
    """Latency of listeners' first requests on a semi-synchronous pair."""
    rows = _simple(records, "first_request", ("rate", "p50", "p99"))
    note = (
        "Listeners who start a mix for the first time, one after the other over one connection; "
        "MariaDB with a semi-synchronous standby, which each commit waits for."
    )
    columns = ["peer", "requests/s", "p50 ms", "p99 ms"]
    return [Table("The first request alone, on the pair", note, columns, rows)] if rows else []


def filters(records: Sequence[Record]) -> list[Table]:
    """Time and memory that the filters of a month cost."""
    found = select(records, "filters")
    rows = [
        [
            {"there": "is in one of the days", "nowhere": "is in none of them"}[str(keys)],
            *(_cell(select(found, "filters", keys=keys), name) for name in _FILTER_CELLS),
        ]
        for (keys,) in _groups(found, "keys")
    ]
    of_keys = max((int(r["of_keys"]) for r in found), default=0)
    note = f"Filters of 30 days, {of_keys:,} keys in all. In vain: the key was not there."
    columns = ["a key that", "us a key", "days read in vain", "bytes a key, in memory"]
    return [Table("Asking the filters of a month", note, columns, rows)] if rows else []


_FILTER_CELLS = ("us", "in_vain", "bytes_a_key")


def starts(records: Sequence[Record]) -> list[Table]:
    """Seconds of a gateway's start with and without a file of filters, and its memory then."""
    found = select(records, "starts")
    rows = []
    for (file,) in _groups(found, "file"):
        mine = [
            {**r, "rss_mb": int(r["rss"]) >> 20, "mapped_mb": int(r["mapped"]) >> 20}
            for r in select(found, "starts", file=file)
        ]
        made = {"made": "made at this start", "there": "there from the start before"}[str(file)]
        names = ("ready", "filters", "rss_mb", "mapped_mb")
        rows.append([made, *(_cell(mine, name) for name in names)])
    note = (
        "One worker. Memory: resident, when it has all filters; the mapped file is shared by all "
        "workers of a machine, and lies in the page cache."
    )
    columns = ["the file of all filters is", "ready after s", "all filters after s"]
    columns += ["memory MB", "of it the mapped file MB"]
    return [Table("A gateway's start", note, columns, rows)] if rows else []


def engines(records: Sequence[Record]) -> list[Table]:
    """The same measurements on MySQL and on MariaDB."""
    tables = []
    found = select(records, "engines")
    rows = []
    for name, engine, peer in _groups(found, "workload", "engine", "peer"):
        mine = select(found, "engines", workload=name, engine=engine, peer=peer)
        against = _ratio(records, "engines", "rate", str(peer), "go", workload=name, engine=engine)
        rows.append(
            [
                f"{WORKLOADS[str(name)]}, {engine}, {PEERS[str(peer)]}",
                _cell(mine, "rate"),
                "1" if peer == "go" else against,
                *(_cell(mine, value) for value in ("p99", "cpu_mysql_us")),
                str(sum(r["errors"] for r in mine)),
                str(sum(r["lost"] or 0 for r in mine)),
            ]
        )
    if rows:
        columns = ["workload, server, peer", "requests/s", "against Go", "p99 ms", "MySQL us"]
        columns += ["errors", "lost"]
        note = "Both servers in one run, in turn, with the same data, lookup nodes and options."
        tables.append(Table("MySQL beside MariaDB", note, columns, rows))
    found = select(records, "engines_drop")
    rows = [
        [
            str(engine),
            *(
                _cell(select(found, "engines_drop", engine=engine), name)
                for name in ("asked", "took", "p99_before", "p99_during", "errors", "lost")
            ),
        ]
        for (engine,) in _groups(found, "engine")
    ]
    if rows:
        columns = ["server", "load /s", "seconds", "p99 before", "p99 during", "errors", "lost"]
        tables.append(Table("The nightly drop, on both", "", columns, rows))
    found = select(records, "explain")
    rows = [
        [
            f"{r['statement']}, {r['engine']}",
            f"{r['table']}{' x ' + str(r['times']) if r['times'] > 1 else ''}",
            *(str(r[name]) for name in ("type", "key", "rows", "extra")),
        ]
        for r in sorted(found, key=lambda r: str(r["statement"]))
    ]
    if rows:
        columns = ["statement, server", "table", "type", "key", "rows", "extra"]
        note = "What EXPLAIN says of the statements of the hot path. Equal lines are told once."
        tables.append(Table("How MySQL and MariaDB read", note, columns, rows))
    return tables


def node_loss(records: Sequence[Record]) -> list[Table]:
    """What clients met when a lookup node was killed."""
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
    """Bytes of a lookup in Redis, by layout."""
    found = select(records, "memory")
    rows = [[str(r["layout"]), str(r["bytes"])] for r in found]
    columns = ["layout", "bytes a lookup"]
    return [Table("Redis memory, 30 playlists a user", "", columns, rows)] if rows else []


def evictions(records: Sequence[Record]) -> list[Table]:
    """How many states a full Redis without MySQL has evicted."""
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
    """What a load costs by number of partitions, and by number of rows."""
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
    sealing,
    importing,
    node_loss,
    lookups_dead,
    first_request,
    filters,
    starts,
    engines,
    memory,
    evictions,
    loads,
)


def tables(records: Sequence[Record]) -> list[Table]:
    """A table for each experiment that has records; the targets come last."""
    return [*(table for make in _ALL for table in make(records)), targets(records)]
