"""Checks every MySQL host at intervals, each in its own task.

A frozen host does not answer for `connect_timeout`. If the other hosts' checks waited for it, a
failover would take that much longer. So each host is checked by itself, and after each check the
primary is chosen from the newest results of all hosts.

Checks use a connection of their own, which stays open. So troubles of this machine (no descriptor,
no DNS) do not look like the host's, and a frozen host does not count an interrupted handshake for
each check, until it blocks this machine (error 1129).
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from config.model import HostPort, MySQL
from failover.dns import NAMES
from failover.loop_lag import LoopLag
from failover.mysql.connection import HostStatus, Session
from failover.mysql.connects import Connects
from failover.mysql.errors import DENIED, Fault, MySQLError
from failover.mysql.fencing import View
from failover.tasks import stop

if TYPE_CHECKING:
    from failover.mysql.primary import Primary

log = structlog.get_logger("tapedeck.primary")

CHECK_EVERY = 0.5
"""Seconds between checks of a host; also the longest time that a replaced primary is used."""
CHECK_AGAIN = 0.05
"""Seconds between checks while there is no primary, or after a statement failed."""
CHECK_QUIET = 0.25
"""Seconds between checks while the primary acknowledges no commit. A group's primary may be cut off
from the other members, which elect another a second after it notices: it must not be read then."""
KEEP = 3.0
"""Seconds after which a check makes a new connection if it can: behind one address (a proxy, a
moved one) another server may accept new connections."""
SILENT = 0.5
"""Seconds without an answer after which another host's claim wins over a host's earlier one."""


class Monitor:
    """Checks the hosts until it is closed. While this process is starved (`loop_lag`), a host that
    does not answer in time is not silent."""

    def __init__(self, config: MySQL, primary: Primary, loop_lag: LoopLag) -> None:
        self._config = config
        self._primary = primary
        self._loop_lag = loop_lag
        self._choosing = asyncio.Lock()
        self._views: dict[str, View] = {}
        self._looking_since: dict[str, float] = {}
        self._kept: dict[str, tuple[Session, float]] = {}
        self._connects = {str(host): Connects(host) for host in config.hosts}
        self._soon = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def configure(self, config: MySQL) -> None:
        self._config = config

    def start(self) -> None:
        self._tasks = [
            asyncio.create_task(self._check_for_ever(host), name=f"mysql-monitor-{name}")
            for name, host in {str(host): host for host in self._config.hosts}.items()
        ]

    def check_soon(self) -> None:
        """Check all hosts soon: a statement failed."""
        self._soon.set()

    def discard_status(self, address: str) -> None:
        """Forget a host's status: it refused a statement as read-only."""
        self._disconnect(address)
        if address in self._views:
            self._views[address] = View(address, error="a statement found it read-only")

    def update(self, address: str, status: HostStatus) -> None:
        """Remember a status of a host that is newer than its last check, so that the next decision,
        after a check of another host, uses it."""
        self._views[address] = replace(self._views[address], status=status)

    async def close(self) -> None:
        await stop(*self._tasks)
        for address in list(self._kept):
            self._disconnect(address)
        for connects in self._connects.values():
            await connects.close()

    def views(self) -> list[View]:
        """The last view of each host, in the order of the configuration."""
        never = "not looked at yet"
        return [
            self._views.get(str(host), View(str(host), error=never)) for host in self._config.hosts
        ]

    async def _check_for_ever(self, host: HostPort) -> None:
        while True:
            soon = self._soon
            try:
                await self._check(host)
            except Exception:
                log.exception("mysql host check failed", host=str(host))
            pause = CHECK_QUIET if self._primary.quiet else CHECK_EVERY
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause if self._primary.adopted else CHECK_AGAIN):
                    await soon.wait()
            if soon.is_set():
                if self._soon is soon:
                    self._soon = asyncio.Event()
                await asyncio.sleep(CHECK_AGAIN)

    async def _check(self, host: HostPort) -> None:
        name = str(host)
        self._looking_since[name] = asyncio.get_running_loop().time()
        try:
            view = await self._view(host)
            known = self._views.get(name)
            if (view.busy or view.ours) and known is not None:
                # It may still be the primary: refusing a connection is no sign that it was
                # replaced.
                before = known.status or known.before
                view = replace(view, before=before, redundancy=known.redundancy)
            self._views[name] = view
        finally:
            del self._looking_since[name]
        if len(self._views) < len({str(host) for host in self._config.hosts}):
            return  # a host that was never checked may be the true primary
        async with self._choosing:
            await self._primary.choose(self._now(name))

    def _now(self, looked_at: str) -> list[View]:
        """The views, the newest one first. If another host claims to be the primary, earlier views
        of hosts that are silent by now are left out."""
        now = asyncio.get_running_loop().time()
        silent = {n for n, since in self._looking_since.items() if now - since > SILENT}
        claimed = any(
            view.status is not None and not view.status.read_only
            for name, view in self._views.items()
            if name not in silent
        )
        ordered = sorted(self._views.items(), key=lambda item: item[0] != looked_at)
        return [
            View(name, error="no answer") if claimed and name in silent else view
            for name, view in ordered
        ]

    async def _view(self, host: HostPort) -> View:
        name = str(host)
        try:
            async with asyncio.timeout(self._config.connect_timeout / 1000):
                kept = self._kept.get(name)
                session = await self._session(host)
                try:
                    status = await session.read_status()
                except MySQLError as error:
                    if kept is None or session is not kept[0] or error.fault is not Fault.LOST:
                        raise
                    # The connection was closed: only a new one tells whether the host is well.
                    self._disconnect(name)
                    session = await self._session(host)
                    status = await session.read_status()
                redundancy = None
                if not status.read_only:
                    await self._primary.ask_more(session, status)
                    redundancy = await status.engine.redundancy(session, len(self._config.hosts))
                return View(name, status, redundancy=redundancy)
        except TimeoutError:
            self._disconnect(name)
            starved = self._loop_lag.starved
            return View(name, error="no answer in time", silent=not starved, ours=starved)
        except MySQLError as error:
            self._disconnect(name)
            busy, ours = error.fault is Fault.BUSY, error.fault is Fault.OURS
            if busy:
                self._primary.refused_check(name, error)
            elif error.fault is Fault.LOST and not error.by_server and self._loop_lag.starved:
                ours = "no answer" in error.reason
            denied = error.code in DENIED
            return View(name, error=str(error), busy=busy, ours=ours, denied=denied)

    async def _session(self, host: HostPort) -> Session:
        """The connection for checks of a host: the open one, or a new one.

        Raises:
            MySQLError: none is open, and none can be made.
        """
        name = str(host)
        loop = asyncio.get_running_loop()
        kept, since = self._kept.get(name, (None, 0.0))
        if kept is not None and (kept.broken or not kept.address):
            self._disconnect(name)
            kept = None
        if kept is not None and loop.time() - since < KEEP and await _leads_to(host, kept.address):
            return kept
        try:
            session = await self._connects[name].open(self._config)
        except MySQLError as error:
            if kept is not None and error.fault in (Fault.OURS, Fault.BUSY):
                if error.fault is Fault.BUSY:
                    self._primary.refused_check(name, error)
                return kept
            raise
        self._disconnect(name)
        self._kept[name] = session, loop.time()
        return session

    def _disconnect(self, address: str) -> None:
        session, _ = self._kept.pop(address, (None, 0.0))
        if session is not None:
            session.close()


async def _leads_to(host: HostPort, address: str) -> bool:
    """Whether a host's name still has an address; True if the look-up fails."""
    try:
        return address in await NAMES.look_up(host.host)
    except OSError:
        return True
