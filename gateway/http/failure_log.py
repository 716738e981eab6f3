"""Failed requests in the log: the first of a kind at once, then a line a second with a count.

In an outage at full load thousands of requests a second fail for the same reason. A kind is an
event, a route and the type of the error; a line has the reason and the id of one request.
"""

from __future__ import annotations

import asyncio

import structlog

from gateway import logs

EVERY = 1.0
"""Seconds between two lines of a kind."""
_log = structlog.get_logger()


class Failures:
    """Counts failures of one application."""

    def __init__(self) -> None:
        # By kind: how many since its last line, and the fields of the last one.
        self._bursts: dict[tuple[str, str, str], tuple[int, dict[str, object]]] = {}

    def note(self, level: int, event: str, route: str, error: Exception, **words: object) -> None:
        """Log or count a failed request of a route: of its pattern, never of the request's own
        path.

        A level of 40, an error, has a traceback the first time. `words` are further fields, no
        secret.
        """
        kind = event, route, type(error).__name__
        if kind in self._bursts:
            count, _ = self._bursts[kind]
            self._bursts[kind] = count + 1, {**words, "request_id": logs.REQUEST_ID.get()}
            return
        trace = error if level >= 40 else None
        _log.log(level, event, route=route, count=1, **words, exc_info=trace)
        self._begin(level, kind)

    def _begin(self, level: int, kind: tuple[str, str, str]) -> None:
        self._bursts[kind] = 0, {}
        asyncio.get_running_loop().call_later(EVERY, self._log_burst, level, kind)

    def _log_burst(self, level: int, kind: tuple[str, str, str]) -> None:
        count, words = self._bursts.pop(kind)
        if count:
            event, route, _ = kind
            _log.log(level, event, route=route, count=count, **words)
            self._begin(level, kind)
