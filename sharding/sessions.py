"""The session cache: rows that this worker read or wrote lately, to make the next change from.

A cached row is a guess, as a lookup is: the save's compare-and-set finds out whether it still is
the key's row, in the same statement that it needs anyway. So a right guess saves the read, a wrong
one costs a conflict, and no answer is given from it alone (see `sharding.store`).
"""

from __future__ import annotations

from collections import OrderedDict

from tapedeck.config.model import Sessions as Config
from tapedeck.sharding import metrics
from tapedeck.sharding.rows import Row
from tapedeck.sharding.state import Key

OVERHEAD = 600
"""Bytes that an entry takes beside its body and its log (measured with tracemalloc, rounded up)."""


class Sessions:
    """Rows by key, the least recently used one leaves first.

    Args:
        config: bounds, in entries and bytes; `enabled: false` keeps nothing.
    """

    def __init__(self, config: Config) -> None:
        self._max_entries = config.max_entries if config.enabled else 0
        self._max_bytes = config.max_bytes
        self._rows: OrderedDict[Key, Row] = OrderedDict()
        self.bytes = 0

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
        while len(rows) > self._max_entries or self.bytes > self._max_bytes:
            _, gone = rows.popitem(last=False)
            self.bytes -= _size(gone)
            metrics.SESSIONS_EVICTED.inc()

    def drop(self, key: Key) -> None:
        """Forget a row that turned out not to be the key's any more."""
        row = self._rows.pop(key, None)
        if row is not None:
            self.bytes -= _size(row)

    def clear(self) -> None:
        """Forget everything, as after a failover: what was lost with a host was never there."""
        self._rows.clear()
        self.bytes = 0


def _size(row: Row) -> int:
    return len(row.body) + len(row.operations) + OVERHEAD
