"""What the admin port and the dashboard show, of one process or of a supervisor's workers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from prometheus_client.core import Metric

from failover.mysql.shown import MySQL
from gateway import telemetry
from gateway.api.admin_bodies import Drained
from gateway.peers import Peers
from gateway.support_search import Found, Question
from sharding.health_verdict import Reason, Status, Verdict
from sharding.partitions.shown import BelievedClock, Partition
from sharding.shown import Outline, Ring, Where
from sharding.state import Key


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of a gateway at one moment.

    Attributes:
        at: this machine's clock, seconds since 1970.
        ring, mysql: None if no worker answered.
        families: the metrics of `/metrics`, with a `worker` label if there are several workers.
        workers: the status of each worker that answers, by number, if there are several.
        missing: the numbers of workers that do not answer.
        out_in: the numbers of the workers that have ejected a node, by its name.
    """

    at: float
    status: Status
    reasons: Sequence[Reason]
    ring: Ring | None
    mysql: MySQL | None
    families: Sequence[Metric]
    workers: Mapping[int, str] = field(default_factory=dict)
    missing: Sequence[int] = ()
    out_in: Mapping[str, list[int]] = field(default_factory=dict)


class AdminAnswers(Protocol):
    """What the admin port shows and does. `peers` are the other gateways."""

    peers: Peers

    async def readiness(self) -> Verdict:
        """The verdict; `ready` and `degraded` mean that it serves requests."""

    async def ring(self) -> Ring: ...

    async def outline(self) -> Outline:
        """The ring's circle: which node owns each of `OUTLINE_PARTS` places, and which has it."""

    async def mysql(self) -> MySQL: ...

    async def where(self, key: Key) -> Where: ...

    async def find(self, asked: Question) -> Found:
        """Who a play token speaks for, or which request had an id."""

    async def observe(self) -> Snapshot:
        """Everything at one moment, for the dashboard."""

    async def partitions(self) -> list[Partition]: ...

    async def believe_clock(self) -> BelievedClock:
        """Trust MySQL's clock on an operator's word, if it is doubted."""

    async def drain_state(self) -> Drained: ...

    async def drain(self) -> Drained:
        """Drain the gateway until the drain is cancelled."""

    async def drain_back(self) -> Drained: ...

    async def families(self) -> list[Metric]:
        """The metrics of `/metrics` and `/stats`."""

    async def stats(self) -> dict[str, Any]:
        return await asyncio.to_thread(telemetry.stats, await self.families())

    async def metrics(self) -> bytes:
        return await asyncio.to_thread(telemetry.exposition, await self.families())
