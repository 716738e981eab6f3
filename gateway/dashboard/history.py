"""The last hour, and what happened in it. No I/O; the time is in what is given.

The server keeps it, so that a page opened now shows what was before. It is bounded: one point every
`STEP` seconds, as the bytes that a page is sent, the events of `KEEP` seconds and never more than
`MOST_EVENTS`.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence
from typing import Literal

import msgspec

from gateway.admin_answers import Snapshot
from gateway.api.admin_bodies import Happened
from gateway.dashboard.numbers import Reading, Window, point, read
from gateway.dashboard.runbooks import runbook
from gateway.http.errors import encode
from sharding.health_verdict import Kind, Reason, Status, subject

KEEP = 60 * 60
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


class Held(msgspec.Struct):
    """A reason that holds: since when, and which page to read."""

    text: str
    cause: Kind
    since: float
    read: str


class Standing(msgspec.Struct):
    """The status, since when (seconds since 1970), and its reasons."""

    status: Status = "unavailable"
    since: float | None = None
    reasons: Sequence[Held] = ()


class History:
    """Learns from one observation after the other.

    Attributes:
        events: oldest first; `changed` grows with each change of them.
        window: what happened in the last few seconds; None at the very start.
    """

    def __init__(self) -> None:
        self.events: deque[Happened] = deque(maxlen=MOST_EVENTS)
        self.changed = 0
        self.window: Window | None = None
        self.standing = Standing()
        self._points: deque[tuple[float, msgspec.Raw]] = deque(maxlen=int(KEEP / STEP))
        self._ids = itertools.count(1)
        self._open: dict[str, Happened] = {}
        self._readings: deque[Reading] = deque()
        self._stepped: Reading | None = None
        self._last_at: float | None = None
        self._began: float | None = None
        self._generation: int | None = None
        self._primary: str | None = None

    def points_after(self, at: float) -> tuple[float, list[msgspec.Raw]]:
        """The points later than that time as JSON, oldest first; and when the last one was."""
        found = [point for point in self._points if point[0] > at]
        return (found[-1][0] if found else at), [raw for _, raw in found]

    def add(self, seen: Snapshot) -> None:
        """Take an observation in; they come in the order of their times."""
        if self._began is None:
            self._began = seen.at
        before = self._readings[-1] if self._readings else None
        reading = read(seen.at, seen.families)
        self._add_reading(reading)
        self._take_verdict(seen)
        self._note_changes(seen)
        if before is not None:
            self._note_counters(Window(before, reading), seen.at)
        while self.events and (self.events[0].until or seen.at) < seen.at - KEEP:
            self.events.popleft()
            self.changed += 1
        self._last_at = seen.at

    def _add_reading(self, reading: Reading) -> None:
        self._readings.append(reading)
        # The window is a step wide, however often it is looked at.
        while len(self._readings) > 2 and self._readings[1].at <= reading.at - STEP:
            self._readings.popleft()
        if len(self._readings) > 1:
            self.window = Window(self._readings[0], reading)
        if self._stepped is None:
            self._stepped = reading
        elif reading.at - self._stepped.at >= STEP - 0.5:
            at = round(reading.at, 1)
            drawn = point(Window(self._stepped, reading), at)
            self._points.append((at, msgspec.Raw(encode(drawn))))
            self._stepped = reading

    def _take_verdict(self, seen: Snapshot) -> None:
        """Each reason lasts from its beginning to the look that does not find it any more."""
        since = self.standing.since
        if since is None or seen.status != self.standing.status:
            # What made it so began between this look and the one before.
            youngest = min((reason.age for reason in seen.reasons), default=0.0)
            since = max(seen.at - youngest, self._last_at or 0.0)
        present = {subject(reason): reason for reason in seen.reasons}
        assert self._began is not None
        for key, reason in present.items():
            # A process that has only just begun to look has lost nothing.
            if key not in self._open and seen.at >= self._began + STEP:
                self._open[key] = self._add_event(_event_of(reason, next(self._ids), seen.at))
        for key in self._open.keys() - present.keys():
            self._open.pop(key).until = seen.at
            self.changed += 1
        held = [
            Held(
                reason.text,
                reason.kind,
                self._open[key].at if key in self._open else seen.at - reason.age,
                runbook(reason.kind),
            )
            for key, reason in present.items()
        ]
        self.standing = Standing(seen.status, since, held)

    def _note_changes(self, seen: Snapshot) -> None:
        generation = self._generation if seen.ring is None else seen.ring.generation
        if self._generation is not None and generation != self._generation:
            self._note("ring", f"The ring is now generation {generation}", seen.at)
        self._generation = generation
        primary = None if seen.mysql is None else seen.mysql.primary
        if primary is not None:
            if self._primary is not None and primary != self._primary:
                words = f"The primary is now {primary}, was {self._primary}"
                self._note("promoted", words, seen.at)
            self._primary = primary

    def _note_counters(self, window: Window, at: float) -> None:
        """What came and went between two looks shows only in the counters."""
        said = [event.text for event in self.events if (event.until or at) > at - window.seconds]
        for labels, grown in window.increases("tapedeck_lookup_node_ejections_total"):
            words = f"Lookup node {labels['node']} "
            if grown and not any(text.startswith(words) for text in said):
                self._note("nodes", f"{words}was out of the ring for a moment", at, level="warn")
        reloads = window.increases("tapedeck_reloads_total")
        for result in sorted({labels["result"] for labels, grown in reloads if grown}):
            self._note("reload", _RELOADS[result], at)
        restarts = sum(g for _, g in window.increases("tapedeck_worker_restarts_total"))
        if restarts:
            self._note("worker", "A worker died and was started again", at)

    def _note(
        self, kind: str, text: str, at: float, level: Literal["warn", "note"] = "note"
    ) -> None:
        self._add_event(Happened(next(self._ids), at, at, level, kind, text))

    def _add_event(self, event: Happened) -> Happened:
        """Put an event in its place: a reason may have begun before what was seen last."""
        later = []
        while self.events and self.events[-1].at > event.at:
            later.append(self.events.pop())
        self.events.append(event)
        self.events.extend(reversed(later))
        self.changed += 1
        return event


def _event_of(reason: Reason, number: int, at: float) -> Happened:
    text = reason.text[:1].upper() + reason.text[1:]
    level: Literal["bad", "warn", "note"] = "bad" if reason.stops else "warn"
    if reason.kind == "draining":
        level = "note"
    return Happened(number, at - reason.age, None, level, reason.kind, text)
