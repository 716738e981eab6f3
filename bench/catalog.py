"""The mixes that the benchmark plays, the same for every peer."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec

from gateway.catalog.model import Mix, MixUser, Track
from gateway.player.responses import track_reply

MIXES = {1: 30, 2: 30, 3: 30, 4: 40, 5: 60}
"""Ids of the mixes that are listened to, and how many tracks each has."""
HOT = 6
"""The mix of the hot keys."""
HOT_TRACKS = 120


def track_id(mix: int, number: int) -> int:
    """The id of a mix's track, counted from 1."""
    return mix * 1000 + number


def mixes() -> list[Mix]:
    """The catalog."""
    return [_mix(number, tracks) for number, tracks in (MIXES | {HOT: HOT_TRACKS}).items()]


def write(path: Path) -> None:
    """Write the catalog as the peers read it: the tracks by mix, in the API's shape."""
    tracks = {
        str(mix.id): [msgspec.to_builtins(track_reply(track)) for track in mix.tracks]
        for mix in mixes()
    }
    path.write_text(json.dumps(tracks, separators=(",", ":")))


def _mix(number: int, tracks: int) -> Mix:
    listed = tuple(
        Track(
            id=track_id(number, k),
            name=f"Take {k}",
            performer="The House Band",
            release_name=None,
            year=1927,
            url=None,
            track_file_stream_url=f"https://audio.example/{number}/{k}.mp3",
            play_duration=180,
        )
        for k in range(1, tracks + 1)
    )
    slug = f"bench-{number}"
    user = MixUser(1, "bench", "bench")
    return Mix(number, f"Bench {number}", slug, f"/bench/{slug}", None, "", 5400, user, listed)
