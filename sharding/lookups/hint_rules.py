"""Hints: reading a node's answer, and the commands that follow a write. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date
from enum import Enum
from typing import NamedTuple

from failover.redis.nodes import Elsewhere
from sharding.lookups.layout import Command, Layout, day_in
from sharding.state import Key


class HintKind(Enum):
    """The kinds of answer to a question for a hint."""

    DAY = "day"
    NOTHING = "miss"
    GARBAGE = "garbage"
    NO_ANSWER = "unavailable"


class Hint(NamedTuple):
    """The day in whose partition a state may be. `day` is set with HintKind.DAY only."""

    found: HintKind
    day: date | None = None


NOTHING = Hint(HintKind.NOTHING)
GARBAGE = Hint(HintKind.GARBAGE)
NO_ANSWER = Hint(HintKind.NO_ANSWER)


class Put(NamedTuple):
    """A hint to be written.

    Attributes:
        saved: True after a save; False where a read found the row and repairs its hint.
    """

    key: Key
    day: date
    saved: bool


LINGER = 0.05
"""Seconds that a hint waits for others to be written with it. No request waits for it; until it is
written, a load of its key reads more partitions."""


def follow_up(
    layout: Layout, puts: Sequence[Put], groups: Sequence[list[Command]], firsts: Sequence[object]
) -> dict[bytes, list[Command]]:
    """The commands that follow a batch of writes: set the expiry, and scan for old fields.

    Only for hints that were written: a key that refused one is of another type and so not ours;
    it gets no expiry. A read removes nothing, so an entry that it repairs is not scanned.

    Args:
        groups: the commands that write each hint; the first one of each was carried out.
        firsts: the replies to those first ones; None where there was no answer.

    Returns:
        The commands by Redis key. A scan is the last one.
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
        lasts: the reply to the last command of each; empty if the node failed. A reply that is not
            a scan's is ignored.
        oldest: the first day within retention.
    """
    return [
        gone
        for name, found in zip(names, lasts, strict=False)
        if (gone := layout.prune(name, found, oldest)) is not None
    ]


def hint_of(reply: object) -> Hint:
    """The hint in a reply to `Layout.ask`."""
    if reply is None:
        return NOTHING
    if isinstance(reply, Elsewhere):
        return NO_ANSWER
    day = day_in(reply)  # an error has no day: the entry is of another type
    return GARBAGE if day is None else Hint(HintKind.DAY, day)
