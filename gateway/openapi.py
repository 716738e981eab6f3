"""The HTTP operations as one table: routes are made from it, and so is /openapi.json.

The table says of each path who answers, and with what. The shapes of
bodies are in `schemas.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal, TypeAlias

from tapedeck.config.model import Sections
from tapedeck.gateway.schemas import SCHEMAS
from tapedeck.sharding.state import PLAYLIST_MAX, USER_MAX

Api: TypeAlias = Literal["player", "states", "admin", "description"]
Json: TypeAlias = dict[str, Any]

PROBES = frozenset({"healthz", "readyz"})
"""Operations of the admin port that answer whoever asks, under whatever name."""
OPEN = PROBES | {"dashboard", "dashboard_file"}
"""Operations of the admin port that ask for no token. The page asks for it, and shows nothing
before."""
FORM_TYPES = ("application/x-www-form-urlencoded", "multipart/form-data")


@dataclass(frozen=True, slots=True)
class Parameter:
    """One of the query or of a form, or a name in the path.

    Attributes:
        needed: whether it has to be there.
    """

    name: str
    description: str
    schema: Json
    needed: bool = True


@dataclass(frozen=True, slots=True)
class Operation:
    """What one path does.

    Attributes:
        name: binds it to its handler, and is the operationId.
        api: who answers; decides the error body.
        path: the template; for the Player `.json` may follow.
        methods: in capitals.
        summary: one line.
        answers: the schema's name of each status that is no error of the whole API; None: no body.
        parameters: of the path, the query or a form.
        always: served even when the gateway is full.
    """

    name: str
    api: Api
    path: str
    methods: tuple[str, ...]
    summary: str
    answers: dict[int, str | None]
    parameters: tuple[Parameter, ...] = ()
    always: bool = False


def _id(name: str, description: str, highest: int = PLAYLIST_MAX, needed: bool = True) -> Parameter:
    schema = {"type": "integer", "format": "int64", "minimum": 1, "maximum": highest}
    return Parameter(name, description, schema, needed)


_ENTITY_TAG: Json = {"type": "string", "pattern": r'^(\*|"[0-9]{1,19}")$'}
_TOKEN = Parameter("play_token", "From /sets/new.", {"type": "string"})
_MIX_ID = _id("mix_id", "The mix.")
_BELIEVED = _id(
    "track_id",
    "The track that the client believes is playing: a retry with it moves nothing twice.",
    needed=False,
)
_USER = _id("user_id", "The user.", USER_MAX)
_ANY = ("GET", "POST")

OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "new_set",
        "player",
        "/sets/new",
        _ANY,
        "A play token: for an anonymous listener, or with the service key for a known user",
        {200: "NewSet", 401: "Error"},
        (_id("user_id", "With the service key: this user.", USER_MAX, needed=False),),
    ),
    Operation(
        "play",
        "player",
        "/sets/{play_token}/play",
        _ANY,
        "Start a mix or resume it; after its end, start it again",
        {200: "Playing", 401: "Error", 404: "Error", 409: "Error"},
        (_TOKEN, _MIX_ID),
    ),
    Operation(
        "next",
        "player",
        "/sets/{play_token}/next",
        _ANY,
        "Go to the next track",
        {200: "Playing", 401: "Error", 404: "Error", 409: "Error"},
        (_TOKEN, _MIX_ID, _BELIEVED),
    ),
    Operation(
        "skip",
        "player",
        "/sets/{play_token}/skip",
        _ANY,
        "Skip the track, as far as the licence allows; 403 with the reason in notices",
        {200: "Playing", 401: "Error", 403: "Refused", 404: "Error", 409: "Error"},
        (_TOKEN, _MIX_ID, _BELIEVED),
    ),
    Operation(
        "report",
        "player",
        "/sets/{play_token}/report",
        _ANY,
        "The track was listened to; twice is once",
        {200: "Done", 401: "Error", 404: "Error", 409: "Error"},
        (_TOKEN, _MIX_ID, _id("track_id", "The track.")),
    ),
    Operation(
        "tracks_played",
        "player",
        "/sets/{play_token}/tracks_played",
        _ANY,
        "The tracks played so far, in order",
        {200: "TracksPlayed", 401: "Error", 404: "Error", 409: "Error"},
        (_TOKEN, _MIX_ID),
    ),
    Operation(
        "next_mix",
        "player",
        "/sets/{play_token}/next_mix",
        _ANY,
        "The mix to go on with",
        {200: "NextMix", 401: "Error", 404: "Error"},
        (_TOKEN, _MIX_ID),
    ),
    Operation(
        "mix",
        "player",
        "/mixes/{id}",
        ("GET", "HEAD", "POST"),
        "One mix",
        {200: "OneMix", 404: "Error"},
        (_id("id", "The mix."),),
    ),
    Operation(
        "mix_set",
        "player",
        "/mix_sets/all",
        ("GET", "HEAD", "POST"),
        "All mixes, a page at a time",
        {200: "OneMixSet"},
        (
            _id("page", "From 1.", 10**9, needed=False),
            _id("per_page", "Mixes on a page.", 100, needed=False),
        ),
    ),
    Operation(
        "get_state",
        "states",
        "/states/{user_id}/{playlist_id}",
        ("GET", "HEAD"),
        "The state, byte for byte as it was stored",
        {200: "State", 304: None, 404: "PlainError", 409: "PlainError", 412: "PlainError"},
        (_USER, _id("playlist_id", "The playlist.")),
    ),
    Operation(
        "put_state",
        "states",
        "/states/{user_id}/{playlist_id}",
        ("PUT",),
        "Create the state (If-None-Match: *) or replace it (If-Match)",
        {
            200: "Stored",
            201: "Stored",
            **dict.fromkeys((408, 409, 412, 413, 415, 428), "PlainError"),
        },
        (_USER, _id("playlist_id", "The playlist.")),
    ),
    Operation(
        "delete_state",
        "states",
        "/states/{user_id}/{playlist_id}",
        ("DELETE",),
        "Delete the state (If-Match)",
        {204: None, 409: "PlainError", 412: "PlainError", 428: "PlainError"},
        (_USER, _id("playlist_id", "The playlist.")),
    ),
    Operation(
        "healthz", "admin", "/healthz", ("GET", "HEAD"), "The process lives", {200: "Health"}
    ),
    Operation(
        "readyz",
        "admin",
        "/readyz",
        ("GET", "HEAD"),
        "Whether it can serve",
        {200: "Readiness", 503: "Readiness"},
    ),
    Operation(
        "ring",
        "admin",
        "/ring",
        ("GET", "HEAD"),
        "The lookup nodes and their health",
        {200: "Ring"},
    ),
    Operation(
        "outline",
        "admin",
        "/ring/outline",
        ("GET", "HEAD"),
        "The ring's circle in evenly spaced places: whose each is, and who serves it now",
        {200: "Outline", 503: "PlainError"},
    ),
    Operation(
        "mysql",
        "admin",
        "/mysql",
        ("GET", "HEAD"),
        "The MySQL hosts: which one is the primary, and whether a standby acknowledges its commits",
        {200: "MySQL", 503: "PlainError"},
    ),
    Operation(
        "where",
        "admin",
        "/where/{user_id}/{playlist_id}",
        ("GET", "HEAD"),
        "Where one state lies: owner, hints, partition, version, the state itself",
        {200: "Where", 400: "PlainError", 503: "PlainError"},
        (_id("user_id", "The user, or an anonymous listener."), _id("playlist_id", "The mix.")),
    ),
    Operation(
        "dashboard",
        "admin",
        "/",
        ("GET", "HEAD"),
        "The dashboard, for a browser; it asks for the admin token where one is needed",
        {200: "Page"},
    ),
    Operation(
        "dashboard_file",
        "admin",
        "/dashboard/{file}",
        ("GET", "HEAD"),
        "A part of the dashboard's page",
        {200: "PagePart"},
        (Parameter("file", "Its name.", {"type": "string"}),),
    ),
    Operation(
        "dashboard_events",
        "admin",
        "/dashboard/events",
        ("GET",),
        "What the dashboard shows, live: server-sent events whose data is JSON",
        {200: "Events", 503: "PlainError"},
    ),
    Operation(
        "overview",
        "admin",
        "/overview",
        ("GET", "HEAD"),
        "This gateway in a few words, as the dashboards of other gateways show it",
        {200: "Overview", 503: "PlainError"},
    ),
    Operation(
        "partitions",
        "admin",
        "/partitions",
        ("GET", "HEAD"),
        "The day partitions",
        {200: "Partitions", 503: "PlainError"},
    ),
    Operation("stats", "admin", "/stats", ("GET", "HEAD"), "All counters as JSON", {200: "Stats"}),
    Operation(
        "metrics",
        "admin",
        "/metrics",
        ("GET", "HEAD"),
        "All counters as Prometheus text",
        {200: "Metrics"},
    ),
    Operation(
        "reload",
        "admin",
        "/reload",
        ("POST",),
        "Read the configuration again: what changed, or every problem and nothing changed",
        {200: "Reloaded", 422: "PlainError"},
    ),
    Operation(
        "reload_check",
        "admin",
        "/reload/check",
        ("POST",),
        "What a reload would change, and which share of the keys would move; nothing changes",
        {200: "Reloaded", 400: "PlainError", 422: "PlainError"},
    ),
    Operation(
        "openapi",
        "description",
        "/openapi.json",
        ("GET", "HEAD"),
        "This description; on the gateway's and on the admin port",
        {200: "Description"},
        always=True,
    ),
)


def document(config: Sections) -> Json:
    """The OpenAPI 3.1 description of the gateway and of its admin port."""
    paths: dict[str, Json] = {}
    for operation in OPERATIONS:
        item = paths.setdefault(operation.path, {})
        if operation.api == "admin":
            item["servers"] = [{"url": f"http://{config.admin.host}:{config.admin.port}"}]
        for method in operation.methods:
            item[method.lower()] = _operation(operation, method, config)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Tapedeck",
            "version": version("tapedeck"),
            "description": "Keeps the place of every listener in every playlist. The Player's "
            "paths may end in `.json`. `api_key`, `api_version`, `format` and `player`, and the "
            "headers X-Api-Key and X-Api-Version, are accepted and change nothing. Every answer "
            "carries X-Request-Id.",
        },
        "servers": [{"url": "/"}],
        "tags": [
            {"name": "player", "description": "8tracks' v3 conventions"},
            {"name": "states", "description": "For services with Player logic of their own"},
            {"name": "admin", "description": "On the admin port"},
            {"name": "description"},
        ],
        "paths": paths,
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {
                "serviceKey": {"type": "http", "scheme": "bearer"},
                "adminToken": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "Only where the admin port is not on loopback.",
                },
            },
        },
    }


def _operation(operation: Operation, method: str, config: Sections) -> Json:
    described: Json = {
        "operationId": f"{operation.name}_{method.lower()}",
        "summary": operation.summary,
        "tags": [operation.api],
        "parameters": [_parameter(p, operation, method) for p in _in_url(operation, method)],
        "responses": _responses(operation, method),
    }
    if method == "POST" and operation.api == "player":
        body = _form(operation)
        if body is not None:
            described["requestBody"] = body
    if method == "PUT":
        described["requestBody"] = {
            "required": True,
            "description": f"At most {config.states.max_bytes} bytes.",
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/State"}}},
        }
    if operation.api == "states":
        described["security"] = [{"serviceKey": []}]
    elif operation.name == "new_set":
        described["security"] = [{}, {"serviceKey": []}]
    elif operation.api == "admin" and operation.name not in OPEN:
        described["security"] = [{}, {"adminToken": []}]
    return described


def _in_url(operation: Operation, method: str) -> Iterable[Parameter]:
    yield from operation.parameters
    if operation.api == "states":
        star = {"type": "string", "enum": ["*"]}
        version = "The version, or `*`. Not together with If-None-Match."
        described = {
            "GET": [
                ("If-None-Match", "304 where it holds this version.", _ENTITY_TAG),
                ("If-Match", "Or 412. Not together with If-None-Match.", _ENTITY_TAG),
            ],
            "PUT": [
                ("If-None-Match", "`*`: create. It or If-Match is needed.", star),
                ("If-Match", version, _ENTITY_TAG),
            ],
            "DELETE": [("If-Match", "The version, or `*`; needed.", _ENTITY_TAG)],
        }
        for name, text, schema in described.get("GET" if method == "HEAD" else method, []):
            yield Parameter(name, text, schema, needed=False)


def _parameter(parameter: Parameter, operation: Operation, method: str) -> Json:
    if "{" + parameter.name + "}" in operation.path:
        where, needed = "path", True
    elif parameter.name.startswith("If-"):
        where, needed = "header", False
    else:
        # A form may carry it instead of the query.
        where, needed = "query", parameter.needed and method != "POST"
    return {
        "name": parameter.name,
        "in": where,
        "required": needed,
        "description": parameter.description,
        "schema": parameter.schema,
    }


def _form(operation: Operation) -> Json | None:
    fields = [p for p in operation.parameters if "{" + p.name + "}" not in operation.path]
    if not fields:
        return None
    schema = {"type": "object", "properties": {p.name: p.schema for p in fields}}
    return {"required": False, "content": {kind: {"schema": schema} for kind in FORM_TYPES}}


_COMMON: dict[Api, dict[int, str]] = {
    "player": {400: "Error", 408: "Error", 413: "Error", 415: "Error", 503: "Error"},
    "states": {400: "PlainError", 401: "PlainError", 503: "PlainError"},
    "admin": {401: "PlainError", 403: "PlainError"},
    "description": {},
}
# Any path may meet these.
_ALWAYS = (404, 405, 429, 500)
_WORDS = {
    200: "Done",
    201: "Created",
    204: "Deleted",
    304: "It still has this version",
    400: "A parameter, a condition or the body is missing or malformed",
    401: "Token or key",
    403: "The licence does not allow it; or another site's page asked",
    404: "There is no such thing",
    405: "The path does not answer this method",
    408: "The body did not arrive in time",
    409: "The state belongs to the other API",
    412: "The state has another version",
    413: "The body is too long",
    415: "The body has another media type",
    422: "The configuration has problems",
    428: "A condition is needed",
    429: "Too many requests from here",
    500: "Something broke; it is logged under the request id",
    503: "Not available right now",
}


_KINDS = {
    "Metrics": "text/plain",
    "Page": "text/html",
    "PagePart": "*/*",
    "Events": "text/event-stream",
}
"""Media types by schema, where it is not JSON."""


def _responses(operation: Operation, method: str) -> Json:
    # The description is on both ports, and each words errors in its own way.
    error = {"player": "Error", "description": "AnyError"}.get(operation.api, "PlainError")
    answers: dict[int, str | None] = {
        **dict.fromkeys(_ALWAYS, error),
        **_COMMON[operation.api],
        **operation.answers,
    }
    return {
        str(status): _response(operation, method, status, schema)
        for status, schema in sorted(answers.items())
    }


def _response(operation: Operation, method: str, status: int, schema: str | None) -> Json:
    headers: Json = {"X-Request-Id": {"schema": {"type": "string"}}}
    if operation.api == "states" and status in (200, 201, 304):
        headers["ETag"] = {"schema": {"type": "string"}, "description": "The version, quoted."}
        headers["X-Partition"] = {"schema": {"type": "string", "pattern": "^[0-9]{8}$"}}
    if status == 405:
        headers["Allow"] = {"schema": {"type": "string"}}
    if status in (429, 503) and operation.name != "readyz":
        headers["Retry-After"] = {"schema": {"type": "integer"}, "description": "seconds"}
    described: Json = {"description": _WORDS[status], "headers": headers}
    if schema is not None and method != "HEAD":
        kind = _KINDS.get(schema, "application/json")
        described["content"] = {kind: {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return described
