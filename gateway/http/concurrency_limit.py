"""When a worker is behind: how many requests it may have in flight. No I/O.

A worker that is given more than it can do answers everything late, then nothing in time. It sees
that in one number: how late its event loop is, which is how long everything that is ready waits for
its turn. While that stays above the target, the number of requests in flight is cut by a quarter at
each look; while it is below, the limit grows again. (TCP's additive increase and multiplicative
decrease; that the delay must *stay* above is CoDel's rule, RFC 8289: a burst is no overload.) What
is refused costs a fraction of what is served, so the rest is served in time.

A MySQL failover is no overload: requests wait for it without keeping the loop busy.
"""

from __future__ import annotations

LOOK_SECONDS = 0.05
"""Between two looks at the loop."""
PATIENCE = 2
"""Looks in a row that must find it late."""
CUT = 0.75
GROWTH = 1.05


class Governor:
    """The limit of requests in flight.

    Args:
        target: seconds that the loop may be late; None never cuts.
        floor: requests that are always let in.
        ceiling: the limit while all is well.

    Attributes:
        limit: requests that may be in flight now.

    >>> governor = Governor(target=0.1, floor=10, ceiling=1000)
    >>> for _ in range(3):
    ...     governor.look(late=0.3, in_flight=400)
    >>> governor.limit
    225
    """

    def __init__(self, target: float | None, floor: int, ceiling: int) -> None:
        self.target, self.floor, self.ceiling = target, floor, ceiling
        self.limit = ceiling
        self._late = 0

    def configure(self, target: float | None, floor: int, ceiling: int) -> None:
        """Other settings hold from now on."""
        if ceiling != self.ceiling or target is None:
            self.limit = ceiling
        self.target, self.floor, self.ceiling = target, floor, ceiling

    def look(self, late: float, in_flight: int) -> None:
        """Take a look's result into account.

        Args:
            late: seconds that the loop was behind.
            in_flight: requests at that moment.
        """
        if self.target is None:
            return
        if late > self.target:
            self._late += 1
            if self._late >= PATIENCE:
                # From what is there: a limit far above it would have to be cut for seconds.
                self.limit = max(self.floor, int(min(self.limit, in_flight) * CUT))
            return
        self._late = 0
        if self.limit < self.ceiling:
            self.limit = min(self.ceiling, max(self.limit + 1, int(self.limit * GROWTH)))
