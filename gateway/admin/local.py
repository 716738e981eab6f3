"""What one process says of itself on the admin port."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from failover.mysql.errors import MySQLError, PrimaryUnavailable
from gateway import telemetry
from gateway.health import Health
from gateway.http.errors import Refusal
from gateway.insight import Snapshot
from gateway.peers import Peers
from sharding import locate
from sharding.state import Key
from sharding.verdict import Verdict, judge

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
        health: of this process.
        peers: the other gateways.
    """

    def __init__(self, backend: Backend, health: Health, peers: Peers) -> None:
        self._backend = backend
        self._health = health
        self.peers = peers

    async def readiness(self) -> Verdict:
        """As this worker finds itself, and its peers where it asks them."""
        return judge([*self._health.verdict().found, *self.peers.reasons()])

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
        verdict = await self.readiness()
        return Snapshot(
            at=time.time(),
            status=verdict.status,
            reasons=verdict.reasons,
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
