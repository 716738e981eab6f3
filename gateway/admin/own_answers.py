"""The answers of one process on the admin port."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

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
from sharding.backend import Backend
from sharding.health_verdict import Verdict, verdict_of
from sharding.partitions.shown import BelievedClock, Partition
from sharding.shown import Outline, Ring, Where
from sharding.state import Key
from sharding.where import where_is

OUTLINE_PARTS = 720
"""Places of the ring's circle in an outline: half a degree each."""
WHERE_SECONDS = 4.0
"""Seconds that MySQL has to find a state; a supervisor waits little longer."""


@dataclass
class OwnAnswers(AdminAnswers):
    """One process's own parts."""

    backend: Backend
    health: Health
    peers: Peers
    drained: Drain
    live: RuntimeConfig
    failed: FailedRequests

    async def readiness(self) -> Verdict:
        """The verdict of this worker, with its peers if it asks them."""
        return verdict_of([*self.health.verdict().found, *self.peers.reasons()])

    async def ring(self) -> Ring:
        return self.backend.ring()

    async def outline(self) -> Outline:
        return self.backend.outline(OUTLINE_PARTS)

    async def mysql(self) -> MySQL:
        return self.backend.primary.shown()

    async def where(self, key: Key) -> Where:
        """Asks every lookup node and MySQL."""
        try:
            async with asyncio.timeout(WHERE_SECONDS):
                return await where_is(self.backend, key)
        except (TimeoutError, MySQLError, PrimaryUnavailable) as error:
            reason = str(error) or "no answer in time"
            raise Refusal(503, f"MySQL cannot be asked right now: {reason}.") from None

    async def find(self, asked: Question) -> Found:
        return find(asked, self.failed, self.live.tokens, time.time())

    async def observe(self) -> Snapshot:
        """What this process knows without asking other servers."""
        verdict = await self.readiness()
        return Snapshot(
            at=time.time(),
            status=verdict.status,
            reasons=verdict.found,
            ring=self.backend.ring(),
            mysql=self.backend.primary.shown(),
            families=await self.families(),
        )

    async def partitions(self) -> list[Partition]:
        return await self.backend.partitions()

    async def believe_clock(self) -> BelievedClock:
        """Only in this process: each one compares with its own clocks."""
        return self.backend.days.believe()

    async def drain_state(self) -> Drained:
        return self.drained.state()

    async def drain(self) -> Drained:
        self.drained.begin(ASKED)
        return self.drained.state()

    async def drain_back(self) -> Drained:
        await self.drained.end()
        return self.drained.state()

    async def families(self) -> list[Metric]:
        return await asyncio.to_thread(telemetry.families)
