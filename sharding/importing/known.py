"""Which partitions may already have a key: a filter in memory over all of them.

Unlike `sharding.filters` it covers the days that are not sealed too, and the keys that the import
itself writes. Gateways add keys to today's and tomorrow's partition only, and the import reads
those each time. So an older day that is ruled out does not have the key, as long as no other import
runs.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from datetime import date

import numpy as np

from failover.mysql.connection import Session
from sharding.filters import build
from sharding.filters.encoding import BadFilter, DayFilter, slots_for
from sharding.filters.filters import PROBES, FilterSet, word_bytes
from sharding.partitions import filter_table
from sharding.partitions.ownership import Table
from sharding.partitions.sealing import scan
from sharding.state import Key

SCAN_RATE = 500_000
"""Most keys read a second from a day without a filter."""


class Known:
    """The filter.

    Args:
        made: the filters of the keys that were there, by day.
        days: all days that may get keys.
        keys: about how many keys a day will have.
    """

    def __init__(self, made: Mapping[date, DayFilter], days: Sequence[date], keys: int) -> None:
        slots = max([slots_for(keys), *(one.slots for one in made.values())])
        size = word_bytes(len(days))
        self._words = np.zeros((slots, size), np.uint8)
        self._number = {day: number for number, day in enumerate(days)}
        for day, one in made.items():
            for _ in build.put(self._words, self._number[day], one):
                pass
        self._filter = FilterSet(days, memoryview(self._words.data).cast("B"))

    def maybe(self, key: Key, days: Sequence[date]) -> list[date]:
        """Those of `days` that may have the key."""
        return self._filter.maybe(key, days)

    def add(self, day: date, keys: Sequence[Key]) -> None:
        """Add keys to a day. (A day without a filter may have any key.)"""
        if day not in self._number:
            return
        packed = b"".join([struct.pack(">qq", *key) for key in keys])
        mixed = build.spread_all(packed)
        mask, half = np.uint64(len(self._words) - 1), np.uint64(32)
        slot, step = mixed & np.uint64(2**32 - 1), (mixed >> half) | np.uint64(1)
        byte, bit = divmod(self._number[day], 8)
        for _ in range(PROBES):
            self._words[slot & mask, byte] |= np.uint8(1 << bit)
            slot = slot + step


async def read_known(
    session: Session, there: Mapping[date, Table], days: Sequence[date], keys: int
) -> Known:
    """Make the filter from the stored filters of sealed days and the keys of the other days.

    Raises:
        CannotSeal, MySQLError: a day could not be read.
    """
    usable = await filter_table.usable(
        session.fetch, {day: t.seal for day, t in there.items() if t.seal}
    )
    made = {}
    for day in days:
        if day not in there:
            continue
        if day in usable:
            try:
                made[day] = await filter_table.load(session.fetch, day, there[day].seal)
                continue
            except BadFilter:
                pass
        made[day] = await scan(session, day, SCAN_RATE)
    return Known(made, days, max([keys, *(one.keys for one in made.values())]))
