"""Combines the answers of several workers, for the supervisor's admin port."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import aiohttp
import msgspec

from gateway import telemetry
from gateway.api.admin_bodies import Drained
from gateway.drain import ASKED, STOPPING, merge_drained
from gateway.finding import Question, merge
from gateway.http.errors import Refusal, encode
from gateway.insight import Snapshot
from gateway.peers import Peers
from sharding.state import Key
from sharding.verdict import ORDER, Reason, Status, Steady, Verdict, in_order, judge, stem

ANSWER_SECONDS = 5.0
"""Seconds that a worker has to answer its supervisor."""
GLANCE_SECONDS = 1.0
"""Seconds that it has for the dashboard, which must not wait for a dead worker."""
_ORDER: tuple[Status, ...] = ("draining", "unavailable", "degraded", "ready")


def reasons_of(body: Mapping[str, Any]) -> list[Reason]:
    """The reasons in an answer of `/readyz`; of an unavailable worker the gravest kinds stop it."""
    gravest = ORDER[: ORDER.index("failover")] if body["status"] == "unavailable" else ()
    said = zip(body["causes"], body["reasons"], body["ages"], strict=True)
    return [Reason(kind, text, kind in gravest, age) for kind, text, age in said]


def worst(
    answers: Mapping[int, tuple[Status, Sequence[Reason]]],
    workers: int,
    also: Sequence[Reason] = (),
) -> Verdict:
    """The gateway's verdict from its workers' verdicts.

    A worker that does not answer is being restarted, and its connections wait: the gateway is
    degraded. It is unavailable if no worker answers.

    Args:
        answers: status and reasons of each worker that answered.
        workers: how many workers there should be.
        also: reasons of the supervisor itself.
    """
    missing = [
        Reason("workers", f"worker {n} does not answer")
        for n in range(1, workers + 1)
        if n not in answers
    ]
    # Several workers may have the same reason: report it once, with the age of the first one's.
    given = sorted((one for _, of in answers.values() for one in of), key=lambda one: one.age)
    said = {stem(reason): reason for reason in given}
    found = in_order([*said.values(), *missing, *also])
    statuses: list[Status] = [status for status, _ in answers.values()]
    statuses.append(judge([*missing, *also]).status if answers else "unavailable")
    return Verdict(min(statuses, key=_ORDER.index), found)


def merge_rings(rings: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One ring from several workers': a node that a worker has ejected is shown as ejected."""
    merged = dict(rings[0])
    nodes = {node["name"]: node for node in merged["nodes"]}
    for ring in rings[1:]:
        merged["generation"] = max(merged["generation"], ring["generation"])
        for node in ring["nodes"]:
            known = nodes.get(node["name"])
            if known is None or (known["state"] == "live" and node["state"] != "live"):
                nodes[node["name"]] = node
    merged["nodes"] = list(nodes.values())
    return merged


def ejected(rings: Mapping[int, dict[str, Any]]) -> dict[str, tuple[list[int], str]]:
    """For each ejected node, the workers that ejected it (each decides by its own requests), and
    since when the first one has."""
    found: dict[str, tuple[list[int], str]] = {}
    for number, ring in rings.items():
        for node in ring["nodes"]:
            if node["state"] != "live":
                workers, since = found.get(node["name"], ([], node["since"]))
                found[node["name"]] = [*workers, number], min(since, node["since"])
    return found


