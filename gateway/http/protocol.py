"""One connection: reads requests, lets the application answer them, and writes the answers.

It extends aiohttp's connection: requests without a body have a faster path (see `messages.py`), the
application makes the bodies of all errors, and admission control may close it.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from collections.abc import AsyncGenerator
from typing import cast

import structlog
from aiohttp import web
from aiohttp.http import RawRequestMessage
from aiohttp.http_exceptions import PayloadEncodingError
from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.web_protocol import RequestHandler, _ErrInfo

from config.model import Limits
from gateway.http.application import Application
from gateway.http.errors import Refusal
from gateway.http.input_bounds import END, HeadTooLarge, Unfinished, size_of
from gateway.http.messages import BodylessRequest

PATIENCE_SECONDS = 1.0
"""Seconds in Retry-After if the gateway is full."""
_LINGER_SECONDS = 0.5
STALLED_SECONDS = 20.0
"""A reader of a stream that took nothing for so long has gone, and its network forgot to say so."""
_IN_A_ROW = 8
"""Most requests of one connection that are answered before it is other connections' turn."""
_UPGRADE = re.compile(rb"\nupgrade", re.IGNORECASE)

_log = structlog.get_logger()

PRIVATE = (
    # The requests that wait for an answer; the future that waits for the next request.
    *("_messages", "_request_count", "_current_request", "_waiter", "_handler_waiter"),
    *("_request_in_progress", "_task_handler"),
    # The parser, and whether it is paused.
    *("_parser", "_buffer_paused", "_upgraded"),
    *("_msg_queue_resume_size", "_resume_reading_if_drained"),
    # Closing and keep-alive.
    *("_close", "_force_close", "_keepalive", "_keepalive_handle", "_keepalive_timeout"),
    *("_next_keepalive_close_time", "_process_keepalive"),
    # Whether the client reads answers.
    *("_paused", "_drain_helper"),
    "_loop",
)
"""The undocumented names of aiohttp's RequestHandler that are used here. The faster path takes
requests from its queue, and does the other work of its `start`. It serves a request without a body
in 45 µs, `start` in 57."""


