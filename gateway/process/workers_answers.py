"""Combines the answers of several workers, for the supervisor's admin port."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import aiohttp
import msgspec
from msgspec.structs import replace
from prometheus_client.core import Metric

from failover.mysql.shown import MySQL
from gateway import telemetry
from gateway.admin_answers import AdminAnswers, Snapshot
from gateway.api.admin_bodies import Drained, Readiness
from gateway.drain import ASKED, STOPPING
from gateway.http.errors import Refusal, encode
from gateway.peers import Peers
from gateway.support_search import Found, Question, merge
from sharding.health_verdict import (
    ORDER,
    DelayedReasons,
    Reason,
    Status,
    Verdict,
    in_order,
    subject,
    verdict_of,
)
from sharding.partitions.shown import BelievedClock, Partition
from sharding.shown import Node, Outline, Ring, Where
from sharding.state import Key

ANSWER_SECONDS = 5.0
"""Seconds that a worker has to answer its supervisor."""
GLANCE_SECONDS = 1.0
"""Seconds that it has for the dashboard, which must not wait for a dead worker."""
T = TypeVar("T")
_ORDER: tuple[Status, ...] = ("draining", "unavailable", "degraded", "ready")


def reasons_of(body: Readiness) -> list[Reason]:
    """The reasons in an answer of `/readyz`; of an unavailable worker the gravest kinds stop it."""
    gravest = ORDER[: ORDER.index("failover")] if body.status == "unavailable" else ()
    said = zip(body.causes, body.reasons, body.ages, strict=True)
    return [Reason(kind, text, kind in gravest, age) for kind, text, age in said]


def worst(
    answers: Mapping[int, tuple[Status, Sequence[Reason]]],
    workers: int,
    also: Sequence[Reason] = (),
) -> Verdict:
    """The gateway's verdict from the workers' status and reasons, and the supervisor's own reasons.

    A worker that does not answer is being restarted, and its connections wait: the gateway is
    degraded. It is unavailable if no worker answers.
    """
    missing = [
        Reason("workers", f"worker {n} does not answer")
        for n in range(1, workers + 1)
        if n not in answers
    ]
    # Several workers may have the same reason: report it once, with the age of the first one's.
    given = sorted((one for _, of in answers.values() for one in of), key=lambda one: one.age)
    said = {subject(reason): reason for reason in given}
    found = in_order([*said.values(), *missing, *also])
    statuses: list[Status] = [status for status, _ in answers.values()]
    statuses.append(verdict_of([*missing, *also]).status if answers else "unavailable")
    return Verdict(min(statuses, key=_ORDER.index), found)


def merge_rings(rings: Sequence[Ring]) -> Ring:
    """One ring from several workers': a node that a worker has ejected is shown as ejected."""
    nodes: dict[str, Node] = {}
    for node in (node for ring in rings for node in ring.nodes):
        if node.name not in nodes or (nodes[node.name].state == "live" != node.state):
            nodes[node.name] = node
    return Ring(max(ring.generation for ring in rings), list(nodes.values()))


def ejected(rings: Mapping[int, Ring]) -> dict[str, tuple[list[int], str]]:
    """For each ejected node, the workers that ejected it (each decides by its own requests), and
    since when the first one has."""
    found: dict[str, tuple[list[int], str]] = {}
    for number, ring in rings.items():
        for node in ring.nodes:
            if node.state != "live":
                workers, since = found.get(node.name, ([], node.since or ""))
                found[node.name] = [*workers, number], min(since, node.since or "")
    return found


def merge_mysql(seen: Sequence[MySQL]) -> MySQL:
    """The MySQL hosts as the worker in the worst state sees them; waiting requests are added up."""
    worst_off = max(
        seen, key=lambda m: (m.primary is None, m.split, m.redundant is False, m.generation)
    )
    commits = [m.committed for m in seen if m.committed is not None]
    latest = max(commits) if len(commits) == len(seen) else None
    return replace(worst_off, waiting=sum(m.waiting for m in seen), committed=latest)


@dataclass
class WorkerClient:
    """A supervisor's client of a worker's admin socket, in Linux' abstract name space."""

    number: int
    address: str
    token: str

    async def ask(
        self,
        path: str,
        *,
        method: str = "GET",
        body: bytes | None = None,
        seconds: float = ANSWER_SECONDS,
    ) -> bytes:
        """The body of the worker's answer.

        Raises:
            OSError, TimeoutError, aiohttp.ClientError: it does not answer.
        """
        headers = {"Authorization": f"Bearer {self.token}"}
        async with (
            asyncio.timeout(seconds),
            # One connection for each request: another process may have the socket at the next one.
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(self.address)) as session,
            session.request(method, f"http://worker{path}", headers=headers, data=body) as answer,
        ):
            # A 503 of /readyz is an answer, not an error.
            if answer.status >= 500 and path != "/readyz":
                answer.raise_for_status()
            return await answer.read()


