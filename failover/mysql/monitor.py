"""Looking at every MySQL host, each in its own time.

A frozen host answers nothing for `connect_timeout`; the others must not wait for it, or a failover
would take that much longer. So each host has its own look after look, and whatever one of them
shows is judged at once together with what the others showed last.

A look is a question on a connection that is kept for looks, so that troubles of this machine's (no
descriptor, no DNS) do not look like the host's, and so that a frozen host does not count a broken
handshake for each look, until it blocks this machine (error 1129).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import replace

import structlog

from config.model import HostPort, MySQL
from failover.dns import NAMES
from failover.mysql.connection import Hello, Session
from failover.mysql.connects import Connects
from failover.mysql.errors import DENIED, Fault, MySQLError
from failover.mysql.fencing import View
from failover.presence import Presence
from failover.tasks import stop

log = structlog.get_logger("tapedeck.primary")

LOOK_EVERY = 1.0
"""Seconds between looks at a host; also the longest that a replaced primary is believed."""
LOOK_AGAIN = 0.05
"""Seconds between looks while there is no primary, or after a statement met an error."""
KEEP = 3.0
"""Seconds after which a look makes a new connection where it can: behind one address (a proxy, a
moved one) another server may take new connections."""
SILENT = 0.5
"""Seconds without an answer after which what a host showed before yields to another's claim."""


class Watch:
    """Looks at the hosts until it is closed.

    Args:
        config: the hosts, and how long one look may take.
        judge: called with the views of all hosts whenever one of them was looked at, never twice
            at a time; the first of them is the one just looked at.
        calm: whether there is a primary, so that a look a second is enough.
        ask: what else to ask a writable host, within the same look.
        met: called with a host and an error that says nothing against it (it takes no more
            connections).
        presence: while this process is starved, the silence of a host says nothing of it.
    """

    def __init__(
        self,
        config: MySQL,
        judge: Callable[[list[View]], Awaitable[None]],
        calm: Callable[[], bool],
        ask: Callable[[Session, Hello], Awaitable[None]],
        met: Callable[[str, MySQLError], None],
        presence: Presence,
    ) -> None:
        self._met = met
        self._presence = presence
        self._config = config
        self._judge = judge
        self._calm = calm
        self._ask = ask
        self._judging = asyncio.Lock()
        self._views: dict[str, View] = {}
        self._looking_since: dict[str, float] = {}
        self._kept: dict[str, tuple[Session, float]] = {}
        self._connects = {str(host): Connects(host) for host in config.hosts}
        self._kick = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def configure(self, config: MySQL) -> None:
        """Other limits hold from the next look on."""
        self._config = config

    def start(self) -> None:
        """Begin."""
        self._tasks = [
            asyncio.create_task(self._follow(host), name=f"mysql-watch-{name}")
            for name, host in {str(host): host for host in self._config.hosts}.items()
        ]

    def kick(self) -> None:
        """Look again soon: somebody met an error."""
        self._kick.set()

    def disbelieve(self, address: str) -> None:
        """Forget what a host said of itself: a statement that it refused says otherwise."""
        self._part(address)
        if address in self._views:
            self._views[address] = View(address, error="a statement found it read-only")

    def learn(self, address: str, hello: Hello) -> None:
        """Remember a newer greeting of a host than its last look showed: what is judged next, a
        look at another host, must not take this one for what it was."""
        self._views[address] = replace(self._views[address], hello=hello)

    async def close(self) -> None:
        """End."""
        await stop(*self._tasks)
        for address in list(self._kept):
            self._part(address)
        for connects in self._connects.values():
            await connects.close()

    def views(self) -> list[View]:
        """What each host showed last, in the order of the configuration."""
        never = "not looked at yet"
        return [
            self._views.get(str(host), View(str(host), error=never)) for host in self._config.hosts
        ]

    async def _follow(self, host: HostPort) -> None:
        while True:
            kick = self._kick
            try:
                await self._look(host)
            except Exception:
                log.exception("mysql host check failed", host=str(host))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY if self._calm() else LOOK_AGAIN):
                    await kick.wait()
            if kick.is_set():
                if self._kick is kick:
                    self._kick = asyncio.Event()
                await asyncio.sleep(LOOK_AGAIN)

    async def _look(self, host: HostPort) -> None:
        name = str(host)
        self._looking_since[name] = asyncio.get_running_loop().time()
        try:
            view = await self._view(host)
            known = self._views.get(name)
            if (view.busy or view.ours) and known is not None:
                # It is what it was: that it turns us away, or that we cannot ask it, is no sign
                # that it lost its place.
                view = replace(view, before=known.hello or known.before)
            self._views[name] = view
        finally:
            del self._looking_since[name]
        if len(self._views) < len({str(host) for host in self._config.hosts}):
            return  # one that was never looked at may be the true primary
        async with self._judging:
            await self._judge(self._now(name))

    def _now(self, looked_at: str) -> list[View]:
        """The views, the one just made first; without those that have fallen silent since, as far
        as somebody else claims their place."""
        now = asyncio.get_running_loop().time()
        silent = {n for n, since in self._looking_since.items() if now - since > SILENT}
        claimed = any(
            view.hello is not None and not view.hello.read_only
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
                    hello = await session.greet()
                except MySQLError as error:
                    if kept is None or session is not kept[0] or error.fault is not Fault.LOST:
                        raise
                    # Somebody ended that connection: whether the host is well says another.
                    self._part(name)
                    session = await self._session(host)
                    hello = await session.greet()
                redundancy = None
                if not hello.read_only:
                    await self._ask(session, hello)
                    redundancy = await hello.engine.redundancy(session, len(self._config.hosts))
                return View(name, hello, redundancy=redundancy)
        except TimeoutError:
            self._part(name)
            starved = self._presence.starved
            return View(name, error="no answer in time", silent=not starved, ours=starved)
        except MySQLError as error:
            self._part(name)
            busy, ours = error.fault is Fault.BUSY, error.fault is Fault.OURS
            if busy:
                self._met(name, error)
            elif error.fault is Fault.LOST and not error.by_server and self._presence.starved:
                ours = "no answer" in error.reason
            denied = error.code in DENIED
            return View(name, error=str(error), busy=busy, ours=ours, denied=denied)

    async def _session(self, host: HostPort) -> Session:
        """The connection for looks at a host: the one that is kept, or a new one.

        Raises:
            MySQLError: there is none, and none can be made.
        """
        name = str(host)
        loop = asyncio.get_running_loop()
        kept, since = self._kept.get(name, (None, 0.0))
        if kept is not None and (kept.broken or not kept.address):
            self._part(name)
            kept = None
        if kept is not None and loop.time() - since < KEEP and await _leads_to(host, kept.address):
            return kept
        try:
            session = await self._connects[name].open(self._config)
        except MySQLError as error:
            if kept is not None and error.fault in (Fault.OURS, Fault.BUSY):
                if error.fault is Fault.BUSY:
                    self._met(name, error)
                return kept
            raise
        self._part(name)
        self._kept[name] = session, loop.time()
        return session

    def _part(self, address: str) -> None:
        """Close the connection for looks at a host."""
        session, _ = self._kept.pop(address, (None, 0.0))
        if session is not None:
            session.close()


async def _leads_to(host: HostPort, address: str) -> bool:
    """Whether a host's name still leads to an address; also where that cannot be told."""
    try:
        return address in await NAMES.look_up(host.host)
    except OSError:
        return True
