"""The admin port of a process, and its triggers of a reload: POST /reload, SIGHUP, the file."""

from __future__ import annotations

import asyncio
import signal
import socket

from failover import tasks
from gateway.admin.routes import AdminApi
from gateway.admin_answers import AdminAnswers
from gateway.dashboard.page import Dashboard
from gateway.factory import admin_application
from gateway.http.listening import Listening
from gateway.reload.reload import Reload, WorkerReload
from gateway.reload.runtime_config import RuntimeConfig

AGAIN_SECONDS = 1.0
"""Seconds until the next try of a reload, while a worker does not answer."""


class AdminPort:
    """The admin port. Create it inside the running loop.

    Args:
        reload: with a WorkerReload only the supervisor uses this port: it has no page, and signals
            and files are ignored.
        token: the supervisor's, as of AdminApi.
    """

    def __init__(
        self,
        answers: AdminAnswers,
        reload: Reload | WorkerReload,
        live: RuntimeConfig,
        sock: socket.socket,
        token: str | None = None,
    ) -> None:
        self._dashboard: Dashboard | None = None
        self._reload = reload
        self._tasks: list[asyncio.Task[None]] = []
        self._hung_up = asyncio.Event()
        if isinstance(reload, Reload):
            self._dashboard = Dashboard(answers, live)
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._hung_up.set)
            # A starting gateway has it blocked (`cli/__init__.py`).
            signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGHUP,))
        api = AdminApi(answers, reload, live, self._dashboard, token)
        self._listening = Listening(admin_application(live, api), sock, lambda: live.config.admin)
        live.followers.append(lambda _: self._listening.renew())

    @property
    def address(self) -> str:
        return self._listening.address

    async def start(self) -> None:
        """Begin to answer requests, and to watch the file."""
        await self._listening.start()
        if self._dashboard is not None and isinstance(self._reload, Reload):
            self._dashboard.start()
            self._tasks = [
                asyncio.create_task(self._reload.watch()),
                asyncio.create_task(self._reload_when_hung_up(self._reload)),
            ]

    async def stop(self) -> None:
        await tasks.stop(*self._tasks)
        if self._dashboard is not None:
            await self._dashboard.close()
        await self._listening.stop(1.0)

    async def _reload_when_hung_up(self, reload: Reload) -> None:
        """Reload after each SIGHUP; after several during a reload once more.

        The sender gets no answer, so the reload is tried until it is made or refused.
        """
        while True:
            await self._hung_up.wait()
            self._hung_up.clear()
            if not await reload.reload_logged():
                await asyncio.sleep(AGAIN_SECONDS)
                self._hung_up.set()
