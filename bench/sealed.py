"""Seals seeded days: with an older filter a gateway would not find rows written past it."""

from __future__ import annotations

import asyncio
import time
import urllib.request
from collections.abc import Callable, Iterable
from datetime import date
from typing import Any

from config.load import parse
from sharding.backend import Backend
from stack.process import ServerFailed

_SECONDS = 60.0
"""Within so many seconds a gateway must have all filters."""
_KEYS_A_SECOND = 100_000_000
"""No limit: nothing else is measured meanwhile."""


def seal(
    document: dict[str, Any],
    days: Iterable[date],
    *,
    again: bool = True,
    say: Callable[[date], None] = lambda _: None,
) -> None:
    """Seal days.

    Args:
        document: a configuration of the gateway.
        again: also those that are sealed.
        say: is told each day that was sealed.

    Raises:
        ServerFailed: one of them could not be sealed.
    """
    asyncio.run(_seal(document, list(days), again, say))


async def _seal(
    document: dict[str, Any], days: list[date], again: bool, say: Callable[[date], None]
) -> None:
    own = {"seal_rate": _KEYS_A_SECOND, "filter_bytes": 0}  # this process uses no filters itself
    partitions = {**document.get("partitions", {}), **own}
    sections = parse({**document, "partitions": partitions})
    async with await Backend.open(sections, prune=False) as backend:
        await backend.days.complete()
        for day in days:
            outcome = await backend.sealer.seal(day, again=again)
            for sealed in outcome.sealed:
                say(sealed.day)
            if outcome.failed or outcome.elsewhere or (again and not outcome.sealed):
                raise ServerFailed(f"{day} could not be sealed: {outcome}")


def take_filters(document: dict[str, Any], days: int) -> None:
    """Return once a running gateway uses the filters of so many days, as they are now.

    Raises:
        ServerFailed: it does not within a minute.
    """
    reload(document)
    deadline = time.monotonic() + _SECONDS
    while (found := filter_days(document)) != days:
        if time.monotonic() > deadline:
            raise ServerFailed(f"the gateway has the filters of {found:g} days, not of {days}")
        time.sleep(0.05)


def reload(document: dict[str, Any]) -> None:
    """Make a gateway read its configuration again and list the partitions."""
    asked = urllib.request.Request(f"{_admin(document)}/reload", method="POST")
    urllib.request.urlopen(asked, timeout=_SECONDS).close()


def filter_days(document: dict[str, Any]) -> float:
    """How many days' filters a gateway has."""
    with urllib.request.urlopen(f"{_admin(document)}/metrics", timeout=10) as answer:
        for line in answer.read().decode().splitlines():
            if line.startswith("tapedeck_filter_days "):
                return float(line.split()[1])
    return 0.0


def _admin(document: dict[str, Any]) -> str:
    return f"http://127.0.0.1:{document['admin']['port']}"
