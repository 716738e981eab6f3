"""Bytes of a lookup in Redis, packed and flat; and how many states a Redis that is too small
evicts."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import get_args

from bench import seed
from bench.lab import Lab
from config.model import LayoutName
from sharding.lookups.layout import Command, Layout
from sharding.state import Key
from stack.redis import RedisServer

PLAYLISTS = 30
"""Playlists of each user, within retention."""
HIGHEST = 10_000_000
"""Playlist ids lie below it: they have as many digits as a large service's."""
LAYOUTS: tuple[LayoutName, ...] = get_args(LayoutName)


def everything(lab: Lab) -> None:
    """Take both measurements."""
    lookups(lab)
    evictions(lab)


def lookups(lab: Lab) -> None:
    """Fill a fresh node with each layout, and measure its memory before and after."""
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


def evictions(lab: Lab) -> None:
    """Redis alone, allkeys-lru: of the states that were written, how many are still there."""
    written = 400_000 if lab.scale.name != "tiny" else 5_000
    node = lab.servers.alone
    body = seed.VERSION.to_bytes(8, "big") + seed.state_body(1)
    layout = Layout("flat", seed.RETENTION)
    seconds = str(seed.RETENTION * 86400)
    with node.client() as client:
        client.flushall()
        seed.send(
            node.port,
            (
                ("SET", layout.ring_key(Key(user, 1)), body, "EX", seconds)
                for user in range(1, written + 1)
            ),
        )
        kept, limit = int(client.dbsize()), int(client.config_get("maxmemory")["maxmemory"])
        each = int(client.info("memory")["used_memory"]) / max(1, kept)
        client.flushall()
    lab.record(
        "evictions", written=written, kept=kept, maxmemory=limit, bytes_a_state=round(each, 1)
    )
    lab.say(
        f"Redis alone with {limit >> 20} MB: {kept} of {written} states are kept, "
        f"{each:.0f} bytes each"
    )


def _entries(layout: Layout, users: int) -> Iterator[Command]:
    chance = random.Random(1)
    for _ in range(users):
        user = chance.randrange(1, 2**62)
        for playlist in chance.sample(range(1, HIGHEST), PLAYLISTS):
            day = seed.days_ago(chance.randrange(seed.RETENTION + 1))
            yield from (c for c in layout.put(Key(user, playlist), day) if c[0] != "HSCAN")
