"""The description at /openapi.json agrees with what the gateway serves."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from gateway import factory
from gateway.admin.routes import AdminApi
from gateway.api.document import document
from gateway.api.endpoints import ENDPOINTS
from gateway.dashboard.page import Dashboard
from gateway.factory import admin_application
from gateway.http.application import Application
from gateway.reload.runtime_config import RuntimeConfig
from tests.support.serving import SERVICE_KEY, a_config, serving

KEY = {"Authorization": f"Bearer {SERVICE_KEY}"}
JSON = {"Content-Type": "application/json"}


def valid(description: dict[str, Any], template: str, method: str, status: int, body: Any) -> None:
    """Require that the description has this answer, in this shape."""
    answers = description["paths"][template][method.lower()]["responses"]
    assert str(status) in answers, f"{method} {template} answered {status}, which is not described"
    content = answers[str(status)].get("content")
    if content is None:
        assert not body
        return
    registry = Registry().with_resource(
        "urn:api", Resource.from_contents(description, default_specification=DRAFT202012)
    )
    schema = content["application/json"]["schema"]
    reference = {"$ref": "urn:api" + schema["$ref"]}
    Draft202012Validator(reference, registry=registry).validate(body)


def described(*apis: str) -> dict[str, set[str]]:
    paths: dict[str, set[str]] = {}
    for path, item in document(a_config())["paths"].items():
        for method, operation in item.items():
            if method != "servers" and operation["tags"][0] in apis:
                paths.setdefault(path, set()).add(method.upper())
    return paths


def served(application: Application) -> dict[str, set[str]]:
    return {route.template: set(route.handlers) for route in application.routes.all}


async def test_the_gateway_serves_exactly_the_described_operations() -> None:
    async with serving() as gateway:
        assert served(gateway.application) == described("player", "states", "description")


def test_the_admin_port_serves_exactly_the_described_operations() -> None:
    live = RuntimeConfig(a_config())
    api = AdminApi(None, None, live, Dashboard(None, live))  # type: ignore[arg-type]
    application = admin_application(live, api)
    assert served(application) == described("admin", "description")


def test_an_endpoint_whose_handler_has_another_name_fails_at_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    misspelt = [replace(one, name="rinng") if one.name == "ring" else one for one in ENDPOINTS]
    monkeypatch.setattr(factory, "ENDPOINTS", misspelt)
    live = RuntimeConfig(a_config())
    api = AdminApi(None, None, live, Dashboard(None, live))  # type: ignore[arg-type]
    with pytest.raises(LookupError, match=r"names rinng, and no handler has that name"):
        admin_application(live, api)


def test_the_description_is_openapi_3_1() -> None:
    description = document(a_config())
    assert description["openapi"] == "3.1.0"
    for schema in description["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    names = [
        operation["operationId"]
        for item in description["paths"].values()
        for method, operation in item.items()
        if method != "servers"
    ]
    assert len(names) == len(set(names))
    references = set(_references(description))
    assert references <= {f"#/components/schemas/{n}" for n in description["components"]["schemas"]}


def _references(node: Any) -> Any:
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "$ref":
                yield value
            else:
                yield from _references(value)
    elif isinstance(node, list):
        for value in node:
            yield from _references(value)


def test_every_name_in_a_path_is_described_as_a_parameter() -> None:
    for endpoint in ENDPOINTS:
        names = {part[1:-1] for part in endpoint.path.split("/") if part.startswith("{")}
        assert names <= {parameter.name for parameter in endpoint.parameters}


PLAYER = [
    ("/sets/new", "/sets/new", 200),
    ("/sets/new", "/sets/new?user_id=1", 401),
    ("/sets/new", "/sets/new?user_id=x", 401),
    ("/sets/{play_token}/play", "/sets/TOKEN/play?mix_id=1", 200),
    ("/sets/{play_token}/play", "/sets/TOKEN/play.json?mix_id=1&api_key=x&format=json", 200),
    ("/sets/{play_token}/play", "/sets/bad/play?mix_id=1", 401),
    ("/sets/{play_token}/play", "/sets/TOKEN/play", 400),
    ("/sets/{play_token}/play", "/sets/TOKEN/play?mix_id=99", 404),
    ("/sets/{play_token}/next", "/sets/TOKEN/next?mix_id=1", 200),
    ("/sets/{play_token}/next", "/sets/TOKEN/next?mix_id=1&track_id=5", 404),
    ("/sets/{play_token}/next", "/sets/TOKEN/next?mix_id=2", 200),
    ("/sets/{play_token}/next", "/sets/TOKEN/next?mix_id=2", 200),
    ("/sets/{play_token}/skip", "/sets/TOKEN/skip?mix_id=2", 403),
    ("/sets/{play_token}/report", "/sets/TOKEN/report?mix_id=1&track_id=101", 200),
    ("/sets/{play_token}/report", "/sets/TOKEN/report?mix_id=1", 400),
    ("/sets/{play_token}/tracks_played", "/sets/TOKEN/tracks_played?mix_id=1", 200),
    ("/sets/{play_token}/next_mix", "/sets/TOKEN/next_mix?mix_id=3", 200),
    ("/sets/{play_token}/next_mix", "/sets/TOKEN/next_mix?mix_id=9", 404),
    ("/mixes/{id}", "/mixes/1", 200),
    ("/mixes/{id}", "/mixes/1.json", 200),
    ("/mixes/{id}", "/mixes/9", 404),
    ("/mixes/{id}", "/mixes/x", 400),
    ("/mix_sets/{smart_id}", "/mix_sets/all?page=1&per_page=2", 200),
    ("/mix_sets/{smart_id}", "/mix_sets/all.json?page=5", 200),
    ("/mix_sets/{smart_id}", "/mix_sets/all?per_page=101", 400),
    ("/openapi.json", "/openapi.json", 200),
]


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_the_player_s_answers_have_the_described_shapes(method: str) -> None:
    async with serving() as gateway:
        async with gateway.http.get("/openapi.json") as answer:
            description = await answer.json()
        async with gateway.http.get("/sets/new") as answer:
            token = (await answer.json())["play_token"]
        for template, path, status in PLAYER:
            known = method.lower() in description["paths"][template]
            async with gateway.http.request(method, path.replace("TOKEN", token)) as answer:
                body = await answer.json()
                assert answer.status == (status if known else 405), path
                assert answer.headers["X-Request-Id"]
                if answer.status == 405:
                    methods = {m.upper() for m in description["paths"][template]}
                    assert set(answer.headers["Allow"].split(", ")) == methods
                else:
                    valid(description, template, method, answer.status, body)
                if template != "/openapi.json":
                    assert body["status"].startswith(f"{answer.status} ")


STATES = [
    ("GET", "/states/1/2", {}, None, 401),
    ("GET", "/states/1/2", KEY, None, 404),
    ("PUT", "/states/1/2", {**KEY, **JSON}, b"{}", 428),
    ("PUT", "/states/1/2", {**KEY, **JSON, "If-Match": "*"}, b"{}", 412),
    ("PUT", "/states/1/2", {**KEY, **JSON, "If-None-Match": "*"}, b'{"a": 1}', 201),
    ("PUT", "/states/1/2", {**KEY, **JSON, "If-None-Match": "*"}, b"{}", 412),
    ("PUT", "/states/1/2", {**KEY, **JSON, "If-Match": '"1"'}, b'{"a": 2}', 200),
    ("PUT", "/states/1/2", {**KEY, **JSON, "If-Match": "1"}, b"{}", 400),
    ("PUT", "/states/1/2", {**KEY, **JSON}, b"[]", 400),
    ("PUT", "/states/1/2", {**KEY, "Content-Type": "text/plain"}, b"{}", 415),
    ("PUT", "/states/1/2", {**KEY, **JSON}, b'{"a":"' + b"x" * 70_000 + b'"}', 413),
    ("PUT", "/states/0/2", {**KEY, **JSON, "If-None-Match": "*"}, b"{}", 400),
    ("GET", "/states/1/2", KEY, None, 200),
    ("HEAD", "/states/1/2", KEY, None, 200),
    ("GET", "/states/1/2", {**KEY, "If-None-Match": '"2"'}, None, 304),
    ("DELETE", "/states/1/2", KEY, None, 428),
    ("DELETE", "/states/1/2", {**KEY, "If-Match": '"1"'}, None, 412),
    ("DELETE", "/states/1/2", {**KEY, "If-Match": '"2"'}, None, 204),
    ("GET", "/states/1/2", KEY, None, 404),
]


async def test_the_states_api_s_answers_have_the_described_shapes() -> None:
    template = "/states/{user_id}/{playlist_id}"
    async with serving() as gateway:
        async with gateway.http.get("/openapi.json") as answer:
            description = await answer.json()
        for method, path, headers, body, status in STATES:
            async with gateway.http.request(method, path, headers=headers, data=body) as answer:
                text = await answer.read()
                assert answer.status == status, (method, path, headers, text)
                value: Any = json.loads(text) if text else None
                valid(description, template, method, status, value)
                if status >= 400 and method != "HEAD":
                    assert value["status"] == f"{status} {answer.reason}"
