"""Long work beside the requests: a step, then a pause."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator
from importlib import import_module
from types import ModuleType
from typing import TypeVar

SHARE = 0.1
"""The most of this process's time that such work takes, 0 to 1."""

_T = TypeVar("_T")


async def unhurried(steps: Generator[None, None, _T]) -> _T:
    """Run a generator to its end, and return what it returns. It takes `SHARE` of the time."""
    while True:
        began = time.perf_counter()
        try:
            next(steps)
        except StopIteration as end:
            result: _T = end.value
            return result
        await asyncio.sleep((time.perf_counter() - began) * (1 / SHARE - 1))


async def with_numpy() -> ModuleType:
    """Import the module `build` at its first use: numpy takes a tenth of a second, and 30 MB."""
    return await asyncio.to_thread(import_module, "sharding.filters.build")
