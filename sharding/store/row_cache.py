"""The session cache: rows that this worker read or wrote lately, to make the next change from.

A cached row is a guess, as a lookup is: the save's compare-and-set finds out whether it still is
the key's row, in the same statement that it needs anyway. So a right guess saves the read, a wrong
one costs a conflict, and no answer is given from it alone (see `sharding.store.store`).
"""

from __future__ import annotations

from collections import OrderedDict

from config.model import Sessions as Config
from sharding import metrics
from sharding.partitions.sql import Row
from sharding.state import Key

OVERHEAD = 450
"""Bytes that an entry takes beside its body and its log (395 by tracemalloc, rounded up)."""

CONFIRMATIONS = 4
"""Reads in a row that must find a doubted row unchanged before it is believed again."""


class Sessions:
    """Rows by key, the least recently used one leaves first.

    A key whose row turned out to be another one by then is doubted: changes of it read it first,
    until it was found unchanged a few times in a row. So a listener whose requests reach several
    workers in turn costs a read each time, as without a cache, and not a conflict.

    Args:
        config: bounds, in entries and bytes; `enabled: false` keeps nothing.
    """

    def __init__(self, config: Config) -> None:
        self._rows: OrderedDict[Key, Row] = OrderedDict()
        self._doubts: dict[Key, int] = {}
        self.bytes = 0
        self.configure(config)

    def configure(self, config: Config) -> None:
        """Other bounds hold from now on."""
        self._max_entries = config.max_entries if config.enabled else 0
        self._max_bytes = config.max_bytes
        self._make_room()

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, key: Key) -> Row | None:
        """The row that the key had when this worker last saw it."""
        return self._rows.get(key)

    def put(self, key: Key, row: Row) -> None:
        """Remember a row as it was committed, or read."""
        if not self._max_entries:
            return
        rows = self._rows
        old = rows.get(key)
        rows[key] = row
        self.bytes += _size(row)
        if old is not None:
            self.bytes -= _size(old)
            rows.move_to_end(key)
        self._make_room()

    def _make_room(self) -> None:
        while len(self._rows) > self._max_entries or self.bytes > self._max_bytes:
            evicted, gone = self._rows.popitem(last=False)
            self._doubts.pop(evicted, None)
            self.bytes -= _size(gone)
            metrics.SESSIONS_EVICTED.counts[""] += 1

    def doubted(self, key: Key) -> bool:
        """Whether the row is to be read before it is changed."""
        return key in self._doubts

    def doubt(self, key: Key) -> None:
        """Another worker changed the row."""
        if key in self._rows:
            self._doubts[key] = CONFIRMATIONS

    def confirm(self, key: Key) -> None:
        """The row was read and is the one that is here."""
        left = self._doubts.get(key)
        if left is not None:
            if left > 1:
                self._doubts[key] = left - 1
            else:
                del self._doubts[key]

    def drop(self, key: Key) -> None:
        """Forget a row that turned out not to be the key's any more."""
        row = self._rows.pop(key, None)
        self._doubts.pop(key, None)
        if row is not None:
            self.bytes -= _size(row)

    def clear(self) -> None:
        """Forget everything, as after a failover: what was lost with a host was never there."""
        self._rows.clear()
        self._doubts.clear()
        self.bytes = 0


def _size(row: Row) -> int:
    return len(row.body) + len(row.operations) + OVERHEAD
