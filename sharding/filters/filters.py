"""Which sealed days may have a key: one Bloom filter over all of them, bit-sliced. No I/O.

A sealed day only loses rows, so a filter of the keys that it had tells for good which keys it does
not have. There are no false negatives: a day that is ruled out does not have the key. A day that is
not ruled out may lack the key all the same; then it is read in vain.

The filter of a month is an array of `slots` words. Bit d of a word says whether day d has that
slot. A key has `PROBES` slots; ANDing their words leaves the bits of the days that have all these
slots, so one pass answers for every day (Bloom 1970; "bit-sliced" as in signature files). A word
has as many bytes as the days need: ten years make the words longer, and no pass.

A day's number of slots is a power of two, and a key's slots are numbers modulo that power. So a
smaller day is repeated to the size of the largest, and a larger day can be folded.

`build` makes these arrays (it needs numpy), `encoding` defines the stored bytes of a day,
`mapped_file` shares the arrays between workers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Sequence
from datetime import date
from typing import Literal

from sharding.state import Key

PROBES = 7
"""Slots of a key. With 10 to 20 slots for each key, 0.8 to 0.02 % of absent keys are not ruled
out."""
MULTIPLIERS = (0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93, 0xA0761D6478BD642F)
"""Odd numbers of 64 bits that spread a key. Stored filters depend on them: after a change of them,
or of `spread`, raise `encoding.FORMAT`."""
WORD_FORMATS: dict[int, Literal["B", "H", "I", "Q"]] = {1: "B", 2: "H", 4: "I", 8: "Q"}
"""The bytes of a word that Python reads at once, and memoryview's name for it."""

_A, _B, _C = MULTIPLIERS
_ALL = 2**64 - 1
_LOW = 2**32 - 1


def spread(user_id: int, playlist_id: int) -> int:
    """A key as 64 bits that look random; its slots are computed from them.

    The lower half is the first slot. The upper half, made odd, is the step to each further slot.
    All are modulo the number of slots ("double hashing": Kirsch and Mitzenmacher 2006).

    >>> f"{spread(1, 1):016x}"
    '39645964174e43b3'
    """
    mixed = (user_id * _A + playlist_id * _B) & _ALL
    mixed = (mixed ^ mixed >> 32) * _C & _ALL
    return mixed ^ mixed >> 32


def word_bytes(days: int) -> int:
    """The bytes of a word for `days` days: 1, 2, 4, or a multiple of 8.

    >>> [word_bytes(days) for days in (1, 8, 9, 30, 33, 65, 3650)]
    [1, 1, 2, 4, 8, 16, 464]
    """
    for size in (1, 2, 4):
        if days <= 8 * size:
            return size
    return -(-days // 64) * 8


class FilterSet:
    """The filters that a worker has at one moment. It never changes.

    Args:
        days: the sealed days that have a filter in it; the nth day has bit n of each word.
        words: `word_bytes(len(days))` bytes each, the lowest byte first; their number is a power
            of two.
    """

    def __init__(self, days: Sequence[date] = (), words: memoryview | None = None) -> None:
        self.days = tuple(days)
        self._bits = {day: 1 << number for number, day in enumerate(self.days)}
        self._asked: Sequence[date] = ()
        self._unknown: list[date] = []
        self._asked_bits = 0
        self._find: Callable[[int, int], int] | None = None
        self.bytes = words.nbytes if words is not None else 0
        if words is None or not self.days:
            return
        size = word_bytes(len(self.days))
        slots, rest = divmod(words.nbytes, size)
        if rest or slots < 1 or slots & (slots - 1):
            raise ValueError(f"{words.nbytes} bytes are no power of two of words of {size} bytes")
        if size in WORD_FORMATS and sys.byteorder == "little":
            self._find = _narrow(words.cast("B").cast(WORD_FORMATS[size]), slots - 1)
        else:
            self._find = _wide(words.cast("B"), slots - 1, size)

    def maybe(self, key: Key, days: Sequence[date]) -> list[date]:
        """Those of `days` that may have the key, in their order. The others do not have it.

        A day without a filter may always have it.

        Args:
            days: pass the same object each time if possible: its bits are then computed once.
        """
        if days is not self._asked:
            self._ask(days)
        if not self._asked_bits:
            return self._unknown
        assert self._find is not None
        found = self._find(*key) & self._asked_bits
        if not found:
            return self._unknown
        bits = self._bits
        return [day for day in days if day not in bits or bits[day] & found]

    def complete(self, day: date) -> bool:
        """Whether the day has a filter: a key that it rules out is not in the day, for good."""
        return day in self._bits

    def without(self, days: Collection[date]) -> FilterSet:
        """A copy without the filters of some days."""
        if not any(day in self._bits for day in days):
            return self
        rest = FilterSet()
        rest.days = tuple(day for day in self.days if day not in days)
        rest._bits = {day: bit for day, bit in self._bits.items() if day not in days}
        rest._find, rest.bytes = self._find, self.bytes
        return rest

    def _ask(self, days: Sequence[date]) -> None:
        self._unknown = [day for day in days if day not in self._bits]
        self._asked_bits = 0
        for day in days:
            self._asked_bits |= self._bits.get(day, 0)
        self._asked = days


class Filters:
    """A worker's present filters.

    A load reads `now` once and uses only that, so that all its answers are of the same moment.

    Attributes:
        now: the present filters; empty at first, which rules no day out.
        in_vain: by day, how often it was read in vain: its filter did not rule a key out, and the
            key was not there. The reader counts.
    """

    def __init__(self) -> None:
        self.now = FilterSet()
        self.in_vain: dict[date, int] = {}


def _narrow(words: memoryview, mask: int) -> Callable[[int, int], int]:
    """A function that finds the days that may have a key, for words that are one number each."""

    def find(user_id: int, playlist_id: int) -> int:
        # `spread`, written out: a call costs a tenth of the whole.
        mixed = (user_id * _A + playlist_id * _B) & _ALL
        mixed = (mixed ^ mixed >> 32) * _C & _ALL
        step = mixed >> 32
        slot = (mixed ^ step) & _LOW
        step |= 1
        found = words[slot & mask] & words[(slot + step) & mask]
        slot += 2 * step
        found &= words[slot & mask] & words[(slot + step) & mask]
        if not found:
            return 0
        slot += 2 * step
        found &= words[slot & mask] & words[(slot + step) & mask]
        return found & words[(slot + 2 * step) & mask]

    return find


def _wide(words: memoryview, mask: int, size: int) -> Callable[[int, int], int]:
    """The same for words of any number of bytes."""
    number = int.from_bytes

    def find(user_id: int, playlist_id: int) -> int:
        mixed = spread(user_id, playlist_id)
        slot, step = mixed & _LOW, mixed >> 32 | 1
        found = -1
        for _ in range(PROBES):
            at = (slot & mask) * size
            found &= number(words[at : at + size], "little")
            if not found:
                return 0
            slot += step
        return found

    return find
