"""Mixes and tracks: the types that the catalog, the Player and the HTTP API share.

Field names are those of the API (8tracks' v3), so that tracks and mixes can be sent as they are.
"""

from __future__ import annotations

from functools import cached_property

from msgspec import Struct


class Track(Struct, frozen=True):
    """One recording.

    Attributes:
        id: 1 to 2^63-1.
        release_name: the record that it is from.
        url: a page about the track.
        play_duration: seconds.
    """

    id: int
    name: str
    performer: str
    release_name: str | None
    year: int | None
    url: str | None
    track_file_stream_url: str
    play_duration: int


class MixUser(Struct, frozen=True):
    """The author of a mix."""

    id: int
    login: str
    slug: str


class MixHead(Struct, frozen=True):
    """What a mix and its card both have.

    Attributes:
        id: 1 to 2^63-1; the playlist id of the states.
        path: of its page, `/{user slug}/{slug}`.
        tag_list_cache: its tags in one string, such as `jazz, 1920s, piano`.
        duration: seconds, of all its tracks.
    """

    id: int
    name: str
    slug: str
    path: str
    description: str | None
    tag_list_cache: str
    duration: int
    user: MixUser


class Mix(MixHead, frozen=True, dict=True):
    """A playlist: its tracks are played in this order, and each is in it once. `cover_url` is set
    by an import only: read it from a Card.
    """

    tracks: tuple[Track, ...]
    cover_url: str | None = None

    @cached_property
    def order(self) -> dict[int, int]:
        """The numbers of the tracks, from 0, by their ids."""
        return {track.id: index for index, track in enumerate(self.tracks)}


class Card(MixHead, frozen=True):
    """A mix in a list: without its tracks, but with their number.

    Attributes:
        plays: how often it was started, at least; None if that is not known.
        cover_url: of its picture; `{size}` in it is replaced by a width in pixels.
    """

    tracks_count: int
    plays: int | None = None
    cover_url: str | None = None
