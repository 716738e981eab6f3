"""Ending background tasks."""

from __future__ import annotations

import asyncio
from typing import Any

AGAIN = 0.2
"""Seconds until a task that goes on is cancelled again."""


async def stop(*tasks: asyncio.Task[Any] | None) -> None:
    """Cancel tasks, and return once they have ended, whatever they end with.

    Again and again: a cancellation that comes at the moment at which `asyncio.wait_for` has its
    result is swallowed there before Python 3.12 (bpo-37658), and redis-py sends through it.
    """
    while under_way := [task for task in tasks if task is not None and not task.done()]:
        for task in under_way:
            task.cancel()
        await asyncio.wait(under_way, timeout=AGAIN)
