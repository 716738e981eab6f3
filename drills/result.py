"""What a drill saw and found."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from drills.checker import Verdict
from drills.client import Look
from drills.measure import Try, Window
from drills.noise import Beat
from drills.scene import Finding, Mark, Scenario


@dataclass
class Result:
    """All that a drill saw. Times are seconds on the load's clock, which begins at 0."""

    scenario: Scenario
    began: datetime
    seed: int
    rate: float
    calm: float
    end: float
    injected: float
    healed: float
    over: float
    ejected: float | None
    tries: list[Try]
    looks: list[Look]
    marks: list[Mark]
    verdict: Verdict
    surprises: list[str]
    log_errors: dict[str, int]
    beats: list[Beat] = field(default_factory=list)
    dropped: int = 0
    windows: dict[str, Window] = field(default_factory=dict)
    worst_gap: float = 0.0
    recovery: float | None = None
    findings: list[Finding] = field(default_factory=list)

    @property
    def held(self) -> bool:
        """Whether every promise held."""
        return all(finding.held for finding in self.findings)

    @property
    def only_late(self) -> bool:
        """Whether all that did not hold is about time."""
        return not self.held and all(finding.held or finding.timing for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        """For scripts."""
        return {
            "drill": self.scenario.name,
            "about": self.scenario.about,
            "held": self.held,
            "began": self.began.isoformat(timespec="seconds"),
            "seconds": round(self.end, 1),
            "rate": self.rate,
            "seed": self.seed,
            "fault": {
                "injected": round(self.injected, 2),
                "ejected": _rounded(self.ejected),
                "over": round(self.over, 2),
                "healed": round(self.healed, 2),
            },
            "requests": len(self.tries),
            "met": dict(Counter(t.met.name.lower() for t in self.tries)),
            "states": self.verdict.states,
            "acknowledged": self.verdict.acknowledged,
            "without_answer": self.verdict.unknown,
            "wrong": self.verdict.counts,
            "examples": [f"{b.wrong.name}: {b.key}: {b.text}" for b in self.verdict.breaches[:20]],
            "latency_ms": {name: window._asdict() for name, window in self.windows.items()},
            "worst_gap_seconds": round(self.worst_gap, 2),
            "recovery_seconds": _rounded(self.recovery),
            "findings": [finding._asdict() for finding in self.findings],
            "marks": [{"at": round(mark.at, 2), "text": mark.text} for mark in self.marks],
            "surprises": self.surprises,
            "log_errors": self.log_errors,
        }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)
