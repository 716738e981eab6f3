"""Measurements without a load: the time to ask a month's filters, and the program's length."""

from __future__ import annotations

import mmap
import random
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from bench import seed
from bench.lab import Lab
from sharding.filters import build
from sharding.filters.encoding import DayFilter, slots_for
from sharding.filters.filters import FilterSet, word_bytes
from sharding.state import Key

KEYS_A_DAY = 1_500_000
ASKED = 100_000
PAGE = 4096
PACKAGES = ("gateway", "sharding", "failover", "config", "cli")
ROOT = Path(__file__).resolve().parents[2]
_T = TypeVar("_T")


def made_here(lab: Lab) -> None:
    """Measure filters of 30 days of the article's size, which are made here."""
    each = KEYS_A_DAY if lab.scale.name != "tiny" else 10_000
    slots, size = slots_for(each), word_bytes(seed.RETENTION)
    words = memoryview(bytearray(slots * size))
    table = build.rows(words, size)
    for number in range(seed.RETENTION):
        users = range(1 + number * each, 1 + (number + 1) * each)
        _finish(build.put(table, number, _built(users)))
    there = [Key(user, 1) for user in random.Random(1).sample(range(1, users.stop), ASKED)]
    _ask(lab, words, there, [Key(-key.user_id, 1) for key in there], each * seed.RETENTION)
    lines = sum(
        len(path.read_text().splitlines())
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
    )
    lab.record("program", lines=lines)
    lab.say(f"{lines} lines of Python in {', '.join(PACKAGES)}")


def of_a_file(lab: Lab, there: Sequence[Key], nowhere: Sequence[Key], keys: int) -> None:
    """Measure the file of filters that a gateway has made.

    Args:
        there, nowhere: keys that are in one of its days, and in none.
        keys: of all days.
    """
    (path,) = lab.servers.filters.glob("*.filters")
    with path.open("rb") as file:
        whole = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    bytes(whole[::PAGE])  # every page is there, as in a gateway, which has compared the checksum
    # A header, then the words, whose size is a power of two.
    _ask(lab, whole[-(1 << (whole.nbytes.bit_length() - 1)) :], there, nowhere, keys)


def _built(users: range) -> DayFilter:
    keys = np.ones((len(users), 2), ">u8")
    keys[:, 0] = users
    return _finish(build.build([build.spread_all(keys.tobytes())]))


def _finish(steps: Generator[None, None, _T]) -> _T:
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]


def _ask(
    lab: Lab, words: memoryview, there: Sequence[Key], nowhere: Sequence[Key], keys: int
) -> None:
    sealed = [seed.days_ago(number) for number in range(seed.RETENTION, 0, -1)]
    filters = FilterSet(sealed, words)
    readable = (seed.days_ago(-1), seed.today(), *reversed(sealed))
    for number in range(lab.scale.rounds):
        for name, asked in (("there", there), ("nowhere", nowhere)):
            began = time.perf_counter()
            found = [len(filters.maybe(key, readable)) for key in asked]
            took = (time.perf_counter() - began) / len(asked) * 1e6
            # Two of them are today and tomorrow, which have no filter.
            vain = sum(found) / len(asked) - 2 - (name == "there")
            lab.record(
                "filters",
                round=number,
                keys=name,
                us=round(took, 3),
                in_vain=round(vain, 4),
                bytes_a_key=round(words.nbytes / keys, 3),
                days=len(sealed),
                of_keys=keys,
            )
    lab.say(
        f"filters of {len(sealed)} days, {keys} keys: {took:.2f} us a key that is nowhere, "
        f"{words.nbytes / keys:.2f} bytes a key, {vain:.3f} days read in vain"
    )