def merge_mysql(seen: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The MySQL hosts as the worker in the worst state sees them; waiting requests are added up."""
    worst_off = max(
        seen,
        key=lambda m: (m["primary"] is None, m["split"], m["redundant"] is False, m["generation"]),
    )
    commits = [m["committed"] for m in seen]
    latest = None if None in commits else max(commits)
    return {**worst_off, "waiting": sum(m["waiting"] for m in seen), "committed": latest}


class WorkerDoor:
    """A supervisor's client of one worker's admin socket.

    Args:
        number: the worker's, from 1.
        address: of the socket, in Linux' abstract name space (begins with NUL).
        token: sent with each request.
    """

    def __init__(self, number: int, address: str, token: str) -> None:
        self.number = number
        self._address = address
        self._headers = {"Authorization": f"Bearer {token}"}
        self._session: aiohttp.ClientSession | None = None

    async def ask(self, path: str, *, method: str = "GET", body: bytes | None = None) -> bytes:
        """The body of the worker's answer.

        Raises:
            OSError, TimeoutError, aiohttp.ClientError: it does not answer.
        """
        if self._session is None:
            # Another process may have the socket at the next request.
            connector = aiohttp.UnixConnector(self._address, force_close=True)
            self._session = aiohttp.ClientSession(
                connector=connector, timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS)
            )
        async with self._session.request(
            method, f"http://worker{path}", headers=self._headers, data=body
        ) as answer:
            # A 503 of /readyz is an answer, not an error.
            if answer.status >= 500 and path != "/readyz":
                answer.raise_for_status()
            return await answer.read()

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


class WorkersInsight:
    """Gathers and combines the workers' answers.

    Args:
        doors: one for each worker.
        stopping: returns whether the gateway is about to stop.
        peers: the other gateways.
        replace: ends a worker, and starts another one in its place.

    Attributes:
        drained: whether an operator has taken the gateway out; workers are born with it.
    """

    def __init__(
        self,
        doors: Sequence[WorkerDoor],
        stopping: Callable[[], bool],
        peers: Peers,
        replace: Callable[[int], None],
    ) -> None:
        self._doors = doors
        self._stopping = stopping
        self.peers = peers
        self._replace = replace
        self.drained = False
        self._steady = Steady()

    async def readiness(self) -> Verdict:
        """The verdict for all workers (see `worst`)."""
        return self._verdict(await self.ask_all("/readyz"))

    def _verdict(self, ready: Mapping[int, Any]) -> Verdict:
        why = STOPPING if self._stopping() else ASKED if self.drained else ""
        said = self._steady.take(
            [Reason("draining", why)] if why else [], asyncio.get_running_loop().time()
        )
        if said:
            return judge(said)
        answers = {number: (body["status"], reasons_of(body)) for number, body in ready.items()}
        return worst(answers, len(self._doors), self.peers.reasons())

    async def ring(self) -> dict[str, Any]:
        return merge_rings(self._some(await self.ask_all("/ring")))

    async def outline(self) -> dict[str, Any]:
        outline: dict[str, Any] = await self._first("/ring/outline")
        return outline

    async def mysql(self) -> dict[str, Any]:
        """The MySQL hosts (see `merge_mysql`)."""
        return merge_mysql(self._some(await self.ask_all("/mysql")))

    async def where(self, key: Key) -> dict[str, Any]:
        found: dict[str, Any] = await self._first(f"/where/{key.user_id}/{key.playlist_id}")
        return found

    async def find(self, asked: Question) -> dict[str, Any]:
        answers = await self.ask_all("/find", method="POST", body=encode(asked))
        return merge(self._some(answers))

    async def observe(self) -> Snapshot:
        """The workers' state at this moment; slow workers are missing."""
        paths = ("/readyz", "/ring", "/mysql")
        asked = [self.ask_all(path, seconds=GLANCE_SECONDS) for path in paths]
        ready, rings, mysql = await asyncio.gather(*asked)
        families = await self._families(seconds=GLANCE_SECONDS)
        verdict = self._verdict(ready)
        ring = merge_rings(list(rings.values())) if rings else None
        if ring is not None:
            out = ejected(rings)
            for node in ring["nodes"]:
                node["out_in"], node["since"] = out.get(node["name"], ([], node["since"]))
        return Snapshot(
            at=time.time(),
            status=verdict.status,
            reasons=verdict.found,
            ring=ring,
            mysql=merge_mysql(list(mysql.values())) if mysql else None,
            families=families,
            workers={number: body["status"] for number, body in ready.items()},
            missing=[door.number for door in self._doors if door.number not in ready],
        )

    async def partitions(self) -> list[dict[str, Any]]:
        """The partitions as one worker lists them; `in_vain` is the sum of all workers."""
        answers: list[list[dict[str, Any]]] = self._some(await self.ask_all("/partitions"))
        in_vain = Counter[str]()
        for found in answers:
            in_vain.update({one["day"]: one["in_vain"] for one in found})
        return [{**one, "in_vain": in_vain[one["day"]]} for one in answers[0]]

    async def believe_clock(self) -> dict[str, Any]:
        """Tells every worker, since each checks the clock itself."""
        answers = self._some(await self.ask_all("/partitions/believe-clock", method="POST"))
        doubted = [answer for answer in answers if answer["was_in_doubt"]]
        told: dict[str, Any] = (doubted or answers)[0]
        return told

    async def drain_state(self) -> Drained:
        return self._merge_drained(await self.ask_all("/drain"))

    async def drain(self) -> Drained:
        """Every worker is told; one that does not say so is replaced."""
        return await self._tell_drained("/drain", True)

    async def drain_back(self) -> Drained:
        return await self._tell_drained("/drain/back", False)

    async def _tell_drained(self, path: str, drained: bool) -> Drained:
        self.drained = drained
        answers = await self.ask_all(path, method="POST")
        for door in self._doors:
            if door.number not in answers:
                self._replace(door.number)
        return self._merge_drained(answers)

    def _merge_drained(self, answers: Mapping[int, Any]) -> Drained:
        told = [msgspec.convert(answer, Drained) for answer in answers.values()]
        return merge_drained(self.drained, told, len(self._doors))

    async def stats(self) -> dict[str, Any]:
        return await asyncio.to_thread(telemetry.stats, await self._families())

    async def metrics(self) -> bytes:
        return await asyncio.to_thread(telemetry.exposition, await self._families())

    async def _first(self, path: str) -> Any:
        """The answer of the first worker that has one."""
        for door in self._doors:
            try:
                return msgspec.json.decode(await door.ask(path))
            except (OSError, TimeoutError, aiohttp.ClientError, msgspec.DecodeError):
                continue
        raise Refusal(503, "No worker can say right now; /readyz tells why.")

    async def _families(self, *, seconds: float = ANSWER_SECONDS) -> list[Any]:
        texts = await self.ask_all("/metrics", decode=bytes.decode, seconds=seconds)

        def merged() -> list[Any]:
            own = telemetry.exposition(telemetry.families()).decode()
            workers = {str(number): text for number, text in texts.items()}
            return telemetry.merge({**workers, "supervisor": own})

        # In a thread: it takes tenths of a second for some workers.
        return await asyncio.to_thread(merged)

    async def ask_all(
        self,
        path: str,
        *,
        method: str = "GET",
        body: bytes | None = None,
        decode: Callable[[bytes], Any] = msgspec.json.decode,
        seconds: float = ANSWER_SECONDS,
    ) -> dict[int, Any]:
        """The workers' answers by number, without workers that do not answer within `seconds`."""
        asked = (
            asyncio.wait_for(d.ask(path, method=method, body=body), seconds) for d in self._doors
        )
        answers = await asyncio.gather(*asked, return_exceptions=True)
        return {
            door.number: decode(answer)
            for door, answer in zip(self._doors, answers, strict=True)
            if isinstance(answer, bytes)
        }

    @staticmethod
    def _some(answers: dict[int, Any]) -> list[Any]:
        if not answers:
            raise Refusal(503, "No worker answers.")
        return list(answers.values())
