"""The Player's bodies: 8tracks' envelope and its contents."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import UNSET, Struct, UnsetType

from gateway.catalog.model import Card, MixHead, Track
from gateway.http.errors import encode
from gateway.http.status import LINES
from gateway.player.covers import cover_urls
from gateway.player.rules import Place

API_VERSION = 3
UNBUILT = {
    "mix": ("like", "unlike", "toggle_like"),
    "track": ("fav", "unfav", "toggle_fav"),
    "user": ("follow", "unfollow", "toggle_follow"),
}
"""Calls of the original that are answered with 501."""


class TrackReply(Track, frozen=True):
    """A track in the Player's answers."""

    faved_by_current_user: bool = False


class MixReply(MixHead, frozen=True, kw_only=True):
    """A mix in the Player's answers, without its tracks."""

    tracks_count: int
    user_id: int
    web_path: str
    cover_urls: dict[str, str]
    plays_count: int | UnsetType = UNSET
    likes_count: int = 0
    liked_by_current_user: bool = False


class NoTrack(Struct):
    """`{}`: at the end there is no current track."""


class SetReply(Struct):
    """Where a listener is in a mix."""

    at_beginning: bool
    at_last_track: bool
    at_end: bool
    skip_allowed: bool
    track: TrackReply | NoTrack


class Pagination(Struct):
    """The place of a page among all pages."""

    current_page: int
    per_page: int
    total_entries: int
    next_page: int | None


class MixSet(Struct):
    """One page of mixes."""

    smart_id: str
    name: str
    mixes: list[MixReply]
    pagination: Pagination


class Envelope(Struct, kw_only=True):
    """The body of every answer of the Player."""

    status: str = LINES[200]
    errors: Sequence[str] | None = None
    notices: Sequence[str] | None = None
    logged_in: bool = False
    api_version: int = API_VERSION
    play_token: str | UnsetType = UNSET
    set: SetReply | UnsetType = UNSET
    tracks: list[TrackReply] | UnsetType = UNSET
    next_mix: MixReply | UnsetType = UNSET
    mix: MixReply | UnsetType = UNSET
    mix_set: MixSet | UnsetType = UNSET


class TagReply(Struct):
    """A tag, and how many mixes have it, under the original's two names."""

    name: str
    taggings_count: int
    cool_taggings_count: int


class UserReply(Struct):
    """The author of mixes."""

    id: int
    login: str
    slug: str
    path: str
    web_path: str
    mixes_count: int


class Found(Envelope, kw_only=True):
    """The mixes, tags or user found. A page of mixes has its pagination at the top level too, as in
    earlier versions."""

    tags: list[TagReply] | UnsetType = UNSET
    user: UserReply | UnsetType = UNSET
    mixes: list[MixReply] | UnsetType = UNSET
    page: int | UnsetType = UNSET
    per_page: int | UnsetType = UNSET
    total_entries: int | UnsetType = UNSET
    total_pages: int | UnsetType = UNSET
    next_page: int | UnsetType | None = UNSET
    previous_page: int | UnsetType | None = UNSET


class SignedIn(Struct):
    """A user who has signed in."""

    id: int
    login: str
    user_token: str


class Session(Envelope, kw_only=True):
    """The answer to a login."""

    user: SignedIn
    user_token: str


def track_reply(track: Track, media: bool = False) -> TrackReply:
    """The track in the API's shape. With `media` its `url` is the stream's URL, as in version 2."""
    return TrackReply(
        track.id,
        track.name,
        track.performer,
        track.release_name,
        track.year,
        track.track_file_stream_url if media else track.url,
        track.track_file_stream_url,
        track.play_duration,
    )


def set_reply(place: Place, media: bool = False) -> SetReply:
    return SetReply(
        place.at_beginning,
        place.at_last_track,
        place.at_end,
        place.skip_allowed,
        NoTrack() if place.track is None else track_reply(place.track, media),
    )


def mix_reply(card: Card, base: str) -> MixReply:
    """The mix in the API's shape, with URLs that begin with `base`."""
    head = {name: getattr(card, name) for name in MixHead.__struct_fields__}
    return MixReply(
        **head,
        tracks_count=card.tracks_count,
        user_id=card.user.id,
        web_path=card.path,
        cover_urls=cover_urls(card, base),
        plays_count=UNSET if card.plays is None else card.plays,
    )


def player_error(status: int, sentences: Sequence[str], logged_in: bool = False) -> bytes:
    """An error in the Player's envelope."""
    return encode(Envelope(status=LINES[status], errors=sentences, logged_in=logged_in))
