"""Whether changes commit, and what MySQL waits for while they do not. No I/O; times are arguments.

A server that answers reads may still commit nothing: its disk may be full, or it waits for a
standby. So the last acknowledged commit counts, of a request or of a heartbeat
(`failover.mysql.heartbeat`).

| MySQL's answer | it waits for |
| --- | --- |
| errors 1021, 1114, 3675, errno 28; "Waiting for someone to free space" | its disk |
| "Waiting for semi-sync ACK from ..." | a standby |
| error 1205; "Waiting for ... lock" | a lock that another connection holds |
| errors 1040, 1129, 1203, 1226 | a free connection |
| "waiting for handler commit" | the other members of its group, or its disk |

(The quoted words are in the column State of SHOW PROCESSLIST: MariaDB 10.11 `sql/mysqld.cc`, MySQL
9 `sql/mysqld.cc`, both "stage_...".)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from failover.mysql.errors import Fault, MySQLError

Cause = Literal["disk", "standby", "lock", "connections", "primary", "commits"]
PATIENCE = 3.0
"""Seconds without a commit after which changes count as stopped."""
RECENT = 10.0
"""Seconds for which an error counts; "disk full" only if no commit follows it."""


@dataclass(frozen=True, slots=True)
class Stall:
    """Changes do not commit.

    Attributes:
        seconds: for how long.
        cause: what MySQL waits for; `commits` if it does not say.
        words: the same as a sentence.
    """

    seconds: float
    cause: Cause
    words: str


UNKNOWN: tuple[Cause, str] = ("commits", "MySQL does not say what it waits for")
SILENT: tuple[Cause, str] = ("primary", "MySQL does not answer")


def waits_for(states: Sequence[str], error: MySQLError | None = None) -> tuple[Cause, str]:
    """What a server waits for: the cause, and a sentence.

    Args:
        states: of its connections that are not idle, from SHOW PROCESSLIST.
        error: of the last try to commit.

    >>> waits_for(["Waiting for semi-sync ACK from slave"])[0]
    'standby'
    """
    said = " | ".join(states).lower()
    fault = error.fault if error is not None else None
    if fault is Fault.FULL or "free space" in said or "disk full" in said:
        return "disk", f"MySQL's disk is full ({error or 'it waits for someone to free space'})"
    if "semi-sync ack" in said or "semisync" in said:
        return "standby", "MySQL waits for a standby to acknowledge, and none does"
    if fault is Fault.OVERTAKEN or " lock" in said:
        held = next((state for state in states if " lock" in state.lower()), str(error))
        return "lock", f"MySQL waits for a lock that another connection holds ({held})"
    if fault is Fault.BUSY:
        return "connections", f"MySQL takes no more connections ({error})"
    if error is not None:
        return "commits", f"MySQL says: {error}"
    if "handler commit" in said:
        return "commits", "MySQL waits for its group or its disk (waiting for handler commit)"
    return UNKNOWN


class Commits:
    """What a worker knows of its primary's commits. Times are seconds on a steady clock.

    Attributes:
        cause: what MySQL waited for when it was last asked.
        error: of the last heartbeat; None if it was committed.
        watched: whether heartbeats run. Without them, a time without commits is normal.
    """

    def __init__(self) -> None:
        self.cause = UNKNOWN
        self.error: MySQLError | None = None
        self.watched = False
        self._good = 0.0
        # When the first and the last error of a kind came, and the last one.
        self._errors: dict[Fault, tuple[float, float, MySQLError]] = {}

    def begin(self, now: float) -> None:
        """A primary was adopted, or heartbeats began: count the time without a commit from now."""
        self.cause, self.error = UNKNOWN, None
        self._good = now
        self._errors.clear()

    def committed(self, now: float, *, heartbeat: bool = False) -> None:
        """A commit was acknowledged.

        Args:
            heartbeat: whether it was one, which needs no space and so proves no free disk.
        """
        self._good, self.error = now, None
        if not heartbeat:
            self._errors.pop(Fault.FULL, None)

    def failed(self, now: float, error: MySQLError) -> None:
        since, _, _ = self._errors.get(error.fault, (now, now, error))
        self._errors[error.fault] = since, now, error

    def recent(self, fault: Fault, now: float) -> MySQLError | None:
        """The last error of a kind, if it still counts."""
        _, last, error = self._errors.get(fault, (0.0, 0.0, None))
        return error if now - last < RECENT else None

    def quiet(self, now: float) -> float:
        return now - self._good

    def stall(self, now: float) -> Stall | None:
        """Why and for how long changes do not commit; None if they do."""
        full = self.recent(Fault.FULL, now)
        cause = waits_for([], full) if full is not None else self.cause
        if self.watched and self.quiet(now) >= PATIENCE:
            return Stall(self.quiet(now), *cause)
        if full is not None and now - self._errors[Fault.FULL][0] >= PATIENCE:
            return Stall(now - self._errors[Fault.FULL][0], *cause)
        return None
