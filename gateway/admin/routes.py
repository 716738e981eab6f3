"""The admin port: health, the ring, partitions, counters, reload.

The same paths stand in front of one worker's own parts and of a supervisor's gathered ones; what
differs is the `Insight` behind them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import structlog
from aiohttp.web import BaseRequest

from config.load import ConfigError
from config.model import Sections
from failover.aside import aside
from failover.mysql.errors import MySQLError, PrimaryUnavailable
from gateway import telemetry
from gateway.api.operations import OPEN, PROBES
from gateway.http.allowed_hosts import is_ours, refuse_strangers
from gateway.http.errors import Refusal, json_response
from gateway.http.messages import Response
from gateway.http.parameters import whole_number
from gateway.http.request_body import read_body
from gateway.http.router import Answer, Call, Handler
from gateway.insight import Snapshot
from gateway.reload import reload
from gateway.reload.runtime_config import RuntimeConfig, Source, bearer_digest, bearer_matches
from sharding import locate
from sharding.state import PLAYLIST_MAX, Key

if TYPE_CHECKING:
    from gateway.dashboard.page import Dashboard
    from sharding.backend import Backend

OUTLINE_PARTS = 720
"""Places of the ring's circle that are told: half a degree each."""
WHERE_SECONDS = 4.0
"""How long MySQL has to say where a state lies; a supervisor waits little longer."""
_log = structlog.get_logger()


class Insight(Protocol):
    """What the admin port shows and does."""

    async def readiness(self) -> tuple[str, list[str]]:
        """The status and its reasons; `ready` and `degraded` mean that it serves."""
        ...

    async def ring(self) -> dict[str, Any]: ...

    async def outline(self) -> dict[str, Any]:
        """The ring's circle: whose each of `OUTLINE_PARTS` places is, and who serves it."""
        ...

    async def mysql(self) -> dict[str, Any]: ...

    async def where(self, key: Key) -> dict[str, Any]:
        """Where one state lies."""
        ...

    async def observe(self) -> Snapshot:
        """Everything at one moment, for the dashboard."""
        ...

    async def partitions(self) -> list[dict[str, Any]]: ...

    async def believe_clock(self) -> dict[str, Any]:
        """Believe MySQL's clock, if it is in doubt: an operator says that it is right."""
        ...

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
        live: RuntimeConfig,
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

    async def outline(self) -> dict[str, Any]:
        """The circle as this worker sees it."""
        return self._backend.outline(OUTLINE_PARTS)

    async def mysql(self) -> dict[str, Any]:
        """The hosts as this worker sees them."""
        return self._backend.mysql()

    async def where(self, key: Key) -> dict[str, Any]:
        """Asked of every lookup node and of MySQL."""
        try:
            async with asyncio.timeout(WHERE_SECONDS):
                return await locate.find(self._backend, key)
        except (TimeoutError, MySQLError, PrimaryUnavailable) as error:
            reason = str(error) or "no answer in time"
            raise Refusal(
                503, f"MySQL cannot be asked right now: {reason}.", headers={"Retry-After": "1"}
            ) from None

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
        """The day partitions as MySQL has them."""
        return await self._backend.partitions()

    async def believe_clock(self) -> dict[str, Any]:
        """Here only: each process judges by its own clocks."""
        return self._backend.days.believe()

    async def stats(self) -> dict[str, Any]:
        """This process's counters as JSON."""
        return await asyncio.to_thread(lambda: telemetry.stats(telemetry.families()))

    async def metrics(self) -> bytes:
        """This process's counters as text."""
        return await asyncio.to_thread(lambda: telemetry.exposition(telemetry.families()))

    async def reload(self, body: bytes) -> dict[str, Any]:
        """Take over what can follow."""
        async with self._reloading:
            with reload.counted():
                new = await aside("reload", partial(self._reread, body))
                step = await reload.weigh(self._live, self._backend.generation, new)
                planned = self._backend.plan(step.merged)
                self._backend.reload(step.merged, planned, step.generation)
                self._live.take(step.merged)
                await self._backend.days.relist()
        _log.info("reloaded", **step.outcome)
        return step.outcome

    async def check(self, body: bytes) -> dict[str, Any]:
        """Compare, and change nothing."""
        if body:
            return await reload.compare(self._live, body)
        new = await aside("reload", partial(self._reread, b""))
        step = await reload.weigh(self._live, self._backend.generation, new)
        return step.outcome


