"""The mixes that the gateway plays, read from MySQL and cached.

Every command needs its mix, and mixes seldom change. So each worker caches the mixes that were used
last, with limits of number and age. While MySQL does not answer, an older cached mix is used.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import structlog

from config.model import Catalog as Limits
from failover.mysql.errors import Fault, MySQLError
from failover.mysql.primary import Primary
from gateway import metrics
from gateway.catalog.cache import RETRY_AFTER, UNKNOWN_AGE, Cache, Reads
from gateway.catalog.finder import Finder
from gateway.catalog.model import Mix
from gateway.catalog.tables import mixes_of, read_mixes

_log = structlog.get_logger()


class Catalog:
    """Mixes by id, with their tracks. The clock never jumps; `finder` finds mixes in other ways."""

    def __init__(
        self, primary: Primary, limits: Limits, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.finder = Finder(primary, limits, clock)
        self._primary = primary
        self._limits = limits
        self._clock = clock
        self._mixes = Cache[int, Mix | None](limits.max_mixes)
        # Separate, so that requests for ids that do not exist push no mix out of the cache.
        self._unknown = Cache[int, Mix | None](max(1, limits.max_mixes // 4))
        self._reads = Reads()
        self._away = False

    async def mix(self, mix_id: int) -> Mix | None:
        """The mix; None if it does not exist. It is at most `max_age` old while MySQL answers.

        Raises:
            PrimaryUnavailable: MySQL does not answer, and the mix is not cached.
            MySQLError: an error that a repetition would meet again.
        """
        now = self._clock()
        entry = self._mixes.get(mix_id)
        known = entry or self._unknown.get(mix_id)
        if known is not None and now < known.good_until:
            metrics.MIXES.labels("hit").inc()
            return known.value
        metrics.MIXES.labels("miss").inc()
        mix, problem = await self._reads.share(mix_id, partial(self._read, mix_id), entry)
        if problem and entry is not None:
            entry.good_until = self._clock() + RETRY_AFTER
            metrics.MIXES.labels("stale").inc()
            if not self._away:
                self._away = True
                _log.warning("catalog not read", mix=mix_id, reason=problem)
        return mix

    async def _read(self, mix_id: int) -> Mix | None:
        now, max_age = self._clock(), self._limits.max_age
        try:
            rows = await self._primary.fetch(read_mixes(1), (mix_id,))
        except MySQLError as error:
            if error.fault is not Fault.NO_TABLE:
                raise
            _log.warning("catalog tables not found", reason=str(error))
            rows = []
        mix = next(mixes_of(rows), None)
        if mix is None:
            self._mixes.drop(mix_id)
            self._unknown.put(mix_id, None, now + min(max_age, UNKNOWN_AGE))
        else:
            self._unknown.drop(mix_id)
            self._mixes.put(mix_id, mix, now + max_age)
        if self._away:
            self._away = False
            _log.info("catalog recovered")
        return mix
