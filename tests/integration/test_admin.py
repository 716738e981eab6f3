"""The admin port, reloads, and how a gateway starts and stops."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from config.load import parse
from gateway.api.document import document as describe
from stack.mariadb import MariaDB
from stack.redis import RedisServer
from tests.support.gateways import Gateway, put_mixes
from tests.support.serving import a_mix
from tests.unit.test_openapi import valid

pytestmark = pytest.mark.stack

StackConfig = Callable[..., dict[str, Any]]


@pytest.fixture
def gateway(stack_config: StackConfig, tmp_path: Path) -> Iterator[Gateway]:
    document = stack_config(gateway={"drain_seconds": 10}, lookup={"server_retry_timeout": 60_000})
    put_mixes(document, [a_mix(7)])
    with Gateway(document, tmp_path) as gateway:
        yield gateway


async def get(gateway: Gateway, path: str) -> Any:
    async with aiohttp.ClientSession(gateway.admin) as http, http.get(path) as answer:
        assert answer.status == 200
        return await answer.json(content_type=None)


async def test_every_answer_of_the_admin_port_has_its_described_shape(gateway: Gateway) -> None:
    description = describe(parse(gateway.document))
    async with aiohttp.ClientSession(gateway.url) as http, http.get("/mixes/7") as answer:
        assert answer.status == 200
    paths = ["/healthz", "/readyz", "/ring", "/partitions", "/stats", "/openapi.json"]
    for path in [*paths, "/mysql", "/ring/outline", "/drain", "/events"]:
        valid(description, path, "GET", 200, await get(gateway, path))
    where = await get(gateway, "/where/9223372036854775807/7")
    valid(description, "/where/{user_id}/{playlist_id}", "GET", 200, where)
    await gateway.until("/overview", lambda status, _: status == 200)
    valid(description, "/overview", "GET", 200, await get(gateway, "/overview"))
    ring = await get(gateway, "/ring")
    assert [node["state"] for node in ring["nodes"]] == ["live"] * 3
    assert sum(node["share"] for node in ring["nodes"]) == pytest.approx(1, abs=1e-4)


async def ask(gateway: Gateway, question: dict[str, str], token: str = "") -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with (
        aiohttp.ClientSession(gateway.admin, headers=headers) as http,
        http.post("/find", json=question) as answer,
    ):
        return answer.status, await answer.json()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_listener_is_found_by_token_or_request_id_and_no_answer_shows_a_token(
    stack_config: StackConfig, mysql: MariaDB, tmp_path: Path, workers: int
) -> None:
    admin = {"host": "0.0.0.0", "token": "the-admin-token"}
    document = stack_config(
        admin=admin, mysql={"deadline": 300}, gateway={"workers": workers, "drain_seconds": 1}
    )
    put_mixes(document, [a_mix(7)])
    with Gateway(document, tmp_path) as gateway:
        asyncio.run(_finds(gateway, mysql))


async def _finds(gateway: Gateway, mysql: MariaDB) -> None:
    async with aiohttp.ClientSession(gateway.url) as http:
        async with http.get("/sets/new?user_id=42", headers=gateway.key) as answer:
            token = (await answer.json())["play_token"]
        async with http.get(f"/sets/{token}/play?mix_id=7") as answer:
            assert answer.status == 200
        mysql.freeze()
        for number in range(3):  # any worker may get them
            headers = {"X-Request-Id": f"mine-{number}", "Connection": "close"}
            path = f"/sets/{token}/next?mix_id=7"
            async with http.get(path, headers=headers) as answer:
                assert answer.status == 503
        mysql.thaw()
    for question in ({"play_token": token}, {"request_id": "mine-1"}):
        assert (await ask(gateway, question))[0] == 401
        status, found = await ask(gateway, question, "the-admin-token")
        assert (status, found["problem"]) == (200, None)
        assert found["listener"]["user_id"] == "42"
        assert found["listener"]["logged_in"] is True
        assert token not in str(found)
        asked = [one["request_id"] for one in found["failed"]]
        wanted = [f"mine-{n}" for n in (2, 1, 0)] if "play_token" in question else ["mine-1"]
        assert asked == wanted
        assert found["failed"][0]["request"] == "GET /sets/{play_token}/next"
        assert (found["failed"][0]["status"], found["failed"][0]["playlist_id"]) == (503, "7")
        valid(describe(parse(gateway.document)), "/find", "POST", 200, found)
    forged = token[:-1] + ("A" if token[-1] != "A" else "B")
    status, found = await ask(gateway, {"play_token": forged}, "the-admin-token")
    assert (status, found["listener"]) == (200, None)
    assert "not issued by this service" in found["problem"]
    assert (await ask(gateway, {}, "the-admin-token"))[0] == 400
    assert token not in gateway.log.read_text()


async def test_an_installed_gateway_serves_the_runbooks(gateway: Gateway) -> None:
    async with aiohttp.ClientSession(gateway.admin) as http:
        async with http.get("/docs/TapedeckSlow.md") as answer:
            assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
            assert (await answer.text()).startswith("# TapedeckSlow")
        async with http.get("/docs/..%2Fsecret.md") as answer:
            assert answer.status == 404


async def test_partitions_shows_today_s(gateway: Gateway) -> None:
    async with aiohttp.ClientSession(gateway.url) as http:
        headers = {**gateway.key, "If-None-Match": "*", "Content-Type": "application/json"}
        async with http.put("/states/1/1", headers=headers, data=b"{}") as answer:
            assert answer.status == 201
    days = {part["day"] for part in await get(gateway, "/partitions")}
    assert f"{datetime.now(UTC):%Y%m%d}" in days


async def test_metrics_are_served_as_text_and_as_json(gateway: Gateway) -> None:
    async with aiohttp.ClientSession(gateway.url) as http:
        for _ in range(3):
            async with http.get("/mixes/7"):
                pass
    stats = await get(gateway, "/stats")
    assert {
        "labels": {"route": "/mixes/{id}", "method": "GET", "status": "200"},
        "value": 3,
    } in stats["tapedeck_http_requests"]
    async with aiohttp.ClientSession(gateway.admin) as http, http.get("/metrics") as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        text = await answer.text()
    line = 'tapedeck_http_requests_total{method="GET",route="/mixes/{id}",status="200"} 3.0'
    assert line in text


async def test_a_killed_lookup_node_degrades_readyz_and_no_listener_notices(
    gateway: Gateway, lookup_servers: list[RedisServer]
) -> None:
    lookup_servers[0].kill()
    async with aiohttp.ClientSession(gateway.url) as http:
        for _ in range(60):
            async with http.get("/sets/new") as answer:
                token = (await answer.json())["play_token"]
            async with http.get(f"/sets/{token}/play?mix_id=7") as answer:
                assert answer.status == 200
    body = await gateway.until("/readyz", lambda _, b: b["status"] == "degraded")
    assert "lookup1" in body["reasons"][0]
    ring = await get(gateway, "/ring")
    states = {node["name"]: node["state"] for node in ring["nodes"]}
    assert "ejected" in states.values()


def test_a_gateway_starts_while_mysql_is_down_and_recovers_by_itself(
    stack_config: StackConfig, mysql: MariaDB, tmp_path: Path
) -> None:
    document = stack_config(mysql={"deadline": 500, "connect_timeout": 300})
    put_mixes(document, [a_mix(7)])
    mysql.kill()
    gateway = Gateway(document, tmp_path)
    try:
        gateway.start(ready=False)
        asyncio.run(_is_down(gateway))
        mysql.start()
        asyncio.run(gateway.until("/readyz", lambda status, _: status == 200))
        asyncio.run(_plays(gateway))
    finally:
        gateway.kill()


async def _is_down(gateway: Gateway) -> None:
    body = await gateway.until("/readyz", lambda status, _: status == 503)
    assert body["status"] == "unavailable"
    assert body["reasons"]
    async with aiohttp.ClientSession(gateway.url) as http:
        async with http.get("/mixes/7") as answer:
            assert answer.status == 503
            assert int(answer.headers["Retry-After"]) >= 1
            assert (await answer.json())["status"] == "503 Service Unavailable"
        async with http.get("/states/1/1", headers=gateway.key) as answer:
            assert answer.status == 503
            assert int(answer.headers["Retry-After"]) >= 1


async def _plays(gateway: Gateway) -> None:
    async with aiohttp.ClientSession(gateway.url) as http:
        async with http.get("/sets/new") as answer:
            token = (await answer.json())["play_token"]
        async with http.get(f"/sets/{token}/play?mix_id=7") as answer:
            assert answer.status == 200


async def reload(gateway: Gateway) -> tuple[int, Any]:
    async with aiohttp.ClientSession(gateway.admin) as http, http.post("/reload") as answer:
        return answer.status, await answer.json()


async def test_a_reload_applies_what_it_can_and_a_bad_file_changes_nothing(
    gateway: Gateway,
) -> None:
    assert await reload(gateway) == (200, {"changed": [], "needs_restart": []})
    gateway.document["player"] = {"skip_limit": 0}
    gateway.document["mysql"]["connections"] = 3
    gateway.write_config()
    assert await reload(gateway) == (
        200,
        {"changed": ["player.skip_limit"], "needs_restart": ["mysql.connections"]},
    )
    async with aiohttp.ClientSession(gateway.url) as http:
        async with http.get("/sets/new") as answer:
            token = (await answer.json())["play_token"]
        async with http.get(f"/sets/{token}/play?mix_id=7") as answer:
            assert (await answer.json())["set"]["skip_allowed"] is False
    gateway.document["player"] = {"skip_limit": -1}
    gateway.document["nonsense"] = {}
    gateway.write_config()
    status, body = await reload(gateway)
    assert (status, body["status"]) == (422, "422 Unprocessable Content")
    assert len(body["errors"]) == 2
    gateway.send(signal.SIGHUP)
    await gateway.until("/healthz", lambda *_: len(gateway.lines("reload refused")) == 2)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ("player: {skip_limit: 2026-13-45}", "player.skip_limit: "),
        (f"player: {{skip_limit: {'9' * 5000}}}", "player.skip_limit: "),
        ("player: " + "[" * 5000, "is nested more than 32 levels deep"),
        ("player: {}\nplayer: {}", "'player' is given twice, first on line "),
    ],
)
async def test_a_reload_of_malformed_yaml_is_422_with_one_line(
    gateway: Gateway, more: str, sentence: str
) -> None:
    gateway.config.write_text(f"{gateway.config.read_text()}\n{more}\n")
    status, body = await reload(gateway)

    assert status == 422, body
    assert len(body["errors"]) == 1
    assert sentence in body["errors"][0]
    assert await reload_after_mending(gateway) == (200, {"changed": [], "needs_restart": []})


async def reload_after_mending(gateway: Gateway) -> tuple[int, Any]:
    gateway.write_config()
    return await reload(gateway)


async def test_an_admin_port_that_is_not_on_loopback_requires_its_token_for_each_path(
    stack_config: StackConfig, tmp_path: Path
) -> None:
    document = stack_config(admin={"host": "0.0.0.0", "token": "the-admin-token"})
    gateway = Gateway(document, tmp_path)
    try:
        await asyncio.to_thread(gateway.start)
        paths = ("/ring", "/partitions", "/stats", "/metrics", "/openapi.json", "/reload")
        async with aiohttp.ClientSession(gateway.admin) as http:
            for path in paths:
                method = "POST" if path == "/reload" else "GET"
                for token, status in (("wrong", 401), ("the-admin-token", 200)):
                    headers = {"Authorization": f"Bearer {token}"}
                    async with http.request(method, path, headers=headers) as answer:
                        assert answer.status == status, path
                async with http.request(method, path) as answer:
                    assert answer.status == 401
                    assert answer.headers["WWW-Authenticate"] == "Bearer"
            for path in ("/healthz", "/readyz"):
                async with http.get(path) as answer:
                    assert answer.status == 200
            async with http.get("/nothing") as answer:
                assert answer.status == 404
                assert (await answer.json())["status"] == "404 Not Found"
            async with http.get("/reload") as answer:
                assert answer.status == 405
    finally:
        gateway.kill()
    assert "the-admin-token" not in gateway.log.read_text()


@pytest.mark.parametrize("workers", [1, 2])
async def test_an_admin_port_on_loopback_answers_only_to_its_own_names(
    stack_config: StackConfig, tmp_path: Path, workers: int
) -> None:
    gateway = Gateway(stack_config(gateway={"workers": workers}), tmp_path)
    foreign = {"Host": "tapedeck.example"}
    try:
        await asyncio.to_thread(gateway.start)
        async with aiohttp.ClientSession(gateway.admin) as http:
            for path in ("/", "/stats", "/metrics", "/where/1/1", "/dashboard/events"):
                async with http.get(path, headers=foreign) as answer:
                    assert answer.status == 403, path
            async with http.get("/readyz", headers=foreign) as answer:
                assert answer.status == 200
            gateway.document["admin"]["allowed_hosts"] = ["tapedeck.example"]
            gateway.write_config()
            async with http.post("/reload", headers=foreign) as answer:
                assert answer.status == 403
                assert (await answer.json())["status"] == "403 Forbidden"
            changed = {"changed": ["admin.allowed_hosts"], "needs_restart": []}
            assert await reload(gateway) == (200, changed)
            async with http.get("/stats", headers=foreign) as answer:
                assert answer.status == 200
    finally:
        gateway.kill()


async def test_a_stop_answers_accepted_requests_and_exits_with_0(gateway: Gateway) -> None:
    """Clients that ask without a pause see no broken answer, on kept and on new connections."""
    stopping = asyncio.Event()
    answered, refused, broken = 0, 0, []

    async def client() -> None:
        nonlocal answered, refused
        async with aiohttp.ClientSession(gateway.url) as http:
            while True:
                try:
                    # A POST: the client library repeats a GET by itself.
                    async with http.post("/mixes/7") as answer:
                        assert answer.status == 200
                        await answer.json()
                        answered += 1
                except aiohttp.ClientConnectorError:
                    refused += 1
                    return
                except (aiohttp.ClientError, AssertionError) as error:
                    broken.append(repr(error))
                    return

    clients = [asyncio.create_task(client()) for _ in range(20)]
    async with aiohttp.ClientSession(gateway.url) as slow_http:
        arrived = asyncio.Event()

        async def slow_body() -> Any:
            yield b'{"a":'
            arrived.set()
            await stopping.wait()
            await asyncio.sleep(1.5)  # the time that the upload itself takes
            yield b"1}"

        headers = {**gateway.key, "If-None-Match": "*", "Content-Type": "application/json"}

        async def upload() -> int:
            async with slow_http.put("/states/1/1", headers=headers, data=slow_body()) as answer:
                return answer.status

        uploading = asyncio.create_task(upload())
        await arrived.wait()
        gateway.send(signal.SIGTERM)
        stopping.set()
        async with aiohttp.ClientSession(gateway.admin) as http:
            while True:
                async with http.get("/readyz") as answer:
                    if answer.status == 503:
                        assert (await answer.json())["status"] == "draining"
                        break
        assert await uploading == 201
    await asyncio.gather(*clients)
    assert broken == []
    assert answered > 0
    assert refused == 20
    assert await asyncio.to_thread(gateway.wait) == 0
    assert gateway.lines("worker stopped")


async def test_a_stop_ends_after_drain_seconds_even_if_a_request_hangs(
    stack_config: StackConfig, tmp_path: Path
) -> None:
    gateway = Gateway(stack_config(gateway={"drain_seconds": 1}), tmp_path)
    try:
        await asyncio.to_thread(gateway.start)
        port = gateway.document["gateway"]["port"]
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        head = "PUT /states/1/1 HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        head += f"Authorization: {gateway.key['Authorization']}\r\nContent-Length: 9\r\n\r\n"
        writer.write(head.encode())
        await gateway.until("/stats", lambda _, b: b["tapedeck_http_requests_in_flight"] == 1)
        assert await asyncio.to_thread(gateway.stop) == 0
        assert gateway.lines("drain interrupted")
        writer.close()
    finally:
        gateway.kill()


async def test_log_lines_are_json_with_time_event_and_request_id_and_without_secrets(
    stack_config: StackConfig, tmp_path: Path
) -> None:
    gateway = Gateway(stack_config(log={"requests": True, "level": "debug"}), tmp_path)
    try:
        await asyncio.to_thread(gateway.start)
        async with aiohttp.ClientSession(gateway.url) as http:
            async with http.get("/sets/new?user_id=5", headers=gateway.key) as answer:
                token = (await answer.json())["play_token"]
            headers = {"X-Request-Id": "one-of-mine"}
            async with http.get(f"/sets/{token}/play?mix_id=7", headers=headers) as answer:
                assert answer.status == 404
        assert await asyncio.to_thread(gateway.stop) == 0
    finally:
        gateway.kill()
    for line in gateway.lines():
        assert {"timestamp", "level", "event"} <= line.keys()
    mine = [
        line for line in gateway.lines("request answered") if line["request_id"] == "one-of-mine"
    ]
    assert [(line["route"], line["status"]) for line in mine] == [("/sets/{play_token}/play", 404)]
    text = gateway.log.read_text()
    auth = gateway.document["auth"]
    mysql_password = gateway.document["mysql"]["password"]
    for secret in (token, auth["service_keys"][0], auth["token_keys"][0], mysql_password):
        assert secret not in text
