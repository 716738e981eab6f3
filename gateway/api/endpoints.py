"""The HTTP endpoints as one table, from which the routes and /openapi.json are made.

The table has the API and the answers of each path. `document.py` makes the OpenAPI description from
it; the schemas of bodies are in `schemas.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from gateway.api.schemas import Json
from gateway.catalog.search import FEW_TAGS, TAGS
from gateway.http.router import Handler
from gateway.player.responses import UNBUILT
from sharding.state import PLAYLIST_MAX, USER_MAX

Api: TypeAlias = Literal["player", "states", "admin", "description"]

PROBES = frozenset({"healthz", "readyz"})
"""Endpoints of the admin port that answer every client, under every host name."""
OPEN = PROBES | {"dashboard", "dashboard_file", "guide"}
"""Endpoints of the admin port that need no token. The page asks for the token before it shows
anything."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of the query or of a form, or a name in the path."""

    name: str
    description: str
    schema: Json
    needed: bool = True


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What one path does.

    Attributes:
        name: of the method that handles it; also the operationId.
        api: decides the error body.
        path: the template; for the Player `.json` may follow.
        answers: the schema of each status, without the errors of the whole API; None: no body.
    """

    name: str
    api: Api
    path: str
    methods: tuple[str, ...]
    summary: str
    answers: Mapping[int, str | None]
    parameters: tuple[Parameter, ...] = ()


def _id(name: str, description: str, highest: int = PLAYLIST_MAX, needed: bool = True) -> Parameter:
    schema = {"type": "integer", "format": "int64", "minimum": 1, "maximum": highest}
    return Parameter(name, description, schema, needed)


_TOKEN = Parameter("play_token", "From /sets/new.", {"type": "string"})
_MIX_ID = _id("mix_id", "The mix.")
_BELIEVED = _id(
    "track_id",
    "The track that the client believes is playing: a retry with it moves nothing twice.",
    needed=False,
)
_ENTITY_TAG: Json = {"type": "string", "pattern": r'^(\*|"[0-9]{1,19}")$'}
_STAR: Json = {"type": "string", "enum": ["*"]}
_USER = _id("user_id", "The user.", USER_MAX)
_ANY = ("GET", "POST")
_READ = ("GET", "HEAD", "POST")
_TEXT: Json = {"type": "string", "maxLength": 200}
_SORT = Parameter("sort", "The order.", {"enum": ["hot", "popular", "recent"]}, needed=False)
_PAGE = (
    _id("page", "From 1.", 10**9, needed=False),
    _id("per_page", "How many on a page.", 100, needed=False),
)


def _of_set(
    name: str, summary: str, schema: str, *parameters: Parameter, errors: tuple[int, ...] = (409,)
) -> Endpoint:
    """A command of a listener in a mix."""
    answers = {200: schema, **dict.fromkeys((401, 404, *errors), "Error")}
    if 403 in errors:
        answers[403] = "Refused"
    path = f"/sets/{{play_token}}/{name}"
    return Endpoint(name, "player", path, _ANY, summary, answers, (_TOKEN, _MIX_ID, *parameters))


def _read(
    name: str,
    path: str,
    summary: str,
    schema: str,
    *parameters: Parameter,
    errors: tuple[int, ...] = (404,),
) -> Endpoint:
    """A read that needs no token."""
    answers = {200: schema, **dict.fromkeys(errors, "Error")}
    return Endpoint(name, "player", path, _READ, summary, answers, parameters)


def _of_state(
    name: str,
    methods: tuple[str, ...],
    summary: str,
    answers: Mapping[int, str | None],
    *errors: int,
    conditions: Iterable[Parameter],
) -> Endpoint:
    known = {**answers, **dict.fromkeys((*errors, 409, 412), "PlainError")}
    parameters = (_USER, _id("playlist_id", "The playlist."), *conditions)
    path = "/states/{user_id}/{playlist_id}"
    return Endpoint(name, "states", path, methods, summary, known, parameters)


def _if(match: str, description: str, schema: Json = _ENTITY_TAG) -> Parameter:
    """A condition's header."""
    return Parameter(f"If-{match}", description, schema, needed=False)


