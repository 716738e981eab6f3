"""Lookup entries: how a day is written into Redis, in two layouts. No I/O.

`flat` is what the original system writes: `uid:<user>:pid:<playlist>` -> `YYYYMMDD`, each with an
expiry. `packed` is one hash a user, `u:<user>`, a field a playlist: a tenth of the memory, since a
small hash is one compact block (Redis manual, "Memory optimization").
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from typing import Any, TypeAlias

from config.model import LayoutName
from sharding.partitions.calendar import parse_day
from sharding.state import PLAYLIST_MAX, Key

Command: TypeAlias = tuple[bytes | int | str, ...]

EXTRA_DAYS = 2
"""Days that an entry outlives the retention, so that it never expires before its state."""
MOST_FIELDS = 512
"""Fields of a packed entry that one scan returns."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How entries look in Redis. (mypy finds where a name of `LayoutName` is forgotten.)

    Args:
        name: `packed` or `flat`.
        retention: days a state is kept, for the expiry.
    """

    name: LayoutName
    retention: int

    def ring_key(self, key: Key) -> bytes:
        """The Redis key of an entry: what the ring places."""
        match self.name:
            case "flat":
                return b"uid:%d:pid:%d" % key
            case "packed":
                return b"u:%d" % key.user_id

    def ask(self, key: Key) -> Command:
        """The command that reads an entry."""
        match self.name:
            case "flat":
                return ("GET", self.ring_key(key))
            case "packed":
                return ("HGET", self.ring_key(key), b"%d" % key.playlist_id)

    def put(self, key: Key, day: date) -> list[Command]:
        """The commands that write an entry, with its expiry."""
        seconds = (self.retention + EXTRA_DAYS) * 86400
        value = _spelled(day)
        name = self.ring_key(key)
        match self.name:
            case "flat":
                return [("SET", name, value, "EX", seconds)]
            case "packed":
                field = b"%d" % key.playlist_id
                return [("HSET", name, field, value), ("EXPIRE", name, seconds)]

    def look_for_old(self, key: Key, written: object) -> Command | None:
        """The command that scans an entry for old fields, if `put` added one; else None.

        A hash expires as a whole, so its old fields are removed whenever it grows.

        Args:
            written: the reply to the first command of `put`: how many fields it added.
        """
        if self.name != "packed" or written != 1:
            return None
        return ("HSCAN", self.ring_key(key), 0, "COUNT", MOST_FIELDS)

    def prune(self, name: bytes, scanned: object, oldest: date) -> Command | None:
        """The command that removes fields past retention, given HSCAN's reply; None if none are.

        Fields that are not a playlist's stay.

        Args:
            name: the entry's Redis key.
        """
        gone = [
            field
            for field, value in pairs(scanned)
            if (day := day_in(value)) and day < oldest and is_playlist(field)
        ]
        return ("HDEL", name, *gone) if gone else None


_PLAYLIST = re.compile(rb"[1-9][0-9]{0,18}")


def is_playlist(field: bytes) -> bool:
    """Whether a field of a packed entry is a playlist's, written exactly as Tapedeck writes it."""
    return _PLAYLIST.fullmatch(field) is not None and int(field) <= PLAYLIST_MAX


def day_in(value: object) -> date | None:
    """The day that an entry's value is; None if it is something else."""
    if not isinstance(value, bytes) or len(value) != 8:
        return None
    return _parsed(value)


@lru_cache(512)
def _parsed(value: bytes) -> date | None:
    return parse_day(value.decode("latin-1"))


@lru_cache(512)
def _spelled(day: date) -> bytes:
    return f"{day:%Y%m%d}".encode()


def pairs(scanned: Any) -> Iterable[tuple[bytes, object]]:
    """The fields and values of an HSCAN reply; empty for another reply."""
    match scanned:
        case [_, [*found]]:
            return zip(found[::2], found[1::2], strict=False)
    return ()
