"""One HTTP face: finds the route, runs its handler, and turns whatever happens into an answer.

The gateway's port and the admin port are two faces. A face sits directly on aiohttp's low-level
server: every answer, also to a request that is no HTTP at all, passes through one function here
and so has its request id, its place in the metrics and the body that its API promises.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import cast

import structlog
from aiohttp import web
from aiohttp.http import HttpVersion11, RawRequestMessage
from aiohttp.http_exceptions import LineTooLong, PayloadEncodingError
from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.web_protocol import RequestHandler, RequestPayloadError

from tapedeck.config.model import Limits
from tapedeck.failover.errors import PrimaryUnavailable
from tapedeck.gateway import logs, telemetry
from tapedeck.gateway.guard import Guard
from tapedeck.gateway.params import unescape
from tapedeck.gateway.phrases import JSON, status_line
from tapedeck.gateway.replies import Refusal, Style, response
from tapedeck.gateway.wire import Asked, Reply, Request, target_of
from tapedeck.sharding.state import Unavailable

PATIENCE_SECONDS = 1.0
"""What Retry-After says where the gateway is full."""
_LINGER_SECONDS = 0.5
_DEFAULTS = Limits()

_log = structlog.get_logger()


class Call:
    """One request on its way through a handler.

    Attributes:
        request: aiohttp's, or the part of it that one without a body has.
        query: the raw query string.
        values: what stands in the place of the path's `{names}`, decoded.
        logged_in: for the error envelope: the handler says so as soon as it knows.
    """

    __slots__ = ("logged_in", "query", "request", "values")

    def __init__(self, request: Request, query: str, values: dict[str, str]) -> None:
        self.request = request
        self.query = query
        self.values = values
        self.logged_in = False


Answer = Reply | web.Response
Handler = Callable[[Call], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Route:
    """A path and what answers there.

    Attributes:
        template: as `/mixes/{id}`; one name stands for one segment.
        handlers: by method.
        style: how errors are worded.
        dot_json: whether `.json` may stand behind the path.
        always: served even when the gateway is full.
    """

    template: str
    handlers: Mapping[str, Handler]
    style: Style
    dot_json: bool = False
    always: bool = False

    @property
    def allow(self) -> str:
        """The Allow header."""
        return ", ".join(sorted(self.handlers))


@dataclass(slots=True)
class _Node:
    literals: dict[str, _Node] = field(default_factory=dict)
    name: _Node | None = None
    route: Route | None = None


class Routes:
    """The routes of a face, found segment by segment.

    >>> from tapedeck.gateway.replies import plain_error
    >>> routes = Routes([Route("/mixes/{id}", {}, plain_error, dot_json=True)])
    >>> route, values = routes.find("/mixes/7.json")
    >>> route.template, values
    ('/mixes/{id}', ['7'])
    """

    def __init__(self, routes: Sequence[Route]) -> None:
        self.all = tuple(routes)
        self._root = _Node()
        for route in routes:
            node = self._root
            for segment in route.template.split("/")[1:]:
                if segment.startswith("{"):
                    node.name = node = node.name or _Node()
                else:
                    node = node.literals.setdefault(segment, _Node())
            node.route = route

    def find(self, path: str) -> tuple[Route | None, list[str]]:
        """The route of a raw path, and the raw segments in the place of its names, in order."""
        segments = path.split("/")
        route, values = self._walk(segments)
        if path.endswith(".json") and (route is None or (route.dot_json and values)):
            segments[-1] = segments[-1][:-5]
            short, short_values = self._walk(segments)
            if short is not None and short.dot_json:
                return short, short_values
        return route, values

    def _walk(self, segments: list[str]) -> tuple[Route | None, list[str]]:
        node = self._root
        values: list[str] = []
        if segments[0] or len(segments) > 8:
            return None, values
        for segment in segments[1:]:
            following = node.literals.get(segment)
            if following is None:
                following = node.name
                if following is None:
                    return None, values
                values.append(segment)
            node = following
        return node.route, values


class Face:
    """One HTTP application.

    Args:
        routes: what it serves.
        style: how errors are worded where no route is known, by the path.
        guard: the limits that hold here; None for none (the admin port).
        log_requests: whether to log each request, asked at each.
        lean: whether every answer is a `Reply`; requests without a body then go a shorter way.

    Attributes:
        in_flight: requests that are being served.
        draining: once True, every answer closes its connection.
    """

    def __init__(
        self,
        routes: Sequence[Route],
        style: Callable[[str], Style],
        *,
        guard: Guard | None = None,
        log_requests: Callable[[], bool] = lambda: False,
        lean: bool = False,
    ) -> None:
        self.lean = lean
        self.routes = Routes(routes)
        self.in_flight = 0
        self.draining = False
        self._style = style
        self.guard = guard
        self._log_requests = log_requests
        self._names = {
            route.template: [part[1:-1] for part in route.template.split("/") if part[:1] == "{"]
            for route in routes
        }
        self._quiet: asyncio.Event | None = None

    async def quiet(self) -> None:
        """Return once no request is in flight."""
        while self.in_flight:
            self._quiet = asyncio.Event()
            await self._quiet.wait()

    async def __call__(self, request: Request) -> Answer:
        """Answer one request."""
        started = perf_counter()
        request_id = logs.request_id(request.headers.get("X-Request-Id"))
        logs.REQUEST_ID.set(request_id)
        path, query = target_of(request)
        route, values = self.routes.find(path)
        self.in_flight += 1
        try:
            answer = await self._answer(request, path, query, route, values)
        finally:
            self.in_flight -= 1
            if self._quiet is not None and not self.in_flight:
                self._quiet.set()
        return self._finish(
            answer, request_id, route.template if route else "unknown", request.method, started
        )

    async def _answer(
        self, request: Request, path: str, query: str, route: Route | None, raw: list[str]
    ) -> Answer:
        if route is None:
            return self._error(self._style(path), Refusal(404, "There is no such path."))
        call = Call(request, query, {})
        try:
            handler = route.handlers.get(request.method)
            if handler is None:
                raise Refusal(
                    405,
                    f"This path answers {route.allow}.",
                    headers={"Allow": route.allow},
                )
            guard = self.guard
            if guard is not None and not route.always:
                if self.in_flight > guard.allowed:
                    telemetry.REFUSED.inc()
                    raise Refusal(
                        503, "Too many requests are in flight.", headers={"Retry-After": "1"}
                    )
                if guard.by_address:
                    guard.admit(_peer(request), _forwarded(request) if guard.proxied else None)
            if raw:
                for name, value in zip(self._names[route.template], raw, strict=True):
                    call.values[name] = unescape(value, name)
            return await handler(call)
        except Refusal as refusal:
            return self._error(route.style, refusal, logged_in=call.logged_in)
        except (Unavailable, PrimaryUnavailable) as error:
            _log.warning("unavailable", route=route.template, reason=str(error))
            return self._error(
                route.style,
                Refusal(
                    503,
                    "The store is not available right now; try again.",
                    headers={"Retry-After": str(max(1, error.retry_after))},
                ),
                logged_in=call.logged_in,
            )
        except Exception:
            # The request may have carried secrets: the pattern is logged, and the traceback.
            _log.exception("request_failed", route=route.template, method=request.method)
            return self._error(
                route.style,
                Refusal(500, f"Something broke here; it is logged as {logs.REQUEST_ID.get()}."),
                logged_in=call.logged_in,
            )

    def malformed(self, error: BaseException | None, status: int) -> Answer:
        """Answer what could not be read as HTTP; the connection ends with it."""
        started = perf_counter()
        request_id = logs.request_id(None)
        logs.REQUEST_ID.set(request_id)
        if isinstance(error, LineTooLong):
            sentence = "The request line or a header is too long."
        elif status < 500:
            sentence = "The request is not valid HTTP."
        else:
            sentence = f"Something broke here; it is logged as {request_id}."
        _log.log(
            20 if status < 500 else 40,
            "malformed_request" if status < 500 else "request_failed",
            # Its message quotes the request, which may hold a token: the type is enough.
            reason=type(error).__name__,
            exc_info=error if status >= 500 else None,
        )
        answer = self._error(self._style("/"), Refusal(status, sentence, close=True))
        return self._finish(answer, request_id, "malformed", "other", started)

    def last_words(self, refusal: Refusal) -> bytes:
        """What a connection is told on which no request was read, as HTTP."""
        body = self._style("/")(refusal.status, refusal.sentences, logged_in=False)
        telemetry.observe("malformed", "other", refusal.status, 0.0)
        head = {**(refusal.headers or {}), "Content-Type": JSON, "Connection": "close"}
        lines = [f"HTTP/1.1 {status_line(refusal.status)}", "Server: tapedeck"]
        lines += [f"{name}: {value}" for name, value in head.items()]
        lines += [f"X-Request-Id: {logs.request_id(None)}", f"Content-Length: {len(body)}", "", ""]
        return "\r\n".join(lines).encode("latin-1") + body

    def _error(self, style: Style, refusal: Refusal, *, logged_in: bool = False) -> Answer:
        body = style(refusal.status, refusal.sentences, logged_in=logged_in)
        answer = response(refusal.status, body, refusal.headers)
        if refusal.close:
            answer.force_close()
        return answer

    def _finish(
        self, answer: Answer, request_id: str, route: str, method: str, started: float
    ) -> Answer:
        if isinstance(answer, Reply):
            answer.request_id = request_id
        else:
            answer.headers["X-Request-Id"] = request_id
            answer.headers["Server"] = "tapedeck"
            answer.headers["Cache-Control"] = "no-store"
        if self.draining:
            answer.force_close()
        seconds = perf_counter() - started
        telemetry.observe(route, method, answer.status, seconds)
        if self._log_requests():
            _log.info(
                "request",
                route=route,
                method=method,
                status=answer.status,
                seconds=round(seconds, 6),
            )
        return answer


def _peer(request: Request) -> str:
    if isinstance(request, Asked):
        return request.peer
    protocol = request.protocol
    return protocol.peer if isinstance(protocol, _Protocol) else ""


def _forwarded(request: Request) -> str | None:
    given = request.headers.getall("X-Forwarded-For", ())
    return ",".join(given) if given else None


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body, as it came; empty where there is none.

    Args:
        request: whose body.
        limit: bytes; a longer body is not read to its end.

    Raises:
        Refusal: 400 broken off or broken framing, 408 too slow, 413 too long, 415 compressed, 417.
    """
    if isinstance(request, Asked) or not request.body_exists:
        return b""
    encoding = request.headers.get("Content-Encoding", "identity")
    if encoding.strip().lower() not in ("", "identity"):
        raise Refusal(415, "The body must not be compressed (Content-Encoding).", close=True)
    too_long = Refusal(413, f"The body is longer than {limit} bytes.", close=True)
    if (request.content_length or 0) > limit:
        raise too_long
    await _continue(request)
    protocol = request.protocol
    limits = protocol.limits if isinstance(protocol, _Protocol) else _DEFAULTS
    seconds = limits.body_seconds
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            while chunk := await request.content.readany():
                body += chunk
                if len(body) > limit:
                    raise too_long
    except TimeoutError:
        raise Refusal(408, f"The body did not arrive within {seconds:g} s.", close=True) from None
    except (RequestPayloadError, PayloadEncodingError, ConnectionError):
        raise Refusal(400, "The body is broken or incomplete.", close=True) from None
    return bytes(body)


