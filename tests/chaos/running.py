"""Runs a drill as `tapedeck drill --short` does, for tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import uvloop

from drills import drill
from drills.checker import Verdict
from drills.drill import Options
from drills.report import write
from drills.result import Result
from drills.scene import Scenario


@dataclass(frozen=True)
class Ran:
    """The result of a drill.

    Attributes:
        broken: why it failed, for a test's message: the promises that did not hold, the first
            breaches, and the steps.
    """

    result: Result
    broken: str

    @property
    def held(self) -> bool:
        return self.result.held

    @property
    def only_late(self) -> bool:
        return self.result.only_late

    @property
    def verdict(self) -> Verdict:
        return self.result.verdict


def run_drill(scenario: Scenario, options: Options, folder: Path) -> Ran:
    """Run a drill to its end and write its report into a folder."""
    result = uvloop.run(drill.run(scenario, options, lambda _: None))
    page = write(result, folder)
    lines = [f"{f.promise}: {f.measured}" for f in result.findings if not f.held]
    lines += [f"{b.wrong.name} {b.key}: {b.text}" for b in result.verdict.breaches[:10]]
    lines += [
        *result.surprises[:5],
        *(f"503: {text}" for text in result.refusals),
        *map(str, result.log_errors.items()),
    ]
    lines += [f"{mark.at:.2f} s {mark.text}" for mark in result.timeline]
    return Ran(result, "\n".join([f"{scenario.name} (seed {result.seed}), {page}", *lines]))
