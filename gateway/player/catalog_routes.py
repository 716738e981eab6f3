"""The Player API's reads of the catalog: lists, searches, tags, authors, pages, pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from string import Template
from typing import Any

from msgspec import UNSET

from gateway.catalog.finder import Finder
from gateway.catalog.model import Card, MixUser
from gateway.catalog.search import TAGS, asked, smart, tags_of
from gateway.http.errors import Refusal
from gateway.http.messages import Response, target_of
from gateway.http.parameters import whole_number
from gateway.http.router import Call
from gateway.http.static_files import HEADERS, Pages
from gateway.player.covers import LARGEST, base_url, cover_urls, draw_cover
from gateway.player.responses import (
    UNBUILT,
    Envelope,
    Found,
    MixReply,
    MixSet,
    Pagination,
    TagReply,
    UserReply,
    mix_reply,
)
from gateway.player.routes import ok, read_parameters
from gateway.reload.runtime_config import RuntimeConfig

PER_PAGE = 12
"""The default number of mixes on a page (8tracks')."""
PER_PAGE_MAX = 100
PAGE_MAX = 10**9

_PARTS, _SHARED = Pages("gateway.player"), Pages("gateway.dashboard")
_PAGE = Template(_PARTS.text("mix.html"))
_PAGE_HEADERS = HEADERS | {
    # Pictures and media may be on any site that the catalog names.
    "Content-Security-Policy": HEADERS["Content-Security-Policy"]
    .replace("img-src 'self'", "img-src 'self' http: https:")
    .replace("connect-src", "media-src http: https:; connect-src"),
}
# Clients on other sites show the covers.
_COVER_HEADERS = HEADERS | {"Cross-Origin-Resource-Policy": "cross-origin"}


class CatalogApi:
    """The handlers."""

    def __init__(self, finder: Finder, live: RuntimeConfig) -> None:
        self._finder = finder
        self._live = live

    async def mix(self, call: Call) -> Response:
        await read_parameters(call)
        return self._one(call, await self._card(call))

    async def mixes(self, call: Call) -> Response:
        given = await read_parameters(call)
        tags = ",".join(given[name] for name in ("tag", "tags") if name in given)
        wanted = asked(given.get("q", ""), tags, given.get("sort"))
        ids: Sequence[int] = () if wanted is None else await self._finder.find(wanted)
        # `tags=a+b`: in a query that is a space, which a tag may have, too.
        apart = tags_of(tags, "[,+ ]")
        if wanted is not None and not ids and wanted.tags != apart and len(apart) <= TAGS:
            ids = await self._finder.find(wanted._replace(tags=apart))
        return _shown(await self._page(call, given, "mixes", "Mixes", ids), on_top=True)

    async def mix_set(self, call: Call) -> Response:
        given = await read_parameters(call)
        smart_id = call.values["smart_id"]
        if smart_id == "all":
            page, per_page = _place(given)
            cards, total = await self._finder.page(page, per_page)
            at = _pagination(page, per_page, total)
            return _shown(MixSet("all", "All mixes", self._replies(call, cards), at))
        wanted = smart(smart_id)
        if wanted is not None and wanted.like and not await self._finder.cards([wanted.like]):
            raise Refusal(404, f"There is no mix {wanted.like}.")
        ids = () if wanted is None else await self._finder.find(wanted)
        return _shown(await self._page(call, given, smart_id, f"Mixes: {smart_id}", ids))

    async def mix_cover(self, call: Call) -> Response:
        given = await read_parameters(call)
        size = whole_number(given.get("size", "250"), "size", LARGEST)
        return Response(
            200, draw_cover(await self._card(call), size), _COVER_HEADERS, "image/svg+xml"
        )

    async def mix_page(self, call: Call) -> Response:
        """A mix by its path: for a browser a page, for a program JSON."""
        given = await read_parameters(call)
        path = f"/{call.values['user']}/{call.values['slug']}"
        card = await self._finder.of_path(path)
        if card is None:
            raise Refusal(404, "There is no such path, and no mix has it.")
        wants = call.request.headers.get("Accept", "")
        in_json = target_of(call.request)[0].rstrip("/").endswith((".json", ".jsonp", ".xml"))
        if in_json or given.get("format") in ("json", "xml") or "application/json" in wants:
            return self._one(call, card)
        texts = {
            "id": str(card.id),
            "name": card.name,
            "login": card.user.login,
            "description": card.description or "",
            "tags": card.tag_list_cache,
            "tracks": str(card.tracks_count),
            "minutes": str(-(-card.duration // 60)),
            "cover": cover_urls(card, "")["sq250"],
        }
        page = _PAGE.substitute({name: escape(text) for name, text in texts.items()})
        return Response(200, page.encode(), _PAGE_HEADERS, "text/html; charset=utf-8")

    async def page_part(self, call: Call) -> Response:
        name = call.values["file"]
        return (_SHARED if name in ("base.css", "icon.svg") else _PARTS).part(name)

    async def tags(self, call: Call) -> Response:
        given = await read_parameters(call)
        page, per_page = _place(given, PER_PAGE_MAX)
        tags = await self._finder.tags()
        shown = [TagReply(t, n, n) for t, n in tags[(page - 1) * per_page : page * per_page]]
        return _found(_pagination(page, per_page, len(tags)), tags=shown)

    async def user(self, call: Call) -> Response:
        await read_parameters(call)
        user, ids = await self._author(call)
        path = f"/{user.slug}"
        reply = UserReply(user.id, user.login, user.slug, path, path, len(ids))
        return ok(Found(user=reply))

    async def user_mixes(self, call: Call) -> Response:
        given = await read_parameters(call)
        if given.get("view", "mixes") not in ("mixes", ""):
            raise Refusal(501, "Of a user's mixes only their own are known: leave view out.")
        user, ids = await self._author(call, given.get("sort"))
        page = await self._page(call, given, f"dj:{user.id}", user.login, ids)
        return _shown(page, on_top=True)

    async def mix_action(self, call: Call) -> Response:
        """A call of the original that this service does not have."""
        await read_parameters(call)
        whole_number(call.values["id"], "The id")
        if not any(call.values["action"] in actions for actions in UNBUILT.values()):
            raise Refusal(404, "There is no such path.")
        raise Refusal(501, "This service has no likes, favs and follows.")

    track_action = user_action = mix_action

    async def _card(self, call: Call) -> Card:
        mix_id = whole_number(call.values["id"], "The mix's id")
        for card in await self._finder.cards([mix_id]):
            return card
        raise Refusal(404, f"There is no mix {mix_id}.")

    async def _author(self, call: Call, sort: str | None = None) -> tuple[MixUser, Sequence[int]]:
        user_id = whole_number(call.values["id"], "The user's id")
        wanted = asked("", "", sort or "recent")
        user = await self._finder.author(user_id)
        if user is None or wanted is None:
            raise Refusal(404, f"No mix is by user {user_id}.")
        return user, await self._finder.find(wanted._replace(user_id=user_id))

    def _one(self, call: Call, card: Card) -> Response:
        return ok(Envelope(mix=self._replies(call, [card])[0]))

    def _replies(self, call: Call, cards: Sequence[Card]) -> list[MixReply]:
        base = base_url(call, self._live.config)
        return [mix_reply(card, base) for card in cards]

    async def _page(
        self, call: Call, given: Mapping[str, str], smart_id: str, name: str, ids: Sequence[int]
    ) -> MixSet:
        """The page of these mixes that is asked for."""
        page, per_page = _place(given)
        cards = await self._finder.cards(ids[(page - 1) * per_page : page * per_page])
        at = _pagination(page, per_page, len(ids))
        return MixSet(smart_id, name, self._replies(call, cards), at)


def _shown(mix_set: MixSet, *, on_top: bool = False) -> Response:
    mixes = mix_set.mixes if on_top else UNSET
    return _found(mix_set.pagination, mix_set=mix_set, mixes=mixes)


def _place(given: Mapping[str, str], per_page: int = PER_PAGE) -> tuple[int, int]:
    return (
        whole_number(given.get("page", "1"), "page", PAGE_MAX),
        whole_number(given.get("per_page", str(per_page)), "per_page", PER_PAGE_MAX),
    )


def _pagination(page: int, per_page: int, total: int) -> Pagination:
    return Pagination(page, per_page, total, page + 1 if page * per_page < total else None)


def _found(at: Pagination, **found: Any) -> Response:
    return ok(
        Found(
            page=at.current_page,
            per_page=at.per_page,
            total_entries=at.total_entries,
            total_pages=-(-at.total_entries // at.per_page),
            next_page=at.next_page,
            previous_page=at.current_page - 1 if at.current_page > 1 else None,
            **found,
        )
    )
