"""Server-sent events to the viewers of the dashboard.

Nothing is queued for a viewer: whenever it can take more, it is given what is newest, and what it
has not seen of the history. So a slow one costs what a fast one does, and one that takes nothing
for `STALLED_SECONDS` is cut off.
(The format: WHATWG HTML, "Server-sent events".)
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.payload import Payload

from gateway.http.errors import Refusal, encode

MOST_VIEWERS = 64
STALLED_SECONDS = 20.0
"""A viewer that took nothing for so long has gone, and its network forgot to say so."""


def event(name: str, value: Any) -> bytes:
    """One event; JSON has no line breaks of its own."""
    return b"event: %s\ndata: %s\n\n" % (name.encode(), encode(value))


@dataclass(eq=False)
class Viewer:
    """One page that looks.

    Attributes:
        took: when it last took something, on the loop's clock.
        sent: what it has seen already, by the names that the feed gives it.
        news: set while there may be something that it has not seen.
    """

    request: web.BaseRequest
    took: float
    sent: dict[str, float] = field(default_factory=dict)
    news: asyncio.Event = field(default_factory=asyncio.Event)


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

    def answer(self, request: web.BaseRequest) -> web.Response:
        """The answer that lasts as long as its viewer. Refuses with 503 if too many look already,
        or the gateway stops.
        """
        if self._closed or len(self._viewers) >= MOST_VIEWERS:
            reason = "The gateway is stopping." if self._closed else "Too many pages look already."
            raise Refusal(503, reason, headers={"Retry-After": "5"})
        answer = web.Response(body=_Stream(self, request))
        answer.headers["Content-Type"] = "text/event-stream; charset=utf-8"
        # nginx holds back what it proxies, unless it is told not to.
        answer.headers["X-Accel-Buffering"] = "no"
        return answer

    def wake(self) -> None:
        now = asyncio.get_running_loop().time()
        for viewer in tuple(self._viewers):
            transport = viewer.request.transport
            if transport is not None and now - viewer.took > STALLED_SECONDS:
                transport.abort()
            viewer.news.set()

    def close(self) -> None:
        """Say goodbye to all of them; no other one may come."""
        self._closed = True
        for viewer in self._viewers:
            viewer.news.set()

    async def chunks(self, request: web.BaseRequest) -> AsyncIterator[bytes]:
        """What one viewer is sent, until the end."""
        loop = asyncio.get_running_loop()
        viewer = Viewer(request, loop.time())
        viewer.news.set()
        self._viewers.add(viewer)
        self._arrived()
        try:
            yield b"retry: 1000\n\n"
            while not self._closed:
                await viewer.news.wait()
                viewer.news.clear()
                for chunk in self._feed(viewer):
                    yield chunk
                    viewer.took = loop.time()
            yield event("bye", {})
        finally:
            self._viewers.discard(viewer)


class _Stream(Payload):
    """A body that is written as it comes to be.

    aiohttp writes a response's body after the handler has finished, so that this answer has its
    request id and its place in the metrics like every other one.
    """

    def __init__(self, viewers: Viewers, request: web.BaseRequest) -> None:
        super().__init__(None, content_type="text/event-stream")
        self._viewers = viewers
        self._request = request

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        raise TypeError("a stream cannot be decoded")

    async def write(self, writer: AbstractStreamWriter) -> None:
        chunks = self._viewers.chunks(self._request)
        try:
            async for chunk in chunks:
                await writer.write(chunk)
                await writer.drain()
        except ConnectionError:
            pass  # the page was closed
        finally:
            await chunks.aclose()  # type: ignore[attr-defined]
