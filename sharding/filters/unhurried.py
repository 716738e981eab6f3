"""Work that takes long, done beside the requests: a step, then a pause."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator
from importlib import import_module
from types import ModuleType
from typing import TypeVar

SHARE = 0.1
"""Of this process's time, so much at most."""

_T = TypeVar("_T")


async def unhurried(steps: Generator[None, None, _T], share: float = SHARE) -> _T:
    """Run a generator to its end, and return what it returns.

    Args:
        share: of the time, how much it may take.
    """
    while True:
        began = time.perf_counter()
        try:
            next(steps)
        except StopIteration as end:
            result: _T = end.value
            return result
        await asyncio.sleep((time.perf_counter() - began) * (1 / share - 1))


async def with_numpy() -> ModuleType:
    """The module `filter_build`, imported by the first that needs it: numpy takes a tenth of a
    second, and 30 MB."""
    return await asyncio.to_thread(import_module, "sharding.filters.build")
