"""A run on disk: the records as JSON, a page of Markdown, the plots."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from bench import plots, runs
from bench.lab import Record
from bench.tables import Table, tables
from bench.targets import NOT_MEASURED, select, verdicts

CORES = 2
"""Cores that all processes of a run share, on any machine."""
RESULTS, MONTH, PAGE = "results.json", "month.json", "README.md"
Run = tuple[dict[str, Any], list[Record]]
"""The description of a run, and its records."""

HOW = """\
Peers and gateway ran in turn, round by round, on the same servers: three Redis nodes (the peers go
through a real twemproxy), one MariaDB that flushes its log at each commit (no binlog, no standby:
each commit would cost more on a pair, which favours those who share commits). Gateways, servers
and load generator share two cores; the load generator is `bench/loadgen/loadgen.c`.

plain Go, plain Python and PyMySQL in threads do what the original system did for each request: one
GET, one SELECT (of the day that the lookup names), one upsert into today's table, one SET. They
verify the same tokens and answer the same JSON, and have no compare-and-set. Go uses both cores;
the Python ones and Tapedeck with one worker are one process. `Go, one big table` has no lookups;
`Go, Redis alone` has no MySQL: neither keeps what the others keep.

Figures are medians, with the lowest and the highest round behind them. A ratio is taken within each
round. Absolute figures are this machine's.
"""
HOW_MONTH = """\
{rows:,} states lie in {partitions} partitions, those of the days before today: {bytes} MB.
InnoDB's buffer pool is a tenth of that, {pool} MB, and InnoDB reads past the page cache: what is
not in the pool comes from the disk. (A single partition would fit into the pool, all of them do
not.) Today's partition is empty at the beginning. Every partition is sealed. The listeners of a
first touch are spread over a whole partition, and no run asks for a state that another one has
moved. Plain Go reads the very same tables (their states lie in one partition each, which its
lookup names), and writes into a table of its own for today. The day that is sealed is yesterday,
whose filter was removed; the gateway that seals it is the one that has the load. The day that is
dropped is one more, as large as the others.
"""


def write(
    meta: dict[str, Any], records: Sequence[Record], folder: Path, *, month: bool = False
) -> list[Path]:
    """Write a run into a folder, over the last one of its kind, and draw the page anew.

    Args:
        month: whether it measured the article's month, which has its own part of the page.

    Returns:
        The plots; none where matplotlib is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = MONTH if month else RESULTS
    partial = folder / (name + ".new")
    lines = ",\n".join(json.dumps(r, separators=(",", ":")) for r in records)
    partial.write_text(f'{{"meta": {json.dumps(meta, indent=1)},\n"records": [\n{lines}\n]}}\n')
    partial.replace(folder / name)
    return draw(folder)


def draw(folder: Path) -> list[Path]:
    """Draw page and plots of the runs in a folder; return the plots."""
    run, month = (read(folder / name) if (folder / name).exists() else None for name in _KINDS)
    for old in folder.glob("*.png"):
        old.unlink()
    drawn = plots.draw(run[1] if run else [], folder)
    (folder / PAGE).write_text(page(run, month, drawn))
    return drawn


_KINDS = RESULTS, MONTH


def read(file: Path) -> Run:
    """Read a file that `write` has written.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not such a file.
    """
    document = json.loads(file.read_text())
    try:
        return document["meta"], document["records"]
    except (KeyError, TypeError):
        raise ValueError(f"{file} holds no results of a benchmark") from None


def publish(source: Path, target: Path, *, month: bool = False) -> None:
    """Copy a run's results to where the README shows them, and draw page and plots there.

    Args:
        month: the kind of the run; results of the other kind stay as they are.
    """
    target.mkdir(parents=True, exist_ok=True)
    name = MONTH if month else RESULTS
    shutil.copy(source / name, target / name)
    draw(target)


BUSY = 0.15
"""If others use more cores than this, the figures are not reliable."""


def foreign(records: Sequence[Record]) -> float:
    """Cores that other processes than the benchmark's had, in the median run; 0 if unknown."""
    found = [float(r["foreign_cores"]) for r in records if "foreign_cores" in r]
    return median(found) if found else 0.0


def busy(records: Sequence[Record]) -> str:
    """A warning if the machine did other things too; else an empty text."""
    share = foreign(records)
    if share < BUSY:
        return ""
    return (
        f"The machine was busy: others had {share:.1f} of {CORES} cores in the median run. "
        "That slows peers of one process most; trust only CPU times and counts, or repeat the run "
        "where nothing else runs."
    )


def page(run: Run | None, month: Run | None, drawn: Sequence[Path]) -> str:
    """The page of Markdown.

    Args:
        run, month: the last run of each kind.
    """
    lines = ["# The benchmark", ""]
    everything: list[Table] = []
    if run is not None:
        meta, records = run
        *everything, reach = tables(records)
        lines += [*_head(meta, records), "", HOW, reach.markdown().replace("### ", "## ", 1)]
        lines += [_agreement(meta, records), ""]
        lines += [f"![{path.stem.replace('_', ' ')}]({path.name})\n" for path in drawn]
    if month is not None:
        lines += _month(*month)
    if everything:
        lines += ["## Everything measured", "", *(table.markdown() for table in everything)]
    return "\n".join(lines)


def _head(meta: dict[str, Any], records: Sequence[Record]) -> list[str]:
    """Which run it was, with warnings about it."""
    machine = ", ".join(f"{name} {value}" for name, value in meta["machine"].items())
    stages = ", ".join(f"{name} {took}" for name, took in meta.get("stages", {}).items())
    how = " ARGS=--month" if select(records, "month") else ""
    lines = [
        (
            f"Written by `make bench{how}` ({meta['scale']}: {meta['rounds']} rounds of "
            f"{meta['seconds']:g} s) on {meta['date']}, commit {meta['commit']}, in "
            f"{meta['took_minutes']} minutes{f' (seconds: {stages})' if stages else ''}; load "
            f"average {meta['load_before']} before it. {machine}."
        )
    ]
    if warning := busy(records):
        lines += ["", f"**{warning}**"]
    if meta.get("broken_off"):
        lines += ["", f"**Not a whole run:** {meta['broken_off']}"]
    return lines


def _agreement(meta: dict[str, Any], records: Sequence[Record]) -> str:
    here = {v.target.title: v.reached.median for v in verdicts(records) if v.reached}
    return runs.agreement([*meta.get("earlier", []), here])


def _month(meta: dict[str, Any], records: Sequence[Record]) -> list[str]:
    described = next(iter(select(records, "month")))
    sizes = {name: described[name] >> 20 for name in ("bytes", "pool")}
    *measured, reach = tables(records)
    reached = replace(reach, rows=[row for row in reach.rows if row[-1] != NOT_MEASURED])
    return [
        "## The article's month",
        "",
        *_head(meta, records),
        "",
        HOW_MONTH.format(**{**described, **sizes}),
        reached.markdown(),
        _agreement(meta, records),
        "",
        *(table.markdown() for table in measured),
    ]
