"""Counts plays in memory, and adds them to MySQL's sums every few seconds.

A play is the start of a mix at its first track. The count is a lower bound: a killed worker loses
what it has not written, and a write that MySQL did not acknowledge is not repeated.
"""

from __future__ import annotations

from collections import Counter

import structlog

from failover.mysql.clock_sql import MILLISECONDS
from failover.mysql.errors import Fault, MySQLError, PrimaryUnavailable
from failover.mysql.primary import Primary

_log = structlog.get_logger()

WRITE_SECONDS = 10.0
"""Seconds between two writes."""
AT_ONCE = 500
"""Most mixes in one statement."""
MOST = 10_000
"""Most mixes with plays to be written; beyond it plays of other mixes are not counted."""
HALF_LIFE = 7 * 86_400
"""Seconds in which a play's weight in `hot` halves. Adding 2^(time / HALF_LIFE) for each play gives
the same order as sums that decay, without updating old rows."""
_SINCE = 1_767_225_600  # 2026: the sums fit in a DOUBLE for nineteen years from then


class Plays:
    """The plays that one worker saw."""

    def __init__(self, primary: Primary) -> None:
        self._primary = primary
        self._waiting: Counter[int] = Counter()

    def add(self, mix_id: int) -> None:
        if mix_id in self._waiting or len(self._waiting) < MOST:
            self._waiting[mix_id] += 1

    async def write(self) -> None:
        """Add the counts to MySQL's sums. Counts that cannot be written now are written later."""
        waiting, self._waiting = self._waiting, Counter()
        ids = sorted(waiting)
        for first in range(0, len(ids), AT_ONCE):
            some = ids[first : first + AT_ONCE]
            try:
                await self._write({mix_id: waiting[mix_id] for mix_id in some})
            except (PrimaryUnavailable, MySQLError) as error:
                _log.warning("plays not written", reason=str(error), mixes=len(some))
                # A statement whose connection was lost may have taken effect: drop its counts.
                if not isinstance(error, MySQLError) or error.fault is not Fault.LOST:
                    self._waiting.update({mix_id: waiting[mix_id] for mix_id in some})

    async def _write(self, plays: dict[int, int]) -> None:
        # All numbers: our own.
        ids = ", ".join(map(str, plays))
        added = f"ELT(FIELD(mix_id, {ids}), {', '.join(map(str, plays.values()))})"
        async with self._primary.session(self._primary.deadline(), change=True) as session:
            await session.execute(
                f"UPDATE mix_index SET plays = plays + {added}, heat = heat + {added}"
                f" * POW(2, ({MILLISECONDS} / 1000 - {_SINCE}) / {HALF_LIFE})"
                f" WHERE mix_id IN ({ids})"
            )
