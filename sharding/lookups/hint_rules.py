"""What a lookup node says of a state, and what is written there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date
from enum import Enum
from typing import NamedTuple

from failover.redis.nodes import Elsewhere, is_wrong_type
from sharding.lookups.layout import Command, Garbage, Layout, read
from sharding.state import Key


class Found(Enum):
    """What asking for a hint came to."""

    DAY = "day"
    NOTHING = "miss"
    GARBAGE = "garbage"
    NO_ANSWER = "unavailable"


class Hint(NamedTuple):
    """Where a state may lie. `day` is set with Found.DAY only."""

    found: Found
    day: date | None = None


NOTHING = Hint(Found.NOTHING)
GARBAGE = Hint(Found.GARBAGE)
NO_ANSWER = Hint(Found.NO_ANSWER)


class Put(NamedTuple):
    """A hint to be written.

    Attributes:
        saved: its row was saved; else a read found the row, and repairs its hint.
    """

    key: Key
    day: date
    saved: bool


LINGER = 0.05
"""Seconds that a hint waits for others to be written with it: no request waits for it, and until
it is there a load reads some partitions more."""


def follow_up(
    layout: Layout, puts: Sequence[Put], groups: Sequence[list[Command]], firsts: Sequence[object]
) -> dict[bytes, list[Command]]:
    """What a batch of written hints asks for next: the expiry, and a look for old fields.

    Only of hints that were written: what refused one because it is of another type is not ours,
    and no expiry is set on it. A read removes nothing, so what it repairs is not looked through.

    Args:
        groups: the commands that write each hint; the first of each was carried out.
        firsts: the replies to these; None where there was no answer.

    Returns:
        By Redis key the commands that follow. A look is the last of them.
    """
    rests: dict[bytes, list[Command]] = {}
    for put, group, first in zip(puts, groups, firsts, strict=True):
        if first is None or isinstance(first, Exception):
            continue
        expiry, name = group[1:], layout.ring_key(put.key)
        look = layout.look_for_old(put.key, first) if put.saved else None
        if look is not None:
            rests[name] = [*expiry, look]
        elif expiry:
            rests.setdefault(name, expiry)
    return rests


def prune(
    layout: Layout, names: Iterable[bytes], lasts: Iterable[object], oldest: date
) -> list[Command]:
    """The commands that remove fields past retention.

    Args:
        names: the Redis keys that `follow_up` named.
        lasts: the reply to the last command of each; none at all if the node failed. What is no
            answer to a look is passed over.
        oldest: the first day within retention.
    """
    return [
        gone
        for name, found in zip(names, lasts, strict=False)
        if (gone := layout.prune(name, found, oldest)) is not None
    ]


def hint_of(reply: object) -> Hint:
    """The hint that a reply to `Layout.ask` is."""
    if is_wrong_type(reply):
        return GARBAGE
    if isinstance(reply, Elsewhere):
        return NO_ANSWER
    day = read(reply)
    if day is None:
        return NOTHING
    if isinstance(day, Garbage):
        return GARBAGE
    return Hint(Found.DAY, day)