def _admin(
    name: str,
    path: str,
    summary: str,
    answers: Mapping[int, str | None],
    *parameters: Parameter,
    methods: tuple[str, ...] = ("GET", "HEAD"),
) -> Endpoint:
    return Endpoint(name, "admin", path, methods, summary, answers, parameters)


ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        "new_set",
        "player",
        "/sets/new",
        _ANY,
        "A play token: for an anonymous listener, or with the service key for a known user",
        {200: "NewSet", 401: "Error"},
        (_id("user_id", "With the service key: this user.", USER_MAX, needed=False),),
    ),
    _of_set("play", "Start a mix or resume it; after its end, start it again", "Playing"),
    _of_set("next", "Go to the next track", "Playing", _BELIEVED),
    _of_set(
        "skip",
        "Skip the track, as far as the licence allows; 403 with the reason in notices",
        "Playing",
        _BELIEVED,
        errors=(403, 409),
    ),
    _of_set(
        "report", "The track was listened to; twice is once", "Done", _id("track_id", "The track.")
    ),
    _of_set("tracks_played", "The tracks played so far, in order", "TracksPlayed"),
    _of_set("next_mix", "The mix to play next", "NextMix", errors=()),
    _read("mix", "/mixes/{id}", "One mix", "OneMix", _id("id", "The mix.")),
    _read(
        "mixes",
        "/mixes",
        "Mixes by words and tags; the first thousand",
        "Mixes",
        Parameter("q", "Words that all must be there.", _TEXT, needed=False),
        Parameter(
            "tags",
            f"At most {TAGS} tags, with commas between them; or `tag`.",
            {**_TEXT, "pattern": FEW_TAGS},
            needed=False,
        ),
        _SORT,
        *_PAGE,
        errors=(),
    ),
    _read(
        "mix_set",
        "/mix_sets/{smart_id}",
        "All mixes, or those of a smart id (the first thousand), a page at a time",
        "OneMixSet",
        Parameter(
            "smart_id",
            "`all`, `tags:a+b`, `keyword:words`, `dj:USER_ID`, each with `:hot`, `:popular`, "
            "`:recent` or without; `similar:MIX_ID`.",
            {"type": "string"},
        ),
        *_PAGE,
    ),
    _read(
        "mix_cover",
        "/mixes/{id}/cover.svg",
        "A picture for a mix that has none",
        "Picture",
        _id("id", "The mix."),
        _id("size", "Pixels.", 1024, needed=False),
    ),
    _read("tags", "/tags", "The tags of most mixes; the first thousand", "Tags", *_PAGE, errors=()),
    _read("user", "/users/{id}", "An author of mixes", "OneUser", _id("id", "The user.")),
    _read(
        "user_mixes",
        "/users/{id}/mixes",
        "An author's mixes; the first thousand",
        "Mixes",
        _id("id", "The user."),
        _SORT,
        *_PAGE,
        errors=(404, 501),
    ),
    _read(
        "mix_page",
        "/{user}/{slug}",
        "A mix by its path: a page, or JSON for `.json`, `format=json` or Accept",
        "OneMix or Page",
        Parameter("user", "The author's slug.", {"type": "string"}),
        Parameter("slug", "The mix's.", {"type": "string"}),
    ),
    _read(
        "page_part",
        "/player/{file}",
        "A part of that page",
        "PagePart",
        Parameter("file", "Its name.", {"type": "string"}),
    ),
    Endpoint(
        "login",
        "player",
        "/sessions",
        ("POST",),
        "A user token for name and password, from the operator's login service; 501 without one",
        {200: "Session", 401: "Error", 501: "Error"},
        (
            Parameter("login", "The name; in a form only.", _TEXT),
            Parameter("password", "In a form only.", _TEXT),
        ),
    ),
    *(
        Endpoint(
            f"{what}_action",
            "player",
            f"/{what}{'es' if what == 'mix' else 's'}/{{id}}/{{action}}",
            _ANY,
            f"{words}: none here, 501",
            {404: "Error", 501: "Error"},
            (
                _id("id", f"The {what}."),
                Parameter("action", "What to do.", {"enum": list(UNBUILT[what])}),
            ),
        )
        for what, words in (("mix", "Likes"), ("track", "Favs"), ("user", "Follows"))
    ),
    _of_state(
        "get_state",
        ("GET", "HEAD"),
        "The state, byte for byte as it was stored",
        {200: "State", 304: None},
        404,
        conditions=(
            _if("None-Match", "304 where it holds this version."),
            _if("Match", "Or 412. Not together with If-None-Match."),
        ),
    ),
    _of_state(
        "put_state",
        ("PUT",),
        "Create the state (If-None-Match: *) or replace it (If-Match)",
        {200: "Stored", 201: "Stored"},
        *(408, 413, 415, 428),
        conditions=(
            _if("None-Match", "`*`: create. It or If-Match is needed.", _STAR),
            _if("Match", "The version, or `*`. Not together with If-None-Match."),
        ),
    ),
    _of_state(
        "delete_state",
        ("DELETE",),
        "Delete the state (If-Match)",
        {204: None},
        428,
        conditions=(_if("Match", "The version, or `*`; needed."),),
    ),
    _admin("healthz", "/healthz", "The process lives", {200: "Health"}),
    _admin("readyz", "/readyz", "Whether it can serve", {200: "Readiness", 503: "Readiness"}),
    _admin("ring", "/ring", "The lookup nodes and their health", {200: "Ring"}),
    _admin(
        "outline",
        "/ring/outline",
        "The ring's circle in evenly spaced places: whose each is, and who serves it now",
        {200: "Outline", 503: "PlainError"},
    ),
    _admin(
        "mysql",
        "/mysql",
        "The MySQL hosts: which one is the primary, and whether a standby acknowledges its commits",
        {200: "MySQL", 503: "PlainError"},
    ),
    _admin(
        "where",
        "/where/{user_id}/{playlist_id}",
        "Where one state lies: owner, hints, partition, version, the state itself",
        {200: "Where", 400: "PlainError", 503: "PlainError"},
        _id("user_id", "The user, or an anonymous listener."),
        _id("playlist_id", "The mix."),
    ),
    _admin(
        "find",
        "/find",
        'Who a play token speaks for ({"play_token": ...}), or which of the last requests that'
        ' failed had an id ({"request_id": ...}); no token is told',
        {200: "Found", 400: "PlainError", 413: "PlainError", 503: "PlainError"},
        methods=("POST",),
    ),
    _admin(
        "dashboard",
        "/",
        "The dashboard, for a browser; it asks for the admin token where one is needed",
        {200: "Page"},
    ),
    _admin(
        "dashboard_file",
        "/dashboard/{file}",
        "A part of the dashboard's page",
        {200: "PagePart"},
        Parameter("file", "Its name.", {"type": "string"}),
    ),
    _admin(
        "guide",
        "/docs/{file}",
        "A page of the documentation, as it is: `operations.md`, or a runbook by its alert's name",
        {200: "Guide"},
        Parameter("file", "Its name.", {"type": "string"}),
    ),
    _admin(
        "dashboard_events",
        "/dashboard/events",
        "What the dashboard shows, live: server-sent events whose data is JSON",
        {200: "Events", 503: "PlainError"},
        methods=("GET",),
    ),
    _admin(
        "overview",
        "/overview",
        "This gateway in a few words, as the dashboards of other gateways show it",
        {200: "Overview", 503: "PlainError"},
    ),
    _admin(
        "partitions", "/partitions", "The day partitions", {200: "Partitions", 503: "PlainError"}
    ),
    _admin(
        "believe_clock",
        "/partitions/believe-clock",
        "Say that MySQL's clock is right although this gateway doubts it: it is trusted again",
        {200: "BelievedClock", 503: "PlainError"},
        methods=("POST",),
    ),
    _admin(
        "drain_state", "/drain", "Whether the gateway is drained, and how far", {200: "Drained"}
    ),
    _admin(
        "drain",
        "/drain",
        "Take the gateway out: /readyz says 503, each answer ends its connection; it serves on",
        {200: "Drained"},
        methods=("POST",),
    ),
    _admin("drain_back", "/drain/back", "End the drain", {200: "Drained"}, methods=("POST",)),
    _admin("events", "/events", "What happened lately, oldest first", {200: "Happenings"}),
    _admin("stats", "/stats", "All counters as JSON", {200: "Stats"}),
    _admin("metrics", "/metrics", "All counters as Prometheus text", {200: "Metrics"}),
    _admin(
        "reload",
        "/reload",
        "Read the configuration again: what changed, or every problem and nothing changed",
        {200: "Reloaded", 422: "PlainError"},
        Parameter(
            "force",
            "1: also where a new lookup node, or MySQL by a new sign-in, does not work.",
            {"type": "string"},
            False,
        ),
        methods=("POST",),
    ),
    _admin(
        "reload_check",
        "/reload/check",
        "What a reload would change, and which share of the keys would move; nothing changes",
        {200: "Reloaded", 400: "PlainError", 422: "PlainError"},
        methods=("POST",),
    ),
    Endpoint(
        "openapi",
        "description",
        "/openapi.json",
        ("GET", "HEAD"),
        "This description; on the gateway's and on the admin port",
        {200: "Description"},
    ),
)


def handlers_of(*parts: object) -> dict[str, Handler]:
    """The methods of these objects that have the name of an endpoint, by that name."""
    names = [one.name for one in ENDPOINTS]
    return {name: getattr(part, name) for part in parts for name in names if hasattr(part, name)}


_PLAY = ("/play", "/next", "/skip", "/report")


def _class(path: str) -> str:
    """The class of a route of listeners or services: a fault may stop one class and not another."""
    if path.startswith("/states/"):
        return "states"
    if path == "/sets/new":
        return "start"
    return "play" if path.endswith(_PLAY) else "browse"


CLASSES = {one.path: _class(one.path) for one in ENDPOINTS if one.api in ("player", "states")}
"""By route: `play` (needs a commit), `states`, `browse` (reads) and `start` (needs no MySQL)."""
