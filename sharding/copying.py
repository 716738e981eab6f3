"""Entries on their way to another node: told from what is not ours, read, and written. No I/O.

A copy never takes the place of an entry that is as new or newer, and it keeps its time to live.
Both are one step in Redis (EVAL), since listeners write the same entries all the while.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import date
from typing import Literal, NamedTuple

from tapedeck.sharding.entries import Command, Layout, is_playlist, pairs, read
from tapedeck.sharding.state import PLAYLIST_MAX, Key

FIELDS = 512
"""Fields of a packed entry that are read, or written, at once."""
WRONG_TYPE = -1
"""What a copy answers where something else lies in the entry's place."""

_FLAT = re.compile(rb"uid:([1-9][0-9]{0,18}):pid:([1-9][0-9]{0,18})")
_PACKED = re.compile(rb"u:([1-9][0-9]{0,18})")

# A value that is no day is not ours, and stays. Days in this spelling sort as text.
_COPY_FLAT = """
local old = redis.pcall('GET', KEYS[1])
if type(old) == 'table' then return -1 end
if old and (not string.match(old, '^%d%d%d%d%d%d%d%d$') or old >= ARGV[2]) then return 0 end
if tonumber(ARGV[1]) > 0 then
  redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[1])
else
  redis.call('SET', KEYS[1], ARGV[2])
end
return 1"""
_COPY_PACKED = """
local copied = 0
local left = redis.call('PTTL', KEYS[1])
for i = 2, #ARGV, 2 do
  local old = redis.pcall('HGET', KEYS[1], ARGV[i])
  if type(old) == 'table' then return -1 end
  if not old or (string.match(old, '^%d%d%d%d%d%d%d%d$') and old < ARGV[i + 1]) then
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
    copied = copied + 1
  end
end
local wanted = tonumber(ARGV[1])
if copied > 0 and wanted > 0 and (left == -2 or (left >= 0 and left < wanted)) then
  redis.call('PEXPIRE', KEYS[1], ARGV[1])
end
return copied"""


class Entry(NamedTuple):
    """An entry, whatever its layout.

    Attributes:
        ttl: ms that it has to live; 0: for ever.
    """

    key: Key
    day: date
    ttl: int


def pattern(layout: Literal["packed", "flat"]) -> bytes:
    """What SCAN is to look for; more than ours may match it."""
    return b"uid:*:pid:*" if layout == "flat" else b"u:*"


def is_ours(layout: Literal["packed", "flat"], name: bytes) -> bool:
    """Whether a Redis key is an entry's, spelled as the layout spells it."""
    match = (_FLAT if layout == "flat" else _PACKED).fullmatch(name)
    return match is not None and all(int(number) <= PLAYLIST_MAX for number in match.groups())


def look(layout: Literal["packed", "flat"], name: bytes, cursor: int = 0) -> list[Command]:
    """The commands that read what lies under a name: the value or some fields, and its time."""
    if layout == "flat":
        return [("GET", name), ("PTTL", name)]
    return [("HSCAN", name, cursor, "COUNT", FIELDS), ("PTTL", name)]


def entries(
    layout: Literal["packed", "flat"], name: bytes, replies: Sequence[object]
) -> tuple[list[Entry], int]:
    """The entries in the replies to `look`, and the cursor to look on from (0: that was all).

    What is no day, or under no playlist's number, is left out; so is all of another type.
    """
    value, left = replies
    if isinstance(value, Exception) or not isinstance(left, int) or left == -2 or left == 0:
        return [], 0
    ttl = max(0, left)
    if layout == "flat":
        match = _FLAT.fullmatch(name)
        day = read(value)
        if match is None or not isinstance(day, date):
            return [], 0
        return [Entry(Key(int(match[1]), int(match[2])), day, ttl)], 0
    match = _PACKED.fullmatch(name)
    if match is None:
        return [], 0
    found = []
    for field, said in pairs(value):
        day = read(said)
        if isinstance(day, date) and is_playlist(field):
            found.append(Entry(Key(int(match[1]), int(field)), day, ttl))
    cursor = value[0] if isinstance(value, (list, tuple)) else 0
    return found, int(cursor)


def holds_days(layout: Literal["packed", "flat"], value: object, left: object) -> bool:
    """Whether the first page that `look` asks for is a whole entry of ours: days alone, with an
    expiry, as `Layout.put` writes them."""
    if isinstance(value, Exception) or not isinstance(left, int) or left <= 0:
        return False
    if layout == "flat":
        return isinstance(read(value), date)
    fields = list(pairs(value))
    whole = isinstance(value, (list, tuple)) and int(value[0]) == 0
    return whole and all(is_playlist(f) and isinstance(read(day), date) for f, day in fields)


def copies(layout: Layout, found: Iterable[Entry]) -> list[tuple[Command, int]]:
    """The commands that write entries unless newer ones are there, each with how many it writes.

    A command answers how many of them it wrote, or WRONG_TYPE.
    """
    by_name: dict[bytes, list[Entry]] = {}
    for entry in found:
        by_name.setdefault(layout.ring_key(entry.key), []).append(entry)
    commands: list[tuple[Command, int]] = []
    for name, group in by_name.items():
        if layout.name == "flat":
            commands += [
                (("EVAL", _COPY_FLAT, 1, name, entry.ttl, f"{entry.day:%Y%m%d}"), 1)
                for entry in group
            ]
            continue
        for begin in range(0, len(group), FIELDS):
            part = group[begin : begin + FIELDS]
            # One time for all fields, as a packed entry has; 0 stands for ever.
            ttl = 0 if any(not entry.ttl for entry in part) else max(e.ttl for e in part)
            fields = [
                word
                for entry in part
                for word in (b"%d" % entry.key.playlist_id, f"{entry.day:%Y%m%d}")
            ]
            commands.append((("EVAL", _COPY_PACKED, 1, name, ttl, *fields), len(part)))
    return commands
