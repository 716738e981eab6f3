"""What a drill saw and found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from drills.checker import Verdict
from drills.client import Readyz
from drills.load import MOST_BUSY
from drills.measure import Try, Window
from drills.noise import Beat
from drills.operations import Operation
from drills.scene import Finding, Scenario
from drills.story import Mark

NOT_STEADY = "not steady before the fault"
INTERRUPTED = "interrupted"


@dataclass
class Result:
    """All that a drill saw. Times are seconds since it began.

    Attributes:
        command: repeats it.
        began: by the machine's clock.
        begin, end: of the load.
        calm: from when on it is compared with.
        injections: when a fault began, each time.
        healed: when the fault ended; `over`: when the system had ended the outage.
        ejected: when the last gateway took a node out.
        ended: why there is no verdict, INTERRUPTED or NOT_STEADY; None where there is one.
        circumstances: versions and the machine, in words.
        dropped: steps that the load left out, at its own limit (load.MOST_BUSY).
        worst_gap: the longest time without a good answer.
        recovery: from a fault to the first second in which every request succeeded within the
            objective again, the longest one; 0: clients noticed nothing; None: that never came.
        recovered: when that second began, if clients noticed anything.
        after_outage: likewise from when the outage was over, but for answers that are merely late
            (verdicts.SLOW): it is what promises are held against.
    """

    scenario: Scenario
    command: str
    began: datetime
    seed: int
    rate: float
    begin: float
    end: float
    marks: list[Mark]
    verdict: Verdict
    ended: str | None = None
    calm: float = 0.0
    injections: list[float] = field(default_factory=list)
    healed: float = 0.0
    over: float = 0.0
    ejected: float | None = None
    tries: list[Try] = field(default_factory=list)
    readyz: list[Readyz] = field(default_factory=list)
    surprises: list[str] = field(default_factory=list)
    refusals: dict[str, int] = field(default_factory=dict)
    log_errors: dict[str, int] = field(default_factory=dict)
    beats: list[Beat] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)
    circumstances: Mapping[str, str] = field(default_factory=dict)
    dropped: int = 0
    objective: float = 0.25
    windows: dict[str, Window] = field(default_factory=dict)
    worst_gap: float = 0.0
    recovery: float | None = None
    recovered: float | None = None
    after_outage: float | None = None
    findings: list[Finding] = field(default_factory=list)

    @property
    def injected(self) -> float:
        """When the (first) fault began; the end if there was none."""
        return self.injections[0] if self.injections else self.end

    @property
    def held(self) -> bool:
        """Whether every promise held."""
        return self.ended is None and all(finding.held for finding in self.findings)

    @property
    def outcome(self) -> str:
        """In a word or few."""
        return self.ended or ("held" if self.held else "broken")

    @property
    def sentences(self) -> list[str]:
        """What clients felt, in words."""
        felt = f"every request succeeded within {self.objective * 1000:.0f} ms"
        if self.recovery is None:
            felt = "the fault was felt until the end"
        elif self.recovery:
            felt = f"the fault was felt for {self.recovery:.2f} s"
        p99 = [f"{ms(self.windows[name].p99)} {name}" for name in ("before", "during", "after")]
        gap = f"the longest time without a good answer was {self.worst_gap:.2f} s"
        told = [felt, gap, f"p99 {', '.join(p99)} the fault", f"{len(self.tries)} requests"]
        if self.dropped:
            told.append(
                f"the drill itself left out {self.dropped} steps, since {MOST_BUSY} were under way"
                " at once: a lower --rate keeps the load even"
            )
        return told

    @property
    def timeline(self) -> list[Mark]:
        """What was said, and what the numbers say beside it."""
        told = list(self.marks)
        if self.ejected is not None:
            told.append(Mark(self.ejected, "the last gateway has taken it out of the ring"))
        if self.recovered is not None:
            told.append(Mark(self.recovered, "from here on clients are served as before"))
        return sorted(told)

    @property
    def only_late(self) -> bool:
        """Whether all that did not hold is about time."""
        return (
            not self.held
            and self.ended != INTERRUPTED
            and all(finding.held or finding.timing for finding in self.findings)
        )

    def as_json(self) -> dict[str, Any]:
        """For scripts."""
        return {
            "drill": self.scenario.name,
            "about": self.scenario.about,
            "outcome": self.outcome,
            "held": self.held,
            "began": self.began.isoformat(timespec="milliseconds"),
            "command": self.command,
            "circumstances": dict(self.circumstances),
            "load": {"begin": round(self.begin, 2), "end": round(self.end, 2)},
            "rate": self.rate,
            "seed": self.seed,
            "fault": {
                "injected": [round(at, 2) for at in self.injections],
                "ejected": _rounded(self.ejected),
                "over": round(self.over, 2),
                "healed": round(self.healed, 2),
            },
            "requests": len(self.tries),
            "steps_left_out": self.dropped,
            "met": dict(Counter(t.met.name.lower() for t in self.tries)),
            "states": self.verdict.states,
            "acknowledged": self.verdict.acknowledged,
            "without_answer": self.verdict.unknown,
            "wrong": self.verdict.counts,
            "examples": [f"{b.wrong.name}: {b.key}: {b.text}" for b in self.verdict.breaches[:20]],
            "latency_ms": {name: window._asdict() for name, window in self.windows.items()},
            "worst_gap_seconds": round(self.worst_gap, 2),
            "recovery_seconds": _rounded(self.recovery),
            "recovery_after_outage_seconds": _rounded(self.after_outage),
            "findings": [finding._asdict() for finding in self.findings],
            "marks": [{"at": round(mark.at, 2), "text": mark.text} for mark in self.timeline],
            "surprises": self.surprises,
            "refusals": self.refusals,
            "log_errors": self.log_errors,
        }


def ms(value: float) -> str:
    """Milliseconds, with one decimal below 100."""
    return f"{value:.0f} ms" if value >= 100 else f"{value:.1f} ms"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)
