"""What pages of other sites may ask, and features that are off unless they are configured."""

from __future__ import annotations

import itertools

import pytest

from tests.support.serving import serving

OURS, OTHER = {"Origin": "https://player.example"}, {"Origin": "https://other.example"}
ASKS = {"Access-Control-Request-Method": "POST"}


async def test_only_configured_origins_may_read_answers() -> None:
    async with serving(player={"cors_origins": ["https://player.example"]}) as gateway:
        for origin, path in itertools.product((OURS, OTHER), ("/sets/new", "/no_such_path")):
            async with gateway.http.get(path, headers=origin) as answer:
                allowed = answer.headers.get("Access-Control-Allow-Origin")
                assert allowed == (origin["Origin"] if origin is OURS else None)
                assert answer.headers["Vary"] == "Origin"
            async with gateway.http.options(path, headers=origin | ASKS) as answer:
                assert answer.status == 204
                assert ("Access-Control-Allow-Methods" in answer.headers) is (origin is OURS)


async def test_without_configured_origins_no_cors_header_is_sent_and_options_is_405() -> None:
    async with serving(player={"cors_origins": []}) as gateway:
        async with gateway.http.get("/sets/new", headers=OURS) as answer:
            assert not {"Vary", "Access-Control-Allow-Origin"} & set(answer.headers)
        async with gateway.http.options("/sets/new", headers=OURS | ASKS) as answer:
            assert answer.status == 405


@pytest.mark.parametrize("token", ["123456789", "12345678", "1234567890", "12345678a"])
async def test_a_token_of_the_original_service_is_401_unless_adopted(token: str) -> None:
    for adopt in (False, True):
        async with (
            serving(auth={"adopt_tokens": adopt}) as gateway,
            gateway.http.get(f"/sets/{token}/play?mix_id=1") as answer,
        ):
            assert answer.status == (200 if adopt and token == "123456789" else 401)


async def test_without_a_login_service_sessions_is_501_and_user_tokens_are_ignored() -> None:
    async with serving() as gateway:
        form = {"login": "ann", "password": "right"}
        async with gateway.http.post("/sessions.json", data=form) as answer:
            assert answer.status == 501
            body = await answer.json()
            assert body["status"] == "501 Not Implemented"
            assert "auth.login_url" in body["errors"][0]
        async with gateway.http.get("/sets/new?user_token=x") as answer:
            assert (answer.status, (await answer.json())["logged_in"]) == (200, False)


async def test_urls_in_answers_begin_with_the_public_url_or_the_request_s_host() -> None:
    for public, expected in [
        (None, "http://a.example:81/"),
        ("https://b.example/", "https://b.example/"),
    ]:
        async with (
            serving(player={"public_url": public}) as gateway,
            gateway.http.get("/mixes/1", headers={"Host": "a.example:81"}) as answer,
        ):
            covers = (await answer.json())["mix"]["cover_urls"]
            assert all(url.startswith(f"{expected}mixes/1/cover.svg") for url in covers.values())
