"""The time from a request's bytes to its answer grows only in proportion to its length.

As in `test_parse_cost.py` growth is measured, not seconds. The limits of lengths are switched off,
so that the test shows that reading is cheap, and not only that requests are short.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from unittest.mock import Mock

import pytest
from aiohttp.http import HttpRequestParser, RawRequestMessage
from aiohttp.http_exceptions import HttpProcessingError

from gateway.factory import gateway_application
from gateway.http.application import Application
from gateway.http.messages import BodylessRequest
from gateway.reload.runtime_config import RuntimeConfig
from tests.support.serving import SERVICE_KEY, DictCatalog, DictStore, a_config, a_mix
from tests.unit.test_parse_cost import LONG, NOISE, PIECES, SHORT

STATE = "GET /states/1/1 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + SERVICE_KEY
TEMPLATES = {
    "a path": "GET /{} HTTP/1.1\r\nHost: x",
    "a path's name": "GET /mixes/{} HTTP/1.1\r\nHost: x",
    "a token in a path": "GET /sets/{}/play HTTP/1.1\r\nHost: x",
    "a query": "GET /sets/new?{} HTTP/1.1\r\nHost: x",
    "an absolute target": "GET http://{}/mixes/1 HTTP/1.1\r\nHost: x",
    "a method": "{} / HTTP/1.1\r\nHost: x",
    "Host": "GET /mixes/1 HTTP/1.1\r\nHost: {}",
    "Authorization": "GET /states/1/1 HTTP/1.1\r\nHost: x\r\nAuthorization: {}",
    "header lines": "GET /mixes/1 HTTP/1.1\r\nHost: x\r\n{}",
    **{
        name: f"{STATE}\r\n{name}: {{}}"
        for name in (
            "If-Match",
            "If-None-Match",
            "Range",
            "Accept",
            "Accept-Encoding",
            "Connection",
            "Cookie",
            "Content-Encoding",
            "Expect",
            "Upgrade",
            "X-Forwarded-For",
            "X-Request-Id",
        )
    },
}


@pytest.fixture
def application() -> Iterator[tuple[asyncio.AbstractEventLoop, Application]]:
    live = RuntimeConfig(a_config(limits={"trusted_proxies": ["127.0.0.0/8"], "address_rate": 1e6}))
    with contextlib.closing(asyncio.new_event_loop()) as loop:
        yield loop, gateway_application(live, DictStore(), DictCatalog(a_mix(1)))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_time_for_any_part_of_a_request_is_proportional_to_its_length(
    application: tuple[asyncio.AbstractEventLoop, Application], name: str
) -> None:
    loop, answers = application

    def seconds(text: str) -> float:
        request = f"{TEMPLATES[name].format(text)}\r\n\r\n".encode()

        def once() -> float:
            most = 2 * len(request)
            parser = HttpRequestParser(
                Mock(), loop, 65_536, max_line_size=most, max_field_size=most, max_headers=most
            )
            started = time.thread_time()
            with contextlib.suppress(HttpProcessingError):
                for message, _ in parser.feed_data(request)[0]:
                    assert isinstance(message, RawRequestMessage)
                    loop.run_until_complete(answers(BodylessRequest(message, "127.0.0.1")))
            return time.thread_time() - started

        return min(once() for _ in range(3))

    for piece in [*PIECES, "127.0.0.1,", "a: b\r\n", "a=1&", "a=%41&", '"1", ', "::1,"]:
        short, long = (seconds(piece * (length // len(piece))) for length in (SHORT, LONG))
        assert long < 10 * short + NOISE, (
            f"{name} made of {piece!r}: the time grows faster than the length"
        )
