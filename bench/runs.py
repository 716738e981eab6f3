"""Whole runs of the same commit on this machine: whether their figures agree."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.lab import Record
from bench.targets import verdicts

SAME = 0.2
"""Runs agree if their highest median is at most this share above their lowest."""
_FILE = "runs.jsonl"


def remember(folder: Path, meta: Mapping[str, Any], records: Sequence[Record]) -> None:
    """Add the medians of a whole run to the file of runs."""
    medians = {v.target.title: v.reached.median for v in verdicts(records) if v.reached}
    with (folder / _FILE).open("a") as file:
        file.write(json.dumps({**_same(meta), "medians": medians}) + "\n")


def earlier(folder: Path, meta: Mapping[str, Any]) -> list[dict[str, float]]:
    """The medians of the whole runs before, of the same commit and scale."""
    try:
        lines = (folder / _FILE).read_text().splitlines()
    except FileNotFoundError:
        return []
    found = [json.loads(line) for line in lines]
    return [run["medians"] for run in found if _same(run) == _same(meta)]


def _same(meta: Mapping[str, Any]) -> dict[str, Any]:
    return {name: meta[name] for name in ("commit", "scale", "rounds", "seconds")}


def agreement(medians: Sequence[Mapping[str, float]]) -> str:
    """A sentence on whether several runs agree.

    Args:
        medians: of each run, by figure.
    """
    if len(medians) < 2:
        return "No other whole run of this commit was made to compare with."
    apart = []
    for title in medians[0]:
        values = sorted(run[title] for run in medians if title in run)
        low, high = values[0], values[-1]
        if high > low * (1 + SAME):
            apart.append(f"{title} ({low:.3g} to {high:.3g})")
    whole = f"{len(medians)} whole runs of this commit"
    if not apart:
        return f"The medians of {whole} agree within {SAME:.0%}."
    return f"The medians of {whole} agree within {SAME:.0%}, but for: {'; '.join(apart)}."
