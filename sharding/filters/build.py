"""Builds filters (see `filters`): the filter of one day, and the words of a set of days. No I/O.

Only code that builds filters imports this: numpy takes 30 MB of a process. Work of more than a
millisecond is a generator, so that an event loop can serve requests between its steps.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable

import numpy as np
from numpy.typing import NDArray

from sharding.filters.encoding import DayFilter, slots_for
from sharding.filters.filters import MULTIPLIERS, PROBES

KEY_BYTES = 16
"""Bytes of a key for `spread_all`: two numbers of 64 bits, the highest byte first."""
_STEP = 1 << 13
"""Keys, bytes or words in one step of a generator, which takes less than a millisecond."""


def spread_all(packed: bytes) -> NDArray[np.uint64]:
    """`filters.spread` of many keys.

    Args:
        packed: user and playlist of each key, `KEY_BYTES` a key.
    """
    numbers = np.frombuffer(packed, ">u8").astype(np.uint64)
    a, b, c = (np.uint64(number) for number in MULTIPLIERS)
    half = np.uint64(32)
    mixed: NDArray[np.uint64] = numbers[0::2] * a + numbers[1::2] * b
    mixed = (mixed ^ (mixed >> half)) * c
    mixed ^= mixed >> half
    return mixed


def build(pages: Iterable[NDArray[np.uint64]]) -> Generator[None, None, DayFilter]:
    """Build a day's filter in steps. The generator returns the filter.

    Args:
        pages: the day's keys, each page returned by `spread_all`.
    """
    pages = list(pages)
    keys = sum(len(page) for page in pages)
    slots = slots_for(keys)
    there = np.empty(slots, np.bool_)
    for start in range(0, slots, 16 * _STEP):
        # The kernel gives memory page by page at the first touch: all at once would take 40 ms.
        there[start : start + 16 * _STEP] = False
        yield
    mask, low, half = np.uint64(slots - 1), np.uint64(2**32 - 1), np.uint64(32)
    for page in pages:
        for start in range(0, len(page), _STEP):
            part = page[start : start + _STEP]
            slot, step = part & low, (part >> half) | np.uint64(1)
            for _ in range(PROBES):
                there[slot & mask] = True
                slot = slot + step
            yield
    bits = bytearray(slots // 8)
    for start in range(0, len(bits), _STEP):
        part_of_bits = there[8 * start : 8 * (start + _STEP)]
        bits[start : start + _STEP] = np.packbits(part_of_bits, bitorder="little").tobytes()
        yield
    return DayFilter(keys, bytes(bits))


def rows(words: memoryview, size: int) -> NDArray[np.uint8]:
    """The words of a set in the shape that `put` takes: (words, bytes of a word).

    Args:
        size: bytes of a word.
    """
    return np.frombuffer(words, np.uint8).reshape(-1, size)


def put(words: NDArray[np.uint8], number: int, made: DayFilter) -> Generator[None, None, None]:
    """Write a day's filter into the words of a set, in steps.

    Args:
        words: in the shape that `rows` returns; zeros before the first day.
        number: the day's place in the set, which is its bit in each word.
    """
    slots = len(words)
    bits = np.frombuffer(made.bits, np.uint8)
    if made.slots > slots:  # folding: a slot is set if any of the slots folded into it is
        bits = np.bitwise_or.reduce(bits.reshape(-1, slots // 8), axis=0)
        yield
    byte, bit = divmod(number, 8)
    at_once = min(len(bits), _STEP)
    for start in range(0, slots // 8, at_once):
        first = start % len(bits)
        there = np.unpackbits(bits[first : first + at_once], bitorder="little")
        words[8 * start : 8 * (start + at_once), byte] |= there << np.uint8(bit)
        yield
