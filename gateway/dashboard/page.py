"""The dashboard: one page on the admin port, kept live by what is observed here.

One loop observes for all viewers together: once a second while a page is open, and every
`history.STEP` seconds otherwise, for the history. What has to be asked of MySQL (the partitions) is
asked only while a page is open, and more slowly.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from msgspec import structs

from config.plain import plain
from failover import tasks
from gateway.admin_answers import AdminAnswers, Snapshot
from gateway.api.admin_bodies import Overview
from gateway.dashboard.history import KEEP, STEP, History
from gateway.dashboard.numbers import Window, node_numbers, point, totals, worker_numbers
from gateway.dashboard.stream import Viewer, Viewers, event
from gateway.http.errors import Refusal, json_response
from gateway.http.messages import Response
from gateway.http.router import Call
from gateway.http.static_files import Pages
from gateway.reload.runtime_config import RuntimeConfig
from gateway.telemetry import VERSION

WATCHED_SECONDS = 1.0
"""Between two observations while a page is open."""
ASK_SECONDS = 10.0
"""Between two questions for the day partitions while a page is open."""

PAGES = Pages("gateway.dashboard")

FAILING = ("failed", "unavailable")
"""Errors that are ours."""

_log = structlog.get_logger()


class Dashboard:
    """The page and what keeps it live."""

    def __init__(self, source: AdminAnswers, live: RuntimeConfig) -> None:
        self._source = source
        self._live = live
        self._history = History()
        self._seen: Snapshot | None = None
        # What no worker says at the moment is shown as it was, with its age.
        self._with_ring: Snapshot | None = None
        self._with_mysql: Snapshot | None = None
        self._asked: dict[str, float] = {}
        self._started = time.time()
        self._answers: dict[str, tuple[int, Any]] = {}
        self._versions = 0
        self._wanted = asyncio.Event()
        self._viewers = Viewers(self._unseen, self._wanted.set)
        self._tasks: list[asyncio.Task[None]] = []
        self._circle: object = None

    def start(self) -> None:
        self._tasks = [
            asyncio.create_task(self._keep_observing(), name="dashboard"),
            asyncio.create_task(self._keep_asking(), name="dashboard-asks"),
            asyncio.create_task(self._source.peers.poll(), name="peers"),
        ]

    async def close(self) -> None:
        self._viewers.close()
        await tasks.stop(*self._tasks)

    async def dashboard(self, call: Call) -> Response:
        return PAGES.page()

    async def dashboard_file(self, call: Call) -> Response:
        return PAGES.part(call.values["file"])

    async def dashboard_events(self, call: Call) -> Response:
        return self._viewers.answer()

    async def events(self, call: Call) -> Response:
        return json_response(list(self._history.events))

    async def overview(self, call: Call) -> Response:
        """This gateway in a few words, for the dashboards of the others."""
        seen, window, standing = self._seen, self._history.window, self._history.standing
        if seen is None or window is None:
            raise Refusal(503, "Nothing was observed yet.")
        now = point(window)
        nodes = seen.ring.nodes if seen.ring is not None else []
        said = Overview(
            at=seen.at,
            gateway=self._live.name,
            version=VERSION,
            status=standing.status,
            since=standing.since,
            reasons=[reason.text for reason in standing.reasons],
            workers=max(1, len(seen.workers) + len(seen.missing)),
            requests=round(sum(now.requests.values()), 3),
            failing=round(sum(now.errors.get(kind, 0) for kind in FAILING), 3),
            latency=now.latency,
            out=[node.name for node in nodes if node.state != "live"],
            generation=None if seen.ring is None else seen.ring.generation,
            primary=None if seen.mysql is None else seen.mysql.primary,
        )
        return json_response(said)

    async def _keep_observing(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            await self._try(self._observe)
            # Without a second look there are no rates yet.
            soon = len(self._viewers) or self._history.window is None
            pause = WATCHED_SECONDS if soon else STEP
            self._wanted.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(began + pause):
                    if len(self._viewers):
                        await asyncio.sleep(pause)
                    else:
                        await self._wanted.wait()

    async def _observe(self) -> None:
        self._seen = seen = await self._source.observe()
        self._history.add(seen)
        self._with_ring = seen if seen.ring is not None else self._with_ring
        self._with_mysql = seen if seen.mysql is not None else self._with_mysql
        if self._live.config.admin.peers or "gateways" in self._answers:
            self._set_answer("gateways", self._source.peers.known)
        self._viewers.wake()

    async def _keep_asking(self) -> None:
        loop = asyncio.get_running_loop()
        due = 0.0
        while True:
            await asyncio.sleep(0.5)
            if not len(self._viewers):
                continue
            # The circle is drawn anew as soon as a node comes or goes.
            circle = _circle(self._seen)
            if circle != self._circle:
                self._circle = circle
                await self._try(self._ask, "outline", self._source.outline)
            if loop.time() >= due:
                due = loop.time() + ASK_SECONDS
                await self._try(self._ask, "partitions", self._source.partitions)

    async def _ask(self, name: str, question: Callable[[], Awaitable[Any]]) -> None:
        self._set_answer(name, await question())
        self._asked[name] = time.time()

    def _set_answer(self, name: str, answer: Any) -> None:
        if name not in self._answers or self._answers[name][1] != answer:
            self._versions += 1
            self._answers[name] = self._versions, answer
            self._viewers.wake()

    async def _try(self, work: Callable[..., Awaitable[None]], *args: Any) -> None:
        """The page goes on when what it looks at fails."""
        try:
            await work(*args)
        except Refusal:
            pass  # nothing answers right now; the status says so
        except Exception:
            _log.exception("dashboard failed", at=getattr(work, "__name__", ""))

    def _unseen(self, viewer: Viewer) -> list[bytes]:
        if self._seen is None:
            return []
        sent, chunks = viewer.sent, []
        sent["points"], points = self._history.points_after(sent.get("points", 0.0))
        if points:
            chunks.append(event("points", points))
        if sent.get("events") != self._history.changed:
            sent["events"] = self._history.changed
            chunks.append(event("events", list(self._history.events)))
        for name, (number, answer) in self._answers.items():
            if sent.get(name) != number:
                sent[name] = number
                chunks.append(event(name, answer))
        if sent.get("state") != self._seen.at:
            sent["state"] = self._seen.at
            chunks.append(event("state", self._state(self._seen)))
        return chunks

    def _state(self, seen: Snapshot) -> dict[str, object]:
        window = self._history.window
        config = self._live.config
        ring, mysql = self._with_ring, self._with_mysql
        return {
            "at": seen.at,
            "gateway": self._live.name,
            "version": VERSION,
            "mode": config.mode,
            "keep": KEEP,
            "started": self._started,
            "objective": plain(config.objective),
            **structs.asdict(self._history.standing),
            "ring": None if ring is None else _ring(ring, window),
            "mysql": None if mysql is None else mysql.mysql,
            # When each part was last known.
            "known": {
                "ring": None if ring is None else ring.at,
                "mysql": None if mysql is None else mysql.at,
                **self._asked,
            },
            "filter_limit": config.partitions.filter_bytes,
            "deadline": config.mysql.deadline / 1000,
            "retention": config.partitions.retention_days,
            "drop_after": config.partitions.drop_after,
            "now": totals(window) if window is not None else None,
            "workers": _workers(seen, window),
        }


def _workers(seen: Snapshot, window: Window | None) -> list[dict[str, object]]:
    """Each worker; a process without workers is shown as one."""
    if window is None:
        return []
    if not seen.workers and not seen.missing:
        return [{"worker": 1, "status": seen.status, **worker_numbers(window, "")}]
    statuses = {**dict.fromkeys(seen.missing, "missing"), **seen.workers}
    return [
        {"worker": number, "status": status, **worker_numbers(window, str(number))}
        for number, status in sorted(statuses.items())
    ]


def _ring(seen: Snapshot, window: Window | None) -> dict[str, object]:
    """The ring with what only the dashboard shows of each node."""
    assert seen.ring is not None
    several = bool(seen.workers or seen.missing)
    nodes = []
    for node in seen.ring.nodes:
        shown = structs.asdict(node)
        if several:
            shown["out_in"] = seen.out_in.get(node.name, [])
        if window is not None:
            shown["numbers"] = node_numbers(window, node.name)
        nodes.append(shown)
    return {"generation": seen.ring.generation, "nodes": nodes}


def _circle(seen: Snapshot | None) -> object:
    """What the ring's circle depends on."""
    if seen is None or seen.ring is None:
        return None
    nodes = tuple((n.name, n.share, n.state) for n in seen.ring.nodes)
    return seen.ring.generation, nodes
