"""Reads the whole body of a request, within the port's limits."""

from __future__ import annotations

import asyncio

from aiohttp import StreamReader, web
from aiohttp.http import HttpVersion11
from aiohttp.http_exceptions import PayloadEncodingError
from aiohttp.web_protocol import RequestPayloadError

from config.model import Limits
from gateway.http.errors import Refusal
from gateway.http.messages import BodylessRequest, Request
from gateway.http.protocol import HttpConnection

_DEFAULTS = Limits()


async def read_body(request: Request, limit: int) -> bytes:
    """The body's bytes, at most `limit`; empty if the request has none.

    Raises:
        Refusal: 400 incomplete or malformed, 408 too slow, 413 too long, 415 compressed, 417.
    """
    if isinstance(request, BodylessRequest) or not request.body_exists:
        return b""
    encoding = request.headers.get("Content-Encoding", "identity")
    if encoding.strip().lower() not in ("", "identity"):
        # RFC 9110, 15.5.16, requires Accept-Encoding.
        sentence = "The body must not be compressed (Content-Encoding)."
        raise Refusal(415, sentence, headers={"Accept-Encoding": "identity"}, close=True)
    too_long = Refusal(413, f"The body is longer than {limit} bytes.", close=True)
    if (request.content_length or 0) > limit:
        raise too_long
    await _continue(request)
    protocol = request.protocol
    limits = protocol.limits if isinstance(protocol, HttpConnection) else _DEFAULTS
    seconds = limits.body_seconds
    try:
        async with asyncio.timeout(seconds):
            body = await read_whole(request.content, limit)
    except TimeoutError:
        raise Refusal(408, f"The body did not arrive within {seconds:g} s.", close=True) from None
    except (RequestPayloadError, PayloadEncodingError, ConnectionError):
        raise Refusal(400, "The body is broken or incomplete.", close=True) from None
    if body is None:
        raise too_long
    return body


async def read_whole(content: StreamReader, limit: int) -> bytes | None:
    """All bytes of a body, in however many pieces they arrive; None if they are more than `limit`.

    aiohttp's `content.read(limit)` returns the first piece only.
    """
    body = bytearray()
    while chunk := await content.readany():
        body += chunk
        if len(body) > limit:
            return None
    if (error := content.exception()) is not None:
        raise error
    return bytes(body)


async def _continue(request: web.BaseRequest) -> None:
    """Send 100 Continue to a client that waits for it (RFC 9110, 10.1.1)."""
    expect = request.headers.get("Expect")
    if expect is None or request.version < HttpVersion11:
        return
    if expect.strip().lower() != "100-continue":
        raise Refusal(417, "The only expectation that is met is 100-continue.", close=True)
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    request.writer.output_size = 0  # the answer itself has not begun
