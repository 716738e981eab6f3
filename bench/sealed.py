"""Sealing what was seeded: a gateway would rule out rows that were written past it."""

from __future__ import annotations

import asyncio
import time
import urllib.request
from collections.abc import Iterable
from datetime import date
from typing import Any

from config.load import parse
from sharding.backend import Backend
from stack.process import ServerFailed

_SECONDS = 60.0
"""Until a gateway must have all filters."""
_KEYS_A_SECOND = 100_000_000
"""No limit: nothing else is measured meanwhile."""


def seal(document: dict[str, Any], days: Iterable[date]) -> None:
    """Seal days, whether they are sealed or not.

    Args:
        document: a configuration of the gateway.
    """
    asyncio.run(_seal(document, list(days)))


async def _seal(document: dict[str, Any], days: list[date]) -> None:
    partitions = {**document.get("partitions", {}), "seal_rate": _KEYS_A_SECOND}
    backend = await Backend.open(parse({**document, "partitions": partitions}), prune=False)
    try:
        await backend.days.complete()
        for day in days:
            outcome = await backend.sealer.seal(day, again=True)
            if not outcome.sealed:
                raise ServerFailed(f"{day} could not be sealed: {outcome}")
    finally:
        await backend.close()


def take_filters(document: dict[str, Any], days: int) -> None:
    """Return once a running gateway uses the filters of so many days, as they are now.

    Raises:
        ServerFailed: it does not, after a minute.
    """
    admin = f"http://127.0.0.1:{document['admin']['port']}"
    reload = urllib.request.Request(f"{admin}/reload", method="POST")
    urllib.request.urlopen(reload, timeout=_SECONDS).close()
    deadline = time.monotonic() + _SECONDS
    while _filter_days(admin) < days:
        if time.monotonic() > deadline:
            raise ServerFailed(f"the gateway has the filters of {_filter_days(admin):g} days only")
        time.sleep(0.05)


def _filter_days(admin: str) -> float:
    with urllib.request.urlopen(f"{admin}/metrics", timeout=10) as answer:
        for line in answer.read().decode().splitlines():
            if line.startswith("tapedeck_filter_days "):
                return float(line.split()[1])
    return 0.0
