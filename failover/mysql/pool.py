"""Connections to the host that was adopted as the primary.

A pool belongs to one adoption. When another host is adopted, the whole pool is closed and a new one
is made: a pool that outlives a failover would hand out connections to a host that is read-only by
now (the classic failure in front of Aurora).

The pool has `mysql.connections` places. A place is taken by a session in use, by a closed session
whose statement the server may still run (`failover.mysql.orphaned_statements`), and by a connect
that took too long and continues. Changes never take all places: while commits wait for a lost
standby, reads are still served.
"""

from __future__ import annotations

import asyncio
from asyncio import FIRST_COMPLETED
from collections import deque
from typing import Any

from config.model import HostPort, MySQL
from failover import metrics
from failover.mysql.connection import HostStatus, Session
from failover.mysql.connects import HANDSHAKE_SECONDS
from failover.mysql.errors import Fault, MySQLError
from failover.mysql.orphaned_statements import LeftBehind
from failover.mysql.session_variables import IDLE_SECONDS


class Pool:
    """At most `config.connections` sessions with one primary; the last one given back is used next.

    Args:
        status: the adopted server's; a connect that reaches another server is refused.
        left: the earlier sessions whose statements that server still runs.
    """

    def __init__(self, host: HostPort, status: HostStatus, config: MySQL, left: LeftBehind) -> None:
        self.host = host
        self.status = status
        self._config = config
        self._idle: list[tuple[Session, float]] = []
        self._open: set[Session] = set()
        self._left = left
        self._handshakes: set[asyncio.Task[Session]] = set()
        self._taken = {True: 0, False: 0}  # by changes, by reads
        self._waiting: dict[bool, deque[asyncio.Future[None]]] = {True: deque(), False: deque()}
        self._closing: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def closed(self) -> bool:
        return self._closing.done()

    def configure(self, config: MySQL) -> None:
        """Use other timeouts from the next statement, and the next connect, on."""
        self._config = config
        for session in self._open:
            session.statement_seconds = config.statement_timeout / 1000

    async def acquire(self, change: bool = False) -> Session:
        """Return a session; wait while no place is free.

        Args:
            change: whether it may commit something.

        Raises:
            MySQLError: the host could not be reached, is no longer the primary, or the pool was
                closed meanwhile.
        """
        if self._has_place(change):
            self._taken[change] += 1
        else:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting[change].append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._free_place(change)
                raise
        try:
            now = asyncio.get_running_loop().time()
            while self._idle:
                session, since = self._idle.pop()
                if not session.broken and now - since < IDLE_SECONDS * 0.75:
                    return session
                self.end(session)
            return await self.lend()
        except BaseException:
            self._free_place(change)
            raise

    async def lend(self) -> Session:
        """A new session that takes no place of its own, for long work; end it with `end`.

        After `connect_timeout`, or when the pool is closed, its handshake continues in the
        background: interrupting it would count against this machine (`failover.mysql.connects`).

        Raises:
            MySQLError: as `acquire`.
        """
        self._check_open()
        task = asyncio.create_task(self._connect(), name=f"mysql-connect-{self.host}")
        either: tuple[asyncio.Future[Any], ...] = (task, self._closing)
        done: set[asyncio.Future[Any]] = set()
        seconds = self._config.connect_timeout / 1000
        try:
            done, _ = await asyncio.wait(either, timeout=seconds, return_when=FIRST_COMPLETED)
        finally:
            if task not in done:
                self._handshakes.add(task)
                task.add_done_callback(self._handshake_ended)
        if task not in done:
            self._check_open()
            raise MySQLError(Fault.LOST, 0, "no answer in time")
        return task.result()

    def _handshake_ended(self, task: asyncio.Task[Session]) -> None:
        """A handshake in the background has ended: the next caller gets its session."""
        self._handshakes.discard(task)
        if not task.cancelled() and task.exception() is None:
            self._put_back(task.result())
        self.admit_waiting()

    def end(self, session: Session) -> None:
        """Close a session, such as one that was lent."""
        session.close()
        if session not in self._open:
            return  # it was closed with the pool
        self._open.discard(session)
        self._left.add(session)
        if session.unanswered:
            # What lost its answer may have lost the connections that are idle since before, too.
            self._end_idle(session.asked)
        if not self.closed:  # else the gauge is the next pool's by now
            metrics.MYSQL_CONNECTIONS.set(len(self._open))

    def release(self, session: Session, change: bool = False) -> None:
        """Give a session back, with the `change` of its `acquire`. A broken session, or one of a
        closed pool, is closed."""
        self._put_back(session)
        self._free_place(change)

    def _put_back(self, session: Session) -> None:
        now = asyncio.get_running_loop().time()
        if session.broken or self.closed:
            self.end(session)
        else:
            self._idle.append((session, now))
        # After a burst the oldest sessions are not used again.
        self._end_idle(now - IDLE_SECONDS * 0.75)

    def _end_idle(self, before: float) -> None:
        """Close the sessions that are idle since before a time on the loop's clock."""
        while self._idle and self._idle[0][1] < before:
            self.end(self._idle.pop(0)[0])

    def close(self) -> None:
        """Close every connection; statements and connects under way fail as LOST."""
        if not self.closed:
            self._closing.set_result(None)
        for session in list(self._open):
            self.end(session)
        self._idle.clear()
        metrics.MYSQL_CONNECTIONS.set(0)
        for waiting in self._waiting.values():
            while waiting:
                turn = waiting.popleft()
                if not turn.done():
                    turn.set_exception(MySQLError(Fault.LOST, 0, "the primary changed"))

    def admit_waiting(self) -> None:
        """Give free places to waiting callers."""
        for change, waiting in self._waiting.items():
            while waiting and self._has_place(change):
                turn = waiting.popleft()
                if not turn.done():
                    self._taken[change] += 1
                    turn.set_result(None)

    def _has_place(self, change: bool) -> bool:
        places = self._config.connections - len(self._left) - len(self._handshakes)
        if change and self._taken[True] >= places - max(1, self._config.connections // 4):
            return False
        return sum(self._taken.values()) < places

    async def _connect(self) -> Session:
        session = await Session.open(self.host, self._config, HANDSHAKE_SECONDS)
        self._open.add(session)
        try:
            status = await session.read_status()
            self._check_open()
            if status.read_only or status.identity != self.status.identity:
                raise MySQLError(Fault.READ_ONLY, 0, f"{self.host} is not the primary any more")
            if status.generation < self.status.generation:
                raise MySQLError(Fault.READ_ONLY, 0, f"{self.host} is a replaced primary")
        except BaseException:
            self.end(session)
            raise
        # A reload may have happened while it connected.
        session.statement_seconds = self._config.statement_timeout / 1000
        metrics.MYSQL_CONNECTIONS.set(len(self._open))
        return session

    def _check_open(self) -> None:
        if self.closed:
            raise MySQLError(Fault.LOST, 0, "the primary changed")

    def _free_place(self, change: bool) -> None:
        self._taken[change] -= 1
        self.admit_waiting()
