"""What a lookup costs in Redis: bytes an entry, packed and flat."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Literal

from bench import seed
from bench.lab import Lab
from tapedeck.localstack.redis import RedisServer
from tapedeck.sharding.entries import Command, Layout
from tapedeck.sharding.state import Key

PLAYLISTS = 30
"""Of each user, within retention."""
HIGHEST = 10_000_000
"""Playlist ids: as many digits as a large service's have."""
LAYOUTS: tuple[Literal["packed", "flat"], ...] = ("packed", "flat")


def lookups(lab: Lab) -> None:
    """Fill a fresh node with each layout, and look at its memory before and after."""
    users = 30_000 if lab.scale.wide else 2_000
    for name in LAYOUTS:
        node = RedisServer("memory", lab.servers.folder / f"memory-{name}", options=("--save", ""))
        node.start()
        try:
            with node.client() as client:
                before = int(client.info("memory")["used_memory"])
                seed.send(node.port, _entries(Layout(name, seed.RETENTION), users))
                after = int(client.info("memory")["used_memory"])
        finally:
            node.kill()
        each = (after - before) / (users * PLAYLISTS)
        lab.record("memory", layout=name, users=users, playlists=PLAYLISTS, bytes=round(each, 2))
        lab.say(f"a lookup, {name}, {PLAYLISTS} playlists a user: {each:.1f} bytes")


def _entries(layout: Layout, users: int) -> Iterator[Command]:
    chance = random.Random(1)
    for _ in range(users):
        user = chance.randrange(1, 2**62)
        for playlist in chance.sample(range(1, HIGHEST), PLAYLISTS):
            day = seed.days_ago(chance.randrange(seed.RETENTION + 1))
            yield from (c for c in layout.put(Key(user, playlist), day) if c[0] != "HSCAN")
