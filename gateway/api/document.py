"""/openapi.json: the table of endpoints (`endpoints.py`) as an OpenAPI 3.1 document."""

from __future__ import annotations

from config.model import Sections
from config.values import join_address
from gateway.api.endpoints import ENDPOINTS, OPEN, Api, Endpoint, Parameter
from gateway.api.schemas import SCHEMAS, Json
from gateway.http.parameters import MULTIPART, URLENCODED
from gateway.telemetry import VERSION

_COMMON: dict[Api, dict[int, str]] = {
    "player": {400: "Error", 408: "Error", 413: "Error", 415: "Error", 503: "Error"},
    "states": {400: "PlainError", 401: "PlainError", 503: "PlainError"},
    "admin": {401: "PlainError"},
    "description": {},
}
# Every path may answer with these.
_ALWAYS = (404, 405, 429, 500)
_WORDS = {
    200: "Done",
    201: "Created",
    204: "Deleted",
    304: "It still has this version",
    400: "A parameter, a condition or the body is missing or malformed",
    401: "Token or key",
    403: "The licence does not allow it",
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
    501: "This service does not do that",
    503: "Not available right now",
}
_KINDS = {
    "Metrics": "text/plain",
    "Page": "text/html",
    "PagePart": "*/*",
    "Events": "text/event-stream",
    "Guide": "text/plain",
    "Picture": "image/svg+xml",
}
"""Media types by schema, where it is not JSON."""


def document(config: Sections) -> Json:
    """The OpenAPI 3.1 description of the gateway and of its admin port."""
    paths: dict[str, Json] = {}
    for endpoint in ENDPOINTS:
        item = paths.setdefault(endpoint.path, {})
        if endpoint.api == "admin":
            item["servers"] = [
                {"url": f"http://{join_address(config.admin.host, config.admin.port)}"}
            ]
        for method in endpoint.methods:
            item[method.lower()] = _operation(endpoint, method, config)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Tapedeck",
            "version": VERSION,
            "description": "Keeps the place of every listener in every playlist. The Player's "
            "paths may end in `.json`, in `.jsonp` with `callback` (a script, status 200), or in "
            "`.xml`: the same in XML, with dashes in names. With "
            "`api_version` or X-Api-Version 2 a track's `url` is its media. `api_key`, "
            "`format`, `player` and the header X-Api-Key are accepted and change nothing. "
            "Every answer carries X-Request-Id.",
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


def _operation(endpoint: Endpoint, method: str, config: Sections) -> Json:
    described: Json = {
        "operationId": f"{endpoint.name}_{method.lower()}",
        "summary": endpoint.summary,
        "tags": [endpoint.api],
        "parameters": [_parameter(p, endpoint, method) for p in endpoint.parameters],
        "responses": _responses(endpoint, method),
    }
    if method == "POST" and endpoint.api == "player":
        body = _form(endpoint)
        if body is not None:
            described["requestBody"] = body
    if method == "PUT":
        described["requestBody"] = {
            "required": True,
            "description": f"At most {config.states.max_bytes} bytes.",
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/State"}}},
        }
    if endpoint.api == "states":
        described["security"] = [{"serviceKey": []}]
    elif endpoint.name == "new_set":
        described["security"] = [{}, {"serviceKey": []}]
    elif endpoint.api == "admin" and endpoint.name not in OPEN:
        described["security"] = [{}, {"adminToken": []}]
    return described


def _parameter(parameter: Parameter, endpoint: Endpoint, method: str) -> Json:
    if "{" + parameter.name + "}" in endpoint.path:
        where, needed = "path", True
    elif parameter.name.startswith("If-"):
        where, needed = "header", False
    else:
        # A form may have it instead of the query.
        where, needed = "query", parameter.needed and method != "POST"
    return {
        "name": parameter.name,
        "in": where,
        "required": needed,
        "description": parameter.description,
        "schema": parameter.schema,
    }


def _form(endpoint: Endpoint) -> Json | None:
    fields = [p for p in endpoint.parameters if "{" + p.name + "}" not in endpoint.path]
    if not fields:
        return None
    schema = {"type": "object", "properties": {p.name: p.schema for p in fields}}
    content = {kind: {"schema": schema} for kind in (URLENCODED, MULTIPART)}
    return {"required": False, "content": content}


def _responses(endpoint: Endpoint, method: str) -> Json:
    # The description is on both ports, and each has its own error bodies.
    error = {"player": "Error", "description": "AnyError"}.get(endpoint.api, "PlainError")
    answers: dict[int, str | None] = {
        **dict.fromkeys(_ALWAYS, error),
        **_COMMON[endpoint.api],
        **endpoint.answers,
    }
    return {
        str(status): _response(endpoint, method, status, schema)
        for status, schema in sorted(answers.items())
    }


def _response(endpoint: Endpoint, method: str, status: int, schema: str | None) -> Json:
    headers: Json = {"X-Request-Id": {"schema": {"type": "string"}}}
    if endpoint.api == "states" and status in (200, 201, 304):
        headers["ETag"] = {"schema": {"type": "string"}, "description": "The version, quoted."}
        headers["X-Partition"] = {"schema": {"type": "string", "pattern": "^[0-9]{8}$"}}
    if status == 405:
        headers["Allow"] = {"schema": {"type": "string"}}
    if status in (429, 503) and endpoint.name != "readyz":
        headers["Retry-After"] = {"schema": {"type": "integer"}, "description": "seconds"}
    described: Json = {"description": _WORDS[status], "headers": headers}
    if schema is not None and method != "HEAD":
        described["content"] = {
            _KINDS.get(one, "application/json"): {"schema": {"$ref": f"#/components/schemas/{one}"}}
            for one in schema.split(" or ")
        }
    return described
