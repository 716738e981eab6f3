"""Requests of clients of the original service, and the answers that they need.

One gateway on a real server answers them all. The requests are written for these tests; each is of
a kind that some client sends.
"""

from __future__ import annotations

import asyncio
import json
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pymysql
import pytest
from aiohttp import web

from gateway.catalog import finder, maintenance
from gateway.catalog.model import Mix, MixUser
from stack.mariadb import MariaDB
from stack.process import free_port
from stack.redis import RedisServer
from tests.conftest import StackConfig
from tests.support.gateways import Gateway, put_mixes
from tests.support.serving import a_mix
from tests.unit.test_openapi import valid

pytestmark = pytest.mark.stack

ANN, BOB = MixUser(3, "Ann", "ann"), MixUser(4, "Bob", "bob")


def mix(mix_id: int, name: str, tags: str, user: MixUser = ANN, cover: str | None = None) -> Mix:
    return msgspec.structs.replace(
        a_mix(mix_id),
        name=name,
        slug=f"mix-{mix_id}",
        path=f"/{user.slug}/mix-{mix_id}",
        tag_list_cache=tags,
        user=user,
        cover_url=cover,
    )


MIXES = [
    mix(1, "Stomps & <Blues>", "jazz, New Orleans, 1920s"),
    mix(2, "Slow blues of the city", "Blues, chicago", BOB),
    mix(3, "Rags", "ragtime, jazz", cover="https://pictures.example/{size}.jpg"),
    mix(4, "À la carte", "jazz, new orleans", BOB),
    mix(5, "No tags", ""),
]


