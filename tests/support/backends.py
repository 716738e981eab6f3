"""A gateway's backend in the test's own process, on real servers."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from tapedeck.config.load import parse
from tapedeck.sharding.backend import Backend


@contextlib.asynccontextmanager
async def opened(
    document: dict[str, Any], *, complete: bool = False, move: bool = False
) -> AsyncIterator[Backend]:
    """One that knows the calendar already; it prunes nothing.

    Args:
        document: its configuration.
        complete: whether tomorrow's partition is there too, and nobody is about to make it.
        move: whether it copies entries after a reload.
    """
    backend = await Backend.open(parse(document), prune=False, move=move)
    try:
        await (backend.days.complete() if complete else backend.days.ready())
        yield backend
    finally:
        await backend.close()