class HttpConnection(RequestHandler):
    """aiohttp's connection with a faster path, and with the application's error bodies.

    Attributes:
        slow_since: since when a request's headers are incomplete, on the loop's clock; 0: not.
        unread_since: since when the client has not read an answer; set by admission control.
        held: bytes of memory of its unfinished request; set by admission control.
        accepted: its socket, by which admission control knows its TLS handshake.
    """

    __slots__ = (
        "_application",
        "_connection",
        "_deaf",
        "_refused_until",
        "_unfinished",
        "accepted",
        "descriptor",
        "held",
        "peer",
        "slow_since",
        "unread_since",
    )
    _application: Application
    accepted: socket.socket

    @property
    def limits(self) -> Limits:
        return self._application.limits

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        # aiohttp drops its reference when it closes, but the connection exists until all is read.
        self._connection = cast(asyncio.Transport, transport)
        self.slow_since = self.unread_since = self._refused_until = 0.0
        self.held = 0
        self._deaf = False
        self._unfinished = Unfinished()
        name = transport.get_extra_info("peername")
        self.peer: str = name[0] if isinstance(name, tuple) else ""
        sock = transport.get_extra_info("socket")
        self.descriptor: int = -1 if sock is None else sock.fileno()
        admission = self._application.admission
        if admission is not None and (reason := admission.opened(self)) is not None:
            self._connection.write(self._application.last_words(Refusal(503, reason)))
            self.force_close()

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        if self._application.admission is not None:
            self._application.admission.closed(self)

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        unfinished = self._unfinished
        before, in_body = self._request_count, unfinished.in_body
        exact = data[-4:] == END
        if exact or len(data) < 2:
            self._feed(data)
            self._note(before)
        else:
            # The last byte by itself, so that a body that it completes is the end of the piece.
            self._feed(data[:-1])
            self._note(before)
            open_until_last = unfinished.in_body
            if not self._deaf:
                count = self._request_count
                self._feed(data[-1:])
                self._note(count)
            exact = open_until_last and not unfinished.in_body
        completed = self._request_count != before
        if not exact or self._buffer_paused or self._upgraded or len(data) > 1024 or self.held:
            self._count(data, self._request_count - before, completed, in_body, exact)
        waiter = self._waiter
        if waiter is None or waiter.done():
            # A request is complete, or its body arrives; not at the start of a connection.
            begun = self._request_count or self._messages
            self.slow_since = 0.0 if begun else self.slow_since or self._loop.time()
        elif not self.slow_since:
            self.slow_since = self._loop.time()

    def _feed(self, data: bytes) -> None:
        """Pass a piece of input to aiohttp, head by head.

        Its parser drops the rest of a piece after a request for an upgrade, and the earlier
        requests of a piece in which something is malformed. A body is not searched for heads, nor
        what begins with an empty line: a client may send nothing but ends of heads.
        """
        start, end = 0, data.find(END) + len(END)
        upgrade = len(END) <= end < len(data) and _UPGRADE.search(data)
        while len(END) <= end < len(data) and (upgrade or not self._unfinished.in_body):
            if self._buffer_paused or data[start] in b"\r\n":
                break  # enough requests wait: the parser keeps the rest until they are answered
            before = self._request_count
            super().data_received(data[start:end])
            self._note(before)
            if self._deaf:
                return
            start, end = end, data.find(END, end) + len(END)
        if start < len(data) or not data:
            super().data_received(data[start:] if start else data)

    def _note(self, before: int) -> None:
        """Handle the requests after the first `before` ones."""
        if self._request_count == before or not self._messages:
            return
        message, payload = self._messages[-1]
        if not isinstance(message, RawRequestMessage):
            # Malformed input is answered, and everything after it is ignored.
            self._deaf = True
            if message.exc is not None:
                # Its traceback keeps the whole piece of input until a garbage collection.
                message.exc.__traceback__ = None
        unfinished = self._unfinished
        if self._deaf and unfinished.in_body:
            # It is in a body: then the answer is the one to that body's request.
            self._messages.pop()
            self._break_body("the body is malformed")
            self._close_after_last()
        else:
            unfinished.begin_body(payload)

    def _break_body(self, why: str) -> None:
        """Make the newest request's body end with an error, for the handler that reads it."""
        body = self._unfinished.body
        body.set_exception(PayloadEncodingError(why))
        # A reader that earlier input has just woken misses the exception: it must not wait again.
        body.feed_eof()

    def _close_after_last(self) -> None:
        """Close the connection after the answer to the last request that has arrived."""
        if not self._messages:
            self.close()
            return
        message, payload = self._messages[-1]
        if isinstance(message, RawRequestMessage):
            self._messages[-1] = message._replace(should_close=True), payload

    def _count(self, data: bytes, new: int, begun: bool, was_in_body: bool, exact: bool) -> None:
        """Apply the limits of heads: of one request, and of all connections together."""
        unfinished, most = self._unfinished, self.limits.request_head_bytes
        if new and self.held + len(data) > most:
            for at in range(max(len(self._messages) - new, 0), len(self._messages)):
                message = self._messages[at][0]
                if isinstance(message, RawRequestMessage) and size_of(message) > most:
                    while len(self._messages) > at:
                        self._messages.pop()
                    self._refuse_head(most, self.held + len(data))
                    return
        unfinished.count(
            data,
            begun=begun or (was_in_body and not unfinished.in_body),
            exact=exact,
            waits=self._buffer_paused or self._upgraded,
        )
        if unfinished.bytes > most:
            waiter = self._waiter
            if unfinished.in_body:
                self._deaf = True
                self._hold(0)
                self._count_refused(unfinished.memory)
                self._break_body("more trailers or chunk extensions than are read")
            elif waiter is None or waiter.done():
                self._refuse_head(most, unfinished.memory)
            else:
                self._count_refused(unfinished.memory)
                self._say_and_drop(Refusal(431, HeadTooLarge(most).message))
        else:
            self._hold(unfinished.memory)

    def _count_refused(self, size: int) -> None:
        if self._application.admission is not None:
            self._application.admission.refused(size)

    def _refuse_head(self, most: int, size: int) -> None:
        """Answer with 431 after the earlier requests, and read no more."""
        self._deaf = True
        self._hold(0)
        self._count_refused(size)
        error = HeadTooLarge(most)
        info = _ErrInfo(status=error.code, exc=error, message=error.message)
        self._messages.append((info, EMPTY_PAYLOAD))

    def _hold(self, held: int) -> None:
        admission = self._application.admission
        if admission is not None and held != self.held:
            admission.count_held(self, held)

    def unread(self) -> int:
        """Bytes of answers that the client has not read."""
        return self._connection.get_write_buffer_size()

    def too_slow(self) -> None:
        """Close the connection with 408: headers did not arrive in time."""
        seconds = self.limits.header_seconds
        self._say_and_drop(Refusal(408, f"The request did not arrive within {seconds:g} s."))

    def crowded_out(self) -> None:
        """Close the connection with 503: others need the memory."""
        waiter = self._waiter
        if waiter is None or waiter.done():
            # Another answer is under way: the 503 would be taken for it.
            self.cut()
            return
        self._say_and_drop(
            Refusal(503, "Too many requests have begun and are not finished; send yours at once.")
        )

    def _say_and_drop(self, refusal: Refusal) -> None:
        """Send a refusal if no other answer is due, and close."""
        self._deaf = True
        self.slow_since = 0.0
        self._hold(0)
        self._connection.write(self._application.last_words(refusal))
        # Further input is read and dropped for a while: closing before it is read would send a
        # reset, which may overtake the answer.
        self.close()
        self._loop.call_later(_LINGER_SECONDS, self.force_close)

    def close_idle(self, seconds: float) -> None:
        """End it if it waits for a request, and has for so long."""
        waiter, idle_until = self._waiter, self._next_keepalive_close_time
        waits = waiter is not None and not waiter.done() and not self.slow_since
        if waits and self._loop.time() - idle_until + self._keepalive_timeout >= seconds:
            self.force_close()

    def cut(self) -> None:
        """Close the connection at once; unread answers are lost."""
        self.force_close()
        self._connection.abort()

    async def start(self) -> None:
        """Answer requests until the connection ends."""
        if await self._others_next():
            await super().start()
        elif not self._force_close:
            self._task_handler = None
            if self.transport is not None:
                self.transport.close()

    async def _others_next(self) -> bool:
        """Answer requests without a body, in this task. aiohttp's `start` answers the others.

        Returns True at the first request of another kind, which still waits; False at the end.
        """
        loop = self._loop
        in_a_row = 0
        while not self._force_close:
            if not self._messages:
                try:
                    self._waiter = loop.create_future()
                    await self._waiter
                finally:
                    self._waiter = None
            message, payload = self._messages[0]
            parser = self._parser
            if parser is None or payload is not EMPTY_PAYLOAD or self._upgraded:
                return not self._force_close
            if not isinstance(message, RawRequestMessage) or message.upgrade:
                return True
            self._messages.popleft()
            parser.message_consumed()
            if self._buffer_paused and len(self._messages) <= self._msg_queue_resume_size:
                self._resume_reading_if_drained()
            if not await self._answer_one(BodylessRequest(message, self.peer)):
                return False
            self._next_keepalive_close_time = loop.time() + self._keepalive_timeout
            if self._keepalive_handle is None:
                self._keepalive_handle = loop.call_at(
                    self._next_keepalive_close_time, self._process_keepalive
                )
            in_a_row = in_a_row + 1 if self._messages else 0
            if in_a_row == _IN_A_ROW:
                in_a_row = 0
                await asyncio.sleep(0)
        return False

    async def _answer_one(self, request: BodylessRequest) -> bool:
        """Answer a request; return whether the connection stays open."""
        self._request_in_progress = True
        try:
            reply = await self._application(request)
            if reply.status == 503:
                await self._not_too_soon()
            transport = self.transport
            if transport is None or transport.is_closing():
                return False
            transport.write(reply.encode(request))
            if self._paused:
                await self._drain_helper()
            if reply.chunks is not None:
                await self._stream(reply.chunks)
        except ConnectionError:
            return False
        except asyncio.CancelledError:
            self.force_close()
            raise
        except Exception:
            _log.exception("request failed")
            self.force_close()
            return False
        finally:
            self._request_in_progress = False
            if self._handler_waiter is not None:
                self._handler_waiter.set_result(None)
        self._keepalive = bool(reply.keep_alive)
        return self._keepalive and not self._close and not self._force_close

    async def _stream(self, chunks: AsyncGenerator[bytes, None]) -> None:
        """Write a body as it comes to be, while the client takes it."""
        async with contextlib.aclosing(chunks):
            async for chunk in chunks:
                if self.transport is None or self.transport.is_closing():
                    return
                self.transport.write(chunk)
                try:
                    async with asyncio.timeout(STALLED_SECONDS):
                        if self._paused:
                            await self._drain_helper()
                except TimeoutError:
                    self.cut()
                    return

    async def _not_too_soon(self) -> None:
        """Delay the answer to a client that was refused and did not wait for Retry-After.

        A refusal costs little, but clients that repeat requests at once would keep a worker busy
        with refusals. A proxy is not delayed for its clients.
        """
        now = self._loop.time()
        early, self._refused_until = self._refused_until - now, now + PATIENCE_SECONDS
        admission = self._application.admission
        patient = early <= 0 or self._application.draining
        if admission is not None and not patient and not admission.is_proxy(self.peer):
            self._refused_until += early
            await asyncio.sleep(early)

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client has closed its side. Return whether to keep ours open, to answer requests."""
        waits = self._waiter is not None and not self._waiter.done()
        if waits or not self._request_count:
            return False
        current = self._current_request
        if self._messages:
            complete = self._messages[-1][1].is_eof()
        else:
            complete = current is None or current.content.is_eof()
        if complete:
            self._close_after_last()
        return complete

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if request.writer.output_size > 0:
            raise ConnectionError("the answer had begun already")
        # A Response has everything that aiohttp uses of it.
        return cast(web.StreamResponse, self._application.malformed(exc, status))


class Server(web.Server):
    """aiohttp's low-level server for an application. Create it inside the running loop."""

    def __init__(self, application: Application) -> None:
        limits = application.limits
        super().__init__(
            application,  # type: ignore[arg-type]  # a Response is enough of a StreamResponse
            keepalive_timeout=limits.keepalive_seconds,
            max_line_size=limits.header_bytes,
            max_field_size=limits.header_bytes,
            max_headers=limits.headers,
            access_log=None,
            auto_decompress=False,
            lingering_time=2.0,
        )
        self.application = application
        self.accepted = 0

    def __call__(self, accepted: socket.socket) -> RequestHandler:  # type: ignore[override]
        """Create the protocol of an accepted connection."""
        self.accepted += 1
        protocol = HttpConnection(self, loop=self._loop, **self._kwargs)
        protocol._application = self.application
        protocol.accepted = accepted
        return protocol
