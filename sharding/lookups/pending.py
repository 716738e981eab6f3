"""Hints that are being written in the background."""

from __future__ import annotations

import asyncio

from sharding import metrics


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
