"""A run on disk: the records as JSON, a page of Markdown, the plots."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from bench import plots
from bench.lab import Record
from bench.tables import tables

CORES = 2
"""That everything shares, on any machine."""
RESULTS, PAGE = "results.json", "README.md"

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


def write(meta: dict[str, Any], records: Sequence[Record], folder: Path) -> list[Path]:
    """Write everything into a folder, over what is there.

    Returns:
        The plots; none where matplotlib is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / (RESULTS + ".new")
    lines = ",\n".join(json.dumps(r, separators=(",", ":")) for r in records)
    partial.write_text(f'{{"meta": {json.dumps(meta, indent=1)},\n"records": [\n{lines}\n]}}\n')
    partial.replace(folder / RESULTS)
    for old in folder.glob("*.png"):
        old.unlink()
    drawn = plots.draw(records, folder)
    (folder / PAGE).write_text(page(meta, records, drawn))
    return drawn


def read(file: Path) -> tuple[dict[str, Any], list[Record]]:
    """What `write` has written.

    Raises:
        OSError, ValueError: it is none.
    """
    document = json.loads(file.read_text())
    try:
        return document["meta"], document["records"]
    except (KeyError, TypeError):
        raise ValueError(f"{file} holds no results of a benchmark") from None


def publish(source: Path, target: Path) -> None:
    """Copy page, plots and results to where the README shows them."""
    target.mkdir(parents=True, exist_ok=True)
    for old in target.glob("*.png"):
        old.unlink()
    for file in source.iterdir():
        if file.name in (RESULTS, PAGE) or file.suffix == ".png":
            shutil.copy(file, target / file.name)


BUSY = 0.15
"""Cores that others may have before figures are not to be believed."""


def foreign(records: Sequence[Record]) -> float:
    """Cores that other processes than the benchmark's had, in the median run; 0 if unknown."""
    found = [float(r["foreign_cores"]) for r in records if "foreign_cores" in r]
    return median(found) if found else 0.0


def busy(records: Sequence[Record]) -> str:
    """A warning, where the machine did other things too; else nothing."""
    share = foreign(records)
    if share < BUSY:
        return ""
    return (
        f"The machine was busy: others had {share:.1f} of {CORES} cores in the median run. "
        "Whoever runs as one process suffers most from that; only CPU time and counts hold. "
        "Repeat it where nothing else runs."
    )


def _busy(records: Sequence[Record]) -> list[str]:
    warning = busy(records)
    return ["", f"**{warning}**"] if warning else []


def page(meta: dict[str, Any], records: Sequence[Record], drawn: Sequence[Path]) -> str:
    """The page of Markdown."""
    *measured, reach = tables(records)
    machine = ", ".join(f"{name} {value}" for name, value in meta["machine"].items())
    head = [
        "# The benchmark",
        "",
        (
            f"Written by `make bench` ({meta['scale']}: {meta['rounds']} rounds of "
            f"{meta['seconds']:g} s) on {meta['date']}, commit {meta['commit']}, in "
            f"{meta['took_minutes']} minutes; load average {meta['load_before']} before it. "
            f"{machine}."
        ),
        *_busy(records),
        *(["", f"**Not a whole run:** {meta['broken_off']}"] if meta.get("broken_off") else []),
        *(["", meta["also"]] if meta.get("also") else []),
        "",
        HOW,
        reach.markdown().replace("### ", "## ", 1),
        *(f"![{path.stem.replace('_', ' ')}]({path.name})\n" for path in drawn),
        "## Everything measured",
        "",
    ]
    return "\n".join([*head, *(table.markdown() for table in measured)])