@dataclass
class WorkersAnswers(AdminAnswers):
    """Gathers and combines the workers' answers.

    Attributes:
        clients: one for each worker.
        stopping: returns whether the gateway is about to stop.
        replace: ends a worker, and starts another one in its place.
        drained: whether an operator has taken the gateway out; workers are born with it.
    """

    clients: Sequence[WorkerClient]
    stopping: Callable[[], bool]
    peers: Peers
    replace: Callable[[int], None]
    drained: bool = False
    _delayed: DelayedReasons = field(default_factory=DelayedReasons)

    async def readiness(self) -> Verdict:
        return self._verdict(await self.ask_all("/readyz", Readiness))

    def _verdict(self, ready: Mapping[int, Readiness]) -> Verdict:
        why = STOPPING if self.stopping() else ASKED if self.drained else ""
        now, reason = asyncio.get_running_loop().time(), [Reason("draining", why)] if why else []
        if said := self._delayed.take(reason, now):
            return verdict_of(said)
        answers = {number: (body.status, reasons_of(body)) for number, body in ready.items()}
        return worst(answers, len(self.clients), self.peers.reasons())

    async def ring(self) -> Ring:
        return merge_rings(_some(await self.ask_all("/ring", Ring)))

    async def outline(self) -> Outline:
        return await self._first("/ring/outline", Outline)

    async def mysql(self) -> MySQL:
        return merge_mysql(_some(await self.ask_all("/mysql", MySQL)))

    async def where(self, key: Key) -> Where:
        return await self._first(f"/where/{key.user_id}/{key.playlist_id}", Where)

    async def find(self, asked: Question) -> Found:
        return merge(_some(await self.ask_all("/find", Found, method="POST", body=encode(asked))))

    async def observe(self) -> Snapshot:
        """The workers' state at this moment; slow workers are missing."""
        soon = {"seconds": GLANCE_SECONDS}
        ready, rings, mysql = await asyncio.gather(
            self.ask_all("/readyz", Readiness, **soon),
            self.ask_all("/ring", Ring, **soon),
            self.ask_all("/mysql", MySQL, **soon),
        )
        families = await self.families(**soon)
        verdict = self._verdict(ready)
        ring = merge_rings(list(rings.values())) if rings else None
        out = ejected(rings)
        for node in ring.nodes if ring is not None else ():
            node.since = out.get(node.name, ([], node.since))[1]
        return Snapshot(
            at=time.time(),
            status=verdict.status,
            reasons=verdict.found,
            ring=ring,
            mysql=merge_mysql(list(mysql.values())) if mysql else None,
            families=families,
            workers={number: body.status for number, body in ready.items()},
            missing=[client.number for client in self.clients if client.number not in ready],
            out_in={name: workers for name, (workers, _) in out.items()},
        )

    async def partitions(self) -> list[Partition]:
        """The partitions as one worker lists them; `in_vain` is the sum of all workers."""
        answers = _some(await self.ask_all("/partitions", list[Partition]))
        in_vain = Counter[str]()
        for found in answers:
            in_vain.update({one.day: one.in_vain for one in found})
        return [replace(one, in_vain=in_vain[one.day]) for one in answers[0]]

    async def believe_clock(self) -> BelievedClock:
        """Tells every worker, since each checks the clock itself."""
        path = "/partitions/believe-clock"
        answers = _some(await self.ask_all(path, BelievedClock, method="POST"))
        return next((answer for answer in answers if answer.was_in_doubt), answers[0])

    async def drain_state(self) -> Drained:
        return self._merge_drained(await self.ask_all("/drain", Drained))

    async def drain(self) -> Drained:
        """Every worker is told; one that does not say so is replaced."""
        return await self._tell_drained("/drain", True)

    async def drain_back(self) -> Drained:
        return await self._tell_drained("/drain/back", False)

    async def _tell_drained(self, path: str, drained: bool) -> Drained:
        self.drained = drained
        answers = await self.ask_all(path, Drained, method="POST")
        for client in self.clients:
            if client.number not in answers:
                self.replace(client.number)
        return self._merge_drained(answers)

    def _merge_drained(self, answers: Mapping[int, Drained]) -> Drained:
        """One answer for all workers; with one that does not answer, the gateway is not empty."""
        found = answers.values()
        return Drained(
            draining=self.drained,
            in_flight=sum(one.in_flight for one in found),
            connections=sum(one.connections for one in found),
            empty=len(found) == len(self.clients) and all(one.empty for one in found),
        )

    async def _first(self, path: str, of: type[T]) -> T:
        """The answer of the first worker that has one."""
        for client in self.clients:
            try:
                return msgspec.json.decode(await client.ask(path), type=of)
            except (OSError, TimeoutError, aiohttp.ClientError, msgspec.DecodeError):
                continue
        raise Refusal(503, "No worker can say right now; /readyz tells why.")

    async def families(self, *, seconds: float = ANSWER_SECONDS) -> list[Metric]:
        texts = await self._ask("/metrics", seconds=seconds)

        def merged() -> list[Metric]:
            own = telemetry.exposition(telemetry.families()).decode()
            workers = {str(number): text.decode() for number, text in texts.items()}
            return telemetry.merge({**workers, "supervisor": own})

        # In a thread: it takes tenths of a second for some workers.
        return await asyncio.to_thread(merged)

    async def ask_all(self, path: str, of: type[T], **how: Any) -> dict[int, T]:
        """The workers' answers by number, without workers that do not answer in time."""
        answers = await self._ask(path, **how)
        return {number: msgspec.json.decode(said, type=of) for number, said in answers.items()}

    async def _ask(self, path: str, **how: Any) -> dict[int, bytes]:
        asked = (client.ask(path, **how) for client in self.clients)
        answers = await asyncio.gather(*asked, return_exceptions=True)
        return {
            client.number: answer
            for client, answer in zip(self.clients, answers, strict=True)
            if isinstance(answer, bytes)
        }


def _some(answers: Mapping[int, T]) -> list[T]:
    if not answers:
        raise Refusal(503, "No worker answers.")
    return list(answers.values())
