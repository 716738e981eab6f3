"""Whether MySQL's clock is trusted: the rule, without I/O. The clocks' readings are arguments.

Every day follows from MySQL's clock. If it jumped by weeks, existing states would read as absent,
and would be created anew. So its reading must agree, within an hour, with one of two witnesses:
this machine's clock, or the time that this process counted on a clock that never jumps. Either
witness may be wrong by itself. The count starts at the last reading that agreed with this machine's
clock, or at the first reading if none did, so that small steps do not add up to a large one.

At the first reading there is no count. Then the partitions are the second witness: if gateways ran
until now, the newest partition is today's or tomorrow's. A database without partitions has no
states to lose: there MySQL is trusted.

A reading that contradicts both witnesses is doubted, until a later reading agrees with one of them,
or until an operator says that it is right.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import date

from sharding.partitions.calendar import CLOCKS_AGREE, span, tomorrow, utc_day


class Clock:
    """What a process knows of MySQL's time. All times are seconds.

    Attributes:
        offset: from the steady clock to MySQL's, by the last trusted reading; None before the
            first one.
        doubt: why the last reading is not trusted, and what to do; empty if it is.
        apart: by how much MySQL was ahead of this machine at the last reading.
    """

    def __init__(self) -> None:
        self.offset: float | None = None
        self.doubt = ""
        self.apart = 0.0
        self._counted_from = 0.0
        self._refused = 0.0

    def check(
        self, told: float, wall: float, steady: float, partitions: Collection[date] | None = None
    ) -> bool:
        """Check a reading; return whether it is trusted.

        Args:
            told: MySQL's clock, since 1970.
            wall: this machine's clock, since 1970.
            steady: a clock that never jumps, with any origin.
            partitions: the days of all partitions; None if they were not listed.
        """
        self.apart = told - wall
        offset, agrees = told - steady, abs(told - wall) <= CLOCKS_AGREE
        if self.offset is None:
            witness = "the partitions, whose newest is today's or tomorrow's"
            today = utc_day(told)
            counted = partitions is not None and (
                not partitions or max(partitions) in (today, tomorrow(today))
            )
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
            f"MySQL's clock is not trusted: it says {utc_day(told)}, {span(abs(self.apart))} "
            f"{'ahead of' if self.apart > 0 else 'behind'} this machine's clock, and contradicts "
            f"{witness}. Set the wrong clock right; "
            "if MySQL's is right, say so: tapedeck partitions believe-clock"
        )
        return False

    def believe(self) -> bool:
        """Trust the doubted reading on an operator's word; False if none is doubted."""
        if not self.doubt:
            return False
        self.offset = self._counted_from = self._refused
        self.doubt = ""
        return True
