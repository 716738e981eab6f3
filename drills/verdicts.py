"""From what a drill saw to what it found: each promise, whether it held, what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from drills import measure
from drills.checker import Verdict
from drills.client import Readyz
from drills.measure import Met, Window, window
from drills.noise import STARVED, Timed, missed, p99
from drills.result import Result
from drills.scene import Finding, Scene

HINT_MS = 50.0
"""The hint's deadline, as every stage has it (lookup.hint_deadline)."""
FLOOR_MS = 15.0
"""A lower p99 counts as this one, since twice a tiny p99 is no useful limit."""

NOTHING_LOST = "no acknowledged change lost, undone, doubled or reordered"

SLOW = 1.0
"""Seconds: a promise to serve as before is broken by what takes longer, on any machine."""


def all_findings(result: Result, expectations: Sequence[Finding]) -> list[Finding]:
    """Every finding of a drill."""
    promise = result.scenario.promise
    findings = [_errors(result), _nothing_lost(result.verdict)]
    if promise.latency == "hint":
        findings += _hint(result)
    elif promise.latency == "outage":
        findings.append(_outage(result))
    return [*findings, _recovery(result), *expectations]


def _recovery(result: Result) -> Finding:
    """A second in which all is well, soon enough after the outage."""
    allowed, took = result.scenario.promise.recovery, result.after_outage
    text = "clients are served as before at the end"
    if allowed is not None:
        text = f"clients are served as before within {allowed:g} s of its return"
    # If nothing but shed requests failed, only a machine with too much else to do was in the way.
    failed = set(measure.errors(t for t in result.tries if t.due >= result.end - 1))
    return Finding(
        text,
        took is not None and (allowed is None or took <= allowed),
        "they are not" if took is None else f"{took:.2f} s after the outage" if took else "at once",
        timing=took is not None or failed <= {Met.SHED},
    )


def _errors(result: Result) -> Finding:
    allowed = result.scenario.promise.errors
    met = measure.errors(result.tries)
    words = ", ".join(f"{count} x {kind.value}" for kind, count in met.most_common()) or "none"
    wrong = set(met) - allowed
    return Finding(
        result.scenario.promise.sentences[0], not wrong, words, timing=wrong == {Met.SHED}
    )


def _nothing_lost(verdict: Verdict) -> Finding:
    counts = {name: count for name, count in verdict.counts.items() if count}
    words = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items())
    return Finding(
        NOTHING_LOST,
        not verdict.breaches,
        f"{words or 'none'} of {verdict.acknowledged} changes in {verdict.states} states",
    )


def _hint(result: Result) -> list[Finding]:
    """The machine's own share is taken off, see _noise."""
    before = result.windows["before"]
    until = result.windows["until ejection"]
    allowed = before.p99 + HINT_MS + _noise(result, result.injected, result.ejected)
    findings = [
        Finding(
            "until ejection: at most the hint's deadline more",
            until.p99 <= allowed,
            f"p99 {until.p99:.0f} ms, before {before.p99:.0f} ms, allowed {allowed:.0f} ms",
            timing=True,
        )
    ]
    if result.ejected is not None:
        after = result.windows["after ejection"]
        noise = _noise(result, result.ejected, result.healed)
        allowed = 2 * max(before.p99, FLOOR_MS) + noise
        findings.append(
            Finding(
                "after ejection: p99 under 2x that before",
                after.p99 < allowed,
                f"p99 {after.p99:.0f} ms, before {before.p99:.0f} ms, allowed {allowed:.0f} ms",
                timing=True,
            )
        )
    return findings


def _outage(result: Result) -> Finding:
    outage = result.over - result.injected
    longest = result.windows["during"].longest / 1000
    noise = _noise(result, result.injected, result.end) / 1000
    allowed = outage + 1 + noise
    return Finding(
        "no request takes longer than the outage plus 1 s",
        longest <= allowed,
        f"longest {longest:.2f} s, outage {outage:.2f} s, allowed {allowed:.2f} s",
        timing=True,
    )


def _noise(result: Result, begin: float, end: float | None) -> float:
    """By how many ms the machine was slower than in the calm, by the p99 of /readyz and of writes
    to the disk. A commit may wait for the one before it, so the disk counts twice."""

    def slower(timed: Sequence[Timed]) -> float:
        calm = p99(timed, result.calm, result.injected)
        return 1000 * max(0.0, p99(timed, begin, end or result.healed) - calm)

    return slower([answer for answer in result.readyz if answer.status]) + 2 * slower(result.beats)


def ejected_at(readyz: Sequence[Readyz], injected: float) -> float | None:
    """When the last of the gateways that took a node out did so; None if none did."""
    first: dict[int, float] = {}
    for answer in readyz:
        if answer.at >= injected and any("out of the ring" in reason for reason in answer.reasons):
            first.setdefault(answer.gateway, answer.at)
    return max(first.values(), default=None)


def windows(result: Result) -> dict[str, Window]:
    """Latency in the parts of the drill."""
    tries, injected, healed = result.tries, result.injected, result.healed
    recovered = max(healed, result.over) + 1.0
    found = {
        # What the fault caught under way belongs to it.
        "before": window((t for t in tries if t.ended <= injected), result.calm, injected),
        "during": window(tries, injected - 0.5, max(healed, injected + 0.5)),
        "after": window(tries, recovered, result.end),
    }
    if result.scenario.promise.latency == "hint":
        ejected = result.ejected
        found["until ejection"] = window(tries, injected, ejected or healed)
        if ejected is not None:
            found["after ejection"] = window(tries, ejected + 0.1, healed)
    return found


def build(scene: Scene, result: Result) -> Result:
    """Complete a result with what was seen; with its findings, unless the drill ended early."""
    client, end = scene.client, result.end
    result.calm = end if scene.calm is None else scene.calm
    result.injections = scene.injections
    result.healed = end if scene.healed is None else scene.healed
    result.over = result.healed if scene.over is None else scene.over
    result.ejected = ejected_at(client.readyz, result.injected)
    result.tries = sorted(client.tries, key=lambda t: t.sent)
    result.readyz = client.readyz
    result.surprises = client.surprises
    result.refusals = dict(client.refusals)
    result.objective = scene.stage.objective_seconds
    result.windows = windows(result)
    # A play token needs nothing but its key; it says nothing of the parts behind.
    tried = [t for t in result.tries if t.what != "new"]
    result.worst_gap = measure.worst_gap(tried, result.calm, end)
    recover(result)
    if result.ended is None:
        result.findings = all_findings(result, scene.expectations)
    excuse(result)
    return result


def excuse(result: Result) -> None:
    """On a starved machine whatever did not hold is about time, but for lost changes."""
    if missed(result.beats) > STARVED:
        result.findings = [f._replace(timing=f.promise != NOTHING_LOST) for f in result.findings]


def recover(result: Result) -> None:
    """Measure how long clients felt the fault, and how long after it was over."""
    tries, end, within = result.tries, result.end, result.objective
    last = max(result.healed, result.over) + 1
    felt = [
        (begin, measure.recovery(tries, begin, min(until, last), end, within))
        for begin, until in pairwise([*result.injections, last])
    ]
    known = [(seconds, begin) for begin, seconds in felt if seconds is not None]
    if known and len(known) == len(felt):
        result.recovery, begin = max(known)
        result.recovered = begin + result.recovery if result.recovery else None
    # What the machine itself costs meanwhile is taken off, see _noise.
    noise = _noise(result, result.over, end) / 1000
    later = [t for t in tries if t.due >= result.over]
    result.after_outage = measure.recovery(later, result.over, end, end, SLOW + noise)
