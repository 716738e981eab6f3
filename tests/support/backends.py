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
    """One that knows the calendar already; it prunes nothing.

    Args:
        document: its configuration.
        complete: whether tomorrow's partition exists too, and no gateway is about to create it.
        wall: its machine's clock, seconds since 1970.
    """
    backend = await Backend.open(parse(document), prune=False, wall=wall)
    try:
        await (backend.days.complete() if complete else backend.days.ready())
        yield backend
    finally:
        await backend.close()
