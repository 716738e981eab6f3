"""The limit of requests in flight of an overloaded worker. No I/O.

A worker with more work than it can do answers all requests late. One number shows that: how late
its event loop is, which is how long everything that is ready waits for its turn. While the delay
stays above the target, the limit of requests in flight is cut by a quarter at each check; while it
is below, the limit grows. (This is TCP's additive increase and multiplicative decrease. That the
delay must *stay* above the target is CoDel's rule, RFC 8289: a burst is not an overload.) Refusing
a request costs a fraction of serving it, so the others are served in time.

A MySQL failover is not an overload: waiting requests do not make the loop late.
"""

from __future__ import annotations

CHECK_SECONDS = 0.05
"""Seconds between two checks of the loop."""
PATIENCE = 2
"""The limit is cut after this many checks in a row that found the loop late."""
CUT = 0.75
GROWTH = 1.05


class Governor:
    """The limit of requests in flight.

    Args:
        target: seconds by which the loop may be late; None: the limit is never cut.
        floor, ceiling: the lowest and the highest limit.

    >>> governor = Governor(target=0.1, floor=10, ceiling=1000)
    >>> for _ in range(3):
    ...     governor.adapt(late=0.3, in_flight=400)
    >>> governor.limit
    225
    """

    def __init__(self, target: float | None, floor: int, ceiling: int) -> None:
        self.ceiling = -1
        self._late = 0
        self.configure(target, floor, ceiling)

    def configure(self, target: float | None, floor: int, ceiling: int) -> None:
        if ceiling != self.ceiling or target is None:
            self.limit = ceiling
        self.target, self.floor, self.ceiling = target, floor, ceiling

    def adapt(self, late: float, in_flight: int) -> None:
        """Change the limit after a check that found the loop `late` seconds late."""
        if self.target is None:
            return
        if late > self.target:
            self._late += 1
            if self._late >= PATIENCE:
                # From the requests in flight: cutting a limit far above them would take seconds.
                self.limit = max(self.floor, int(min(self.limit, in_flight) * CUT))
            return
        self._late = 0
        if self.limit < self.ceiling:
            self.limit = min(self.ceiling, max(self.limit + 1, int(self.limit * GROWTH)))
