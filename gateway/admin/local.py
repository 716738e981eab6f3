"""What one process says of itself on the admin port."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from failover.mysql.errors import MySQLError, PrimaryUnavailable
from gateway import telemetry
from gateway.http.errors import Refusal
from gateway.insight import Snapshot
from sharding import locate
from sharding.state import Key

if TYPE_CHECKING:
    from sharding.backend import Backend

OUTLINE_PARTS = 720
"""Places of the ring's circle that are told: half a degree each."""
WHERE_SECONDS = 4.0
"""How long MySQL has to say where a state lies; a supervisor waits little longer."""


class OwnInsight:
    """One process's own parts.

    Args:
        backend: everything behind HTTP.
        draining: whether the process is about to stop.
    """

    def __init__(self, backend: Backend, draining: Callable[[], bool]) -> None:
        self._backend = backend
        self._draining = draining

    async def readiness(self) -> tuple[str, list[str]]:
        """Draining first, then what the backend says."""
        if self._draining():
            return "draining", ["the process is stopping"]
        readiness = self._backend.readiness()
        return readiness.status, readiness.reasons

    async def ring(self) -> dict[str, Any]:
        return self._backend.ring()

    async def outline(self) -> dict[str, Any]:
        return self._backend.outline(OUTLINE_PARTS)

    async def mysql(self) -> dict[str, Any]:
        return self._backend.mysql()

    async def where(self, key: Key) -> dict[str, Any]:
        """Asked of every lookup node and of MySQL."""
        try:
            async with asyncio.timeout(WHERE_SECONDS):
                return await locate.find(self._backend, key)
        except (TimeoutError, MySQLError, PrimaryUnavailable) as error:
            reason = str(error) or "no answer in time"
            raise Refusal(503, f"MySQL cannot be asked right now: {reason}.") from None

    async def observe(self) -> Snapshot:
        """What this process knows without asking anybody."""
        status, reasons = await self.readiness()
        return Snapshot(
            at=time.time(),
            status=status,
            reasons=reasons,
            ring=self._backend.ring(),
            mysql=self._backend.mysql(),
            families=await asyncio.to_thread(telemetry.families),
        )

    async def partitions(self) -> list[dict[str, Any]]:
        return await self._backend.partitions()

    async def believe_clock(self) -> dict[str, Any]:
        """Here only: each process judges by its own clocks."""
        return self._backend.days.believe()

    async def stats(self) -> dict[str, Any]:
        return await asyncio.to_thread(lambda: telemetry.stats(telemetry.families()))

    async def metrics(self) -> bytes:
        return await asyncio.to_thread(lambda: telemetry.exposition(telemetry.families()))
