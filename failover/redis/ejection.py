"""When a lookup node leaves the ring, and when it comes back. No I/O; the time is an argument.

The words are twemproxy's (notes/recommendation.md): `server_failure_limit` consecutive failures
take a node out when `auto_eject_hosts` is on, for `server_retry_timeout`. What differs, because its
users asked for it: failures count per node, not per connection; the node returns only after it
answered a probe, never on a client's request; and one that flaps stays out longer each time.

    live --failure, limit reached--> ejected --probe answered--> live
                                     ejected --probe failed---> ejected (next probe later)

A node whose answers all come too late to be of use (after the hint's deadline, before `timeout`)
would cost every request the whole deadline for ever. So lateness ejects too, only more slowly.
"""

from __future__ import annotations

from dataclasses import dataclass

LONGEST = 8
"""The time out of the ring grows to at most so many times server_retry_timeout."""
LATE = 5
"""So many times server_failure_limit late answers in a row eject, where failures need it once."""
STEADY = 10
"""Live for so many times its last time out, a node counts as healed: the next is short again."""


@dataclass(slots=True)
class Health:
    """One node's health.

    Args:
        limit: consecutive failures that eject (server_failure_limit).
        retry_seconds: the first time out of the ring (server_retry_timeout).
        eject: auto_eject_hosts.
    """

    limit: int
    retry_seconds: float
    eject: bool = True
    live: bool = True
    failures: int = 0
    lates: int = 0
    refusals: int = 0
    since: float = 0.0
    reason: str = ""
    next_probe: float | None = None
    _out_seconds: float = 0.0

    def adjust(self, now: float, limit: int, retry_seconds: float, eject: bool) -> None:
        """Other settings hold from now on. What the node went through stays.

        A shorter time out of the ring holds at once; without ejection nobody waits for it at all.
        """
        self.limit, self.retry_seconds, self.eject = limit, retry_seconds, eject
        if self.next_probe is not None:
            self.next_probe = min(self.next_probe, now + retry_seconds) if eject else now

    def succeeded(self, now: float, *, wrote: bool = False) -> None:
        """A batch was answered in time. Answered reads say nothing of refused writes."""
        if self.live:
            self.failures = self.lates = 0
            if wrote:
                self.refusals = 0

    def failed(self, now: float, reason: str) -> bool:
        """A batch failed. Returns whether that ejected the node."""
        if not self.live:
            return False  # sent before the ejection; it tells nothing new
        self.failures += 1
        self.reason = reason
        if not self.eject or self.failures < self.limit:
            return False
        return self._out(now)

    def refused(self, now: float, reason: str) -> bool:
        """A write was refused (OOM, READONLY) by a node that may answer reads all the while.

        Returns whether that ejected the node.
        """
        if not self.live:
            return False
        self.refusals += 1
        self.reason = reason
        if not self.eject or self.refusals < self.limit:
            return False
        return self._out(now)

    def late(self, now: float, reason: str) -> bool:
        """A batch was answered too late to be of use. Returns whether that ejected the node."""
        if not self.live:
            return False
        self.lates += 1
        if not self.eject or self.lates < LATE * self.limit:
            return False
        self.reason = reason
        return self._out(now)

    def _out(self, now: float) -> bool:
        steady = now - self.since >= STEADY * self._out_seconds
        self._out_seconds = (
            self.retry_seconds
            if steady or not self._out_seconds
            else min(self._out_seconds * 2, self.retry_seconds * LONGEST)
        )
        self.live = False
        self.since = now
        self.next_probe = now + self._out_seconds
        return True

    def probe_due(self, now: float) -> bool:
        """Whether it is time to ask an ejected node whether it is well."""
        return not self.live and self.next_probe is not None and now >= self.next_probe

    def probed(self, now: float, problem: str | None) -> bool:
        """A probe was answered well (None) or badly. Returns whether the node is back."""
        if self.live:
            return False
        if problem is None:
            self.live = True
            self.failures = self.lates = self.refusals = 0
            self.since = now
            self.reason = ""
            self.next_probe = None
            return True
        self.reason = problem
        self.failures += 1
        # A node that stays dead is asked at a steady pace; only coming and going makes it slower.
        self.next_probe = now + self.retry_seconds
        return False
