"""Reloads of a backend in this process, as gateway/reload/reload.py makes them."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any

from config.load import parse
from sharding.backend import Backend
from stack.redis import RedisServer
from tests.support import backends

SECONDS = 20.0


def servers(*nodes: RedisServer, weight: int = 1) -> list[str]:
    """The value of `lookup.servers` for these nodes."""
    return [f"{node.address}:{weight} {node.name}" for node in nodes]


def opened(document: dict[str, Any], **how: Any) -> AbstractAsyncContextManager[Backend]:
    """A backend that is ready; it asks for a hint at every load."""
    return backends.opened(_asking(document), **how)


def reload(backend: Backend, document: dict[str, Any]) -> None:
    """Apply another configuration."""
    new = parse(_asking(document))
    backend.reload(new, backend.plan(new), backend.generation + 1)


def _asking(document: dict[str, Any]) -> dict[str, Any]:
    # Long limits, so that a busy machine loses no hint, unless the test has its own limits.
    lookup = {"hint_deadline": 2000, "timeout": 4000, **document["lookup"]}
    return {**document, "lookup": lookup, "sessions": {"enabled": False}}
