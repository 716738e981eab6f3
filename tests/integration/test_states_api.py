"""The states API of a running gateway with real servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yarl

from tests.support.gateways import Gateway, put_mixes
from tests.support.serving import a_mix

pytestmark = pytest.mark.stack

JSON = {"Content-Type": "application/json"}


@pytest.fixture
def gateway(stack_config: Callable[..., dict[str, Any]], tmp_path: Path) -> Iterator[Gateway]:
    document = stack_config()
    put_mixes(document, [a_mix(7)])
    with Gateway(document, tmp_path) as gateway:
        yield gateway


@pytest.fixture
async def http(gateway: Gateway) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(gateway.url, headers=gateway.key) as session:
        yield session


async def call(
    http: aiohttp.ClientSession, method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, bytes, Any]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    if body is not None:
        named = {**JSON, **named}
    async with http.request(method, path, data=body, headers=named) as answer:
        return answer.status, await answer.read(), answer.headers


def test_a_state_too_long_for_mysql_is_refused_and_mysql_s_setting_is_named(
    stack_config: Callable[..., dict[str, Any]], small_packets: int, tmp_path: Path
) -> None:
    body = b'{"a": "%b"}' % (b"x" * (small_packets // 2))

    async def put(gateway: Gateway, length: int) -> tuple[int, bytes]:
        async with aiohttp.ClientSession(gateway.url, headers=gateway.key) as http:
            shorter = body[: length - 2] + body[-2:]
            return (await call(http, "PUT", "/states/1/2", shorter, If_None_Match="*"))[:2]

    with Gateway(stack_config(states={"max_bytes": 1 << 20}), tmp_path) as gateway:
        status, answer = asyncio.run(put(gateway, len(body)))
        assert status == 413
        assert b"max_allowed_packet is 1048576" in answer
        assert asyncio.run(put(gateway, len(body) - 1000))[0] == 413
        assert asyncio.run(put(gateway, len(body) - 3000))[0] == 201


async def test_a_state_is_created_read_changed_deleted_and_created_again(
    http: aiohttp.ClientSession,
) -> None:
    path = "/states/1/2"
    body = '{ "b" : 1.0,\n "ä": "\\u00e4", "b": 2 }'.encode()
    assert (await call(http, "GET", path))[0] == 404
    assert (await call(http, "PUT", path, body, If_Match="*"))[0] == 412
    status, _, headers = await call(http, "PUT", path, body, If_None_Match="*")
    assert (status, headers["ETag"]) == (201, '"1"')
    assert headers["X-Partition"] == f"{datetime.now(UTC):%Y%m%d}"
    status, stored, headers = await call(http, "GET", path)
    assert (status, stored, headers["ETag"]) == (200, body, '"1"')
    assert headers["Content-Type"].startswith("application/json")
    status, nothing, headers = await call(http, "HEAD", path)
    assert (status, nothing, headers["Content-Length"]) == (200, b"", str(len(body)))
    assert (await call(http, "PUT", path, b"{}", If_None_Match="*"))[0] == 412
    assert (await call(http, "PUT", path, b"{}", If_Match='"2"'))[0] == 412
    assert (await call(http, "PUT", path, b"{}", If_Match='W/"1"'))[0] == 412
    assert (await call(http, "PUT", path, b"{}"))[0] == 428
    status, _, headers = await call(http, "PUT", path, b'{"n":2}', If_Match='"1"')
    assert (status, headers["ETag"]) == (200, '"2"')
    status, _, headers = await call(http, "PUT", path, b'{"n":3}', If_Match='"7", "2"')
    assert (status, headers["ETag"]) == (200, '"3"')
    status, _, headers = await call(http, "PUT", path, b'{"n":4}', If_Match="*")
    assert (status, headers["ETag"]) == (200, '"4"')
    assert (await call(http, "GET", path, If_None_Match='"4"'))[0] == 304
    assert (await call(http, "DELETE", path))[0] == 428
    assert (await call(http, "DELETE", path, If_Match='"3"'))[0] == 412
    assert (await call(http, "DELETE", path, If_Match='"4"'))[:2] == (204, b"")
    assert (await call(http, "GET", path))[0] == 404
    assert (await call(http, "DELETE", path, If_Match="*"))[0] == 412
    status, _, headers = await call(http, "PUT", path, b"{}", If_None_Match="*")
    assert status == 201
    assert int(headers["ETag"].strip('"')) > 4, "a version was used twice"


async def test_a_weak_tag_is_accepted_for_a_read_and_refused_for_a_change(
    http: aiohttp.ClientSession,
) -> None:
    path = "/states/1/2"
    await call(http, "PUT", path, b"{}", If_None_Match="*")
    assert (await call(http, "GET", path, If_None_Match='W/"1"'))[0] == 304
    status, body, headers = await call(http, "PUT", path, b"{}", If_Match='W/"1"')
    assert (status, headers["ETag"]) == (412, '"1"')
    assert b"weak tag" in body
    assert (await call(http, "DELETE", path, If_Match='W/"1"'))[0] == 412


async def test_both_conditions_of_a_request_are_checked_in_order(
    http: aiohttp.ClientSession,
) -> None:
    path = "/states/1/2"
    await call(http, "PUT", path, b"{}", If_None_Match="*")
    both = {"If_Match": '"1"', "If_None_Match": '"2"'}
    assert (await call(http, "GET", path, If_Match='"2"', If_None_Match='"1"'))[0] == 412
    assert (await call(http, "GET", path, If_Match='"1"', If_None_Match='"1"'))[0] == 304
    assert (await call(http, "GET", path, **both))[0] == 200
    assert (await call(http, "PUT", path, b"{}", If_Match='"1"', If_None_Match="*"))[0] == 412
    assert (await call(http, "PUT", path, b"{}", **both))[0] == 200
    assert (await call(http, "DELETE", path, If_Match='"2"', If_None_Match='"2"'))[0] == 412
    assert (await call(http, "DELETE", path, If_Match='"2"', If_None_Match='"1"'))[0] == 204


async def test_a_compressed_body_gets_415_with_the_accepted_encoding(
    http: aiohttp.ClientSession,
) -> None:
    status, _, headers = await call(
        http, "PUT", "/states/1/2", b"{}", If_None_Match="*", Content_Encoding="gzip"
    )
    assert (status, headers["Accept-Encoding"]) == (415, "identity")


async def test_percent_encoded_letters_in_a_path_are_decoded(
    gateway: Gateway,
) -> None:
    async with aiohttp.ClientSession() as http:
        for path in ("/s%65ts/new", "/sets/ne%77%2ejson", "/%73ets%2Fnew"):
            url = yarl.URL(f"{gateway.url}{path}", encoded=True)
            async with http.get(url) as answer:
                assert answer.status == (404 if "%2F" in path else 200), path


async def test_of_many_writers_of_the_same_version_only_one_succeeds(
    http: aiohttp.ClientSession,
) -> None:
    path = "/states/1/2"
    await call(http, "PUT", path, b"{}", If_None_Match="*")
    answers = await asyncio.gather(
        *(call(http, "PUT", path, b'{"n":%d}' % n, If_Match='"1"') for n in range(20))
    )
    statuses = [status for status, _, _ in answers]
    assert sorted(statuses) == [200] + [412] * 19
    winner = statuses.index(200)
    assert (await call(http, "GET", path))[1] == b'{"n":%d}' % winner


async def test_without_a_service_key_every_request_is_401(gateway: Gateway) -> None:
    async with aiohttp.ClientSession(gateway.url) as http:
        for headers in ({}, {"Authorization": "Bearer wrong"}):
            for method in ("GET", "PUT", "DELETE"):
                status, body, _ = await call(http, method, "/states/x/2", None, **headers)
                assert status == 401
                assert b'"errors"' in body


async def test_the_checks_of_a_put_are_made_in_order(http: aiohttp.ClientSession) -> None:
    long = b'{"a":"' + b"x" * 70_000 + b'"}'
    bad = "/states/0/2"
    good = "/states/1/2"
    for status, path, body, headers in [
        (400, bad, long, {"Content_Type": "text/plain"}),
        (415, good, long, {"Content_Type": "text/plain"}),
        (413, good, long, {}),
        (400, good, b"[]", {}),
        (428, good, b"{}", {}),
        (412, good, b"{}", {"If_Match": "*"}),
    ]:
        found = {"Content-Type" if k == "Content_Type" else k: v for k, v in headers.items()}
        assert (await call(http, "PUT", path, body, **found))[0] == status


async def test_ids_within_their_limits_are_accepted_and_others_refused(
    http: aiohttp.ClientSession,
) -> None:
    for user, playlist, status in [
        (2**62 - 1, 2**63 - 1, 201),
        (2**62, 1, 400),
        (1, 2**63, 400),
        (0, 1, 400),
        ("-1", 1, 400),
        ("x", 1, 400),
        ("", 1, 400),
    ]:
        found, _, _ = await call(
            http, "PUT", f"/states/{user}/{playlist}", b"{}", If_None_Match="*"
        )
        assert found == status, (user, playlist)


async def test_a_place_of_the_player_is_409_for_the_states_api(
    gateway: Gateway, http: aiohttp.ClientSession
) -> None:
    async with http.get("/sets/new?user_id=5") as answer:
        token = (await answer.json())["play_token"]
    async with http.get(f"/sets/{token}/play?mix_id=7") as answer:
        assert answer.status == 200
    for method, headers in [
        ("GET", {}),
        ("PUT", {"If_None_Match": "*"}),
        ("PUT", {"If_Match": '"1"'}),
        ("DELETE", {"If_Match": "*"}),
    ]:
        body = b"{}" if method == "PUT" else None
        status, _, _ = await call(http, method, "/states/5/7", body, **headers)
        assert status == 409
    async with http.get(f"/sets/{token}/next?mix_id=7") as answer:
        assert (await answer.json())["set"]["track"]["id"] == 702
