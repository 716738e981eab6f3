"""From what a drill saw to what it found: each promise, whether it held, what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from drills import measure
from drills.checker import Verdict
from drills.client import Look
from drills.measure import Window, percentile, window
from drills.noise import Beat
from drills.result import Result
from drills.scene import Finding, Scenario, Scene

HINT_MS = 50.0
"""The hint's deadline, as every stage has it (lookup.hint_deadline)."""
FLOOR_MS = 15.0
"""A p99 below this is taken for this: twice next to nothing is nothing to hold anybody to."""
SLOW = 1.0
"""Seconds: a request that takes longer does not count as served as before."""


def judge(result: Result, expectations: Sequence[Finding]) -> list[Finding]:
    """Every finding of a drill."""
    promise = result.scenario.promise
    findings = [_errors(result), _nothing_lost(result.verdict)]
    if promise.latency == "hint":
        findings += _hint(result)
    elif promise.latency == "outage":
        findings.append(_outage(result))
    if promise.recovery is not None:
        recovery = result.recovery
        findings.append(
            Finding(
                f"recovery within {promise.recovery:g} s",
                recovery is not None and recovery <= promise.recovery,
                "never" if recovery is None else f"{recovery:.2f} s",
                timing=recovery is not None,
            )
        )
    else:
        findings.append(
            Finding(
                "all is as before at the end",
                result.recovery is not None,
                "it is not" if result.recovery is None else f"after {result.recovery:.2f} s",
            )
        )
    findings.append(
        Finding(
            "the load kept its rate",
            not result.dropped,
            f"{result.dropped} steps left out, {len(result.tries)} requests sent",
            timing=True,
        )
    )
    return [*findings, *expectations]


def _errors(result: Result) -> Finding:
    allowed = result.scenario.promise.errors
    met = measure.errors(result.tries)
    words = ", ".join(f"{count} x {kind.value}" for kind, count in met.most_common()) or "0"
    return Finding(result.scenario.promise.sentences[0], set(met) <= allowed, words)


def _nothing_lost(verdict: Verdict) -> Finding:
    counts = {name: count for name, count in verdict.counts.items() if count}
    words = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items())
    return Finding(
        "no acknowledged change lost, undone, doubled or reordered",
        not verdict.breaches,
        f"{words or '0'} of {verdict.acknowledged} changes in {verdict.states} states",
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

    def slower(looks: Sequence[Look | Beat]) -> float:
        def p99(begin: float, end: float) -> float:
            return percentile(sorted(x.took * 1000 for x in looks if begin <= x.at < end), 0.99)

        return max(0.0, p99(begin, end or result.healed) - p99(result.calm, result.injected))

    return slower([look for look in result.looks if look.status]) + 2 * slower(result.beats)


def ejected_at(looks: Sequence[Look], injected: float) -> float | None:
    """When the last of the gateways that took a node out did so; None if none did."""
    first: dict[int, float] = {}
    for look in looks:
        if look.at >= injected and any("out of the ring" in reason for reason in look.reasons):
            first.setdefault(look.gateway, look.at)
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


def build(
    scene: Scene,
    scenario: Scenario,
    verdict: Verdict,
    *,
    calm: float,
    end: float,
    began: datetime,
    seed: int,
    rate: float,
    dropped: int,
    log_errors: dict[str, int],
    beats: list[Beat],
) -> Result:
    """Put together what was seen, and judge it."""
    client = scene.client
    injected = end if scene.injected is None else scene.injected
    healed = end if scene.healed is None else scene.healed
    over = healed if scene.over is None else scene.over
    result = Result(
        scenario=scenario,
        began=began,
        seed=seed,
        rate=rate,
        calm=calm,
        end=end,
        injected=injected,
        healed=healed,
        over=over,
        ejected=ejected_at(client.looks, injected),
        tries=sorted(client.tries, key=lambda t: t.sent),
        looks=client.looks,
        marks=scene.marks,
        verdict=verdict,
        surprises=client.surprises,
        log_errors=log_errors,
        beats=beats,
        dropped=dropped,
    )
    result.windows = windows(result)
    # A play token needs nothing but its key; it says nothing of the parts behind.
    tried = [t for t in result.tries if t.what != "new"]
    result.worst_gap = measure.worst_gap(tried, calm, end)
    result.recovery = measure.recovery(result.tries, over, SLOW)
    result.findings = judge(result, scene.expectations)
    return result
