"""Which sealed days may hold a key: one Bloom filter over all of them, bit-sliced. No I/O.

A sealed day only loses rows, so a filter over the keys that it had says for good where a key is
not. There are no false negatives: a day that is ruled out does not hold the key. A day that is not
ruled out may lack it all the same; then it is read in vain.

The filter of a month is an array of `slots` words. Bit d of a word says whether day d has that
slot. A key has `PROBES` slots; the words of these, ANDed, have the bits of the days that have all
of them: one walk answers for every day (Bloom 1970; "bit-sliced" as in signature files). A word is
as many bytes as the days need, so ten years cost a longer word and no longer walk.

How many slots a day has is a power of two, so that a smaller day is repeated to the size of the
largest and a larger one can be folded: a key's slots are numbers modulo that power.

`filter_build` makes these arrays (it needs numpy), `filter_format` says what is stored of a day,
`filter_file` shares the arrays between workers.
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
"""Odd numbers of 64 bits that spread a key. Stored filters depend on them: a change of them, or of
what `spread` does, is another `filter_format.FORMAT`."""
WORD_FORMATS: dict[int, Literal["B", "H", "I", "Q"]] = {1: "B", 2: "H", 4: "I", 8: "Q"}
"""The bytes of a word that Python reads at once, and memoryview's name for it."""

_A, _B, _C = MULTIPLIERS
_ALL = 2**64 - 1
_LOW = 2**32 - 1


def spread(user_id: int, playlist_id: int) -> int:
    """A key as 64 bits that look random; its slots are made of them.

    The lower half is the first slot, the upper half, made odd, the step to each further one, all
    modulo the number of slots ("double hashing": Kirsch and Mitzenmacher 2006).

    >>> f"{spread(1, 1):016x}"
    '39645964174e43b3'
    """
    mixed = (user_id * _A + playlist_id * _B) & _ALL
    mixed = (mixed ^ mixed >> 32) * _C & _ALL
    return mixed ^ mixed >> 32


def word_bytes(days: int) -> int:
    """The bytes of a word for so many days: 1, 2, 4, or a multiple of 8.

    >>> [word_bytes(days) for days in (1, 8, 9, 30, 33, 65, 3650)]
    [1, 1, 2, 4, 8, 16, 464]
    """
    for size in (1, 2, 4):
        if days <= 8 * size:
            return size
    return -(-days // 64) * 8


class FilterSet:
    """The filters that a worker has, as they are at one moment. It never changes.

    Args:
        days: the sealed days that it answers for; bit n of a word is the nth's.
        words: a power of two of words, each `word_bytes(len(days))` bytes, the lowest byte first.
    """

    def __init__(self, days: Sequence[date] = (), words: memoryview | None = None) -> None:
        self.days = tuple(days)
        self._bits = {day: 1 << number for number, day in enumerate(self.days)}
        self._asked: Sequence[date] = ()
        self._unknown: list[date] = []
        self._asked_bits = 0
        self._words = words
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
        """Those of `days` that may hold the key, in their order. The others do not hold it.

        A day of which there is no filter may always hold it.

        Args:
            days: best the same object each time: what it means is worked out once.
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
        """Whether the day's filter is here: what it rules out is not there, now and for good."""
        return day in self._bits

    def without(self, days: Collection[date]) -> FilterSet:
        """The same filters, but those of some days are not believed any more."""
        if not any(day in self._bits for day in days):
            return self
        rest = FilterSet()
        rest.days = tuple(day for day in self.days if day not in days)
        rest._bits = {day: bit for day, bit in self._bits.items() if day not in days}
        rest._words, rest._find, rest.bytes = self._words, self._find, self.bytes
        return rest

    def _ask(self, days: Sequence[date]) -> None:
        self._unknown = [day for day in days if day not in self._bits]
        self._asked_bits = 0
        for day in days:
            self._asked_bits |= self._bits.get(day, 0)
        self._asked = days


class Filters:
    """Where a worker finds its present filters.

    A load takes `now` once and asks only that, so that all its answers are of the same moment.

    Attributes:
        now: the present filters; none at first, which rules nothing out.
        in_vain: by day, how often it was read because its filter did not rule a key out, and the
            key was not there. The reader counts.
    """

    def __init__(self) -> None:
        self.now = FilterSet()
        self.in_vain: dict[date, int] = {}


def _narrow(words: memoryview, mask: int) -> Callable[[int, int], int]:
    """Find the bits of the days that may hold a key, in words that Python reads as one number."""

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
    """The same in words of any number of bytes."""
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
