"""The shapes of the Player's bodies: 8tracks' envelope, and what stands in it."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import UNSET, Struct, UnsetType

from gateway.catalog.model import Mix, MixUser, Track
from gateway.http.errors import encode
from gateway.http.status import LINES

API_VERSION = 3


class TrackReply(Struct):
    """A track as the Player answers it."""

    id: int
    name: str
    performer: str
    release_name: str | None
    year: int | None
    url: str | None
    track_file_stream_url: str
    play_duration: int
    faved_by_current_user: bool = False


class MixReply(Struct):
    """A mix as the Player answers it: without its tracks."""

    id: int
    name: str
    slug: str
    path: str
    description: str | None
    tag_list_cache: str
    tracks_count: int
    duration: int
    user: MixUser


class NoTrack(Struct):
    """`{}`: there is no current track at the end."""


class SetReply(Struct):
    """Where a listener is in a mix."""

    at_beginning: bool
    at_last_track: bool
    at_end: bool
    skip_allowed: bool
    track: TrackReply | NoTrack


class Pagination(Struct):
    """Where a page lies in the whole."""

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

    status: str
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


def track_reply(track: Track) -> TrackReply:
    """The track in the API's shape."""
    return TrackReply(
        track.id,
        track.name,
        track.performer,
        track.release_name,
        track.year,
        track.url,
        track.track_file_stream_url,
        track.play_duration,
    )


def mix_reply(mix: Mix) -> MixReply:
    """The mix in the API's shape."""
    return MixReply(
        mix.id,
        mix.name,
        mix.slug,
        mix.path,
        mix.description,
        mix.tag_list_cache,
        len(mix.tracks),
        mix.duration,
        mix.user,
    )


def player_error(status: int, sentences: Sequence[str], *, logged_in: bool = False) -> bytes:
    """An error in the Player's envelope."""
    return encode(Envelope(status=LINES[status], errors=sentences, logged_in=logged_in))
