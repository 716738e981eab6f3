"""An HTTP application: finds the route, runs its handler, turns results and errors into answers.

The gateway's port and the admin port have one each. It uses aiohttp's low-level server
(`protocol.py`). Every answer, also to a request that is not HTTP, passes through one function here,
which adds the request id, counts it, and gives errors their API's body.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from time import perf_counter

import structlog
from aiohttp.http import HttpVersion11

from config.model import Limits
from failover.mysql.errors import Fault, MySQLError, PrimaryUnavailable
from gateway import logs, metrics, telemetry
from gateway.http.admission import AdmissionControl
from gateway.http.cors import Cors
from gateway.http.errors import Refusal, Style
from gateway.http.failed_requests import FailedRequests
from gateway.http.failure_log import Failures
from gateway.http.jsonp import callback_of, make_script
from gateway.http.messages import Request, Response, target_of
from gateway.http.parameters import unescape
from gateway.http.request_rules import check_request, refusal_of
from gateway.http.router import Call, Route, Routes
from gateway.http.xml_answer import make_xml
from sharding.state import TooLarge, Unavailable

_DEFAULTS = Limits()
_BROKE = "Something broke here; it is logged as {}."
_log = structlog.get_logger()


class Application:
    """The application of a port.

    Args:
        style: returns the style of errors for a path without a route.
        admission: None on the admin port, which has only the default limits.
        cors: which pages may use the Player's routes.

    Attributes:
        draining: once True, every answer closes its connection.
        failed: the last requests that failed.
    """

    def __init__(
        self,
        routes: Sequence[Route],
        style: Callable[[str], Style],
        *,
        admission: AdmissionControl | None = None,
        cors: Cors | None = None,
        log_requests: Callable[[], bool] = lambda: False,
    ) -> None:
        self.routes = Routes(routes)
        self.in_flight = 0
        self.draining = False
        self.failed = FailedRequests()
        self._failures = Failures()
        self._style = style
        self.admission = admission
        self._cors = cors
        self._log_requests = log_requests
        self._names = {
            route.template: [part[1:-1] for part in route.template.split("/") if part[:1] == "{"]
            for route in routes
        }
        self._quiet: asyncio.Event | None = None

    @property
    def limits(self) -> Limits:
        return _DEFAULTS if self.admission is None else self.admission.limits

    async def quiet(self) -> None:
        """Return once no request is in flight."""
        while self.in_flight:
            self._quiet = asyncio.Event()
            await self._quiet.wait()

    async def __call__(self, request: Request) -> Response:
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
        if request.body_exists and "Upgrade" in request.headers:
            # aiohttp's parser loses the bytes after such a body: the client must send them again.
            answer.force_close()
        template, ending = ("unknown", "") if route is None else (route.template, route.ending)
        self._finish(answer, request_id, template, request.method, started)
        if answer.status >= 500:
            method = request.method
            self.failed.note(request_id, method, template, answer.status, values, query)
        cors = self._cors
        if ending == "jsonp":
            with contextlib.suppress(Refusal):  # then the answer is that refusal
                make_script(answer, callback_of(query))
        elif ending:
            make_xml(answer)
        if cors is not None and cors.origins and "Origin" in request.headers and _for_pages(route):
            cors.permit(request, answer)
        return answer

    async def _answer(
        self, request: Request, path: str, query: str, route: Route | None, raw: list[str]
    ) -> Response:
        try:
            check_request(request)
        except Refusal as error:
            return self._error(self._style(path), error)
        cors = self._cors
        if cors is not None and cors.is_preflight(request) and _for_pages(route):
            return Response(204)
        if route is None:
            return self._error(self._style(path), Refusal(404, "There is no such path."))
        call = Call(request, query, {})
        try:
            handler = route.handlers.get(request.method)
            if handler is None:
                allow = ", ".join(sorted(route.handlers))
                raise Refusal(405, f"This path answers {allow}.", headers={"Allow": allow})
            admission = self.admission
            if admission is not None:
                if self.in_flight > admission.allowed:
                    metrics.SHED.inc()
                    raise Refusal(503, "Too many requests are in flight.")
                admission.admit(request)
            if route.ending == "jsonp":
                callback_of(query)
            if raw:
                for name, value in zip(self._names[route.template], raw, strict=True):
                    call.values[name] = unescape(value, name)
            return await handler(call)
        except Refusal as error:
            refusal = error
        except TooLarge as error:
            refusal = Refusal(413, str(error))
        except Exception as error:
            refusal = self._failed(route.template, request.method, error)
        return self._error(route.style, refusal, call.logged_in)

    def _failed(self, route: str, method: str, error: Exception) -> Refusal:
        """Log an error of a handler; return what to answer."""
        again = _again_after(error)
        if again is None:
            # The request may contain secrets: only the pattern and the traceback are logged.
            self._failures.note(40, "request failed", route, error, method=method)
            return Refusal(500, _BROKE.format(logs.REQUEST_ID.get()))
        self._failures.note(30, "request not served", route, error, reason=str(error))
        sentence = "The store is not available right now; try again."
        return Refusal(503, sentence, headers={"Retry-After": str(again)})

    def malformed(self, error: BaseException | None, status: int) -> Response:
        """Answer a request that could not be parsed, and close the connection."""
        started = perf_counter()
        request_id = logs.request_id(None)
        logs.REQUEST_ID.set(request_id)
        if status < 500:
            refusal = refusal_of(error, status)
        else:
            refusal = Refusal(status, _BROKE.format(request_id), close=True)
        _log.log(
            20 if status < 500 else 40,
            "request not parsed" if status < 500 else "request failed",
            # Only the type: the message quotes the request, which may contain a token.
            reason=type(error).__name__,
            exc_info=error if status >= 500 else None,
        )
        answer = self._error(self._style("/"), refusal)
        return self._finish(answer, request_id, "malformed", "other", started)

    def last_words(self, refusal: Refusal) -> bytes:
        """The bytes of an answer for a connection on which no request was read."""
        answer = self._error(self._style("/"), refusal)
        answer.force_close()
        self._finish(answer, logs.request_id(None), "malformed", "other", perf_counter())
        return answer.encode_for("GET", HttpVersion11)

    def _error(self, style: Style, refusal: Refusal, logged_in: bool = False) -> Response:
        body = style(refusal.status, refusal.sentences, logged_in)
        answer = Response(refusal.status, body, refusal.headers)
        if refusal.close:
            answer.force_close()
        return answer

    def _finish(
        self, answer: Response, request_id: str, route: str, method: str, started: float
    ) -> Response:
        answer.request_id = request_id
        if self.draining:
            answer.force_close()
        seconds = perf_counter() - started
        telemetry.observe(route, method, answer.status, seconds)
        if self._log_requests():
            _log.info(
                "request answered",
                route=route,
                method=method,
                status=answer.status,
                seconds=round(seconds, 6),
            )
        return answer


def _for_pages(route: Route | None) -> bool:
    """Whether pages of other sites may read the answer: the Player's, and that a path is wrong."""
    return route is None or route.player


def _again_after(error: Exception) -> int | None:
    """Seconds until another try makes sense, if MySQL caused the error; None for a bug."""
    if isinstance(error, Unavailable):
        return error.retry_after
    if isinstance(error, PrimaryUnavailable):
        return 1
    if isinstance(error, MySQLError) and (error.passing or error.fault is Fault.FULL):
        return 5 if error.fault is Fault.FULL else 1
    return None
