"""How tests wait: for a condition, and never for a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def until(holds: Callable[[], object], seconds: float = 30, what: str = "") -> None:
    """Wait for a condition, which `what` describes.

    Raises:
        AssertionError: the condition does not hold within `seconds`.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while not holds():
        assert loop.time() < end, f"not within {seconds:g} s: {what}"
        await asyncio.sleep(0.01)
