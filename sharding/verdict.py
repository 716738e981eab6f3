"""Is it well? One rule, from everything that a worker knows to a status with reasons. No I/O.

`/readyz` and the dashboard both say what `judge` says. The verdict is the worst of what
is known. A reason's place is its kind's place in `ORDER`: what stops listeners first, then what
they feel, then what the next fault will cost. What one cause explains is not said as another one:
while this process is starved, it does not judge others by how slow they look.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from failover.mysql.commits import Stall
from sharding.partitions.calendar import CLOCKS_AGREE, span

Status = Literal["ready", "degraded", "unavailable", "draining"]
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
"""Failed, or slow, requests below which a share of them says nothing."""
ERRORS_PACE = 14.4
"""Times the pace at which the error budget lasts a month: at this one it is gone in two days (Site
Reliability Workbook, "Alerting on SLOs")."""
HOLD: Mapping[Kind, tuple[float, float]] = {
    "starved": (0, 5),
    "errors": (0, 5),
    "slow": (0, 5),
    "skew": (3, 5),
    "drift": (30, 5),
    "connections": (0, 5),
}
"""Seconds that a reason must last before it is said, and be gone before it is taken back. Each
other kind rests on a rule that has its own patience, such as a node's ejection."""
SKEW_STARVED = 60.0
"""The same for a process that is starved, and reads clocks late."""
STARVED_TOO = frozenset({"slow", "failover", "commits"})
"""What a process without CPU time would find wrong with others, and with its own answers."""


@dataclass(frozen=True, slots=True)
class Reason:
    """One thing that is amiss.

    Attributes:
        stops: whether no request can be served for it.
    """

    kind: Kind
    text: str
    stops: bool = False


@dataclass(frozen=True, slots=True)
class Traffic:
    """One class of requests of the last seconds.

    Attributes:
        name: `play`, `start`, `browse` or `states`.
        seconds: how long that is.
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
    """What is known at one moment. The default of each is that nothing is amiss.

    Attributes:
        doubt: why MySQL's clock is not believed.
        blocked: why today's partition cannot be used.
        adopted: whether there is a MySQL primary.
        lost_for: seconds since it was lost; None before the first.
        problem: why there is none.
        denied: whether that is because it refuses the gateway's user.
        deadline: seconds that requests wait for one.
        stall: that changes do not commit.
        full: that statements fail, as the server's disk is full.
        busy: that it takes no more connections.
        redundant: whether another host has what is acknowledged; None: not known.
        redundancy: why it has, has not, or cannot be seen.
        out: lookup nodes out of the ring, with why.
        hints: other troubles of lookup nodes.
        ahead: seconds that MySQL's clock is ahead of this machine's.
        others_ahead: likewise of other gateways, by name.
        drift: how other gateways' configurations differ.
        foreign: tables of others with a partition's name.
        jobs: background work that fails.
        starved: what this process lacks.
        unknown: what cannot be seen, and why.
        traffic: by class.
        draining: why requests are to go elsewhere.
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
    """Everything that is amiss, the gravest kinds first."""
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
    """The gravest kinds first; of one kind as they come."""
    return sorted(found, key=lambda reason: ORDER.index(reason.kind))


def _mysql(facts: Facts) -> Iterable[Reason]:
    if facts.blocked:
        yield Reason("foreign_today", facts.blocked, stops=True)
    if not facts.adopted:
        if facts.denied:
            yield Reason("login", f"MySQL refuses this gateway's user: {facts.problem}", stops=True)
        elif facts.lost_for is None or facts.lost_for > facts.deadline:
            yield Reason("primary", f"no MySQL primary: {facts.problem}", stops=True)
        else:
            yield Reason("failover", f"MySQL fails over: {facts.problem}")
        return
    if facts.stall is not None:
        yield Reason(facts.stall.cause, f"changes do not commit: {facts.stall.words}", stops=True)
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
        yield Reason(
            "skew",
            f"this machine's clock and MySQL's differ by {span(abs(facts.ahead))}: set the wrong "
            f"one right{held}",
        )
    for name, ahead in sorted(facts.others_ahead.items()):
        if abs(ahead) > allowed:
            yield Reason("skew", f"the clock of {name} and MySQL's differ by {span(abs(ahead))}")


def _traffic(classes: Sequence[Traffic], objective: Objective) -> Iterable[Reason]:
    budget = 1 - objective.success
    for one in classes:
        if one.failed >= FEWEST and one.failed / one.requests > ERRORS_PACE * budget:
            yield Reason(
                "errors",
                f"requests fail: {one.failed / one.requests:.1%} of the class {one.name} in "
                f"{one.seconds:.0f} s, and {budget:.2g} of them may",
            )
        if one.slow >= FEWEST and one.slow / one.requests > 0.01:
            yield Reason(
                "slow",
                f"requests are slow: {one.slow / one.requests:.1%} of the class {one.name} took "
                f"longer than {objective.latency * 1000:.0f} ms in {one.seconds:.0f} s",
            )


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is said of a gateway, or of a worker.

    Attributes:
        found: why it is no better, the gravest reasons first.
    """

    status: Status
    found: Sequence[Reason] = ()

    @property
    def reasons(self) -> list[str]:
        """The reasons, for people."""
        return [reason.text for reason in self.found]

    @property
    def causes(self) -> list[Kind]:
        """The kind of each reason."""
        return [reason.kind for reason in self.found]


def judge(found: Sequence[Reason]) -> Verdict:
    """The worst that the reasons mean."""
    if any(reason.kind == "draining" for reason in found):
        return Verdict("draining", found)
    if any(reason.stops for reason in found):
        return Verdict("unavailable", found)
    return Verdict("degraded" if found else "ready", found)


class Steady:
    """Keeps reasons from coming and going with each look (`HOLD`). Times are seconds, steady."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[Reason, float, float]] = {}

    def take(self, found: Sequence[Reason], now: float) -> list[Reason]:
        """Those to say now, in their order.

        Args:
            found: what `reasons` finds now.
        """
        for reason in found:
            _, since, _ = self._seen.get(stem(reason), (reason, now, now))
            self._seen[stem(reason)] = reason, since, now
        present = {stem(reason) for reason in found}
        said = []
        for name, (reason, since, last) in list(self._seen.items()):
            begins, ends = HOLD.get(reason.kind, (0.0, 0.0))
            if name not in present and (now - last >= ends or last - since < begins):
                del self._seen[name]
            elif now - since >= begins:
                said.append(reason)
        return in_order(said)


def stem(reason: Reason) -> str:
    """What stays the same of a reason while its details change."""
    return reason.text.partition(": ")[0]
