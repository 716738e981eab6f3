"""The answers of one process on the admin port."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from prometheus_client.core import Metric

from failover.mysql.errors import MySQLError, PrimaryUnavailable
from failover.mysql.shown import MySQL
from gateway import telemetry
from gateway.admin_answers import AdminAnswers, Snapshot
from gateway.api.admin_bodies import Drained
from gateway.drain import ASKED, Drain
from gateway.health import Health
from gateway.http.errors import Refusal
from gateway.http.failed_requests import FailedRequests
from gateway.peers import Peers
from gateway.reload.runtime_config import RuntimeConfig
from gateway.support_search import Found, Question, find
from sharding import locate
from sharding.health_verdict import Verdict, verdict_of
from sharding.partitions.shown import BelievedClock, Partition
from sharding.shown import Outline, Ring, Where
from sharding.state import Key

if TYPE_CHECKING:
    from sharding.backend import Backend

OUTLINE_PARTS = 720
"""Places of the ring's circle in an outline: half a degree each."""
WHERE_SECONDS = 4.0
"""Seconds that MySQL has to find a state; a supervisor waits little longer."""


class OwnAnswers(AdminAnswers):
    """One process's own parts."""

    def __init__(
        self,
        backend: Backend,
        health: Health,
        peers: Peers,
        drained: Drain,
        live: RuntimeConfig,
        failed: FailedRequests,
    ) -> None:
        self._live = live
        self._failed = failed
        self._backend = backend
        self._health = health
        self.peers = peers
        self._drain = drained

    async def readiness(self) -> Verdict:
        """The verdict of this worker, with its peers if it asks them."""
        return verdict_of([*self._health.verdict().found, *self.peers.reasons()])

    async def ring(self) -> Ring:
        return self._backend.ring()

    async def outline(self) -> Outline:
        return self._backend.outline(OUTLINE_PARTS)

    async def mysql(self) -> MySQL:
        return self._backend.primary.shown()

    async def where(self, key: Key) -> Where:
        """Asks every lookup node and MySQL."""
        try:
            async with asyncio.timeout(WHERE_SECONDS):
                return await locate.find(self._backend, key)
        except (TimeoutError, MySQLError, PrimaryUnavailable) as error:
            reason = str(error) or "no answer in time"
            raise Refusal(503, f"MySQL cannot be asked right now: {reason}.") from None

    async def find(self, asked: Question) -> Found:
        return find(asked, self._failed, self._live.tokens, time.time())

    async def observe(self) -> Snapshot:
        """What this process knows without asking other servers."""
        verdict = await self.readiness()
        return Snapshot(
            at=time.time(),
            status=verdict.status,
            reasons=verdict.found,
            ring=self._backend.ring(),
            mysql=self._backend.primary.shown(),
            families=await self.families(),
        )

    async def partitions(self) -> list[Partition]:
        return await self._backend.partitions()

    async def believe_clock(self) -> BelievedClock:
        """Only in this process: each one compares with its own clocks."""
        return self._backend.days.believe()

    async def drain_state(self) -> Drained:
        return self._drain.state()

    async def drain(self) -> Drained:
        self._drain.begin(ASKED)
        return self._drain.state()

    async def drain_back(self) -> Drained:
        await self._drain.end()
        return self._drain.state()

    async def families(self) -> list[Metric]:
        return await asyncio.to_thread(telemetry.families)