async def _continue(request: web.BaseRequest) -> None:
    """A client that asked first is told to send its body (RFC 9110, 10.1.1)."""
    expect = request.headers.get("Expect")
    if expect is None or request.version < HttpVersion11:
        return
    if expect.strip().lower() != "100-continue":
        raise Refusal(417, "The only expectation that is met is 100-continue.", close=True)
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    request.writer.output_size = 0  # the answer itself has not begun


class _Protocol(RequestHandler):
    """aiohttp's connection, except that errors below the face are worded by the face."""

    __slots__ = ("_connection", "_face", "_refused_until", "peer", "slow_since", "unread_since")
    _face: Face

    @property
    def limits(self) -> Limits:
        """Those that hold on this port."""
        guard = self._face.guard
        return _DEFAULTS if guard is None else guard.limits

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        # aiohttp forgets its own when it closes; until all was read the connection is there still.
        self._connection = cast(asyncio.Transport, transport)
        self.slow_since = self.unread_since = self._refused_until = 0.0
        name = transport.get_extra_info("peername")
        self.peer: str = name[0] if isinstance(name, tuple) else ""
        guard = self._face.guard
        if guard is not None and (reason := guard.opened(self)) is not None:
            self._end(Refusal(503, reason, headers={"Retry-After": "1"}))

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        if self._face.guard is not None:
            self._face.guard.closed(self)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        waiter = self._waiter
        if waiter is None or waiter.done():
            # A request is complete, or its body arrives; but at the very start nobody waits yet.
            begun = self._request_count or self._messages
            self.slow_since = 0.0 if begun else self.slow_since or self._loop.time()
        elif not self.slow_since:
            self.slow_since = self._loop.time()

    def unread(self) -> int:
        """Bytes that wait to be taken by the client."""
        return self._connection.get_write_buffer_size()

    def too_slow(self) -> None:
        """Headers did not come in time."""
        seconds = self.limits.header_seconds
        refusal = Refusal(408, f"The request did not arrive within {seconds:g} s.")
        self._connection.write(self._face.last_words(refusal))
        # What still trickles in is read and dropped for a while: closing on it would be a reset,
        # which may overtake the answer.
        self.close()
        self._loop.call_later(_LINGER_SECONDS, self.force_close)

    def cut(self) -> None:
        """End the connection, whatever is unread."""
        self.force_close()
        self._connection.abort()

    def _end(self, refusal: Refusal) -> None:
        """Say why, and close."""
        if not self._connection.is_closing():
            self._connection.write(self._face.last_words(refusal))
        self.force_close()

    async def start(self) -> None:
        """Answer requests as they come, until the connection ends."""
        if not self._face.lean or await self._others_next():
            await super().start()
        elif not self._force_close:
            self._task_handler = None
            if self.transport is not None:
                self.transport.close()

    async def _others_next(self) -> bool:
        """Answer requests without a body, in this task: else the loop of aiohttp's `start`.

        Returns:
            True at the first request of another kind, which is still waiting; False at the end.
        """
        loop = self._loop
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
            if not await self._answer_one(Asked(message, self.peer)):
                return False
            self._next_keepalive_close_time = loop.time() + self._keepalive_timeout
            if self._keepalive_handle is None:
                self._keepalive_handle = loop.call_at(
                    self._next_keepalive_close_time, self._process_keepalive
                )
        return False

    async def _answer_one(self, request: Asked) -> bool:
        """Answer a request; whether the connection goes on."""
        self._request_in_progress = True
        try:
            reply = await self._face(request)
            assert isinstance(reply, Reply)
            if reply.status == 503:
                await self._not_too_soon()
            transport = self.transport
            if transport is None or transport.is_closing():
                return False
            transport.write(reply.encode(request))
            if self._paused:
                await self._drain_helper()
        except ConnectionError:
            return False
        except asyncio.CancelledError:
            self.force_close()
            raise
        except Exception:
            _log.exception("request_failed")
            self.force_close()
            return False
        finally:
            self._request_in_progress = False
            if self._handler_waiter is not None:
                self._handler_waiter.set_result(None)
        self._keepalive = bool(reply.keep_alive)
        return self._keepalive and not self._close and not self._force_close

    async def _not_too_soon(self) -> None:
        """Who was told to come back later and does not wait for it is told so again only then.

        Refusing costs little, but not nothing: clients that ask again at once would keep a worker
        busy with refusals. A proxy is not to blame for its clients.
        """
        now = self._loop.time()
        early, self._refused_until = self._refused_until - now, now + PATIENCE_SECONDS
        guard = self._face.guard
        if early > 0 and not self._face.draining and guard and not guard.is_proxy(self.peer):
            self._refused_until += early
            await asyncio.sleep(early)

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client sends no more. What it has asked in full is answered before we close too.

        Returns:
            Whether to keep our direction open.
        """
        waits = self._waiter is not None and not self._waiter.done()
        if waits or not self._request_count:
            return False
        current = self._current_request
        if self._messages:
            complete = self._messages[-1][1].is_eof()
        else:
            complete = current is None or current.content.is_eof()
        if not complete:
            return False
        self.close()
        return True

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if request.writer.output_size > 0:
            raise ConnectionError("the answer had begun already")
        # aiohttp asks nothing of it that a Reply has not.
        return cast(web.StreamResponse, self._face.malformed(exc, status))


class Server(web.Server):
    """aiohttp's low-level server with a face in front. To be made inside the running loop."""

    def __init__(self, face: Face) -> None:
        limits = _DEFAULTS if face.guard is None else face.guard.limits
        super().__init__(
            face,  # type: ignore[arg-type]  # a Reply is enough of a StreamResponse
            keepalive_timeout=limits.keepalive_seconds,
            max_line_size=limits.header_bytes,
            max_field_size=limits.header_bytes,
            max_headers=limits.headers,
            access_log=None,
            auto_decompress=False,
            lingering_time=2.0,
        )
        self.face = face

    def __call__(self) -> RequestHandler:
        """A connection was accepted."""
        protocol = _Protocol(self, loop=self._loop, **self._kwargs)
        protocol._face = self.face
        return protocol
