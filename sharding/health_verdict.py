"""The verdict: one rule, from everything that a worker knows to a status with reasons. No I/O.

`/readyz` and the dashboard both show what `verdict_of` returns: the worst status of any reason.
Reasons are ordered by the place of their kind in `ORDER`: first what stops listeners, then what
they notice, then what makes the next fault worse. One cause is one reason: while this process is
starved, it does not report others as slow.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from failover.mysql.commit_stalls import Stall
from sharding.partitions.calendar import CLOCKS_AGREE, clocks_differ, span

Status = Literal["ready", "degraded", "unavailable", "draining"]
STATUSES: tuple[Status, ...] = get_args(Status)
Kind = Literal[
    "draining",
    "clock",
    "foreign_today",
    "login",
    "primary",
    "disk",
    "standby",
    "lock",
    "connections",
    "commits",
    "failover",
    "starved",
    "errors",
    "slow",
    "redundancy",
    "nodes",
    "hints",
    "capacity",
    "skew",
    "drift",
    "foreign",
    "job",
    "workers",
    "peers",
    "unknown",
]
ORDER: tuple[Kind, ...] = get_args(Kind)

SKEW = 2.0
"""Seconds by which clocks may differ."""
FEWEST = 5
"""Fewer failed, or slow, requests than this are no reason, whatever their share is."""
ERRORS_PACE = 14.4
"""A multiple of the pace at which the error budget lasts a month: at this one it is used up in two
days (Site Reliability Workbook, "Alerting on SLOs")."""
HOLD: Mapping[Kind, tuple[float, float]] = {
    "starved": (0, 5),
    "errors": (0, 5),
    "slow": (0, 5),
    "skew": (3, 5),
    "drift": (30, 5),
    "connections": (0, 5),
}
"""Seconds that a reason must last before it is reported, and be gone before it is taken back. The
other kinds come from rules that wait themselves, such as a node's ejection."""
SKEW_STARVED = 60.0
"""`SKEW` for a process that is starved, and so reads clocks late."""
STARVED_TOO = frozenset({"slow", "failover", "commits"})
"""Kinds that a process without CPU time would report by mistake."""


@dataclass(frozen=True, slots=True)
class Reason:
    """One thing that is wrong.

    Attributes:
        stops: whether it keeps the gateway from serving any request.
        age: seconds for which it has held, as far as is known.
    """

    kind: Kind
    text: str
    stops: bool = False
    age: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True)
class Traffic:
    """The requests of one class in the last seconds.

    Attributes:
        name: `play`, `start`, `browse` or `states`.
        seconds: how many seconds are counted.
    """

    name: str
    seconds: float
    requests: float
    failed: float
    slow: float


