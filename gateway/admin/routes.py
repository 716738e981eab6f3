"""The admin port: health, the ring, partitions, counters, reload.

The same paths show one process's own parts (`own_answers.py`) or what a supervisor gathers from its
workers (`gateway/process/workers_answers.py`): only the `AdminAnswers` differs.
"""

from __future__ import annotations

from functools import partial

import structlog

from config.load import ConfigError
from config.values import is_loopback
from gateway import telemetry
from gateway.admin_answers import AdminAnswers
from gateway.api.admin_bodies import Readiness
from gateway.api.endpoints import OPEN, PROBES, handlers_of
from gateway.auth.bearer import carries_key, digest_of
from gateway.dashboard import runbooks
from gateway.dashboard.page import Dashboard
from gateway.http.allowed_hosts import is_ours, refuse_strangers
from gateway.http.errors import Refusal, json_response
from gateway.http.messages import Response
from gateway.http.parameters import gather, whole_number
from gateway.http.request_body import read_body
from gateway.http.router import Call, Handler
from gateway.reload.reload import Reload, WorkerReload
from gateway.reload.runtime_config import RuntimeConfig
from gateway.support_search import read_question
from sharding.state import PLAYLIST_MAX, Key

SHOWN = (
    *(AdminAnswers.ring, AdminAnswers.outline, AdminAnswers.mysql, AdminAnswers.stats),
    *(AdminAnswers.partitions, AdminAnswers.believe_clock),
    *(AdminAnswers.drain_state, AdminAnswers.drain, AdminAnswers.drain_back),
)
"""What the endpoints of the same names answer with."""
RELOAD_BYTES = 1024 * 1024
"""Most bytes of a configuration to compare, or of a supervisor's order."""
QUESTION_BYTES = 4096
"""Most bytes of a play token or of a request's id that is looked for."""
_log = structlog.get_logger()


class AdminApi:
    """The handlers; `api/endpoints.py` says what each does.

    Args:
        answers: what to show.
        reload: carries out reloads.
        dashboard: the page; None in a worker, whose supervisor has it.
        token: the supervisor's. Operators need `admin.token`, except on loopback.
    """

    def __init__(
        self,
        answers: AdminAnswers,
        reload: Reload | WorkerReload,
        live: RuntimeConfig,
        dashboard: Dashboard | None = None,
        token: str | None = None,
    ) -> None:
        self._reload = reload
        self._answers = answers
        self._live = live
        self._dashboard = dashboard
        self._supervisors_token = token

    @property
    def has_page(self) -> bool:
        return self._dashboard is not None

    def _token(self) -> str | None:
        """The token that requests need now; None if they need none."""
        admin = self._live.config.admin
        if self._supervisors_token is not None:
            return self._supervisors_token
        if is_loopback(admin.host) or admin.token is None:
            return None
        return admin.token.get_secret_value()

    def handlers(self) -> dict[str, Handler]:
        """By the endpoint names of `endpoints.py`."""
        shown = {one.__name__: partial(self._show, one.__name__) for one in SHOWN}
        handlers = shown | handlers_of(self, self._dashboard)
        return {
            name: handler if name in PROBES else self.guarded(handler, without_token=name in OPEN)
            for name, handler in handlers.items()
        }

    def guarded(self, handler: Handler, *, without_token: bool = False) -> Handler:
        """A handler that first checks the token, or, where none is needed, the host name. With
        `without_token` it never needs the token.
        """

        async def check(call: Call) -> Response:
            token, headers = self._token(), call.request.headers
            if token is None:
                host, origin = headers.get("Host"), headers.get("Origin")
                allowed = self._live.config.admin.allowed_hosts
                refuse_strangers(call.request.method, host, origin, allowed)
            elif not without_token and not carries_key(
                headers.get("Authorization"), [digest_of(token)]
            ):
                raise Refusal(
                    401,
                    "This needs the admin token: Authorization: Bearer TOKEN.",
                    headers={"WWW-Authenticate": "Bearer"},
                )
            return await handler(call)

        return check

    async def _show(self, name: str, call: Call) -> Response:
        return json_response(await getattr(self._answers, name)())

    async def healthz(self, call: Call) -> Response:
        return json_response({"status": "ok"})

    async def readyz(self, call: Call) -> Response:
        """Whether to send traffic here.

        Health checks may use any host name (a backend's, a cluster's): they get the status only.
        """
        verdict = await self._answers.readiness()
        reasons = verdict.reasons
        host, allowed = call.request.headers.get("Host"), self._live.config.admin.allowed_hosts
        if reasons and host and self._token() is None and not is_ours(host, allowed):
            reasons = ["why is told to localhost, and to the names in admin.allowed_hosts"]
        return json_response(
            Readiness(verdict.status, reasons, verdict.causes, verdict.ages),
            200 if verdict.status in ("ready", "degraded") else 503,
        )

    async def where(self, call: Call) -> Response:
        # Anonymous listeners have ids above the known users': they may be looked for too.
        key = Key(
            whole_number(call.values["user_id"], "user_id", PLAYLIST_MAX),
            whole_number(call.values["playlist_id"], "playlist_id", PLAYLIST_MAX),
        )
        return json_response(await self._answers.where(key))

    async def find(self, call: Call) -> Response:
        asked = read_question(await read_body(call.request, QUESTION_BYTES))
        return json_response(await self._answers.find(asked))

    async def guide(self, call: Call) -> Response:
        return runbooks.PAGES.part(call.values["file"])

    async def metrics(self, call: Call) -> Response:
        return Response(200, await self._answers.metrics(), content_type=telemetry.TEXT)

    async def reload_check(self, call: Call) -> Response:
        body = await read_body(call.request, RELOAD_BYTES)
        try:
            return json_response(await self._reload.check(body))
        except ConfigError as error:
            raise Refusal(422, *error.sentences) from None

    async def reload(self, call: Call) -> Response:
        body = await read_body(call.request, RELOAD_BYTES)
        force = gather(call.query).get("force") == "1"
        try:
            return json_response(await self._reload.reload(body, force=force))
        except ConfigError as error:
            raise Refusal(422, *error.sentences) from None
