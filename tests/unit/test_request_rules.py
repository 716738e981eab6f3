"""Rules for requests that a parser does not check, through raw sockets on a real port."""

from __future__ import annotations

import asyncio
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.request_rules import is_host
from tests.support.serving import serving

HOST = b"Host: gateway:8080\r\n"
FORM = b"Content-Type: application/x-www-form-urlencoded\r\n"
NEXT = b"GET /mixes/2 HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n"


async def answers(request: bytes) -> list[int]:
    """The statuses of all answers until the gateway closes the connection."""
    async with serving() as gateway, asyncio.timeout(20):
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(request)
        text = await reader.read(-1)
        writer.close()
    return [int(status) for status in re.findall(rb"HTTP/1\.\d (\d+) ", text)]


def post(*headers: bytes, version: bytes = b"1.1", body: bytes = b"") -> bytes:
    head = b"POST /sets/new HTTP/" + version + b"\r\n" + HOST + FORM + b"".join(headers)
    return head + b"\r\n" + body


CHUNKED = b"Transfer-Encoding: chunked\r\n"
KEEP = b"Connection: keep-alive\r\n"


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        pytest.param(post(CHUNKED, KEEP, version=b"1.0", body=b"0\r\n\r\n"), 400, id="chunked 1.0"),
        pytest.param(
            post(b"Transfer-Encoding: gzip, chunked\r\n", body=b"0\r\n\r\n"), 501, id="gzip"
        ),
        pytest.param(
            b"GET /mixes/1 HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: \r\n\r\n",
            501,
            id="empty coding",
        ),
        pytest.param(b"GET /mixes/1 HTTP/1.1\r\nHost: a b/c\r\n\r\n", 400, id="no host"),
        pytest.param(b"GET /mixes/1 HTTP/1.1\r\nHost: u@a\r\n\r\n", 400, id="user and host"),
        pytest.param(b"GET /mixes/1 HTTP/1.1\r\n\r\n", 400, id="without a host"),
        pytest.param(b"GET /mixes/1 HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, id="two hosts"),
        pytest.param(b"GET /" + b"a" * 9_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 414, id="target"),
        pytest.param(
            b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 9_000 + b"\r\n\r\n", 431, id="header"
        ),
        pytest.param(b"GET / HTTP/1.1\r\n" + HOST + b"a: b\r\n" * 300 + b"\r\n", 431, id="headers"),
        pytest.param(b"BREW /mixes/1 HTTP/1.1\r\n" + HOST + b"\r\n", 501, id="unknown method"),
        pytest.param(b"GET /mixes/1\r\n\r\n", 400, id="HTTP/0.9"),
        pytest.param(post(b"Content-Length: 1\r\n", CHUNKED, body=b"0\r\n\r\n"), 400, id="both"),
        pytest.param(post(b"Content-Length: 0\r\nContent-Length: 1\r\n"), 400, id="two lengths"),
        pytest.param(b"GET /mixes/1 HTTP/1.1\r\nHost : a\r\n\r\n", 400, id="space before colon"),
        pytest.param(b"GET /mixes/1 HTTP/1.1\r\n" + HOST + b"X: a\r\n b\r\n\r\n", 400, id="folded"),
        pytest.param(b"GET /mixes/1 HTTP/1.1\n" + HOST + b"\n", 400, id="bare line feeds"),
    ],
)
async def test_a_request_that_breaks_a_rule_is_the_last_of_its_connection(
    request_: bytes, status: int
) -> None:
    assert await answers(request_ + NEXT) == [status]


async def test_a_later_version_in_a_request_line_is_505() -> None:
    assert await answers(b"GET /mixes/1 HTTP/2.0\r\n" + HOST + b"\r\n") == [505]


@pytest.mark.parametrize("protocol", [b"h2c", b"websocket", b"foo"])
async def test_requests_after_an_ignored_upgrade_are_answered_in_order(protocol: bytes) -> None:
    upgrade = b"Connection: upgrade\r\nUpgrade: " + protocol + b"\r\n\r\n"
    first = b"GET /mixes/1 HTTP/1.1\r\n" + HOST + upgrade
    unknown = b"GET /nowhere HTTP/1.1\r\n" + HOST + upgrade
    assert await answers(first + unknown + first + NEXT) == [200, 404, 200, 200]


async def test_an_upgrade_with_a_body_ends_its_connection() -> None:
    """Its client sees that later requests were not answered, and sends them again."""
    upgrade = b"Connection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 3\r\n"
    assert await answers(post(upgrade, body=b"a=1") + NEXT) == [200]


@pytest.mark.parametrize(
    "host", ["", "a", "a:8080", "a_b.example.:1", "127.0.0.1", "[::1]:80", "xn--a", "a%20b", "a:"]
)
def test_a_host_is_a_name_or_an_address(host: str) -> None:
    assert is_host(host)


@given(st.text(), st.sampled_from(list(' /?#@\\"<>^`{|}\x00\t\xe9')), st.text())
def test_a_host_with_a_forbidden_character_is_refused(before: str, sign: str, after: str) -> None:
    assert not is_host(before + sign + after)
