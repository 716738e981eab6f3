"""The session cache: rows that this worker read or wrote lately. The next change starts from them.

A cached row may be out of date. The save's compare-and-set finds that out, in the statement that is
needed anyway. So a current row saves a read, an outdated one costs a conflict, and no request is
answered from a cached row without a save (see `sharding.store.store`).
"""

from __future__ import annotations

from collections import OrderedDict

from config.model import Sessions
from sharding import metrics
from sharding.partitions.sql import Row
from sharding.state import Key

OVERHEAD = 450
"""Bytes of an entry besides its body and its log (395 by tracemalloc, rounded up)."""

CONFIRMATIONS = 4
"""A doubted row is trusted again after this many reads in a row found it unchanged."""


class SessionCache:
    """Rows by key; the least recently used one leaves first.

    A key whose cached row was out of date is doubted: its changes read the row first, until it was
    found unchanged a few times in a row. So a listener whose requests reach several workers in
    turn costs a read each time, as without a cache, and not a conflict.

    Args:
        config: bounds, in entries and bytes; with `enabled: false` nothing is cached.
    """

    def __init__(self, config: Sessions) -> None:
        self._rows: OrderedDict[Key, Row] = OrderedDict()
        self._doubts: dict[Key, int] = {}
        self.bytes = 0
        self.configure(config)

    def configure(self, config: Sessions) -> None:
        self._max_entries = config.max_entries if config.enabled else 0
        self._max_bytes = config.max_bytes
        self._make_room()

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, key: Key) -> Row | None:
        """The key's row when this worker last read or wrote it; None if it is not cached."""
        return self._rows.get(key)

    def put(self, key: Key, row: Row) -> None:
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
        return key in self._doubts

    def doubt(self, key: Key) -> None:
        """Doubt the key: another worker changed its row."""
        if key in self._rows:
            self._doubts[key] = CONFIRMATIONS

    def confirm(self, key: Key) -> None:
        """Count a read that found the cached row unchanged."""
        left = self._doubts.get(key)
        if left is not None:
            if left > 1:
                self._doubts[key] = left - 1
            else:
                del self._doubts[key]

    def drop(self, key: Key) -> None:
        row = self._rows.pop(key, None)
        self._doubts.pop(key, None)
        if row is not None:
            self.bytes -= _size(row)

    def clear(self) -> None:
        """Remove all rows, as after a failover: the new primary may lack some of them."""
        self._rows.clear()
        self._doubts.clear()
        self.bytes = 0


def _size(row: Row) -> int:
    return len(row.body) + len(row.operations) + OVERHEAD
