"""Whether MySQL's clock is believed: the rule, without I/O. The clocks' readings are arguments.

Every day follows from MySQL's clock. One that jumps by weeks would have states read as absent, and
made anew over what is there. So what it says has to agree, within an hour, with one of two
witnesses: this machine's clock, or what this process counted on a clock that never jumps. Either of
them may be wrong by itself. The count goes from the last reading that this machine's clock agreed
with, or from the first one where it never does: small steps do not add up to a large one.

At the first contact nothing was counted yet. Then the partitions stand in for the count: the newest
one is always that of today or of tomorrow where gateways ran until now. A database without
partitions holds nothing that could be lost: there MySQL is believed.

Once both contradict, nothing is believed until a later reading agrees with one of them, or until an
operator says that the reading is right.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import date

from sharding.partitions.calendar import CLOCKS_AGREE, span, tomorrow, utc_day


class Clock:
    """What a process believes of MySQL's time. All times are seconds.

    Attributes:
        offset: from the steady clock to MySQL's, by the last reading that was believed; None before
            the first one.
        doubt: why the last reading is not believed, and what to do; empty while it is.
        apart: by how much MySQL was ahead of this machine at the last reading.
    """

    def __init__(self) -> None:
        self.offset: float | None = None
        self.doubt = ""
        self.apart = 0.0
        self._counted_from = 0.0
        self._refused = 0.0

    def hear(
        self, told: float, wall: float, steady: float, partitions: Collection[date] | None = None
    ) -> bool:
        """Judge a reading; True if it is believed.

        Args:
            told: MySQL's clock, since 1970.
            wall: this machine's, likewise.
            steady: a clock that never jumps, from anywhere.
            partitions: the days of all partitions; None: not looked at.
        """
        self.apart = told - wall
        offset, agrees = told - steady, abs(told - wall) <= CLOCKS_AGREE
        if self.offset is None:
            witness = "the partitions, whose newest is today's or tomorrow's"
            counted = partitions is not None and _fits(utc_day(told), partitions)
        else:
            witness = "what this gateway counted since MySQL's last good answer"
            counted = abs(offset - self._counted_from) <= CLOCKS_AGREE
        if agrees or counted:
            if agrees or self.offset is None:
                self._counted_from = offset
            self.offset, self.doubt = offset, ""
            return True
        self._refused = offset
        self.doubt = (
            f"MySQL's clock is not believed: it says {utc_day(told)}, {span(abs(self.apart))} "
            f"{'ahead of' if self.apart > 0 else 'behind'} this machine's clock, and contradicts "
            f"{witness}. Set the wrong clock right; "
            "if MySQL's is right, say so: tapedeck partitions believe-clock"
        )
        return False

    def believe(self) -> bool:
        """An operator says that the reading in doubt is right; False if none is in doubt."""
        if not self.doubt:
            return False
        self.offset = self._counted_from = self._refused
        self.doubt = ""
        return True


def _fits(today: date, partitions: Collection[date]) -> bool:
    """Whether gateways that ran until now would have left these partitions."""
    return not partitions or max(partitions) in (today, tomorrow(today))
