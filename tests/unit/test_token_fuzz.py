"""Forged and changed play tokens and keys are refused over HTTP, without a 500."""

from __future__ import annotations

import hmac
import string
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from yarl import URL

from gateway.auth import bearer, tokens
from gateway.auth.tokens import TokenKeys
from tests.support.serving import SERVICE_KEY, Served, serving

ALPHABET = string.ascii_letters + string.digits + "-_"
NOW = time.time()
GOOD = TokenKeys([b"k" * 32], 86_400).issue(2**62 + 1, NOW)
FOREIGN = TokenKeys([b"another key that is long enough!!"], 86_400).issue(2**62 + 1, NOW)
EXPIRED = TokenKeys([b"k" * 32], 86_400).issue(2**62 + 1, NOW - 100_000)

CHARACTER = st.sampled_from(ALPHABET + "+/=.~ %\x00é")
PLACE = st.integers(0, 43)


def replaced(place: int, character: str) -> str:
    return GOOD[:place] + character + GOOD[place + 1 :]


MUTATIONS = st.one_of(
    st.builds(replaced, PLACE, CHARACTER),
    st.builds(lambda a, b, c: replaced(a, c)[:b] + c + replaced(a, c)[b:], PLACE, PLACE, CHARACTER),
    st.builds(lambda n: GOOD[:n], PLACE),
    st.builds(lambda tail: GOOD + tail, st.text(CHARACTER, min_size=1, max_size=8)),
    st.builds(lambda n: GOOD[n:] + GOOD[:n], st.integers(1, 43)),
    st.builds(lambda: GOOD.swapcase()),
    st.text(ALPHABET, min_size=44, max_size=44),
    st.text(max_size=60),
    # The beginning of a valid token with the signature of another one.
    st.builds(lambda n: GOOD[:n] + FOREIGN[n:], st.integers(1, 43)),
    st.builds(lambda n: GOOD[:n] + EXPIRED[n:], st.integers(1, 43)),
    st.sampled_from([FOREIGN, EXPIRED, "", ".", "..", "%00", "null"]),
).filter(lambda token: token != GOOD)


@pytest.fixture
async def gateway() -> AsyncIterator[Served]:
    async with serving() as one:
        yield one


ONE_GATEWAY = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@settings(max_examples=300, deadline=None, suppress_health_check=ONE_GATEWAY)
@given(MUTATIONS)
async def test_no_changed_token_is_accepted_or_causes_a_500(gateway: Served, token: str) -> None:
    path = URL(f"/sets/{quote(token, safe='')}/play?mix_id=1", encoded=True)
    async with gateway.http.get(path) as answer:
        text = await answer.text()
    # `.` and `..` are no segments of a path, so they get 404.
    assert answer.status in (400, 401, 404), text
    if len(token) > 10:
        assert token not in text, "the answer shows the token"


async def test_the_unchanged_token_is_accepted(gateway: Served) -> None:
    async with gateway.http.get(f"/sets/{GOOD}/play?mix_id=1") as answer:
        assert answer.status == 200


@settings(max_examples=150, deadline=None, suppress_health_check=ONE_GATEWAY)
@given(
    st.one_of(
        st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=40),
        st.builds(lambda n: SERVICE_KEY[:n], st.integers(0, 31)),
        st.builds(lambda tail: SERVICE_KEY + tail, st.sampled_from(["x", "0", "  x"])),
        st.builds(lambda: SERVICE_KEY.upper() + "A"),
    ),
    st.sampled_from(["Bearer ", "bearer ", "Basic ", "Bearer", ""]),
)
async def test_no_changed_service_key_is_accepted(gateway: Served, key: str, scheme: str) -> None:
    headers = {"Authorization": f"{scheme}{key}"}
    async with gateway.http.get("/states/1/1", headers=headers) as answer:
        assert answer.status == 401, await answer.text()


async def test_secrets_are_compared_in_constant_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every comparison uses hmac.compare_digest, with values of the same length, for every key."""
    compared: list[tuple[int, int]] = []
    true = hmac.compare_digest

    def watched(a: Any, b: Any) -> bool:
        compared.append((len(a), len(b)))
        return true(a, b)

    monkeypatch.setattr(tokens.hmac, "compare_digest", watched)
    monkeypatch.setattr(bearer.hmac, "compare_digest", watched)
    async with serving() as gateway:
        async with gateway.http.get(f"/sets/{replaced(43, 'A')}/play?mix_id=1"):
            pass
        assert compared
        assert all(a == b for a, b in compared)
        compared.clear()
        for key in (SERVICE_KEY, "wrong", SERVICE_KEY[:-1]):
            headers = {"Authorization": f"Bearer {key}"}
            async with gateway.http.get("/states/1/1", headers=headers):
                pass
        # Two keys are configured: both are compared each time, even after the first one is right.
        assert compared == [(32, 32)] * 6
