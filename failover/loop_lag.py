"""How late this process's event loop is, and how much of a span of time it missed.

A process without CPU time (a throttled or stopped container, a long call on the event loop) reads
answers late that arrived in time, and its timeouts expire before it reads them. So it must not
blame other servers for such a span.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

TICK = 0.02
"""Seconds between two ticks."""
SPAN = 3.0
"""Seconds of the recent past that decide whether the process is starved."""
GRACE = 0.03
"""Seconds by which a tick may be late, as on any busy machine."""
STARVED, FED = 0.4, 0.2
"""A process that missed more than the first share of `SPAN` is starved, until it misses less than
the second. (A container with a tenth of a core, 10 ms in each 100, misses half.)"""


class LoopLag:
    """Adds up how late this process's event loop was. A worker has one.

    Attributes:
        seconds_late: seconds by which ticks were late, in all.
        starved: whether the process is starved: it then ejects no node, and drops no primary, for
            being slow.
        followers: called at each tick with the loop's clock and the seconds by which it was late.
    """

    def __init__(self) -> None:
        self.seconds_late = 0.0
        self.starved = False
        self.missing = 0.0
        """The share of the last `SPAN` seconds that was missed."""
        self._lates: deque[tuple[float, float]] = deque()
        self._late = 0.0
        self.followers: list[Callable[[float, float], None]] = []
        self._due = 0.0
        self._tick: asyncio.TimerHandle | None = None

    def start(self) -> None:
        if self._tick is None:
            self._arm(asyncio.get_running_loop())

    def begin(self) -> None:
        """Count from now on: the process has started, and delays of the start do not count."""
        self._lates.clear()
        self._late, self.missing, self.starved = 0.0, 0.0, False

    def close(self) -> None:
        if self._tick is not None:
            self._tick.cancel()
            self._tick = None

    def kept_up(self, began: float, late_before: float) -> bool:
        """Whether this process was there for at least half of a span, and is not starved.

        Args:
            began: when the span began, on the loop's clock; it ends now.
            late_before: `seconds_late` when it began.
        """
        now = asyncio.get_running_loop().time()
        late_now = max(0.0, now - self._due) if self._tick is not None else 0.0
        missed = self.seconds_late - late_before + late_now
        return not self.starved and missed <= (now - began) / 2

    def observe(self, now: float, late: float) -> None:
        """Take a tick into account that came `late` seconds late, at `now` on the loop's clock."""
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
        self.seconds_late += late
        self.observe(now, late)
        self._arm(loop)
        for follow in self.followers:
            follow(now, late)
