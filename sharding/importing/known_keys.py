"""Which partitions may already have a key: a filter in memory over all of them.

Unlike `sharding.filters` it covers the days that are not sealed too, and the keys that the import
itself writes. Gateways add keys to today's and tomorrow's partition only, and around midnight to
yesterday's until it is sealed; the import looks into those each time. So any other day that is
ruled out does not have the key, as long as no other import runs.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Mapping, Sequence
from datetime import date
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from failover.mysql.connection import Session
from sharding.filters import build
from sharding.filters.encoding import BadFilter, DayFilter, slots_for
from sharding.filters.filters import PROBES, word_bytes
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
        sealed: the days among them that gateways add no keys to.
    """

    def __init__(
        self,
        made: Mapping[date, DayFilter],
        days: Sequence[date],
        keys: int,
        sealed: Collection[date] = (),
    ) -> None:
        slots = max([slots_for(keys), *(one.slots for one in made.values())])
        self._words = np.zeros((slots, word_bytes(len(days))), np.uint8)
        self._days = list(days)
        self.sealed = sealed
        for day, one in made.items():
            for _ in build.put(self._words, self._days.index(day), one):
                pass

    def among(self, keys: Sequence[Key]) -> dict[date, list[Key]]:
        """By day, those of the keys that it may have. (A day without a filter may have any key.)"""
        bits = np.bitwise_and.reduce(self._words[self._slots(keys)], axis=0)
        found: dict[date, list[Key]] = {}
        for at, number in np.argwhere(np.unpackbits(bits, axis=1, bitorder="little")):
            found.setdefault(self._days[number], []).append(keys[at])
        return found

    def add(self, day: date, keys: Sequence[Key]) -> None:
        """Add keys to a day."""
        if day in self._days:
            byte, bit = divmod(self._days.index(day), 8)
            self._words[self._slots(keys), byte] |= np.uint8(1 << bit)

    def knows(self, day: date) -> bool:
        """Whether the day has a filter."""
        return day in self._days

    def _slots(self, keys: Sequence[Key]) -> NDArray[np.uint64]:
        """Each probe's slots of the keys."""
        mixed = build.spread_all(struct.pack(f">{2 * len(keys)}q", *chain.from_iterable(keys)))
        slot, step = mixed & np.uint64(2**32 - 1), (mixed >> np.uint64(32)) | np.uint64(1)
        probes = np.arange(PROBES, dtype=np.uint64)[:, np.newaxis]
        return (slot + step * probes) & np.uint64(len(self._words) - 1)


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
    made, sealed = {}, set()
    for day in days:
        if day not in there:
            continue
        if day in usable:
            try:
                made[day] = await filter_table.load(session.fetch, day, there[day].seal)
                sealed.add(day)
                continue
            except BadFilter:
                pass
        made[day] = await scan(session, day, SCAN_RATE)
    return Known(made, days, max([keys, *(one.keys for one in made.values())]), sealed)
