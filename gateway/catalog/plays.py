"""How often mixes were started: counted in memory, added up in MySQL every few seconds.

A play is a mix that begins at its first track. The count is a lower bound: what a killed worker
had not yet written is missing, and what MySQL did not acknowledge is not written twice.
"""

from __future__ import annotations

from collections import Counter

import structlog

from failover.mysql.clock_sql import MILLISECONDS
from failover.mysql.errors import Fault, MySQLError, PrimaryUnavailable
from failover.mysql.primary import Primary

log = structlog.get_logger("tapedeck.catalog")

WRITE_SECONDS = 10.0
"""Between two writes."""
AT_ONCE = 500
"""Mixes that one statement adds to."""
MOST = 10_000
"""Mixes whose plays wait to be written; past it plays of others are not counted."""
HALF_LIFE = 7 * 86_400
"""Seconds in which a play's part in what is hot is halved. The sum of all plays, each weighed with
2^(its time / HALF_LIFE), has the order of decaying sums, and none of them has to be touched."""
_SINCE = 1_767_225_600  # 2026: a DOUBLE holds what is added for nineteen years from then


class Plays:
    """The plays that one worker saw."""

    def __init__(self, primary: Primary) -> None:
        self._primary = primary
        self._waiting: Counter[int] = Counter()

    def add(self, mix_id: int) -> None:
        """A mix was started."""
        if mix_id in self._waiting or len(self._waiting) < MOST:
            self._waiting[mix_id] += 1

    async def write(self) -> None:
        """Add what was counted to MySQL's sums; what cannot be written now stays for later."""
        waiting, self._waiting = self._waiting, Counter()
        ids = sorted(waiting)
        for first in range(0, len(ids), AT_ONCE):
            some = ids[first : first + AT_ONCE]
            try:
                await self._write({mix_id: waiting[mix_id] for mix_id in some})
            except (PrimaryUnavailable, MySQLError) as error:
                log.warning("plays not written", reason=str(error), mixes=len(some))
                # Of a statement that was cut off nobody knows whether it took effect.
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
