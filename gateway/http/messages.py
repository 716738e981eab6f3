"""Fast requests without a body, and fast answers: one write for an answer, no task for a request.

aiohttp parses requests, manages connections, and handles all unusual cases. Only for the most
common requests (no body, no upgrade) these classes replace its own. Measured, those cost more than
all that the gateway does for a warm request (docs/performance.md): a task, a request and a response
with many features, and headers that are the same each time.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.http import HttpVersion, HttpVersion10, HttpVersion11, RawRequestMessage
from multidict import CIMultiDictProxy

from gateway.http.status import JSON, LINES

# The Player's GETs change state: no cache between client and gateway may answer them.
_ALWAYS = "Server: tapedeck\r\nCache-Control: no-store\r\n"
_USUAL = {
    status: f"HTTP/1.1 {LINES[status]}\r\n{_ALWAYS}Content-Type: {JSON}\r\nContent-Length: "
    for status in (200, 201, 403)
}
_NO_BODY = frozenset({204, 304})


class BodylessRequest:
    """A request without a body: the part of `web.BaseRequest` that handlers use."""

    __slots__ = ("_message", "headers", "method", "peer", "version")
    body_exists = False
    content_length = None

    def __init__(self, message: RawRequestMessage, peer: str = "") -> None:
        self._message = message
        self.peer = peer
        self.method: str = message.method
        self.version: HttpVersion = message.version
        self.headers: CIMultiDictProxy[str] = message.headers

    @property
    def keep_alive(self) -> bool:
        """Whether the client wants to use the connection again."""
        return not self._message.should_close

    def target(self) -> tuple[str, str]:
        """The raw path and the raw query."""
        target = self._message.path
        if target.startswith("/") and "#" not in target:
            path, _, query = target.partition("?")
            return path, query
        url = self._message.url
        url = url.relative() if url.absolute else url
        return url.raw_path, url.raw_query_string


Request = web.BaseRequest | BodylessRequest


def target_of(request: Request) -> tuple[str, str]:
    """The raw path and the raw query of a request."""
    if isinstance(request, BodylessRequest):
        return request.target()
    return request.rel_url.raw_path, request.rel_url.raw_query_string


def peer_of(request: Request) -> str:
    """The client's address; empty if the connection is lost."""
    if isinstance(request, BodylessRequest):
        return request.peer
    # `protocol.py` sets it; the protocol of a lost connection is None.
    return getattr(request.protocol, "peer", "")


class Response:
    """An answer: a status, some headers, and an encoded body.

    aiohttp's own loop can send it too: it has the methods of `web.StreamResponse` that are called
    there.

    Attributes:
        headers: names and values without line breaks, in addition to those of every answer.
        keep_alive: None: as the client wants; False closes the connection.
    """

    __slots__ = ("body", "content_type", "headers", "keep_alive", "request_id", "status")
    chunks: AsyncGenerator[bytes, None] | None = None

    def __init__(
        self,
        status: int,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        content_type: str = JSON,
    ) -> None:
        self.status = status
        self.body = body
        self.headers = headers
        self.content_type = content_type
        self.keep_alive: bool | None = None
        self.request_id = ""

    def force_close(self) -> None:
        """Close the connection after this answer."""
        self.keep_alive = False

    def encode(self, request: Request) -> bytes:
        """The bytes to send; sets `keep_alive`."""
        version, status = request.version, self.status
        if self.keep_alive is None:
            self.keep_alive = request.keep_alive
        usual = _USUAL.get(status) if self.keep_alive and self.headers is None else None
        if usual is not None and version == HttpVersion11 and self.content_type is JSON:
            head = (
                f"{usual}{len(self.body)}\r\nX-Request-Id: {self.request_id}\r\n"
                f"Date: {rfc822_formatted_time()}\r\n\r\n"
            ).encode("latin-1")
            return head if request.method == "HEAD" else head + self.body
        return self.encode_for(request.method, version)

    def encode_for(self, method: str, version: HttpVersion) -> bytes:
        """The same for any request with this method and version."""
        status = self.status
        # HTTP/1.1 also for a client that speaks 1.0 (RFC 9110, 6.2).
        head = f"HTTP/1.1 {LINES[status]}\r\n{_ALWAYS}"
        if status not in _NO_BODY:
            head += f"Content-Type: {self.content_type}\r\n"
            if self.chunks is None:
                head += f"Content-Length: {len(self.body)}\r\n"
        if self.headers:
            for name, value in self.headers.items():
                head += f"{name}: {value}\r\n"
        if not self.keep_alive:
            head += "Connection: close\r\n"
        elif version == HttpVersion10:
            head += "Connection: keep-alive\r\n"
        head += f"X-Request-Id: {self.request_id}\r\nDate: {rfc822_formatted_time()}\r\n\r\n"
        if method == "HEAD" or status in _NO_BODY:
            return head.encode("latin-1")
        return head.encode("latin-1") + self.body

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Send the answer; called by aiohttp's loop."""
        await request.writer.write(self.encode(request))
        await request.writer.drain()
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Does nothing: `prepare` has sent everything."""


class Stream(Response):
    """An answer whose body is written as it comes to be; its end closes the connection."""

    __slots__ = ("chunks",)

    def __init__(
        self, chunks: AsyncGenerator[bytes, None], headers: Mapping[str, str], content_type: str
    ) -> None:
        super().__init__(200, b"", headers, content_type)
        self.chunks = chunks
        self.keep_alive = False
