"""Operation ids: how a change whose acknowledgement was lost is recognised when it has landed.

A row carries, for each of the workers that wrote it last, the last operation of that worker: which
it was, and the version it made. An operation is one save, of one change or of several that were
saved together. A worker has one of a key under way at a time, so the last one is enough.

Entries go by count, never by age: a clock may jump, of MySQL's host as of this one, and a process
may stand still for any time. What the count has dropped is told by the versions. A log that was
ever cut stays full, and all that was dropped is older than all that is left. So a try whose answer
was lost has landed (its entry is there), has not landed (its entry is not there, and was not
dropped), or its entry may have been dropped (`forgotten`): then it is not known whether the change
was made, and it must not be made again.

The text of one entry is `worker.operation.version` (hexadecimal), the oldest entry first, with `;`
between them. An earlier format, which is read too, had a `;` behind each and a time in each.
"""

from __future__ import annotations

import secrets
from typing import NamedTuple

KEPT = 8
"""How many workers' entries a row keeps.

Seven other workers may change a state between a lost answer and the read that follows it, within a
second most often, before a change ends with "not known". A log is at most 410 bytes, by far less
than its column takes. Gateways of one database must agree about the number: by it `forgotten` tells
whether a log was ever cut.
"""


IMPORT = "import"
"""The worker that every import writes as. A row that only imports wrote has no other entry."""


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
    """Whether the log, which has no entry of an operation, may have dropped it.

    Args:
        log: as it was read.
        version: the version that the operation would have made.
    """
    entries = _entries(log)
    return len(entries) >= KEPT and version < _parse(entries[0]).version


def others(log: bytes, worker: str) -> bytes:
    """What a new entry of this worker leaves of a row's log: the newest of the others'.

    Args:
        log: as it was loaded, or as this function left it.
        worker: who writes.
    """
    own = worker.encode() + b"."
    kept = [entry for entry in _entries(log) if not entry.startswith(own)]
    return b";".join(kept[-(KEPT - 1) :])


def append(kept: bytes, worker: str, number: int, version: int) -> bytes:
    """The row's log with a new entry.

    Args:
        kept: what `others` left of the log that was loaded.
        worker: who writes.
        number: the operation.
        version: the version that it makes.
    """
    entry = b"%s.%x.%x" % (worker.encode(), number, version)
    return b"%s;%s" % (kept, entry) if kept else entry


def _entries(log: bytes) -> list[bytes]:
    return [entry for entry in log.split(b";") if entry]


def _parse(entry: bytes) -> Operation:
    worker, number, version = entry.decode().split(".")[:3]
    return Operation(worker, int(number, 16), int(version, 16))
