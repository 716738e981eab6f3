"""Builds the two HTTP applications from the table of endpoints and the handlers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from gateway.admin.routes import AdminApi
from gateway.api.document import document
from gateway.api.endpoints import ENDPOINTS, Api, handlers_of
from gateway.catalog.catalog import Catalog
from gateway.dashboard.page import Dashboard
from gateway.http.admission import AdmissionControl
from gateway.http.application import Application
from gateway.http.cors import Cors
from gateway.http.errors import Style, encode, plain_error
from gateway.http.messages import Response
from gateway.http.router import Call, Handler, Route
from gateway.player.catalog_routes import CatalogApi
from gateway.player.responses import player_error
from gateway.player.routes import PlayerApi
from gateway.reload.runtime_config import RuntimeConfig
from gateway.states.routes import StatesApi
from sharding.store.store import Store


def gateway_application(live: RuntimeConfig, store: Store, catalog: Catalog) -> Application:
    """The application for listeners and services."""
    admission = AdmissionControl(live.config)
    cors = Cors(live.config)
    live.followers += [admission.configure, cors.configure]
    handlers = handlers_of(
        PlayerApi(store, catalog, live, admission),
        CatalogApi(catalog.finder, live),
        StatesApi(store, live),
    ) | {"openapi": _description(live)}
    return Application(
        _routes(("player", "states", "description"), handlers, _gateway_style),
        _gateway_style,
        admission=admission,
        cors=cors,
        log_requests=lambda: live.config.log.requests,
    )


def admin_application(live: RuntimeConfig, api: AdminApi) -> Application:
    """The application for operators and Prometheus, without limits of load."""
    handlers = api.handlers() | {"openapi": api.guarded(_description(live))}

    def style(path: str) -> Style:
        return plain_error

    # Only the supervisor, or a process without one, has the page.
    without = () if api.has_page else handlers_of(Dashboard)
    return Application(_routes(("admin", "description"), handlers, style, without), style)


def _gateway_style(path: str) -> Style:
    return plain_error if path.startswith("/states") else player_error


def _routes(
    apis: Collection[Api],
    handlers: Mapping[str, Handler],
    style: Callable[[str], Style],
    without: Collection[str] = (),
) -> list[Route]:
    """The routes of these APIs, but for the endpoints named in `without`. A LookupError names an
    endpoint without a handler.
    """
    served = [one for one in ENDPOINTS if one.api in apis and one.name not in without]
    if missing := sorted({one.name for one in served} - handlers.keys()):
        raise LookupError(
            f"gateway/api/endpoints.py names {', '.join(missing)}, and no handler has that name: "
            "spell the endpoint and its method alike"
        )
    return [
        Route(
            path,
            {
                verb: handlers[one.name]
                for one in served
                if one.path == path
                for verb in one.methods
            },
            style(path),
            player=endpoint.api == "player",
        )
        for path, endpoint in {one.path: one for one in served}.items()
    ]


def _description(live: RuntimeConfig) -> Handler:
    body = encode(document(live.config))

    async def describe(call: Call) -> Response:
        return Response(200, body)

    return describe