@dataclass(frozen=True, slots=True)
class Objective:
    """What listeners are promised.

    Attributes:
        success: the share of requests that do not fail, such as 0.999.
        latency: seconds within which 99 % are answered.
    """

    success: float = 0.999
    latency: float = 0.25


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known at one moment. The defaults mean that nothing is wrong.

    Attributes:
        doubt: why MySQL's clock is not trusted.
        blocked: why today's partition cannot be used.
        adopted: whether there is a MySQL primary.
        lost_for: seconds since the primary was lost; None before the first one.
        problem: why there is no primary.
        denied: whether there is none because MySQL refuses the gateway's user.
        deadline: seconds that requests wait for a primary.
        stall: why changes do not commit.
        full: the error of statements that fail because the server's disk is full.
        busy: the error of connects while the server accepts no more connections.
        redundant: whether another host has every acknowledged change; None: not known.
        redundancy: why `redundant` is as it is.
        out: ejected lookup nodes by name, each with the reason; `hints` are their other troubles.
        ahead: seconds by which MySQL's clock is ahead of this machine's.
        others_ahead: the same for other gateways' machines, by name.
        drift: how other gateways' configurations differ.
        starved: how much CPU time this process lacks.
        unknown: what cannot be checked, and why.
        draining: why this gateway is to get no more requests.
    """

    adopted: bool = True
    doubt: str = ""
    blocked: str = ""
    lost_for: float | None = None
    problem: str = ""
    denied: bool = False
    deadline: float = 0.0
    stall: Stall | None = None
    full: str = ""
    busy: str = ""
    redundant: bool | None = None
    redundancy: str = ""
    out: Sequence[tuple[str, str]] = ()
    hints: Sequence[str] = ()
    capacity: Sequence[str] = ()
    ahead: float = 0.0
    others_ahead: Mapping[str, float] = field(default_factory=dict)
    drift: Sequence[str] = ()
    foreign: str = ""
    jobs: Sequence[str] = ()
    starved: str = ""
    unknown: Sequence[str] = ()
    traffic: Sequence[Traffic] = ()
    draining: str = ""


def reasons(facts: Facts, objective: Objective = Objective()) -> list[Reason]:
    """Everything that is wrong, the gravest kinds first."""
    found = [*_mysql(facts), *_clocks(facts), *_traffic(facts.traffic, objective)]

    def add(kind: Kind, texts: Iterable[str], stops: bool = False) -> None:
        found.extend(Reason(kind, text, stops) for text in texts if text)

    add("draining", [facts.draining], stops=True)
    add("starved", [facts.starved and f"this gateway is starved: {facts.starved}"])
    add("nodes", [f"lookup node {name} is out of the ring: {why}" for name, why in facts.out])
    add("hints", facts.hints)
    add("capacity", facts.capacity)
    add("drift", facts.drift)
    add("foreign", [facts.foreign])
    add("job", facts.jobs)
    add("unknown", facts.unknown)
    if facts.starved:
        found = [reason for reason in found if reason.kind not in STARVED_TOO]
    return in_order(found)


def in_order(found: Iterable[Reason]) -> list[Reason]:
    """Sort reasons, the gravest kinds first; within a kind their order stays."""
    return sorted(found, key=lambda reason: ORDER.index(reason.kind))


def _mysql(facts: Facts) -> Iterable[Reason]:
    if facts.blocked:
        yield Reason("foreign_today", facts.blocked, stops=True)
    if not facts.adopted:
        lost = facts.lost_for or 0.0
        if facts.denied:
            yield Reason("login", f"MySQL refuses this gateway's user: {facts.problem}", True, lost)
        elif facts.lost_for is None or facts.lost_for > facts.deadline:
            yield Reason("primary", f"no MySQL primary: {facts.problem}", True, lost)
        else:
            yield Reason("failover", f"MySQL fails over: {facts.problem}", age=lost)
        return
    if facts.stall is not None:
        stall = facts.stall
        yield Reason(stall.cause, f"changes do not commit: {stall.words}", True, stall.seconds)
    if facts.full and (facts.stall is None or facts.stall.cause != "disk"):
        yield Reason("disk", f"MySQL's disk is full: {facts.full}")
    if facts.busy and (facts.stall is None or facts.stall.cause != "connections"):
        yield Reason("connections", f"MySQL takes no more connections: {facts.busy}")
    if facts.redundant is False and (facts.stall is None or facts.stall.cause != "standby"):
        yield Reason("redundancy", f"MySQL is not redundant: {facts.redundancy}")
    elif facts.redundancy and facts.redundant is None:
        yield Reason("unknown", f"whether MySQL is redundant is not known: {facts.redundancy}")


def _clocks(facts: Facts) -> Iterable[Reason]:
    allowed = SKEW_STARVED if facts.starved else SKEW
    if facts.doubt:
        yield Reason("clock", facts.doubt, stops=True)
    elif abs(facts.ahead) > allowed:
        held = "; until then no partition is dropped" if abs(facts.ahead) > CLOCKS_AGREE else ""
        yield Reason("skew", clocks_differ(facts.ahead) + held)
    for name, ahead in sorted(facts.others_ahead.items()):
        if abs(ahead) > allowed:
            yield Reason("skew", f"the clock of {name} and MySQL's differ by {span(abs(ahead))}")


def _traffic(classes: Sequence[Traffic], objective: Objective) -> Iterable[Reason]:
    budget = 1 - objective.success
    for one in classes:
        if one.failed >= FEWEST and one.failed / one.requests > ERRORS_PACE * budget:
            yield Reason(
                "errors",
                f"requests of the class {one.name} fail: {one.failed / one.requests:.1%} in "
                f"{one.seconds:.0f} s, and {budget * 100:.2g}% of them may",
            )
        if one.slow >= FEWEST and one.slow / one.requests > 0.01:
            yield Reason(
                "slow",
                f"requests of the class {one.name} are slow: {one.slow / one.requests:.1%} took "
                f"longer than {objective.latency * 1000:.0f} ms in {one.seconds:.0f} s",
            )


@dataclass(frozen=True, slots=True)
class Verdict:
    """The status of a gateway, or of a worker.

    Attributes:
        found: the reasons for it, the gravest first.
    """

    status: Status
    found: Sequence[Reason] = ()

    @property
    def reasons(self) -> list[str]:
        return [reason.text for reason in self.found]

    @property
    def causes(self) -> list[Kind]:
        return [reason.kind for reason in self.found]

    @property
    def ages(self) -> list[float]:
        return [round(reason.age, 1) for reason in self.found]


def verdict_of(found: Sequence[Reason]) -> Verdict:
    """The verdict: the worst status that a reason means."""
    if any(reason.kind == "draining" for reason in found):
        return Verdict("draining", found)
    if any(reason.stops for reason in found):
        return Verdict("unavailable", found)
    return Verdict("degraded" if found else "ready", found)


class DelayedReasons:
    """Delays the coming and going of reasons (`HOLD`). Times are seconds on a steady clock."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[Reason, float, float]] = {}

    def take(self, found: Sequence[Reason], now: float) -> list[Reason]:
        """The reasons to report now, in their order.

        Args:
            found: what `reasons` returns now.
        """
        for reason in found:
            _, since, _ = self._seen.get(subject(reason), (reason, now, now))
            self._seen[subject(reason)] = reason, since, now
        present = {subject(reason) for reason in found}
        said = []
        for name, (reason, since, last) in list(self._seen.items()):
            begins, ends = HOLD.get(reason.kind, (0.0, 0.0))
            if name not in present and (now - last >= ends or last - since < begins):
                del self._seen[name]
            elif now - since >= begins:
                said.append(replace(reason, age=max(reason.age, now - since)))
        return in_order(said)


def subject(reason: Reason) -> str:
    """The part of a reason that stays the same while its details change."""
    return reason.text.partition(": ")[0]