class AdminApi:
    """The handlers.

    Args:
        insight: what to show.
        token: gives what must stand behind `Bearer` now; None where the port is on loopback.
        dashboard: the page; None in a worker, whose supervisor has it.
        hosts: gives the names, beside loopback's own, under which it is asked without a token.
    """

    def __init__(
        self,
        insight: Insight,
        token: Callable[[], str | None] = lambda: None,
        dashboard: Dashboard | None = None,
        hosts: Callable[[], Collection[str]] = lambda: (),
    ) -> None:
        self._insight = insight
        self._dashboard = dashboard
        self._token = token
        self._hosts = hosts

    def handlers(self) -> dict[str, Handler]:
        """By the operation names of `operations.py`."""
        handlers = {
            "healthz": self.healthz,
            "readyz": self.readyz,
            "ring": self.ring,
            "outline": self.outline,
            "mysql": self.mysql,
            "where": self.where,
            "dashboard": self.page,
            "dashboard_file": self.file,
            "dashboard_events": self.events,
            "overview": self.overview,
            "partitions": self.partitions,
            "believe_clock": self.believe_clock,
            "stats": self.stats,
            "metrics": self.metrics,
            "reload": self.reload,
            "reload_check": self.reload_check,
        }
        return {
            name: handler if name in PROBES else self.guarded(handler, without_token=name in OPEN)
            for name, handler in handlers.items()
        }

    def guarded(self, handler: Handler, *, without_token: bool = False) -> Handler:
        """The handler, behind the token where one is asked for, and behind the names where not.

        Args:
            handler: what is done.
            without_token: whether it never asks for the token.
        """

        async def check(call: Call) -> Answer:
            token, headers = self._token(), call.request.headers
            if token is None:
                host, origin = headers.get("Host"), headers.get("Origin")
                refuse_strangers(call.request.method, host, origin, self._hosts())
            elif not without_token and not bearer_matches(
                headers.get("Authorization"), [bearer_digest(token)]
            ):
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
        """Whether to send traffic here.

        Health checks call us by any name (a backend's, a cluster's): they are told the status.
        """
        status, reasons = await self._insight.readiness()
        host = call.request.headers.get("Host")
        if reasons and host and self._token() is None and not is_ours(host, self._hosts()):
            reasons = ["why is told to localhost, and to the names in admin.allowed_hosts"]
        return json_response(
            {"status": status, "reasons": reasons},
            200 if status in ("ready", "degraded") else 503,
        )

    async def ring(self, call: Call) -> Answer:
        """The lookup nodes."""
        return json_response(await self._insight.ring())

    async def outline(self, call: Call) -> Answer:
        """The ring's circle."""
        return json_response(await self._insight.outline())

    async def mysql(self, call: Call) -> Answer:
        """The MySQL hosts."""
        return json_response(await self._insight.mysql())

    async def where(self, call: Call) -> Answer:
        """Where one state lies."""
        # Anonymous listeners lie above the known users: they may be looked for too.
        key = Key(
            whole_number(call.values["user_id"], "user_id", PLAYLIST_MAX),
            whole_number(call.values["playlist_id"], "playlist_id", PLAYLIST_MAX),
        )
        return json_response(await self._insight.where(key))

    async def page(self, call: Call) -> Answer:
        """The dashboard."""
        return self._the_dashboard().page()

    async def file(self, call: Call) -> Answer:
        """A part of the page."""
        return self._the_dashboard().file(call.values["file"])

    async def events(self, call: Call) -> Answer:
        """What the page shows, live."""
        assert isinstance(call.request, BaseRequest)  # this application is not lean
        return self._the_dashboard().events(call.request)

    async def overview(self, call: Call) -> Answer:
        """This gateway in a few words."""
        return json_response(self._the_dashboard().overview())

    def _the_dashboard(self) -> Dashboard:
        if self._dashboard is None:
            raise Refusal(404, "There is no such path.")
        return self._dashboard

    async def partitions(self, call: Call) -> Answer:
        """The day partitions."""
        return json_response(await self._insight.partitions())

    async def believe_clock(self, call: Call) -> Answer:
        """An operator says that MySQL's clock is right."""
        return json_response(await self._insight.believe_clock())

    async def stats(self, call: Call) -> Answer:
        """Counters as JSON."""
        return json_response(await self._insight.stats())

    async def metrics(self, call: Call) -> Answer:
        """Counters as Prometheus text."""
        return Response(200, await self._insight.metrics(), content_type=telemetry.TEXT)

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
