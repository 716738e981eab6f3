"""Failed requests in the log: the first of a kind at once, then a line a second with a count.

In an outage at full load thousands of requests a second fail for the same reason. A kind is an
event, a route and the type of the error; a line has the reason and the id of one request.
"""

from __future__ import annotations

import asyncio
from typing import Any

import structlog

from gateway import logs

EVERY = 1.0
"""Seconds between two lines of a kind."""
_log = structlog.get_logger()


class _Burst:
    """The failures of one kind since its last line."""

    def __init__(self) -> None:
        self.count = 0
        self.words: dict[str, Any] = {}


class Failures:
    """Counts failures of one application."""

    def __init__(self) -> None:
        self._bursts: dict[tuple[str, str, str], _Burst] = {}

    def note(self, level: int, event: str, route: str, error: Exception, **words: Any) -> None:
        """Log or count a failed request.

        Args:
            level: 30 is a warning; 40 is an error, with a traceback the first time.
            route: the pattern, never the request's own path.
            words: further fields; no secret.
        """
        kind = event, route, type(error).__name__
        burst = self._bursts.get(kind)
        if burst is None:
            trace = error if level >= 40 else None
            _log.log(level, event, route=route, count=1, **words, exc_info=trace)
            self._bursts[kind] = _Burst()
            asyncio.get_running_loop().call_later(EVERY, self._log_burst, level, kind)
            return
        burst.count += 1
        burst.words = {**words, "request_id": logs.REQUEST_ID.get()}

    def _log_burst(self, level: int, kind: tuple[str, str, str]) -> None:
        burst = self._bursts[kind]
        if not burst.count:
            del self._bursts[kind]
            return
        event, route, _ = kind
        _log.log(level, event, route=route, count=burst.count, **burst.words)
        burst.count = 0
        asyncio.get_running_loop().call_later(EVERY, self._log_burst, level, kind)
