"""The Player API of a running gateway, with real lookup nodes and a real MySQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.gateways import Gateway, put_mixes
from tests.support.serving import a_mix

pytestmark = pytest.mark.stack

MIX, SHORT = a_mix(7, tracks=8), a_mix(9, tracks=1)


@pytest.fixture
def gateway(stack_config: Callable[..., dict[str, Any]], tmp_path: Path) -> Iterator[Gateway]:
    document = stack_config()
    put_mixes(document, [MIX, SHORT])
    with Gateway(document, tmp_path) as gateway:
        yield gateway


class Listener:
    """A listener with a play token; each command gives the status and the body."""

    def __init__(self, http: aiohttp.ClientSession, token: str) -> None:
        self.http = http
        self.token = token

    async def __call__(self, command: str, method: str = "GET", **fields: Any) -> tuple[int, Any]:
        where: dict[str, Any] = {"params" if method == "GET" else "data": fields}
        path = f"/sets/{self.token}/{command}"
        async with self.http.request(method, path, **where) as answer:
            body = await answer.json()
            assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
            assert answer.headers["X-Request-Id"]
            assert body["status"] == f"{answer.status} {answer.reason}"
            assert body["api_version"] == 3
            return answer.status, body


@pytest.fixture
async def http(gateway: Gateway) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(gateway.url) as session:
        yield session


async def new_listener(http: aiohttp.ClientSession) -> Listener:
    async with http.get("/sets/new.json") as answer:
        assert answer.status == 200
        body = await answer.json()
        assert body["logged_in"] is False
        return Listener(http, body["play_token"])


def place(body: Any) -> tuple[bool, bool, bool, Any]:
    found = body["set"]
    return (
        found["at_beginning"],
        found["at_end"],
        found["skip_allowed"],
        found["track"].get("id"),
    )


async def test_the_recorded_session_of_the_original_service_gets_the_same_answers(
    http: aiohttp.ClientSession,
) -> None:
    listener = await new_listener(http)
    track = [track.id for track in MIX.tracks]
    for command, expected in [
        ("play", (True, False, True, track[0])),
        ("next", (False, False, True, track[1])),
        ("skip", (False, False, True, track[2])),
        ("skip", (False, False, False, track[3])),
    ]:
        status, body = await listener(command, mix_id=7)
        assert (status, place(body)) == (200, expected)
        assert body["errors"] is None
    status, body = await listener("skip", mix_id=7)
    assert status == 403
    assert body["status"] == "403 Forbidden"
    assert "set" not in body
    assert "licence" in body["notices"][0]
    for number in range(4, 8):
        status, body = await listener("next", mix_id=7)
        assert (status, place(body)) == (200, (False, False, False, track[number]))
        assert body["set"]["at_last_track"] is (number == 7)
    status, body = await listener("next", mix_id=7)
    assert (status, place(body)) == (200, (False, True, False, None))
    assert body["set"]["track"] == {}
    assert body["set"]["at_last_track"] is False
    status, body = await listener("play", mix_id=7)
    assert place(body) == (True, False, False, track[0])


@pytest.mark.parametrize("command", ["next", "skip"])
@pytest.mark.parametrize(("number", "expected"), [(0, 1), (1, 0), (7, 0)])
async def test_a_command_that_names_its_track_moves_once_if_sent_twice_even_without_a_state(
    http: aiohttp.ClientSession, command: str, number: int, expected: int
) -> None:
    listener, tracks = await new_listener(http), [track.id for track in MIX.tracks]
    for method in ("GET", "POST"):
        status, body = await listener(command, method, mix_id=7, track_id=tracks[number])
        assert (status, body["set"]["track"]["id"]) == (200, tracks[expected])
    _, body = await listener("tracks_played", mix_id=7)
    assert [track["id"] for track in body["tracks"]] == tracks[: expected + 1]


async def test_a_listener_resumes_and_a_retry_does_not_move_it(http: aiohttp.ClientSession) -> None:
    listener = await new_listener(http)
    first, second, _ = (track.id for track in MIX.tracks[:3])
    await listener("next", mix_id=7)
    for _ in range(3):
        _, body = await listener("next", "POST", mix_id=7, track_id=first)
        assert body["set"]["track"]["id"] == second
    _, body = await listener("play.json", "POST", mix_id=7)
    assert body["set"]["track"]["id"] == second
    _, body = await listener("tracks_played", mix_id=7)
    assert [track["id"] for track in body["tracks"]] == [first, second]
    other = await new_listener(http)
    _, body = await other("play", mix_id=7)
    assert body["set"]["track"]["id"] == first


async def test_a_known_user_has_one_place_on_all_devices(
    gateway: Gateway, http: aiohttp.ClientSession
) -> None:
    tokens = []
    for method in ("GET", "POST"):
        async with http.request(method, "/sets/new?user_id=42", headers=gateway.key) as answer:
            body = await answer.json()
            assert body["logged_in"] is True
            tokens.append(body["play_token"])
    await Listener(http, tokens[0])("play", mix_id=7)
    await Listener(http, tokens[0])("next", mix_id=7)
    _, body = await Listener(http, tokens[1])("play", mix_id=7)
    assert body["logged_in"] is True
    assert body["set"]["track"]["id"] == MIX.tracks[1].id
    status, body = await Listener(http, tokens[1])("play", mix_id=1)
    assert (status, body["logged_in"]) == (404, True)


async def test_a_user_id_needs_the_service_key(http: aiohttp.ClientSession) -> None:
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic x"}):
        async with http.get("/sets/new?user_id=42", headers=headers) as answer:
            assert answer.status == 401
            assert (await answer.json())["errors"]


async def test_a_report_can_be_repeated_and_needs_a_track_of_the_mix(
    http: aiohttp.ClientSession,
) -> None:
    listener = await new_listener(http)
    track = MIX.tracks[0].id
    for _ in range(2):
        status, body = await listener("report", mix_id=7, track_id=track)
        assert status == 200
        assert "set" not in body
    assert (await listener("report", mix_id=7, track_id=SHORT.tracks[0].id))[0] == 404
    assert (await listener("report", mix_id=7))[0] == 400


async def test_skipping_the_last_track_ends_the_mix(http: aiohttp.ClientSession) -> None:
    listener = await new_listener(http)
    _, body = await listener("play", mix_id=9)
    assert body["set"]["at_last_track"] is True
    status, body = await listener("skip", mix_id=9)
    assert (status, body["set"]["at_end"]) == (200, True)


async def test_mixes_pages_of_mixes_and_the_next_mix_are_served(
    http: aiohttp.ClientSession,
) -> None:
    async with http.post("/mixes/7.json") as answer:
        mix = (await answer.json())["mix"]
    assert (mix["id"], mix["tracks_count"], mix["user"]["login"]) == (7, 8, "dj")
    async with http.get("/mix_sets/all?per_page=1&page=2") as answer:
        mix_set = (await answer.json())["mix_set"]
    assert [m["id"] for m in mix_set["mixes"]] == [9]
    assert mix_set["pagination"] == {
        "current_page": 2,
        "per_page": 1,
        "total_entries": 2,
        "next_page": None,
    }
    listener = await new_listener(http)
    for mix_id, following in ((7, 9), (9, 7)):
        _, body = await listener("next_mix", mix_id=mix_id)
        assert body["next_mix"]["id"] == following
    assert (await listener("next_mix", mix_id=8))[0] == 404


async def test_further_parameters_and_headers_of_original_clients_are_ignored(
    http: aiohttp.ClientSession,
) -> None:
    listener = await new_listener(http)
    headers = {"X-Api-Key": "k", "X-Api-Version": "2"}
    listener.http.headers.update(headers)
    status, body = await listener(
        "play", mix_id=7, api_key="k", api_version=2, format="xml", player="sm", more="x"
    )
    assert (status, body["api_version"]) == (200, 3)


async def test_a_state_of_the_states_api_is_409_for_the_player(
    gateway: Gateway, http: aiohttp.ClientSession
) -> None:
    headers = {**gateway.key, "If-None-Match": "*", "Content-Type": "application/json"}
    async with http.put("/states/42/7", headers=headers, data=b"{}") as answer:
        assert answer.status == 201
    async with http.get("/sets/new?user_id=42", headers=gateway.key) as answer:
        listener = Listener(http, (await answer.json())["play_token"])
    for command in ("play", "next", "skip", "tracks_played"):
        assert (await listener(command, mix_id=7))[0] == 409
    assert (await listener("report", mix_id=7, track_id=MIX.tracks[0].id))[0] == 409


async def test_gateways_with_different_clocks_allow_no_more_skips(
    gateway: Gateway, tmp_path: Path, stack_config: Callable[..., dict[str, Any]]
) -> None:
    """The clock of one machine is two hours ahead, twice the skip window."""
    document = {**gateway.document, **{k: stack_config()[k] for k in ("gateway", "admin")}}
    ahead = Gateway(document, tmp_path, clock=7200)
    await asyncio.to_thread(ahead.start)
    try:
        async with (
            aiohttp.ClientSession(gateway.url) as here,
            aiohttp.ClientSession(ahead.url) as there,
        ):
            token = (await new_listener(here)).token
            await Listener(here, token)("play", mix_id=7)
            statuses = [
                (await Listener(http, token)("skip", mix_id=7))[0]
                for http in (here, there, here, there, here, there)
            ]
            status, body = await Listener(there, token)("play", mix_id=7)
    finally:
        ahead.kill()

    assert statuses == [200, 200, 403, 403, 403, 403]
    assert status == 200
    assert body["set"]["track"]["id"] == MIX.tracks[2].id
