"""The files of a page, out of a package's `web` folder, with the headers that keep a page to
itself."""

from __future__ import annotations

import re
from functools import cache
from importlib import resources

from aiohttp import web

from tapedeck.gateway.replies import Refusal

_TYPES = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_NAME = re.compile(r"[a-z_]{1,40}\.(css|js|svg)")
HEADERS = {
    # Node names and states are whatever somebody wrote: nothing but our own files may run or load.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def page(package: str) -> web.Response:
    """The page itself, `web/index.html`."""
    return _answer(package, "index.html")


def part(package: str, name: str) -> web.Response:
    """What belongs to the page: a style sheet, a script, an image.

    Args:
        package: whose `web` folder.
        name: whatever somebody asked for.

    Raises:
        Refusal: 404.
    """
    if _NAME.fullmatch(name) is None:
        raise Refusal(404, "There is no such file.")
    return _answer(package, name)


def _answer(package: str, name: str) -> web.Response:
    body = _content(package, name)
    if body is None:
        raise Refusal(404, "There is no such file.")
    answer = web.Response(body=body, headers=HEADERS)
    answer.headers["Content-Type"] = _TYPES[name.rpartition(".")[2]]
    return answer


@cache
def _content(package: str, name: str) -> bytes | None:
    try:
        return resources.files(package).joinpath("web", name).read_bytes()
    except FileNotFoundError:
        return None
