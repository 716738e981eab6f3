"""Background tasks: stopping them, and noticing that they keep failing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

log = structlog.get_logger("tapedeck.tasks")
AGAIN = 0.2
"""Seconds until a task that still runs is cancelled again."""


async def stop(*tasks: asyncio.Task[Any] | None) -> None:
    """Cancel tasks, and return once they have ended, with or without an error.

    Again and again: a cancellation that comes at the moment at which `asyncio.wait_for` has its
    result is swallowed there before Python 3.12 (bpo-37658).
    """
    while under_way := [task for task in tasks if task is not None and not task.done()]:
        for task in under_way:
            task.cancel()
        await asyncio.wait(under_way, timeout=AGAIN)


class Rounds:
    """The runs of a repeated background task, and whether they keep failing.

    Args:
        patience: seconds for which it may fail before `trouble` reports it.
        expected: errors that need no traceback.
    """

    def __init__(self, name: str, patience: float, *expected: type[Exception]) -> None:
        self._name = name
        self._patience = patience
        self._expected = expected
        self._failing: tuple[float, str] | None = None

    async def run(self, work: Callable[[], Awaitable[Any]]) -> None:
        """Run the task once; log its error, if it raises one."""
        now = asyncio.get_running_loop().time()
        try:
            await work()
        except Exception as error:
            if isinstance(error, self._expected):
                log.warning("task postponed", task=self._name, reason=str(error))
            else:
                log.exception("task failed", task=self._name)
            since = self._failing[0] if self._failing is not None else now
            self._failing = since, str(error) or type(error).__name__
        else:
            self._failing = None

    def trouble(self, now: float) -> str:
        """A sentence if the task has failed for too long; empty otherwise. (The loop's clock.)"""
        if self._failing is None or now - self._failing[0] < self._patience:
            return ""
        return f"the background work {self._name!r} fails again and again: {self._failing[1]}"
