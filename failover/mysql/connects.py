"""Connects to a host that may be frozen: an unanswered handshake is not interrupted.

The kernel of a frozen server accepts connections. When the server thaws, it counts each connection
that is closed by then as an error of the client's machine. After `max_connect_errors` in a row
(100) it blocks that machine until an operator unblocks it (error 1129, MySQL manual, "Host
'host_name' is blocked"). So a caller that waits no longer leaves the handshake to the next caller.
More handshakes are begun beside it, ever more rarely, since the address may have another server by
now.
"""

from __future__ import annotations

import asyncio

from config.model import HostPort, MySQL
from failover.dns import NAMES, Addresses
from failover.mysql.connection import Session
from failover.tasks import stop

HANDSHAKE_SECONDS = 120.0
"""Most seconds of a handshake."""
ANOTHER = 2.0
"""Seconds until another handshake is begun beside an unanswered one; doubled each time."""
RAREST = 30.0
"""Most seconds until another handshake is begun."""


class Connects:
    """The connects to one host that are under way."""

    def __init__(self, host: HostPort) -> None:
        self._host = host
        self._under_way: list[asyncio.Task[Session]] = []
        self._left: set[asyncio.Task[Session]] = set()
        self._begun = 0.0
        self._addresses: Addresses = ()

    async def open(self, config: MySQL) -> Session:
        """Return the first connection that succeeds; for one caller at a time.

        Cancelling the caller does not cancel the connects: the next call continues with them.
        """
        addresses = await self._look_up()
        now = asyncio.get_running_loop().time()
        gap = min(RAREST, ANOTHER * 2 ** (len(self._under_way) - 1))
        moved = set(addresses) != set(self._addresses)
        if not self._under_way or moved or now - self._begun >= gap:
            self._begun, self._addresses = now, addresses
            self._under_way.append(
                asyncio.create_task(
                    Session.open(self._host, config, HANDSHAKE_SECONDS),
                    name=f"mysql-connect-{self._host}",
                )
            )
        done, _ = await asyncio.wait(self._under_way, return_when=asyncio.FIRST_COMPLETED)
        first = next(task for task in reversed(self._under_way) if task in done)
        self._under_way.remove(first)
        # The host has answered: the other connects are not needed.
        self._leave()
        return first.result()

    async def close(self) -> None:
        self._leave()
        await stop(*self._left)

    async def _look_up(self) -> Addresses:
        try:
            return await NAMES.look_up(self._host.host)
        except OSError:
            return ()  # the connect will raise it

    def _leave(self) -> None:
        for task in self._under_way:
            self._left.add(task)
            task.add_done_callback(self._over)
        self._under_way.clear()

    def _over(self, task: asyncio.Task[Session]) -> None:
        self._left.discard(task)
        if not task.cancelled() and task.exception() is None:
            task.result().close()
