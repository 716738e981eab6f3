"""Rules of RFC 9110 and RFC 9112 for requests that aiohttp's parser does not check. No I/O.

| request | answer | rule |
| --- | --- | --- |
| HTTP/0.9 (`GET /x` without a version) | 400 | RFC 9112, 2.3: this server speaks HTTP/1 |
| HTTP/2.0 and later in a request line | 505 | RFC 9110, 15.6.6 |
| Transfer-Encoding in HTTP/1.0 | 400, close | RFC 9112, 6.1 |
| a transfer coding other than chunked | 501, close | RFC 9112, 6.1 |
| a Host that is no host | 400 | RFC 9112, 3.2 |
| an unknown method | 501 | RFC 9110, 9.1 |
| a target that is too long | 414 | RFC 9112, 3 |
| a header that is too long, or too many | 431 | RFC 6585, 5 |
"""

from __future__ import annotations

import re
from functools import lru_cache

from aiohttp.http import HttpVersion10, HttpVersion11
from aiohttp.http_exceptions import BadHttpMessage, BadHttpMethod, LineTooLong

from gateway.http.errors import Refusal
from gateway.http.input_bounds import HeadTooLarge
from gateway.http.messages import Request

# RFC 3986, 3.2.2 and 3.2.3: reg-name or IPv4address, or an address in brackets; then a port.
_HOST = re.compile(
    r"(?:\[[0-9A-Fa-f:.]+(?:%25[\w.~-]+)?\]|(?:[\w.~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*)(?::[0-9]*)?",
    re.ASCII,
)

# In the parser's message: the line that it could not parse begins with a token and a space.
_METHOD = re.compile(r"^ *b['\"][!#$%&'*+.^_`|~0-9A-Za-z-]+ \S", re.MULTILINE)
# What is wrong, in the parser's words, before it quotes the request, which may contain a token.
_REASON = re.compile(
    r"(?:Bad status line:\n  )?([^:\n]+):\n\n"
    r"|((?:Missing|Duplicate) '[\w-]+' header|Received HTTPS traffic on an HTTP port)"
)


def check_request(request: Request) -> None:
    """Refuse a request whose version, framing or Host breaks a rule. The refusal (400, 501 or 505)
    closes the connection, since the end of the request may be unsure.
    """
    version = request.version
    if version != HttpVersion11:
        if version.major > 1:
            raise Refusal(505, "This service speaks HTTP/1.1.", close=True)
        if version < HttpVersion10:
            raise Refusal(400, "The request line names no HTTP version.", close=True)
        if "Transfer-Encoding" in request.headers:
            raise Refusal(400, "HTTP/1.0 has no Transfer-Encoding.", close=True)
    host = request.headers.get("Host")
    if host is not None and not is_host(host):
        raise Refusal(400, "The Host header is no host.", close=True)
    coding = request.headers.get("Transfer-Encoding")
    if coding is not None and coding.strip().lower() != "chunked":
        raise Refusal(501, "The only transfer coding that is read is chunked.", close=True)


@lru_cache(256)
def is_host(text: str) -> bool:
    """Whether a Host header is valid, with or without a port. It may be empty (RFC 9110, 7.2)."""
    return len(text) <= 300 and _HOST.fullmatch(text) is not None


def refusal_of(error: BaseException | None, status: int) -> Refusal:
    """The refusal of a request that aiohttp's parser could not read: `error` is what it raised, and
    `status`, below 500, what aiohttp would answer.
    """
    if isinstance(error, HeadTooLarge):
        return Refusal(status, error.message, close=True)
    if isinstance(error, BadHttpMethod) and _METHOD.search(error.message):
        return Refusal(501, "This service knows no such method.", close=True)
    if isinstance(error, LineTooLong):
        # In its message the parser shows a target as a bytearray, and a header as bytes.
        if str(error.args[0]).startswith("bytearray("):
            return Refusal(414, "The request's target is too long.", close=True)
        return Refusal(431, "A header is too long.", close=True)
    if isinstance(error, BadHttpMessage) and error.message == "Too many headers received":
        return Refusal(431, "There are too many headers.", close=True)
    found = _REASON.match(error.message) if isinstance(error, BadHttpMessage) else None
    reason = f": {found[1] or found[2]}" if found else ""
    return Refusal(status, f"The request is not valid HTTP{reason}.", close=True)