class Service:
    """The operator's login service: `ann` has the password `right`."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.answer: Any = None
        self.app = web.Application()
        self.app.router.add_post("/login", self._login)
        self.app.router.add_post("/elsewhere", self._login)

    async def _login(self, request: web.Request) -> web.StreamResponse:
        said = await request.json()
        self.asked.append((request.path, said))
        if self.answer is not None:
            answer: web.StreamResponse = await self.answer()
            return answer
        if said != {"login": "ann", "password": "right"}:
            return web.Response(status=401)
        return web.json_response({"user_id": 42})


@dataclass
class Client:
    """Sends requests to a gateway, and checks the status of each answer."""

    gateway: Gateway
    http: aiohttp.ClientSession

    async def __call__(self, path: str, status: int = 200, method: str = "GET", **more: Any) -> Any:
        async with self.http.request(method, path, **more) as answer:
            body = await answer.json()
            assert answer.status == status, (path, body)
            assert body["status"] == f"{status} {answer.reason}"
            return body

    async def ids(self, path: str) -> list[int]:
        body = await self(path)
        shown = [one["id"] for one in body["mix_set"]["mixes"]]
        assert [one["id"] for one in body.get("mixes", body["mix_set"]["mixes"])] == shown
        return shown

    async def shaped(self, template: str, path: str, method: str = "GET", **more: Any) -> Any:
        """An answer, after checking its shape against the description."""
        body = await self(path, method=method, **more)
        valid(await self.http_json("/openapi.json"), template, method, 200, body)
        return body

    async def http_json(self, path: str) -> Any:
        async with self.http.get(path) as answer:
            return await answer.json()


@pytest.fixture(scope="module")
def server(_session_mariadb: MariaDB) -> MariaDB:
    return _session_mariadb


@pytest.fixture(scope="module")
def shared(
    tmp_path_factory: pytest.TempPathFactory,
    server: MariaDB,
    _session_servers: list[RedisServer],
) -> Iterator[Gateway]:
    """One gateway for all tests that change no data."""
    mysql, database = server, "tapedeck_clients"
    mysql.thaw()
    if not mysql.running:
        mysql.start()
    mysql.create_database(database)
    document = {
        "gateway": {"port": free_port()},
        "admin": {"port": free_port()},
        "auth": {
            "token_keys": ["k" * 32],
            "service_keys": ["service-key"],
            "login_url": f"http://127.0.0.1:{free_port()}/login",
            "adopt_tokens": True,
        },
        "lookup": {"servers": [server.server for server in _session_servers]},
        "mysql": {
            "hosts": [mysql.address],
            "user": "tapedeck",
            "password": mysql.passwords.gateway,
            "database": database,
        },
    }
    put_mixes(document, MIXES)
    with Gateway(document, tmp_path_factory.mktemp("clients")) as gateway:
        yield gateway
    mysql.drop_database(database)


@pytest.fixture
async def client(shared: Gateway) -> AsyncIterator[Client]:
    async with aiohttp.ClientSession(shared.url) as http:
        yield Client(shared, http)


@pytest.fixture
async def service(shared: Gateway) -> AsyncIterator[Service]:
    service = Service()
    runner = web.AppRunner(service.app)
    await runner.setup()
    port = int(shared.document["auth"]["login_url"].split(":")[2].split("/")[0])
    await web.TCPSite(runner, "127.0.0.1", port).start()
    yield service
    await runner.cleanup()


def connect(document: Any) -> pymysql.Connection[Any]:
    mysql = document["mysql"]
    host, _, port = mysql["hosts"][0].rpartition(":")
    who = {name: mysql[name] for name in ("user", "password", "database")}
    return pymysql.connect(host=host, port=int(port), **who)


FOUND = [
    ("/mixes.json", [5, 4, 3, 2, 1]),
    ("/mixes.json?sort=recent&per_page=2&page=2", [3, 2]),
    ("/mixes?q=blues", [2, 1]),
    ("/mixes?q=BLUES%20city", [2]),
    ("/mixes?q=the+slow+blues+of+the+city", [2]),
    ("/mixes?q=carte", [4]),
    ("/mixes?q=the+band", [5, 4, 3, 2, 1]),  # the performer of every track
    ("/mixes?q=of", []),
    ("/mixes?q=%2B%2A%22%28%3C%3E~%40", []),
    ("/mixes?q=nothing", []),
    ("/mixes?tags=jazz", [4, 3, 1]),
    ("/mixes?tag=jazz&sort=popular", [4, 3, 1]),
    ("/mixes?tags=jazz,new%20orleans", [4, 1]),
    ("/mixes?tags=jazz%2Bragtime", [3]),
    ("/mixes?tags=jazz+ragtime", [3]),
    ("/mixes?tags=jazz&q=stomps", [1]),
    ("/mixes?tags=polka", []),
    ("/mix_sets/all.json?include=mixes", [1, 2, 3, 4, 5]),
    ("/mix_sets/all:hot.json?include=mixes", [5, 4, 3, 2, 1]),
    ("/mix_sets/all:recent?include=mixes[user]+pagination&per_page=1", [5]),
    ("/mix_sets/tags:jazz.json", [4, 3, 1]),
    ("/mix_sets/tags:jazz+new_orleans:popular.json?include=mixes", [4, 1]),
    ("/mix_sets/tags:jazz%2Bnew_orleans:recent", [4, 1]),
    ("/mix_sets/tags%3Achicago", [2]),
    ("/mix_sets/keyword:blues:recent", [2, 1]),
    ("/mix_sets/keyword:of", []),
    ("/mix_sets/dj:4", [4, 2]),
    ("/mix_sets/similar:1.json?include=mixes", [4, 3]),
    ("/mix_sets/similar:5", []),
    ("/users/3/mixes.json", [5, 3, 1]),
    ("/users/4/mixes?sort=hot&page=2&per_page=1", [2]),
]
STATUSES = [
    ("GET", "/mixes?sort=best", 400),
    ("GET", "/mixes?per_page=101", 400),
    ("GET", "/mixes?q=" + "x" * 201, 400),
    ("GET", "/mixes?tags=a,b,c,d,e,f", 400),
    ("GET", "/mix_sets/nonsense", 404),
    ("GET", "/mix_sets/similar:99", 404),
    ("GET", "/mix_sets/tags:", 404),
    ("GET", "/mix_sets/all:best", 404),
    ("GET", "/users/99", 404),
    ("GET", "/users/ann", 400),
    ("GET", "/ann/mix-99", 404),
    ("GET", "/ann/mix-99.json", 404),
    ("GET", "/users/3/mixes?view=liked", 501),
    ("POST", "/mixes/1/toggle_like.json", 501),
    ("POST", "/mixes/1/like", 501),
    ("POST", "/tracks/101/fav.json", 501),
    ("POST", "/users/3/follow", 501),
    ("POST", "/users/3/invite", 404),
    ("GET", "/sets/99999999/play?mix_id=1", 401),
]


@pytest.mark.parametrize(("path", "ids"), FOUND)
async def test_a_client_s_search_finds_its_mixes(client: Client, path: str, ids: list[int]) -> None:
    assert await client.ids(path) == ids


@pytest.mark.parametrize(("method", "path", "status"), STATUSES)
async def test_a_refused_request_has_its_errors_in_the_api_s_envelope(
    client: Client, method: str, path: str, status: int
) -> None:
    assert (await client(path, status, method))["errors"]


async def test_lists_have_their_pagination_both_at_the_top_and_nested(client: Client) -> None:
    body = await client.shaped("/mixes", "/mixes.json?per_page=2&page=2")
    place = {"per_page": 2, "total_entries": 5, "next_page": 3}
    assert body["mix_set"]["pagination"] == {"current_page": 2, **place}
    place |= {"page": 2, "total_pages": 3, "previous_page": 1}
    assert {name: body[name] for name in place} == place
    body = await client.shaped("/mix_sets/{smart_id}", "/mix_sets/tags:jazz:hot.json")
    assert (body["mix_set"]["smart_id"], body["total_entries"]) == ("tags:jazz:hot", 3)
    body = await client.shaped("/tags", "/tags.json?per_page=2")
    assert [(tag["name"], tag["taggings_count"]) for tag in body["tags"]] == [
        ("jazz", 3),
        ("new orleans", 2),
    ]
    body = await client.shaped("/users/{id}", "/users/4.json")
    user = {"id": 4, "login": "Bob", "slug": "bob", "path": "/bob", "web_path": "/bob"}
    assert body["user"] == user | {"mixes_count": 2}


async def test_a_mix_has_a_page_and_cover_pictures(client: Client) -> None:
    shown = (await client("/mixes/1.json"))["mix"]
    assert (shown["user_id"], shown["web_path"], shown["likes_count"]) == (3, "/ann/mix-1", 0)
    assert shown["liked_by_current_user"] is False
    assert len(shown["cover_urls"]) > 5
    async with client.http.get(shown["cover_urls"]["sq100"]) as answer:
        assert answer.content_type == "image/svg+xml"
        assert answer.headers["Cross-Origin-Resource-Policy"] == "cross-origin", "clients show it"
        assert 'width="100"' in await answer.text()
    third = (await client("/mixes/3"))["mix"]["cover_urls"]
    assert third["sq250"] == "https://pictures.example/250.jpg"

    for path, headers in [
        ("/ann/mix-1.json", {}),
        ("/ann/mix-1?format=json", {}),
        ("/ann/mix-1", {"Accept": "application/json"}),
    ]:
        assert (await client.shaped("/{user}/{slug}", path, headers=headers))["mix"] == shown
    async with client.http.get("/ann/mix-1", headers={"Accept": "text/html"}) as answer:
        page = await answer.text()
        assert (answer.status, answer.content_type) == (200, "text/html")
        assert "script-src 'self'" in answer.headers["Content-Security-Policy"]
    assert "<h1>Stomps &amp; &lt;Blues&gt;</h1>" in page
    assert 'data-mix_id="1"' in page
    for part in ("mix.js", "mix.css", "base.css", "icon.svg"):
        assert part in page
        async with client.http.get(f"/player/{part}") as answer:
            assert answer.status == 200
    await client("/player/mix.html.py", 404)


@pytest.mark.engines
async def test_an_older_catalog_becomes_searchable_and_played_mixes_come_first(
    stack_config: StackConfig, tmp_path: Path
) -> None:
    document = stack_config(catalog={"max_age": 0})
    more = [mix(100 + n, f"Old {n}", "vintage") for n in range(2 * maintenance.BATCH + 1)]
    put_mixes(document, MIXES + more)
    with connect(document) as connection:
        connection.cursor().execute("DROP TABLE mix_index, mix_tags")
    gateway = Gateway(document, tmp_path)
    try:
        await asyncio.to_thread(gateway.start)
        async with aiohttp.ClientSession(gateway.url) as http:
            client = Client(gateway, http)
            async with asyncio.timeout(20):
                while (await client.http_json("/users/4.json")).get("errors") or (
                    (await client("/mixes?tags=vintage"))["total_entries"] < len(more)
                ):
                    await asyncio.sleep(0.05)
            assert await client.ids("/mixes?q=blues") == [2, 1]
            for _ in range(3):
                token = (await client("/sets/new"))["play_token"]
                await client(f"/sets/{token}/play?mix_id=2")
                await client(f"/sets/{token}/next?mix_id=2")
                await client(f"/sets/{token}/play?mix_id=2")  # it resumes, so it is no further play
            # Plays are written every few seconds, and at the end.
            await asyncio.to_thread(gateway.stop)
            await asyncio.to_thread(gateway.start)
            assert (await client("/mixes/2"))["mix"]["plays_count"] == 3
            assert (await client("/mixes/1"))["mix"]["plays_count"] == 0
            for path, ids in [
                ("/mix_sets/all:popular?per_page=2", [2, 140]),
                ("/mix_sets/all:hot?per_page=2", [2, 140]),
                ("/mixes?q=the+blues&tags=chicago&sort=popular", [2]),
                ("/mix_sets/tags:jazz+new_orleans:popular", [4, 1]),
                ("/mix_sets/similar:1", [4, 3]),
            ]:
                assert await client.ids(path) == ids
            put_mixes(document, [mix(2, "Renamed", "polka", BOB)])
            assert await client.ids("/mixes?q=renamed&tags=polka") == [2]
            assert await client.ids("/mixes?q=chicago") == []
            assert (await client("/mixes/2"))["mix"]["plays_count"] == 3
    finally:
        gateway.kill()


async def test_api_version_2_has_the_media_s_address_in_url(client: Client) -> None:
    token = (await client("/sets/new"))["play_token"]
    media = MIXES[0].tracks[0].track_file_stream_url
    for more, headers, url in [
        ("", {}, None),
        ("&api_version=3", {}, None),
        ("&api_version=2", {}, media),
        ("&api_version=2.1", {}, media),
        ("", {"X-Api-Version": "2"}, media),
    ]:
        body = await client(f"/sets/{token}/play.json?mix_id=1{more}", headers=headers)
        assert body["set"]["track"]["url"] == url
        body = await client(f"/sets/{token}/tracks_played?mix_id=1{more}", headers=headers)
        assert body["tracks"][0]["url"] == url


async def test_a_listener_signs_in_through_the_operator_s_login_service(
    client: Client, service: Service
) -> None:
    form = {"login": "ann", "password": "right"}
    body = await client.shaped("/sessions", "/sessions.json", "POST", data=form)
    assert body["logged_in"] is True
    token = body["user_token"]
    assert body["user"] == {"id": 42, "login": "ann", "user_token": token}
    for more, headers in [(f"?user_token={token}", {}), ("", {"X-User-Token": token})]:
        body = await client(f"/sets/new.json{more}", headers=headers)
        assert body["logged_in"] is True
        await client(f"/sets/{body['play_token']}/next?mix_id=1")
    body = await client(f"/sets/{token}/tracks_played?mix_id=1")
    assert len(body["tracks"]) == 2
    await client("/sets/new?user_token=stale", 401)
    assert (await client("/sets/new?user_token="))["logged_in"] is False

    await client("/sessions", 401, "POST", data=form | {"password": "s3cret-wrong"})
    await client("/sessions", 400, "POST", data={"login": "ann"})
    await client("/sessions?login=ann&password=right", 400, "POST")
    assert [said["password"] for _, said in service.asked] == ["right", "s3cret-wrong"]

    async def redirect() -> web.StreamResponse:
        raise web.HTTPTemporaryRedirect("/elsewhere")

    async def nonsense() -> web.StreamResponse:
        return web.json_response({"user_id": "s3cret-wrong"})

    async def endless() -> web.StreamResponse:
        return web.Response(body=b" " * 10_000_000)

    async def nested() -> web.StreamResponse:
        return web.Response(text='{"user_id": 42, "x": ' + "[" * 20_000 + "]" * 20_000 + "}")

    for answer in (redirect, nonsense, endless, nested):
        service.answer = answer
        await client("/sessions", 503, "POST", data=form)
    assert {path for path, _ in service.asked} == {"/login"}
    log = client.gateway.log.read_text()
    assert "login service failed" in log
    assert "s3cret-wrong" not in log
    assert "right" not in log


async def test_a_page_of_another_site_is_served_by_jsonp_and_by_cors(client: Client) -> None:
    async def script(path: str) -> Any:
        async with client.http.get(path) as answer:
            text = await answer.text()
            assert (answer.status, answer.content_type) == (200, "text/javascript"), text
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert text.startswith("/**/player.on_1(")
            assert text.endswith(");")
            return json.loads(text.removeprefix("/**/player.on_1(").removesuffix(");"))

    body = await script("/sets/new.jsonp?callback=player.on_1")
    assert body["status"] == "200 OK"
    token = body["play_token"]
    body = await script(f"/sets/{token}/play.jsonp?mix_id=1&callback=player.on_1")
    assert body["set"]["track"]["id"] == 101
    assert (await script("/mixes/99.jsonp?callback=player.on_1"))["status"] == "404 Not Found"
    assert (await script("/mixes.jsonp?callback=player.on_1"))["total_entries"] == 5
    for callback in ("", "&callback=", "&callback=a(1)", "&callback=a;b", "&callback=a..b"):
        await client(f"/sets/{token}/next.jsonp?mix_id=1{callback}", 400)
    async with client.http.get("/mixes/5/cover.svg.jsonp?callback=player.on_1") as picture:
        assert picture.content_type == "image/svg+xml"
    body = await client(f"/sets/{token}/tracks_played?mix_id=1")
    assert len(body["tracks"]) == 1, "a request without a valid callback moved the listener"

    page = {"Origin": "https://player.example"}
    for path, status in [("/sets/new", 200), ("/mixes/99", 404)]:
        async with client.http.get(path, headers=page) as answer:
            assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (status, "*")
    preflight = page | {"Access-Control-Request-Method": "POST"}
    async with client.http.options("/sets/new", headers=preflight) as answer:
        assert answer.status == 204
        allowed = answer.headers["Access-Control-Allow-Headers"]
        assert {"X-Api-Key", "X-Requested-With"} <= set(allowed.split(", "))
    async with client.http.options("/states/1/1", headers=preflight) as answer:
        assert answer.status == 405
    async with client.http.get("/states/1/1", headers=page | client.gateway.key) as answer:
        assert "Access-Control-Allow-Origin" not in answer.headers


async def test_answers_are_served_in_xml_too(client: Client) -> None:
    async def xml(path: str, status: int = 200) -> ET.Element:
        async with client.http.get(path) as answer:
            assert (answer.status, answer.content_type) == (status, "application/xml"), path
            root = ET.fromstring(await answer.text())
            assert root.findtext("status") == f"{status} {answer.reason}"
            return root

    token = (await xml("/sets/new.xml?api_version=2")).findtext("play-token")
    root = await xml(f"/sets/{token}/play.xml?mix_id=1")
    assert root[0].tag == "set"
    assert root.findtext("set/track/id") == "101"
    assert root.findtext("set/at-end") == "false"
    for path in ("/ann/mix-1.xml", "/mixes/1.xml"):
        root = await xml(path)
        assert root[0].findtext("name") == "Stomps & <Blues>"
        assert root.findtext("mix/cover-urls/sq250")
    shown = await xml("/mixes.xml?tags=jazz")
    assert [one.findtext("id") for one in shown.findall("mixes/mix")] == ["4", "3", "1"]
    assert (await xml("/mixes/99.xml", 404)).findtext("errors/error") == "There is no mix 99."
    assert (await xml("/sets/1/next.xml?mix_id=1", 401)).find("errors") is not None
    async with client.http.get("/mixes/1?format=xml") as answer:
        assert answer.content_type == "application/json", "the parameter `format` is ignored"


async def test_odd_paths_and_tokens_of_the_original_service_are_accepted(client: Client) -> None:
    token = (await client("/sets/new"))["play_token"]
    play = f"//sets/{token}/play?mix_id=1"
    async with aiohttp.ClientSession() as http:  # given whole URLs, aiohttp sends `//` unchanged
        for path, form, status in [
            ("//sets/new.json", None, 200),
            ("/sets/new/", None, 200),
            ("//mixes/1/", None, 200),
            ("//mixes.json/", None, 200),
            (play, {"mix_id": "1"}, 200),
            (play, {"mix_id": "2"}, 400),
        ]:
            method = "GET" if form is None else "POST"
            async with http.request(method, client.gateway.url + path, data=form) as answer:
                assert answer.status == status, path
    await client("/sets/123456789/next?mix_id=1")
    body = await client("/sets/123456789/next?mix_id=1")
    assert (body["set"]["track"]["id"], body["logged_in"]) == (102, False)
    body = await client("/sets/123456780/next?mix_id=1")
    assert body["set"]["track"]["id"] == 101


WAITING = (
    "SELECT COUNT(*) FROM information_schema.processlist"
    " WHERE info LIKE '%MATCH (i.words)%' AND id <> CONNECTION_ID()"
)


async def test_while_searches_wait_further_ones_are_refused_and_play_is_served(
    client: Client, server: MariaDB
) -> None:
    with server.connect(client.gateway.document["mysql"]["database"]) as other:
        # Searches wait as long as this connection has locked the table.
        other.cursor().execute("LOCK TABLES mix_index WRITE")
        searches = [asyncio.create_task(client(f"/mixes?q=word{n}", 503)) for n in range(60)]
        async with asyncio.timeout(20):
            while not (waiting := server.query(WAITING)[0][0]):
                await asyncio.sleep(0.01)
        token = (await client("/sets/new"))["play_token"]
        body = await client(f"/sets/{token}/play?mix_id=1")
        assert body["set"]["track"]["id"] == 101
        # Twice the limit, because a cancelled search may still run when the next one begins.
        assert max(waiting, server.query(WAITING)[0][0]) <= 2 * finder.SEARCHES
        await asyncio.gather(*searches)
    assert await client.ids("/mixes?q=blues") == [2, 1]
