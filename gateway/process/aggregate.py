"""Several workers seen as one: what the supervisor's admin port shows."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import starmap
from typing import Any

import aiohttp
import msgspec

from gateway import telemetry
from gateway.http.errors import Refusal
from gateway.insight import Snapshot
from gateway.peers import Peers
from sharding.state import Key
from sharding.verdict import Reason, Status, Verdict, in_order, judge

ANSWER_SECONDS = 5.0
"""How long a worker has to answer its supervisor."""
GLANCE_SECONDS = 1.0
"""How long it has when the dashboard looks: a page that is live does not wait for a dead worker."""
_ORDER: tuple[Status, ...] = ("draining", "unavailable", "degraded", "ready")


def worst(
    answers: Mapping[int, tuple[Status, Sequence[Reason]]],
    workers: int,
    also: Sequence[Reason] = (),
) -> Verdict:
    """One verdict for all.

    A worker that does not answer is on its way back, and its connections wait for it: that
    degrades the gateway. It is unavailable when no worker answers.

    Args:
        answers: what each worker says of itself.
        workers: how many there should be.
        also: what is amiss beside the workers.
    """
    missing = [
        Reason("workers", f"worker {n} does not answer")
        for n in range(1, workers + 1)
        if n not in answers
    ]
    # The same node is out for all of them: say it once.
    said = {reason.text: reason for _, given in answers.values() for reason in given}
    found = in_order([*said.values(), *missing, *also])
    statuses: list[Status] = [status for status, _ in answers.values()]
    statuses.append(judge([*missing, *also]).status if answers else "unavailable")
    return Verdict(min(statuses, key=_ORDER.index), found)


def merge_rings(rings: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One ring for all: a node that any worker has ejected is shown as that worker sees it."""
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
    """By node name, which workers have it ejected (each judges by what it meets itself), and since
    when the first one has."""
    found: dict[str, tuple[list[int], str]] = {}
    for number, ring in rings.items():
        for node in ring["nodes"]:
            if node["state"] != "live":
                workers, since = found.get(node["name"], ([], node["since"]))
                found[node["name"]] = [*workers, number], min(since, node["since"])
    return found


def merge_mysql(seen: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One view of the pair for all: that of the worker that is worst off; what waits adds up."""
    worst_off = max(
        seen,
        key=lambda m: (m["primary"] is None, m["split"], m["redundant"] is False, m["generation"]),
    )
    return {**worst_off, "waiting": sum(m["waiting"] for m in seen)}


class WorkerDoor:
    """Where a supervisor asks one worker.

    Args:
        number: the worker's, from 1.
        address: of its admin socket, in Linux' abstract name space (begins with NUL).
        token: to show there.
    """

    def __init__(self, number: int, address: str, token: str) -> None:
        self.number = number
        self._address = address
        self._headers = {"Authorization": f"Bearer {token}"}
        self._session: aiohttp.ClientSession | None = None

    async def ask(self, path: str, *, method: str = "GET", body: bytes | None = None) -> bytes:
        """The body of its answer.

        Raises:
            OSError, TimeoutError, aiohttp.ClientError: it does not answer.
        """
        if self._session is None:
            # Another process may sit behind the socket by the next request.
            connector = aiohttp.UnixConnector(self._address, force_close=True)
            self._session = aiohttp.ClientSession(
                connector=connector, timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS)
            )
        async with self._session.request(
            method, f"http://worker{path}", headers=self._headers, data=body
        ) as answer:
            # /readyz says 503 and means it.
            if answer.status >= 500 and path != "/readyz":
                answer.raise_for_status()
            return await answer.read()

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


class WorkersInsight:
    """Gathers what the workers say.

    Args:
        doors: one for each worker.
        draining: whether the gateway is about to stop.
        peers: the other gateways.
    """

    def __init__(
        self, doors: Sequence[WorkerDoor], draining: Callable[[], bool], peers: Peers
    ) -> None:
        self._doors = doors
        self._draining = draining
        self.peers = peers

    async def readiness(self) -> Verdict:
        """The worst of what the workers say."""
        return self._verdict(await self.ask_all("/readyz"))

    def _verdict(self, ready: Mapping[int, Any]) -> Verdict:
        if self._draining():
            return judge([Reason("draining", "the gateway is stopping")])
        answers = {
            number: (
                body["status"],
                list(starmap(Reason, zip(body["causes"], body["reasons"], strict=True))),
            )
            for number, body in ready.items()
        }
        return worst(answers, len(self._doors), self.peers.reasons())

    async def ring(self) -> dict[str, Any]:
        return merge_rings(self._some(await self.ask_all("/ring")))

    async def outline(self) -> dict[str, Any]:
        outline: dict[str, Any] = await self._first("/ring/outline")
        return outline

    async def mysql(self) -> dict[str, Any]:
        """The pair, as the worker sees it that is worst off."""
        return merge_mysql(self._some(await self.ask_all("/mysql")))

    async def where(self, key: Key) -> dict[str, Any]:
        found: dict[str, Any] = await self._first(f"/where/{key.user_id}/{key.playlist_id}")
        return found

    async def observe(self) -> Snapshot:
        """What the workers say at this moment; one that is slow is missing."""
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
            reasons=verdict.reasons,
            ring=ring,
            mysql=merge_mysql(list(mysql.values())) if mysql else None,
            families=families,
            workers={number: body["status"] for number, body in ready.items()},
            missing=[door.number for door in self._doors if door.number not in ready],
        )

    async def partitions(self) -> list[dict[str, Any]]:
        """As one worker sees them; `in_vain` is counted by all."""
        answers: list[list[dict[str, Any]]] = self._some(await self.ask_all("/partitions"))
        in_vain = Counter[str]()
        for found in answers:
            in_vain.update({one["day"]: one["in_vain"] for one in found})
        return [{**one, "in_vain": in_vain[one["day"]]} for one in answers[0]]

    async def believe_clock(self) -> dict[str, Any]:
        """Every worker is told, as each judges for itself."""
        answers = self._some(await self.ask_all("/partitions/believe-clock", method="POST"))
        doubted = [answer for answer in answers if answer["was_in_doubt"]]
        told: dict[str, Any] = (doubted or answers)[0]
        return told

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

        # Aside: it takes tenths of a second for some workers.
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
        """What the workers answer, by number; one that does not within `seconds` is left out."""
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
