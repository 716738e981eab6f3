"""The admin port: health, the ring, partitions, counters, reload.

The same paths stand in front of one worker's own parts and of a supervisor's gathered ones; what
differs is the `Insight` behind them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import structlog

from tapedeck.config.load import ConfigError
from tapedeck.config.model import Sections
from tapedeck.gateway import reloading, telemetry
from tapedeck.gateway.face import Answer, Call, Handler, read_body
from tapedeck.gateway.live import Live, Source, bearer_digest, bearer_matches
from tapedeck.gateway.replies import Refusal, json_response
from tapedeck.gateway.wire import Reply

if TYPE_CHECKING:
    from tapedeck.sharding.backend import Backend

_OPEN = frozenset({"healthz", "readyz"})
_log = structlog.get_logger()


class Insight(Protocol):
    """What the admin port shows and does."""

    async def readiness(self) -> tuple[str, list[str]]:
        """The status and its reasons; `ready` and `degraded` mean that it serves."""
        ...

    async def ring(self) -> dict[str, Any]: ...

    async def partitions(self) -> list[dict[str, Any]]: ...

    async def stats(self) -> dict[str, Any]: ...

    async def metrics(self) -> bytes: ...

    async def reload(self, body: bytes) -> dict[str, Any]:
        """Read the configuration again; `body` is the request's.

        Raises:
            ConfigError: it has problems; nothing changed.
        """
        ...

    async def check(self, body: bytes) -> dict[str, Any]:
        """What a reload would change: of the file, or of what `body` says.

        Raises:
            ConfigError: it has problems.
        """
        ...


class OwnInsight:
    """One process's own parts.

    Args:
        backend: everything behind HTTP.
        live: the configuration that holds.
        reread: gives the configuration to change to, from a request's body (mostly empty).
        draining: whether the process is about to stop.
    """

    def __init__(
        self,
        backend: Backend,
        live: Live,
        reread: Callable[[bytes], Sections],
        draining: Callable[[], bool],
    ) -> None:
        self._backend = backend
        self._live = live
        self._reread = reread
        self._draining = draining
        self._reloading = asyncio.Lock()

    async def readiness(self) -> tuple[str, list[str]]:
        """Draining first, then what the backend says."""
        if self._draining():
            return "draining", ["the process is stopping"]
        readiness = self._backend.readiness()
        return readiness.status, readiness.reasons

    async def ring(self) -> dict[str, Any]:
        """The nodes as this worker sees them."""
        return self._backend.ring()

    async def partitions(self) -> list[dict[str, Any]]:
        """The day partitions as MySQL has them."""
        return await self._backend.partitions()

    async def stats(self) -> dict[str, Any]:
        """This process's counters as JSON."""
        return telemetry.stats(telemetry.families())

    async def metrics(self) -> bytes:
        """This process's counters as text."""
        return telemetry.exposition(telemetry.families())

    async def reload(self, body: bytes) -> dict[str, Any]:
        """Take over what can follow."""
        async with self._reloading:
            with reloading.counted():
                step = await reloading.weigh(self._live, self._backend.history, self._reread(body))
                planned = self._backend.plan(step.merged)
                self._backend.reload(step.merged, planned, step.history)
                self._live.take(step.merged)
        _log.info("reloaded", **step.outcome)
        return step.outcome

    async def check(self, body: bytes) -> dict[str, Any]:
        """Compare, and change nothing."""
        if body:
            return await reloading.compare(self._live, body)
        step = await reloading.weigh(self._live, self._backend.history, self._reread(b""))
        return step.outcome


class AdminApi:
    """The handlers.

    Args:
        insight: what to show.
        token: what must stand behind `Bearer`; None where the port is on loopback.
    """

    def __init__(self, insight: Insight, token: str | None) -> None:
        self._insight = insight
        self._digests = None if token is None else [bearer_digest(token)]

    def handlers(self) -> dict[str, Handler]:
        """By the operation names of `openapi.py`."""
        open_to_all = {
            "healthz": self.healthz,
            "readyz": self.readyz,
            "ring": self.ring,
            "partitions": self.partitions,
            "stats": self.stats,
            "metrics": self.metrics,
            "reload": self.reload,
            "reload_check": self.reload_check,
        }
        return {
            name: handler if name in _OPEN else self.guarded(handler)
            for name, handler in open_to_all.items()
        }

    def guarded(self, handler: Handler) -> Handler:
        """The handler, behind the token where one is asked for."""
        digests = self._digests
        if digests is None:
            return handler

        async def check(call: Call) -> Answer:
            if not bearer_matches(call.request.headers.get("Authorization"), digests):
                raise Refusal(
                    401,
                    "This needs the admin token: Authorization: Bearer TOKEN.",
                    headers={"WWW-Authenticate": "Bearer"},
                )
            return await handler(call)

        return check

    async def healthz(self, call: Call) -> Answer:
        """The process lives."""
        return json_response({"status": "ok"})

    async def readyz(self, call: Call) -> Answer:
        """Whether to send traffic here."""
        status, reasons = await self._insight.readiness()
        return json_response(
            {"status": status, "reasons": reasons},
            200 if status in ("ready", "degraded") else 503,
        )

    async def ring(self, call: Call) -> Answer:
        """The lookup nodes."""
        return json_response(await self._insight.ring())

    async def partitions(self, call: Call) -> Answer:
        """The day partitions."""
        return json_response(await self._insight.partitions())

    async def stats(self, call: Call) -> Answer:
        """Counters as JSON."""
        return json_response(await self._insight.stats())

    async def metrics(self, call: Call) -> Answer:
        """Counters as Prometheus text."""
        return Reply(200, await self._insight.metrics(), content_type=telemetry.TEXT)

    async def reload_check(self, call: Call) -> Answer:
        """Say what a reload would change."""
        body = await read_body(call.request, 1024 * 1024)
        try:
            return json_response(await self._insight.check(body))
        except ConfigError as error:
            raise Refusal(422, *error.problems) from None

    async def reload(self, call: Call) -> Answer:
        """Read the configuration again."""
        body = await read_body(call.request, 1024 * 1024)
        try:
            return json_response(await self._insight.reload(body))
        except ConfigError as error:
            _log.warning("reload_refused", problems=error.problems)
            raise Refusal(422, *error.problems) from None


def from_file(source: Source, fill: Callable[[Sections], Sections]) -> Callable[[bytes], Sections]:
    """Rereads the file, whatever the request's body says.

    Args:
        source: the file and what lies over it.
        fill: puts in what the file leaves to the process, as a local mode's token key.
    """

    def reread(_: bytes) -> Sections:
        return fill(source.load())

    return reread
