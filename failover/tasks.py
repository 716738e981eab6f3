"""Background tasks: ending them, and seeing that their work gets done."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

log = structlog.get_logger("tapedeck.tasks")
AGAIN = 0.2
"""Seconds until a task that goes on is cancelled again."""


async def stop(*tasks: asyncio.Task[Any] | None) -> None:
    """Cancel tasks, and return once they have ended, whatever they end with.

    Again and again: a cancellation that comes at the moment at which `asyncio.wait_for` has its
    result is swallowed there before Python 3.12 (bpo-37658).
    """
    while under_way := [task for task in tasks if task is not None and not task.done()]:
        for task in under_way:
            task.cancel()
        await asyncio.wait(under_way, timeout=AGAIN)


class Rounds:
    """Work in the background that is done again and again, and whether it still gets done.

    Args:
        name: of the work, in the log and for people.
        patience: seconds for which it may fail before that is trouble.
        expected: errors that need no traceback.
    """

    def __init__(self, name: str, patience: float, *expected: type[Exception]) -> None:
        self._name = name
        self._patience = patience
        self._expected = expected
        self._failing: tuple[float, str] | None = None

    async def turn(self, work: Callable[[], Awaitable[Any]]) -> None:
        """Do it once. What fails is logged, to be tried again."""
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
        """That it has failed for too long, and why; empty while it has not.

        Args:
            now: the loop's clock.
        """
        if self._failing is None or now - self._failing[0] < self._patience:
            return ""
        return f"the background work {self._name!r} fails again and again: {self._failing[1]}"
