"""The rules for mixes in a catalog file: types, lengths, texts, no duplicates.

The fields are those of the API: `/mixes/{id}` shows what is in the file.
"""

from __future__ import annotations

import re
from typing import Annotated, NamedTuple, TypeAlias, TypeVar

import msgspec
from msgspec import Meta

from gateway.catalog.model import Mix
from gateway.catalog.tables import (
    DESCRIPTION_LENGTH,
    NAME_LENGTH,
    PATH_LENGTH,
    TAGS_LENGTH,
    URL_LENGTH,
)

MIX_TRACKS = 1000
"""Most tracks of a mix: each listener's state has the ids of the tracks played."""

_Id: TypeAlias = Annotated[int, Meta(ge=1, le=2**63 - 1)]
_Name: TypeAlias = Annotated[str, Meta(min_length=1, max_length=NAME_LENGTH)]
_Url: TypeAlias = Annotated[str, Meta(max_length=URL_LENGTH)]


class TrackFields(msgspec.Struct, forbid_unknown_fields=True):
    id: _Id
    name: _Name
    performer: _Name
    track_file_stream_url: _Url
    play_duration: Annotated[int, Meta(ge=0, le=86_400)]
    release_name: _Name | None = None
    year: Annotated[int, Meta(ge=1, le=9999)] | None = None
    url: _Url | None = None


class UserFields(msgspec.Struct, forbid_unknown_fields=True):
    id: _Id
    login: _Name
    slug: _Name


class MixFields(msgspec.Struct, forbid_unknown_fields=True):
    id: _Id
    name: _Name
    slug: _Name
    user: UserFields
    tracks: Annotated[list[TrackFields], Meta(min_length=1, max_length=MIX_TRACKS)]
    path: Annotated[str, Meta(max_length=PATH_LENGTH)] | None = None
    description: Annotated[str, Meta(max_length=DESCRIPTION_LENGTH)] | None = None
    tag_list_cache: Annotated[str, Meta(max_length=TAGS_LENGTH)] | None = None
    cover_url: _Url | None = None


class Entry(NamedTuple):
    """A good mix and the number of its first line (from 1)."""

    number: int
    mix: Mix


class BadLine(NamedTuple):
    """A line that is not imported, and why."""

    number: int
    reason: str


class Bad(Exception):
    """Why a line is not imported."""


_Fields = TypeVar("_Fields", TrackFields, MixFields)


def convert(values: dict[str, object], fields: type[_Fields], where: str = "") -> _Fields:
    """Check values against the types and lengths of `fields`; `where` goes before the names. Raises
    Bad.
    """
    try:
        return msgspec.convert(values, fields)
    except msgspec.ValidationError as error:
        raise Bad(words_of(error, where)) from None


def words_of(error: Exception, prefix: str = "") -> str:
    """A sentence for an error, with the place in front: `tracks[2].id: Expected ...`."""
    if isinstance(error, UnicodeDecodeError):
        return "is no UTF-8"
    what, _, where = str(error).partition(" - at `$")
    where = (prefix + where.rstrip("`")).removeprefix(".")
    return f"{where}: {what}" if where else what


# A description may have line breaks; other control characters mean a broken export.
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_URL = re.compile(r"https?://[^\s/\\?#@]+([/?#][^\s\\]*)?")
_SLUG = re.compile(r"[^\s/\\?#]+")
# The path becomes a link on a page: to a browser //host and /\\host are other sites (URL standard,
# 4.4).
_PATH = re.compile(r"(/(?!\.{1,2}(/|$))[^\s/\\?#]+)+/?")
_OTHERWISE = {
    _URL: "is no http or https URL",
    _SLUG: "is no slug",
    _PATH: "is no plain path such as /somebody/mix",
}


def checked_mix(fields: MixFields) -> Mix:
    """The mix of these fields. Raises Bad if they break a rule that the types do not express."""
    _text("name", fields.name)
    _text("slug", fields.slug, _SLUG)
    _text("user.login", fields.user.login)
    _text("user.slug", fields.user.slug, _SLUG)
    _text("tag_list_cache", fields.tag_list_cache, blank=True)
    _text("description", re.sub(r"[\r\n\t]", " ", fields.description or ""), blank=True)
    path = fields.path or f"/{fields.user.slug}/{fields.slug}"
    _text("path", path, _PATH)
    _text("cover_url", fields.cover_url, _URL)
    ids: set[int] = set()
    for number, track in enumerate(fields.tracks):
        check_track(track, f"tracks[{number}]")
        if track.id in ids:
            raise Bad(f"tracks[{number}]: track {track.id} is in the mix already")
        ids.add(track.id)
    values = {
        **msgspec.structs.asdict(fields),
        "path": path,
        "tag_list_cache": fields.tag_list_cache or "",
        "duration": sum(track.play_duration for track in fields.tracks),
    }
    return msgspec.convert(values, Mix, from_attributes=True)


def check_track(track: TrackFields, where: str) -> None:
    _text(f"{where}.name", track.name)
    _text(f"{where}.performer", track.performer)
    _text(f"{where}.release_name", track.release_name)
    _text(f"{where}.url", track.url, _URL)
    _text(f"{where}.track_file_stream_url", track.track_file_stream_url, _URL)


def _text(
    where: str, text: str | None, pattern: re.Pattern[str] | None = None, *, blank: bool = False
) -> None:
    if text is None:
        return
    control = _CONTROL.search(text)
    if control is not None:
        raise Bad(f"{where}: holds the control character U+{ord(control[0]):04X}")
    if not blank and not text.strip():
        raise Bad(f"{where}: is blank")
    if pattern is not None and pattern.fullmatch(text) is None:
        raise Bad(f"{where}: {_OTHERWISE[pattern]}")


class Seen:
    """The lines on which mixes and tracks were found."""

    def __init__(self) -> None:
        self._mixes: dict[int, int] = {}
        self._tracks: dict[int, tuple[int, int]] = {}

    def admit(self, number: int, mix: Mix) -> Mix:
        """Check a mix against earlier lines, and return it. Raises Bad if one of them has the mix,
        or one of its tracks with other values.
        """
        if mix.id in self._mixes:
            raise Bad(f"mix {mix.id} is on line {self._mixes[mix.id]} already")
        for track in mix.tracks:
            line, words = self._tracks.get(track.id, (number, hash(track)))
            if words != hash(track):
                raise Bad(f"track {track.id} is not what it is on line {line}")
        self._mixes[mix.id] = number
        for track in mix.tracks:
            self._tracks.setdefault(track.id, (number, hash(track)))
        return mix
