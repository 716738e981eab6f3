"""A stored filter's bytes, its size, and which days' filters fit into memory. No I/O, no numpy.

See `filters` for what a filter is.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

from sharding.filters.filters import PROBES, word_bytes

FORMAT = 1
"""Of a stored filter. A filter of another format is refused, and its day is sealed again."""
SLOTS_A_KEY = 10
"""The fewest; rounding up to a power of two gives up to twice as many. 1.5 million keys have 11.2
slots each, 1.4 bytes, and 0.5 % of absent keys are not ruled out."""
FEWEST_SLOTS_A_KEY = 5
"""The fewest after a filter was folded to save memory. 12 % of absent keys are not ruled out then;
a filter with fewer slots is not worth its memory."""
FEWEST_SLOTS = 1 << 10
MOST_SLOTS = 1 << 32
SEAL_BYTES = 16
"""Bytes of a seal, which names the table that a filter was made from (see `sealing`)."""

_MAGIC = b"TDFilter"
_HEADER = struct.Struct("<8sHBBQ16s")
HEADER_BYTES = _HEADER.size
_DIGEST_BYTES = 16


class BadFilter(Exception):
    """A stored filter that is damaged, of another format, or of another table."""


@dataclass(frozen=True, slots=True)
class DayFilter:
    """The filter of one sealed day.

    Attributes:
        keys: how many keys it was made from.
        bits: one bit for each slot, the lowest first.
    """

    keys: int
    bits: bytes

    @property
    def slots(self) -> int:
        """How many slots: a power of two."""
        return 8 * len(self.bits)


@dataclass(frozen=True, slots=True)
class Size:
    """The size of a day's filter, from its header."""

    keys: int
    slots: int


def slots_for(keys: int) -> int:
    """How many slots a day with `keys` keys gets.

    >>> slots_for(0), slots_for(1_500_000) == 2**24
    (1024, True)
    """
    wanted = max(FEWEST_SLOTS, SLOTS_A_KEY * keys)
    return min(MOST_SLOTS, 1 << (wanted - 1).bit_length())


def encode(made: DayFilter, seal: bytes) -> bytes:
    """A day's filter as it is stored: header, bits, checksum.

    Args:
        seal: of the table, `SEAL_BYTES` long.
    """
    exponent = made.slots.bit_length() - 1
    header = _HEADER.pack(_MAGIC, FORMAT, exponent, PROBES, made.keys, seal)
    return header + made.bits + _digest(header, made.bits)


def size_of(beginning: bytes, seal: bytes) -> Size:
    """Read the size of a stored filter from its header.

    Args:
        beginning: the first `HEADER_BYTES`, or more.
        seal: of the table that the filter must be of.

    Raises:
        BadFilter: it is no filter, or one of another format or table.
    """
    if len(beginning) < HEADER_BYTES or not beginning.startswith(_MAGIC):
        raise BadFilter("it is no filter")
    _, version, exponent, probes, keys, its_seal = _HEADER.unpack_from(beginning)
    if version != FORMAT or probes != PROBES:
        raise BadFilter(f"its format is {version}, and this Tapedeck knows format {FORMAT}")
    if its_seal != seal:
        raise BadFilter("it was made of another table")
    if not FEWEST_SLOTS <= 1 << exponent <= MOST_SLOTS:
        raise BadFilter("it is damaged: no filter has such a size")
    return Size(keys, 1 << exponent)


def decode(stored: bytes, seal: bytes) -> DayFilter:
    """Read a stored filter.

    Args:
        seal: of the table that the filter must be of.

    Raises:
        BadFilter: it is damaged, or of another format or table.
    """
    size = size_of(stored, seal)
    bits = memoryview(stored)[HEADER_BYTES:-_DIGEST_BYTES]
    digest = _digest(stored[:HEADER_BYTES], bits)
    if 8 * len(bits) != size.slots or stored[-_DIGEST_BYTES:] != digest:
        raise BadFilter("it is damaged: its checksum is another")
    return DayFilter(size.keys, bytes(bits))


def _digest(*parts: bytes | memoryview) -> bytes:
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for part in parts:
        digest.update(part)
    return digest.digest()


@dataclass(frozen=True, slots=True)
class Plan:
    """Which days a filter set has, and how many words.

    Attributes:
        days: oldest first.
        without: the days for which there is no room.
        slots: the number of words; 0 without any day.
    """

    days: tuple[date, ...]
    without: tuple[date, ...]
    slots: int

    @property
    def bytes(self) -> int:
        return self.slots * word_bytes(len(self.days))


def plan(sizes: Mapping[date, Size], limit: int) -> Plan:
    """Choose the days of a filter set so that it fits.

    It has as many days as possible, the newest first. A day that is too large is folded until it
    fits, down to `FEWEST_SLOTS_A_KEY`.

    Args:
        limit: most bytes of all words (`partitions.filter_bytes`).
    """
    best: list[date] = []
    best_room = 0
    newest_first = sorted(sizes, reverse=True)
    for size in sorted({word_bytes(count + 1) for count in range(len(sizes))}):
        room = limit // size
        if room < FEWEST_SLOTS:
            break
        room = 1 << (room.bit_length() - 1)
        fitting = [day for day in newest_first if FEWEST_SLOTS_A_KEY * sizes[day].keys <= room]
        chosen = fitting[: 8 * size]
        if len(chosen) > len(best):
            best, best_room = chosen, room
    slots = min(best_room, max((sizes[day].slots for day in best), default=0))
    without = tuple(sorted(set(sizes) - set(best)))
    return Plan(tuple(sorted(best)), without, slots)
