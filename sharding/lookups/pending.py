"""What waits for a lookup node: requests, for a short time, and hints written in the background."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Generic, TypeVar

from sharding import metrics

T = TypeVar("T")


class Patience(Generic[T]):
    """Sets a default result on futures that have none in time.

    One timer for all: an asyncio.timeout for each costs more time than most answers take.

    Args:
        seconds: that each future may wait.
        answer: the default result.
    """

    def __init__(self, seconds: float, answer: T) -> None:
        self.seconds = seconds
        self._answer = answer
        self._waiting: deque[tuple[float, asyncio.Future[T]]] = deque()
        self._timed = False

    def watch(self, future: asyncio.Future[T]) -> None:
        """Give a future the default result, unless it has one within `seconds` from now."""
        loop = asyncio.get_running_loop()
        due = loop.time() + self.seconds
        self._waiting.append((due, future))
        if not self._timed:
            self._timed = True
            loop.call_at(due, self._look)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        waiting = self._waiting
        while waiting and (waiting[0][0] <= now or waiting[0][1].done()):
            _, future = waiting.popleft()
            if not future.done():
                future.set_result(self._answer)
        self._timed = bool(waiting)
        if waiting:
            loop.call_at(waiting[0][0], self._look)


class Writes:
    """Counts the hints that are being written; it is the waiter of each of them."""

    MOST = 10_000
    """Hints under way at once; further ones are dropped."""

    def __init__(self) -> None:
        self._pending = 0
        self._none = asyncio.Event()
        self._none.set()

    def begin(self) -> bool:
        if self._pending >= self.MOST:
            self.drop()
            return False
        self._pending += 1
        self._none.clear()
        return True

    def drop(self) -> None:
        metrics.HINT_WRITES.counts["dropped"] += 1

    def done(self) -> bool:
        """Never: no caller takes a hint back."""
        return False

    def set_result(self, written: bool, /) -> None:
        if written:
            metrics.HINT_WRITES.counts["written"] += 1
        else:
            self.drop()
        self._end()

    def set_exception(self, exception: Exception, /) -> None:
        self.drop()
        self._end()

    def _end(self) -> None:
        self._pending -= 1
        if not self._pending:
            self._none.set()

    async def drain(self) -> None:
        await self._none.wait()
