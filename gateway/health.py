"""A worker's health: facts gathered each second, and the verdict by `sharding.health_verdict`.

`Backend.facts` returns the facts of MySQL and the lookup nodes. This module adds the facts of
requests (against the objective), of this process, and of other gateways, from their heartbeats.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import os
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import structlog

from config import tls
from config.model import Sections
from config.plain import plain
from failover.blocking_calls import in_thread
from failover.loop_lag import TICK
from failover.mysql.heartbeat import Heartbeat, Said
from failover.tasks import stop
from gateway import metrics, telemetry
from gateway.api.endpoints import CLASSES
from gateway.reload.runtime_config import RuntimeConfig
from gateway.telemetry import Served
from sharding.backend import Backend
from sharding.health_verdict import (
    ORDER,
    STATUSES,
    DelayedReasons,
    Facts,
    Objective,
    Reason,
    Status,
    Traffic,
    Verdict,
    reasons,
    subject,
    verdict_of,
)

EVERY = 1.0
"""Seconds between two verdicts without a request for one."""
WINDOW = 30.0
"""Seconds of traffic that are compared with the objective."""
FORMER = 20.0
"""Seconds after a reload in which other workers' rows may be older than it: they are written and
read every `heartbeat.TELL_EVERY` seconds, and not in time on a busy machine."""
CERTIFICATES_EVERY = 600.0
"""Seconds between two reads of the certificates."""

_RING = ("mode", "layout", "hash", "hash_tag", "distribution", "servers")
_ALIKE = ("partitions", "player", "states", "objective")
_log = structlog.get_logger()


def hashes(config: Sections) -> dict[str, str]:
    """Short hashes, `config` and `ring`, of what must be the same on all gateways of a database.

    They leave out addresses, limits, and values that only affect cost, and contain no password.
    """
    # A worker gets its configuration as JSON, where 600.0 becomes 600: validate both alike.
    config = Sections.model_validate(plain(config))
    ring = {name: str(getattr(config.lookup, name)) for name in _RING}
    alike: dict[str, Any] = {name: plain(getattr(config, name)) for name in _ALIKE}
    alike["partitions"] = {
        name: alike["partitions"][name] for name in ("prefix", "retention_days", "drop_after")
    }
    if config.mode == "production":
        # All gateways must accept each other's play tokens. (In local mode a process has its own.)
        alike["keys"] = [key.get_secret_value() for key in config.auth.token_keys]
    return {"config": _short({**alike, "ring": ring}), "ring": _short(ring)}


def _short(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def drift(
    own: Mapping[str, str], others: Sequence[Said], former: Sequence[Mapping[str, str]] = ()
) -> list[str]:
    """A sentence for each other gateway whose configuration differs from this one's.

    Args:
        former: hashes that this worker had until a reload not long ago. A row that has them may
            have been written before the same reload.
    """
    found = {
        other.name: "has another configuration"
        if other.ring == own["ring"]
        else "places lookups by another ring"
        for other in others
        if {"config": other.config, "ring": other.ring} not in [own, *former]
    }
    return [f"the gateway {name} {what}: reload both" for name, what in sorted(found.items())]


class Health:
    """One worker's health.

    Args:
        draining: returns why the process takes no listeners; empty while it does.
    """

    def __init__(self, backend: Backend, live: RuntimeConfig, draining: Callable[[], str]) -> None:
        self._backend = backend
        self._live = live
        self._draining = draining
        self._heartbeat = Heartbeat(backend.primary, self._row)
        self._delayed = DelayedReasons()
        self._served: deque[tuple[float, dict[str, Served]]] = deque()
        self._said: tuple[Status, list[str]] | None = None
        self._hashes = hashes(live.config)
        self._former: list[tuple[float, dict[str, str]]] = []
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._live.followers.append(self._configure)
        self._configure(self._live.config)
        # The next tick is still late because of the start.
        asyncio.get_running_loop().call_later(2 * TICK, self._backend.loop_lag.begin)
        self._tasks = [
            asyncio.create_task(self._heartbeat.run(), name="heartbeat"),
            asyncio.create_task(self._keep_judging(), name="health"),
            asyncio.create_task(self._certificates(), name="certificates"),
        ]

    async def close(self) -> None:
        await stop(*self._tasks)

    def verdict(self) -> Verdict:
        loop_time = asyncio.get_running_loop().time()
        if why := self._draining():
            said = self._delayed.take([Reason("draining", why)], loop_time)
            return verdict_of([reason for reason in said if reason.kind == "draining"])
        config = self._live.config.objective
        objective = Objective(config.success / 100, config.latency / 1000)
        found = reasons(self._facts(loop_time), objective)
        verdict = verdict_of(self._delayed.take(found, loop_time))
        self._log_change(verdict)
        return verdict

    def _facts(self, now: float) -> Facts:
        beat = self._heartbeat
        self._former = [(at, had) for at, had in self._former if now - at < FORMER]
        unknown = [f"whether changes commit is not known: {beat.problem}"] if beat.problem else []
        return replace(
            self._backend.facts(),
            traffic=self._traffic(now),
            drift=drift(self._hashes, beat.others, [had for _, had in self._former]),
            others_ahead={f"the gateway {other.name}": other.ahead for other in beat.others},
            unknown=unknown,
        )

    def _traffic(self, now: float) -> list[Traffic]:
        served = telemetry.served()
        if not self._served or now - self._served[-1][0] >= EVERY / 2:
            self._served.append((now, served))
        while len(self._served) > 1 and self._served[1][0] <= now - WINDOW:
            self._served.popleft()
        began, before = self._served[0]
        return [
            Traffic(
                name, now - began, *(new - old for new, old in zip(all_of_it, then, strict=True))
            )
            for name, all_of_it in served.items()
            if (then := before.get(name, Served())) != all_of_it
        ]

    def _log_change(self, verdict: Verdict) -> None:
        before, self._said = self._said, (verdict.status, list(map(subject, verdict.found)))
        if before != self._said:
            level = {"ready": 20, "degraded": 30}.get(verdict.status, 40)
            status, was = verdict.status, before[0] if before else None
            said = {"status": status, "was": was, "reasons": verdict.reasons}
            # The request that found the change has nothing to do with it.
            _log.log(level, "verdict changed", **said, request_id=None)

    def _row(self) -> Said:
        ahead = 0.0 if self._backend.loop_lag.starved else round(self._backend.days.apart, 3)
        return Said(self._live.name, os.getpid(), ahead, **self._hashes)

    def _configure(self, config: Sections) -> None:
        before, self._hashes = self._hashes, hashes(config)
        if before != self._hashes:
            self._former.append((asyncio.get_running_loop().time(), before))
        metrics.CONFIG_HASH.set(int(self._hashes["config"], 16))
        metrics.RING_HASH.set(int(self._hashes["ring"], 16))
        metrics.SUCCESS.set(config.objective.success / 100)
        metrics.LATENCY.set(config.objective.latency / 1000)
        telemetry.set_objective(CLASSES, config.objective.latency / 1000)

    async def _keep_judging(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            verdict = self.verdict()
            metrics.VERDICT.set(STATUSES.index(verdict.status))
            causes = set(verdict.causes)
            for kind in ORDER:
                metrics.AMISS.labels(kind).set(kind in causes)
            commits, primary = self._backend.primary.commits, self._backend.primary
            seen = commits.watched and primary.adopted
            stall = commits.stall(loop.time())
            quiet = commits.quiet(loop.time()) if stall is None else stall.seconds
            metrics.WITHOUT_COMMIT.set(round(quiet, 3) if seen else 0)
            metrics.SKEW.set(self._backend.days.apart)
            metrics.MISSING.set(round(self._backend.loop_lag.missing, 3))
            await asyncio.sleep(EVERY)

    async def _certificates(self) -> None:
        while True:
            found = await in_thread("certificates", partial(tls.expiries, self._live.config))
            for value, ends in found.items():
                metrics.EXPIRY.labels(value).set(ends if math.isfinite(ends) else time.time())
            await asyncio.sleep(CERTIFICATES_EVERY)
