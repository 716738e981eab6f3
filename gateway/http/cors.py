"""CORS: which sites' pages may read the Player's answers (https://fetch.spec.whatwg.org, 3.2).

No answer depends on a cookie or on anything else that a browser adds by itself, and credentials are
not allowed. So a page can read only what its own server could read too.
"""

from __future__ import annotations

from config.model import Sections
from gateway.http.messages import Request, Response

_PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, HEAD, POST",
    "Access-Control-Allow-Headers": "Content-Type, X-Api-Key, X-Api-Version, X-Requested-With, "
    "X-User-Token",
    "Access-Control-Max-Age": "86400",
}


class Cors:
    """The allowed origins, such as `https://player.example`; `*` for all."""

    def __init__(self, config: Sections) -> None:
        self.configure(config)

    def configure(self, config: Sections) -> None:
        given = config.player.cors_origins
        every = ("*",) if config.mode == "local" else ()
        self.origins = frozenset(every if given is None else given)

    def is_preflight(self, request: Request) -> bool:
        headers = request.headers
        return (
            bool(self.origins)
            and request.method == "OPTIONS"
            and "Origin" in headers
            and "Access-Control-Request-Method" in headers
        )

    def permit(self, request: Request, answer: Response) -> None:
        """Add the CORS headers to an answer, if the request's origin is allowed."""
        origin = request.headers["Origin"]
        headers = {**(answer.headers or {})}
        if "*" in self.origins:
            headers["Access-Control-Allow-Origin"] = "*"
        else:
            headers["Vary"] = "Origin"
            if origin not in self.origins:
                answer.headers = headers
                return
            headers["Access-Control-Allow-Origin"] = origin
        if request.method == "OPTIONS":
            headers |= _PREFLIGHT
        headers["Access-Control-Expose-Headers"] = "Retry-After, X-Request-Id"
        answer.headers = headers
