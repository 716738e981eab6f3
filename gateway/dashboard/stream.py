"""Server-sent events to the viewers of the dashboard.

Nothing is queued for a viewer: whenever it can take more, it is given what is newest, and what it
has not seen of the history. So a slow one costs what a fast one does.
(The format: WHATWG HTML, "Server-sent events".)
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

from gateway.http.errors import Refusal, encode
from gateway.http.messages import Stream

MOST_VIEWERS = 64


def event(name: str, value: Any) -> bytes:
    """One event; JSON has no line breaks of its own."""
    return b"event: %s\ndata: %s\n\n" % (name.encode(), encode(value))


class Viewer:
    """One page that looks.

    Attributes:
        sent: what it has seen already, by the names that the feed gives it.
        news: set while there may be something that it has not seen.
    """

    def __init__(self) -> None:
        self.sent: dict[str, float] = {}
        self.news = asyncio.Event()
        self.news.set()


class Viewers:
    """All pages that look. `feed` gives what one has not seen, and notes in `sent` what it gave;
    `arrived` is called when one joins.
    """

    def __init__(self, feed: Callable[[Viewer], list[bytes]], arrived: Callable[[], None]) -> None:
        self._feed = feed
        self._arrived = arrived
        self._viewers: set[Viewer] = set()
        self._closed = False

    def __len__(self) -> int:
        return len(self._viewers)

    def answer(self) -> Stream:
        """The answer that lasts as long as its viewer. Refuses with 503 if too many look already,
        or the gateway stops.
        """
        if self._closed or len(self._viewers) >= MOST_VIEWERS:
            reason = "The gateway is stopping." if self._closed else "Too many pages look already."
            raise Refusal(503, reason, headers={"Retry-After": "5"})
        # nginx holds back what it proxies, unless it is told not to.
        headers = {"X-Accel-Buffering": "no"}
        return Stream(self._chunks(), headers, "text/event-stream; charset=utf-8")

    def wake(self) -> None:
        for viewer in self._viewers:
            viewer.news.set()

    def close(self) -> None:
        """Say goodbye to all of them; no other one may come."""
        self._closed = True
        self.wake()

    async def _chunks(self) -> AsyncGenerator[bytes, None]:
        """What one viewer is sent, until the end."""
        viewer = Viewer()
        self._viewers.add(viewer)
        self._arrived()
        try:
            yield b"retry: 1000\n\n"
            while not self._closed:
                await viewer.news.wait()
                viewer.news.clear()
                for chunk in self._feed(viewer):
                    yield chunk
            yield event("bye", {})
        finally:
            self._viewers.discard(viewer)
