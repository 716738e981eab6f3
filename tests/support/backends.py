"""A gateway's backend in the test's own process, on real servers."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from config.load import parse
from sharding.backend import Backend


@contextlib.asynccontextmanager
async def opened(
    document: dict[str, Any],
    *,
    complete: bool = False,
    wall: Callable[[], float] = time.time,
) -> AsyncIterator[Backend]:
    """Open a backend; it knows MySQL's day, has today's partition, and drops no partition.

    Args:
        document: the configuration.
        complete: whether to wait until tomorrow's partition exists too.
        wall: the clock of the backend's machine, seconds since 1970.
    """
    backend = await Backend.open(parse(document), prune=False, wall=wall)
    try:
        await (backend.days.complete() if complete else backend.days.ready())
        yield backend
    finally:
        await backend.close()
