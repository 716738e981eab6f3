"""How late this process's event loop is, and how much of a span of time it was there for.

A process that gets no CPU time (a throttled container, a stopped one, a long call on the event
loop) finds answers late that were on time, and its own timers ring before it has read them. What it
concludes about others from such a span is about itself.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

TICK = 0.02
"""Seconds between two looks at the clock."""
SPAN = 3.0
"""Seconds over which it is judged whether the process is starved."""
GRACE = 0.03
"""Seconds by which a tick may be late: on a machine that is busy every process is."""
STARVED, FED = 0.4, 0.2
"""The shares of them that it must have missed to be starved, and to be so no longer. (A container
with a tenth of a core, 10 ms in each 100, misses half.)"""


class Presence:
    """Adds up by how much this process's event loop was late. One for a worker.

    `absent` is read before and after a span: the difference is what the process missed of it, but
    for the time since the last tick.

    Attributes:
        absent: seconds by which it was late, in all.
        starved: whether it missed so much lately that nothing it sees of others counts: no node is
            ejected and no primary dropped for being slow.
        followers: called at each tick with the loop's clock, and the seconds by which it was late.
    """

    def __init__(self) -> None:
        self.absent = 0.0
        self.starved = False
        self.missing = 0.0
        """The share of the last `SPAN` seconds that was missed."""
        self._lates: deque[tuple[float, float]] = deque()
        self._late = 0.0
        self.followers: list[Callable[[float, float], None]] = []
        self._due = 0.0
        self._tick: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to tick on the running loop."""
        if self._tick is None:
            self._arm(asyncio.get_running_loop())

    def begin(self) -> None:
        """Judge from now on: the process has started, and what blocked it then is no starvation."""
        self._lates.clear()
        self._late, self.missing, self.starved = 0.0, 0.0, False

    def close(self) -> None:
        """End."""
        if self._tick is not None:
            self._tick.cancel()
            self._tick = None

    def missed(self, now: float, absent_before: float) -> float:
        """Seconds that were missed since `absent` was `absent_before`.

        Args:
            now: the loop's clock.
        """
        late_now = max(0.0, now - self._due) if self._tick is not None else 0.0
        return self.absent - absent_before + late_now

    def judge(self, now: float, late: float) -> None:
        """Take a tick into account.

        Args:
            now: the loop's clock.
            late: seconds by which it came late.
        """
        late = max(0.0, late - GRACE)
        self._late += late
        self._lates.append((now, late))
        while self._lates and self._lates[0][0] < now - SPAN:
            self._late -= self._lates.popleft()[1]
        self.missing = min(1.0, self._late / SPAN)
        self.starved = self.missing >= (FED if self.starved else STARVED)

    def _arm(self, loop: asyncio.AbstractEventLoop) -> None:
        self._due = loop.time() + TICK
        self._tick = loop.call_at(self._due, self._ticked, loop)

    def _ticked(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        late = max(0.0, now - self._due)
        self.absent += late
        self.judge(now, late)
        self._arm(loop)
        for follow in self.followers:
            follow(now, late)


def was_there(span: float, missed: float) -> bool:
    """Whether a process that missed so much of a span can judge others by it: it saw half."""
    return missed <= span / 2
