"""The last quarter of an hour, and what happened in it. No I/O; the time is in what is given.

The server keeps it, so that a page opened now shows what was before. It is bounded: one point every
`STEP` seconds, the events of `KEEP` seconds and never more than `MOST_EVENTS`.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from datetime import datetime
from typing import Any

import msgspec

from gateway.dashboard.numbers import Reading, Window, point, read
from gateway.insight import Snapshot

KEEP = 15 * 60
"""Seconds that are kept."""
STEP = 5.0
"""Seconds between two points."""
MOST_EVENTS = 200
"""A node that flaps for long must not fill the memory."""


_RELOADS = {
    "applied": "The configuration was reloaded",
    "refused": "A reload was refused: the configuration has problems; nothing changed",
    "failed": "A reload failed; nothing changed",
}


class Event(msgspec.Struct):
    """Something that happened.

    Attributes:
        id: grows; an event that ends keeps its own.
        at, until: seconds since 1970. `until` is None while it lasts, and is `at` for what has no
            length.
        kind: `ejected`, `mysql_down`, `not_redundant`, `split`, `failover`, `reload`, `worker`,
            `ring`, `draining`.
        part: what it happened to.
        text: one sentence.
    """

    id: int
    at: float
    until: float | None
    kind: str
    part: str
    text: str


class History:
    """Learns from one observation after the other."""

    def __init__(self) -> None:
        self.points: deque[dict[str, Any]] = deque(maxlen=int(KEEP / STEP))
        self.events: deque[Event] = deque(maxlen=MOST_EVENTS)
        self.changed = 0
        """Grows with each change of `events`."""
        self._ids = itertools.count(1)
        self._open: dict[tuple[str, str], Event] = {}
        self._readings: deque[Reading] = deque()
        self._stepped: Reading | None = None
        self._status: tuple[str, float] | None = None
        self._since: dict[str, float] = {}
        self._reasons: list[str] = []
        self._generation: int | None = None
        self._primary: str | None = None
        self._window: Window | None = None
        self._began = math.inf

    # --- what is asked

    @property
    def window(self) -> Window | None:
        """What happened in the last few seconds; None at the very start."""
        return self._window

    @property
    def status(self) -> dict[str, Any]:
        """The status and its reasons, each with when it began."""
        name, since = self._status or ("unavailable", None)
        return {
            "status": name,
            "since": since,
            "reasons": [
                {"text": reason, "since": self._since[_stem(reason)]} for reason in self._reasons
            ],
        }

    def points_after(self, at: float) -> list[dict[str, Any]]:
        """The points later than that time, oldest first."""
        return [p for p in self.points if p["at"] > at]

    # --- what is learnt

    def learn(self, seen: Snapshot) -> None:
        """Take an observation in; they come in the order of their times."""
        self._began = min(self._began, seen.at)
        reading = read(seen.at, seen.families)
        before = self._readings[-1] if self._readings else None
        known = set(self._open)
        self._count(reading)
        if seen.ring is not None:
            self._look_at_ring(seen)
        if seen.mysql is not None:
            self._look_at_mysql(seen)
        if seen.status == "draining":
            self._begin("draining", "gateway", "The gateway was taken out (drained)", seen.at)
        else:
            self._end("draining", "gateway", seen.at)
        if before is not None:
            self._look_at_counters(Window(before, reading), seen.at)
        self._judge(seen, [event for key, event in self._open.items() if key not in known])
        while self.events and (self.events[0].until or seen.at) < seen.at - KEEP:
            self.events.popleft()
            self.changed += 1

    def _count(self, reading: Reading) -> None:
        self._readings.append(reading)
        # The window is a step wide, however often it is looked at.
        while len(self._readings) > 2 and self._readings[1].at <= reading.at - STEP:
            self._readings.popleft()
        if len(self._readings) > 1:
            self._window = Window(self._readings[0], reading)
        if self._stepped is None:
            self._stepped = reading
        elif reading.at - self._stepped.at >= STEP - 0.5:
            drawn = point(Window(self._stepped, reading))
            self.points.append({"at": round(reading.at, 1), **drawn})
            self._stepped = reading

    def _judge(self, seen: Snapshot, begun: list[Event]) -> None:
        """Keep since when the status and each reason hold.

        Args:
            begun: the faults that this look found. What began between two looks tells when.
        """
        if self._status is None or self._status[0] != seen.status:
            self._status = seen.status, min([seen.at, *(event.at for event in begun)])
        since = {}
        for reason in seen.reasons:
            times = [event.at for event in self._open.values() if _is_of(reason, event.part)]
            stem = _stem(reason)
            since[stem] = self._since.get(stem, min([seen.at, *times]))
        self._since = since
        self._reasons = list(seen.reasons)

    def _look_at_ring(self, seen: Snapshot) -> None:
        ring = seen.ring
        assert ring is not None
        names = set()
        for node in ring["nodes"]:
            name = node["name"]
            names.add(name)
            if node["state"] == "live":
                self._end("ejected", name, _when(node.get("since"), seen.at))
            else:
                self._begin(
                    "ejected",
                    name,
                    f"Lookup node {name} was ejected: {node.get('reason') or 'no reason given'}",
                    _when(node.get("since"), seen.at),
                )
        for kind, name in list(self._open):
            if kind == "ejected" and name not in names:
                self._end(kind, name, seen.at)
        generation = ring.get("generation")
        if self._generation is not None and generation != self._generation:
            self._note("ring", "ring", f"The ring is now generation {generation}", seen.at)
        self._generation = generation

    def _look_at_mysql(self, seen: Snapshot) -> None:
        mysql = seen.mysql
        assert mysql is not None
        primary = mysql["primary"]
        if mysql.get("split"):
            self._begin("split", "MySQL", f"Two MySQL primaries: {mysql['problem']}", seen.at)
        else:
            self._end("split", "MySQL", seen.at)
        if primary is None:
            if mysql["lost_for"] is None and self._primary is None and seen.at < self._began + STEP:
                return  # the process has only just begun to look
            text = f"No MySQL primary: {mysql['problem']}"
            self._begin("mysql_down", "MySQL", text, seen.at - (mysql.get("lost_for") or 0.0))
            return
        self._end("mysql_down", "MySQL", seen.at)
        if mysql["redundant"] is False:
            text = f"MySQL is not redundant: {mysql['redundancy']}"
            self._begin("not_redundant", "MySQL", text, seen.at)
        else:
            self._end("not_redundant", "MySQL", seen.at)
        if self._primary is not None and primary != self._primary:
            self._note(
                "failover", "MySQL", f"The primary is now {primary}, was {self._primary}", seen.at
            )
        self._primary = primary

    def _look_at_counters(self, window: Window, at: float) -> None:
        """What came and went between two looks shows only in the counters."""
        for labels, grown in window.increases("tapedeck_lookup_node_ejections_total"):
            node = labels["node"]
            ended = [e for e in self.events if e.kind == "ejected" and e.part == node]
            known = ended and (ended[-1].until is None or ended[-1].until > at - window.seconds)
            if grown and not known:
                self._note("ejected", node, f"Lookup node {node} was out for a moment", at)
        reloads = {
            labels.get("result", "applied")
            for labels, grown in window.increases("tapedeck_reloads_total")
            if grown
        }
        for result in sorted(reloads):
            words = _RELOADS.get(result, f"A reload ended: {result}")
            self._note("reload", "configuration", words, at)
        restarts = sum(g for _, g in window.increases("tapedeck_worker_restarts_total"))
        if restarts:
            self._note("worker", "workers", "A worker died and was started again", at)

    def _begin(self, kind: str, part: str, text: str, at: float) -> None:
        if (kind, part) not in self._open:
            self._open[kind, part] = self._add(Event(next(self._ids), at, None, kind, part, text))

    def _end(self, kind: str, part: str, at: float) -> None:
        event = self._open.pop((kind, part), None)
        if event is not None:
            event.until = max(at, event.at)
            self.changed += 1

    def _note(self, kind: str, part: str, text: str, at: float) -> None:
        self._add(Event(next(self._ids), at, at, kind, part, text))

    def _add(self, event: Event) -> Event:
        self.events.append(event)
        self.changed += 1
        return event


def _is_of(reason: str, part: str) -> bool:
    """Whether a reason is about that node, or about MySQL."""
    return f"node {part} " in reason or (part == "MySQL" and part in reason)


def _stem(reason: str) -> str:
    """What stays the same of a reason while its details change."""
    return reason.partition(": ")[0]


def _when(iso: str | None, at: float) -> float:
    """An ISO time of a node as seconds since 1970, never later than the look that told it."""
    if not iso:
        return at
    return min(datetime.fromisoformat(iso).timestamp(), at)
