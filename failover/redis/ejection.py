"""Ejection: when a lookup node leaves the ring, and when it returns. No I/O; times are arguments.

The settings are twemproxy's (its notes/recommendation.md): `server_failure_limit` consecutive
failures eject a node for `server_retry_timeout`, if `auto_eject_hosts` is on. What differs, because
twemproxy's users asked for it: failures count per node, not per connection; a node returns only
after it answered a probe, never on a client's request; and a node that fails again soon after its
return stays out longer each time.

    live --failure, limit reached--> ejected --probe answered--> live
                                     ejected --probe failed---> ejected (next probe later)

A node whose answers all come too late (after `hint_deadline`, before `timeout`) would delay every
request by the whole deadline. So late answers eject a node too, but more slowly.
"""

from __future__ import annotations

from dataclasses import dataclass

LONGEST = 8
"""The time out of the ring grows up to this multiple of server_retry_timeout."""
LATE = 5
"""This multiple of server_failure_limit late answers in a row eject a node."""
STEADY = 10
"""A node that was live for this multiple of its last time out has recovered: its next time out is
short again."""


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
        """Use other settings from now on; the node's counts stay.

        A shorter time out of the ring applies at once; without ejection a node is probed at once.
        """
        self.limit, self.retry_seconds, self.eject = limit, retry_seconds, eject
        if self.next_probe is not None:
            self.next_probe = min(self.next_probe, now + retry_seconds) if eject else now

    def succeeded(self, *, wrote: bool = False) -> None:
        """A batch was answered in time. Answered reads do not end a count of refused writes."""
        if self.live:
            self.failures = self.lates = 0
            if wrote:
                self.refusals = 0
            if self.reason and not self.refusals:
                self.reason = ""

    def failed(self, now: float, reason: str, *, refused: bool = False) -> bool:
        """A batch failed. Returns whether that ejected the node.

        Args:
            refused: the node refused a write (OOM, READONLY); it may still answer reads.
        """
        if not self.live:
            return False  # sent before the ejection
        self.reason = reason
        if refused:
            self.refusals += 1
        else:
            self.failures += 1
        return self.failing and self._out(now)

    def late(self, now: float, reason: str) -> bool:
        """A batch was answered after the deadline. Returns whether that ejected the node."""
        if not self.live:
            return False
        self.lates += 1
        self.reason = reason
        return self.failing and self._out(now)

    @property
    def failing(self) -> bool:
        """Whether it has failed as often as ejects a node; without `eject` it stays live."""
        most = max(self.failures, self.refusals, self.lates // LATE)
        return self.live and most >= self.limit

    def _out(self, now: float) -> bool:
        if not self.eject:
            return False
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
        return not self.live and self.next_probe is not None and now >= self.next_probe

    def probed(self, now: float, problem: str | None) -> bool:
        """A probe has ended, with a problem or with success. Returns whether the node is back."""
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
        # A dead node is probed at a steady pace; only repeated returns make the pace slower.
        self.next_probe = now + self.retry_seconds
        return False
