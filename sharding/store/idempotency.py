"""Operation ids: how a commit whose acknowledgement was lost is recognised.

A row has a log with an entry for each of the workers that wrote it last: the number of that
worker's last operation, and the version that it made. An operation is one save, of one change or of
several that were saved together. A worker has one operation of a key under way at a time, so its
last one is enough.

Entries are dropped by count, never by age: clocks may jump, and a process may stop for any time.
The versions tell what may have been dropped: a log that ever dropped an entry stays full, and every
dropped entry is older than all that are left. So for a try whose answer was lost there are three
cases. Its entry is in the log: it was committed. The entry is not there and cannot have been
dropped: it was not committed. The entry may have been dropped (`forgotten`): the outcome is
unknown, and the change must not be made again.

An entry is the text `worker.operation.version` (hexadecimal). The oldest entry is first, and `;`
separates entries. An earlier format, which is still read, had a `;` after each and a time in each.
"""

from __future__ import annotations

import secrets
from typing import NamedTuple

KEPT = 8
"""How many workers' entries a row keeps.

Between a lost answer and the read that follows it (mostly within a second), up to seven other
workers may change the state; with an eighth the change may end as unknown. A log has at most 410
bytes, far less than its column can have. All gateways of a database must use the same number:
`forgotten` compares with it.
"""


IMPORT = "import"
"""The worker's id in every import's entries. A row that only imports wrote has no other entry."""


def imported(version: int) -> bytes:
    """The log of a row that only imports wrote."""
    return append(b"", IMPORT, 0, version)


class Operation(NamedTuple):
    """One worker's last operation on a row."""

    worker: str
    number: int
    version: int


def new_worker() -> str:
    """An id for one process from its start to its end: 64 random bits."""
    return secrets.token_hex(8)


def find(log: bytes, worker: str) -> Operation | None:
    """The worker's operation in a row's log."""
    own = worker.encode() + b"."
    entry = next((e for e in log.split(b";") if e.startswith(own)), None)
    return None if entry is None else _parse(entry)


def forgotten(log: bytes, version: int) -> bool:
    """Whether a log without an operation's entry may have dropped it.

    Args:
        log: as it was read.
        version: the version that the operation would have made.
    """
    entries = _entries(log)
    return len(entries) >= KEPT and version < _parse(entries[0]).version


def others(log: bytes, worker: str) -> bytes:
    """The part of a row's log that stays when this worker adds an entry: the newest of the others'.

    Args:
        log: as it was loaded, or as this function returned it.
        worker: the one that adds an entry.
    """
    own = worker.encode() + b"."
    kept = [entry for entry in _entries(log) if not entry.startswith(own)]
    return b";".join(kept[-(KEPT - 1) :])


def append(kept: bytes, worker: str, number: int, version: int) -> bytes:
    """The row's log with a new entry.

    Args:
        kept: what `others` returned for the log that was loaded.
        worker, number: of the operation.
        version: the version that it makes.
    """
    entry = b"%s.%x.%x" % (worker.encode(), number, version)
    return b"%s;%s" % (kept, entry) if kept else entry


def _entries(log: bytes) -> list[bytes]:
    return [entry for entry in log.split(b";") if entry]


def _parse(entry: bytes) -> Operation:
    worker, number, version = entry.decode().split(".")[:3]
    return Operation(worker, int(number, 16), int(version, 16))
