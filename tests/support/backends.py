"""A gateway's backend in the test's own process, on real servers."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from tapedeck.config.load import parse
from tapedeck.sharding.backend import Backend


@contextlib.asynccontextmanager
async def opened(document: dict[str, Any]) -> AsyncIterator[Backend]:
    """One that knows the calendar already; it prunes nothing."""
    backend = await Backend.open(parse(document), prune=False)
    try:
        await backend.days.ready()
        yield backend
    finally:
        await backend.close()
