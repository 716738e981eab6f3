"""Drains a process: /readyz tells balancers to send requests elsewhere, and connections end.

There are two ways. A stop (SIGTERM) drains, and then ends the process. An operator's drain
(`tapedeck drain`) still answers clients, as long as they come, and can be cancelled.
"""

from __future__ import annotations

import asyncio

import structlog

from failover import tasks
from gateway.api.admin_bodies import Drained
from gateway.http.listening import Listening

STOPPING = "the process is stopping"
ASKED = "an operator has taken this gateway out; `tapedeck drain --back` brings it back"
QUIET_SECONDS = 5.0
"""Seconds without a request after which a connection is closed, and after which a gateway counts as
empty. Balancers that ask /readyz every second or two send requests elsewhere within it."""
LOOK_SECONDS = 0.5

_log = structlog.get_logger()


class Drain:
    """The drain of one process. `why` is the reason that /readyz gives; empty while it is not
    drained.
    """

    def __init__(self, listening: Listening) -> None:
        self.why = ""
        self._listening = listening
        self._task: asyncio.Task[None] | None = None
        self._accepted = 0
        self._busy_at = 0.0

    def begin(self, why: str) -> None:
        """Begin to drain: /readyz is 503, and every answer closes its connection."""
        if self._task is None:
            self._busy_at = asyncio.get_running_loop().time()
            self._task = asyncio.create_task(self._watch(), name="drain")
        if self.why != STOPPING:
            _log.info("drain started", why=why, in_flight=self._listening.application.in_flight)
            self.why = why
            self._listening.application.draining = True

    async def end(self) -> None:
        """Cancel the drain; a stop of the process continues."""
        if self.why == STOPPING or self._task is None:
            return
        task, self._task, self.why = self._task, None, ""
        self._listening.application.draining = False
        _log.info("drain cancelled")
        await tasks.stop(task)

    def state(self) -> Drained:
        listening = self._listening
        quiet = asyncio.get_running_loop().time() - self._busy_at if self._task else 0.0
        return Drained(
            draining=bool(self.why),
            in_flight=listening.application.in_flight,
            connections=listening.connections,
            empty=quiet >= QUIET_SECONDS,
        )

    async def _watch(self) -> None:
        loop, listening = asyncio.get_running_loop(), self._listening
        while True:
            listening.close_idle(QUIET_SECONDS)
            if listening.connections or listening.accepted != self._accepted:
                self._accepted, self._busy_at = listening.accepted, loop.time()
            await asyncio.sleep(LOOK_SECONDS)
