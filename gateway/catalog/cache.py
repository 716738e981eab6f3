"""The mixes that the gateway plays, read from MySQL and cached.

Every command needs its mix, and mixes seldom change. So each worker caches the mixes that were used
last, with limits of number and age. While MySQL does not answer, an older cached mix is used.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog

from config.model import Catalog as Limits
from failover.mysql.connection import Row
from failover.mysql.errors import Fault, MySQLError, PrimaryUnavailable
from failover.mysql.primary import Primary
from gateway import metrics
from gateway.catalog.finder import Finder
from gateway.catalog.kept import PATIENCE, RETRY_AFTER, UNKNOWN_AGE, Entry, Kept
from gateway.catalog.model import Mix, MixUser, Track
from gateway.catalog.tables import ensure_catalog, mixes_of, read_mixes

__all__ = ["Catalog", "Mix", "MixUser", "Track", "ensure_catalog"]

log = structlog.get_logger("tapedeck.catalog")


class Catalog:
    """Mixes by id, with their tracks.

    Args:
        primary: MySQL.
        limits: of the cache (`max_mixes`, `max_age` in seconds).
        clock: seconds on a clock that never jumps.

    Attributes:
        finder: finds mixes in other ways than by id.
    """

    def __init__(
        self, primary: Primary, limits: Limits, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.finder = Finder(primary, limits, clock)
        self._primary = primary
        self._limits = limits
        self._clock = clock
        self._mixes: Kept[int, Mix] = Kept(limits.max_mixes)
        # Separate, so that requests for ids that do not exist push no mix out of the cache.
        self._unknown: Kept[int, None] = Kept(max(1, limits.max_mixes // 4))
        self._reads: dict[int, asyncio.Task[Mix | None]] = {}
        self._away = False

    async def mix(self, mix_id: int) -> Mix | None:
        """The mix; None if it does not exist. It is at most `max_age` old while MySQL answers.

        Raises:
            PrimaryUnavailable: MySQL does not answer, and the mix is not cached.
            MySQLError: an error that a repetition would meet again.
        """
        now = self._clock()
        entry = self._mixes.get(mix_id)
        if entry is not None and now < entry.good_until:
            metrics.MIXES.labels("hit").inc()
            return entry.value
        unknown = self._unknown.get(mix_id)
        if unknown is not None and now < unknown.good_until:
            metrics.MIXES.labels("hit").inc()
            return None
        metrics.MIXES.labels("miss").inc()
        read = self._read(mix_id)
        if entry is None:
            # The read continues if this request is cancelled: others may wait for it.
            return await asyncio.shield(read)
        await asyncio.wait((read,), timeout=PATIENCE)
        if not read.done():
            return self._take_stale(mix_id, entry, "no answer yet")
        try:
            return read.result()
        except (PrimaryUnavailable, MySQLError) as error:
            return self._take_stale(mix_id, entry, str(error))

    def _read(self, mix_id: int) -> asyncio.Task[Mix | None]:
        """The read of this mix that is under way, or a new one."""
        read = self._reads.get(mix_id)
        if read is None:
            read = asyncio.create_task(self._read_now(mix_id), name=f"read-mix-{mix_id}")
            self._reads[mix_id] = read
            read.add_done_callback(lambda done: self._finish(mix_id, done))
        return read

    def _finish(self, mix_id: int, read: asyncio.Task[Mix | None]) -> None:
        del self._reads[mix_id]
        if not read.cancelled():
            read.exception()  # retrieved, so that asyncio does not log it

    async def _read_now(self, mix_id: int) -> Mix | None:
        now = self._clock()
        mix = next(mixes_of(await self._fetch(read_mixes(1), (mix_id,))), None)
        if mix is None:
            self._mixes.drop(mix_id)
            self._unknown.put(mix_id, None, now + min(self._limits.max_age, UNKNOWN_AGE))
        else:
            self._unknown.drop(mix_id)
            self._mixes.put(mix_id, mix, self._until(now))
        if self._away:
            self._away = False
            log.info("catalog recovered")
        return mix

    async def _fetch(self, sql: str, args: tuple[int, ...] = ()) -> list[Row]:
        try:
            return await self._primary.fetch(sql, args)
        except MySQLError as error:
            if error.fault is not Fault.NO_TABLE:
                raise
            log.warning("catalog tables not found", reason=str(error))
            return []

    def _until(self, now: float) -> float:
        return now + self._limits.max_age

    def _take_stale(self, mix_id: int, entry: Entry[Mix], reason: str) -> Mix:
        now = self._clock()
        entry.good_until = now + RETRY_AFTER
        metrics.MIXES.labels("stale").inc()
        if not self._away:
            self._away = True
            log.warning("catalog not read", mix=mix_id, reason=reason)
        return entry.value
