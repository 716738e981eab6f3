"""The mixes that listeners of a drill walk through."""

from __future__ import annotations

from gateway.catalog.model import Mix, MixUser, Track

MIXES = {1: 12, 2: 30, 3: 30, 4: 40, 5: 60}
"""Ids of the mixes, and how many tracks each has: enough for a session, and some that end."""


def mixes() -> list[Mix]:
    """The catalog."""
    return [_mix(number, tracks) for number, tracks in MIXES.items()]


def _mix(number: int, tracks: int) -> Mix:
    listed = tuple(
        Track(
            id=number * 1000 + k,
            name=f"Take {k}",
            performer="The House Band",
            release_name=None,
            year=None,
            url=None,
            track_file_stream_url=f"https://audio.example/{number}/{k}.mp3",
            play_duration=180,
        )
        for k in range(1, tracks + 1)
    )
    user = MixUser(1, "drill", "drill")
    name = f"Drill {number}"
    slug = f"drill-{number}"
    return Mix(number, name, slug, f"/drill/{slug}", None, "", 180 * tracks, user, listed)
