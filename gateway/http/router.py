"""An application's routes, and the call that a handler gets."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from gateway.http.errors import Style
from gateway.http.messages import Request, Response


@dataclass(slots=True)
class Call:
    """One request, for a handler.

    Attributes:
        query: the raw query string.
        values: the decoded segments in the place of the path's `{names}`.
        logged_in: for the error envelope; the handler sets it.
    """

    request: Request
    query: str
    values: dict[str, str]
    logged_in: bool = False


Handler = Callable[[Call], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Route:
    """A path and its handlers.

    Attributes:
        template: such as `/mixes/{id}`; one name stands for one segment.
        handlers: by method.
        player: whether it is of the Player API: `.json`, `.jsonp` or `.xml` may follow the path.
        ending: `jsonp` or `xml`, if the request ends so.
    """

    template: str
    handlers: Mapping[str, Handler]
    style: Style
    player: bool = False
    ending: str = ""


@dataclass(slots=True)
class _Node:
    literals: dict[str, _Node] = field(default_factory=dict)
    name: _Node | None = None
    route: Route | None = None


# An unreserved character may be percent-encoded without a change of meaning (RFC 3986, 6.2.2.2).
_ESCAPED = re.compile(r"%(?:4[1-9A-Fa-f]|5[0-9AaFf]|6[1-9A-Fa-f]|7[0-9AaEe]|3[0-9]|2[DdEe])")


def _plain(escape: re.Match[str]) -> str:
    return chr(int(escape[0][1:], 16))


class Routes:
    """The routes of an application, found segment by segment.

    >>> from gateway.http.errors import plain_error
    >>> routes = Routes([Route("/mixes/{id}", {}, plain_error, player=True)])
    >>> route, values = routes.find("/mixes/7.json")
    >>> route.template, values
    ('/mixes/{id}', ['7'])
    """

    def __init__(self, routes: Sequence[Route]) -> None:
        self.all = tuple(routes)
        self._root = _Node()
        for route in routes:
            node = self._root
            for segment in route.template.split("/")[1:]:
                if segment.startswith("{"):
                    node.name = node = node.name or _Node()
                else:
                    node = node.literals.setdefault(segment, _Node())
            node.route = route

    def find(self, path: str, *, forgiven: bool = False) -> tuple[Route | None, list[str]]:
        """The route of a raw path, and the raw segments in the place of its names, in order.

        The Player's routes also accept an additional slash at the end or at the beginning, since
        some clients build addresses by hand.
        """
        if "%" in path:
            path = _ESCAPED.sub(_plain, path)
        segments = path.split("/")
        route, values = self._walk(segments)
        if path.endswith((".json", ".jsonp", ".xml")) and (
            route is None or (route.player and values)
        ):
            segments[-1], _, ending = segments[-1].rpartition(".")
            short, short_values = self._walk(segments)
            if short is not None and short.player:
                return short if ending == "json" else replace(short, ending=ending), short_values
        if (route is None or "" in values) and not forgiven:
            plain = path[path[:2] == "//" :].removesuffix("/")
            short, short_values = self.find(plain, forgiven=True)
            if short is not None and short.player:
                return short, short_values
        return route, values

    def _walk(self, segments: list[str]) -> tuple[Route | None, list[str]]:
        node = self._root
        values: list[str] = []
        if segments[0] or len(segments) > 8:
            return None, values
        for segment in segments[1:]:
            following = node.literals.get(segment)
            if following is None:
                following = node.name
                if following is None:
                    return None, values
                values.append(segment)
            node = following
        return node.route, values
