"""The folder of drill reports: a page with the history of all runs, of which the oldest go."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any

from drills.html import page, table
from drills.result import ms

MOST_RUNS = 200
"""Runs whose reports stay, some 20 MB; older ones are removed."""
_RUN = re.compile(r"[a-z-]+-\d{8}-\d{6}")
_FILES = frozenset({"report.html", "report.json"})


def folder(out: Path, name: str, began: datetime) -> Path:
    """Where the report of a run lies."""
    return out / f"{name}-{began:%Y%m%d-%H%M%S}"


def renew(out: Path) -> None:
    """Remove the oldest runs' reports past `MOST_RUNS`, and write `index.html` of the others."""
    found = [(path, told) for path in out.iterdir() if (told := _read(path)) is not None]
    found.sort(key=lambda run: str(run[1]["began"]), reverse=True)
    for path, _ in found[MOST_RUNS:]:
        _remove(path)
    new = out / "index.html.new"
    new.write_text(_index(found[:MOST_RUNS]))
    new.replace(out / "index.html")


def _read(path: Path) -> dict[str, Any] | None:
    """What a run's report.json says; None for what is no report of this edition."""
    if not _RUN.fullmatch(path.name):
        return None
    try:
        told: dict[str, Any] = json.loads((path / "report.json").read_text())
    except (OSError, ValueError):
        return None
    return told if {"outcome", "began", "recovery_seconds"} <= told.keys() else None


def _remove(path: Path) -> None:
    """A report's files, and its folder if nothing else is in it."""
    for name in _FILES:
        (path / name).unlink(missing_ok=True)
    if not any(path.iterdir()):
        path.rmdir()


def _index(runs: Sequence[tuple[Path, dict[str, Any]]]) -> str:
    rows = [_row(path.name, told) for path, told in runs]
    head = ["began (UTC)", "drill", "outcome", "version", "felt", "longest gap", "p99 during"]
    return page(
        "Drills",
        "<h1>Drills</h1>\n<p>The newest first. Felt: from the fault to the first second in which "
        f"every request succeeds within the objective again. Longest gap: without a good answer. "
        f"The last {MOST_RUNS} runs are kept.</p>\n" + table(head, rows, numbers=3),
    )


def _row(name: str, told: dict[str, Any]) -> list[str]:
    began = datetime.fromisoformat(told["began"])
    numbers = ["", "", ""]
    if told["outcome"] in ("held", "broken"):
        felt = told["recovery_seconds"]
        numbers = [
            "to the end" if felt is None else f"{felt:.2f} s" if felt else "not felt",
            f"{told['worst_gap_seconds']:.2f} s",
            ms(told["latency_ms"]["during"]["p99"]),
        ]
    return [
        f'<span class="whole">{began:%Y-%m-%d %H:%M:%S}</span>',
        f'<a class="whole" href="{escape(name)}/report.html">{escape(told["drill"])}</a>',
        f'<span class="{"good" if told["held"] else "bad"}">{escape(told["outcome"])}</span>',
        escape(told["circumstances"].get("gateway", "")),
        *numbers,
    ]
