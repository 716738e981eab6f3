"""Operation ids: how a change whose acknowledgement was lost is recognised when it has landed.

A row carries, for each worker that wrote it lately, the last operation of that worker: which it
was, the version it made, and when, on MySQL's clock. An operation is one save, of one change or of
several that were saved together. A worker has one of a key under way at a time, so the last one is
enough. Entries go by age, never by count: a row written by many workers
in a minute must still know each of them for as long as any of their changes may be under way.

The text of one entry is `worker.operation.version.seconds;` (hexadecimal, the seconds decimal). The
statement that writes the row puts MySQL's own time behind the newest entry.
"""

from __future__ import annotations

import secrets
from typing import NamedTuple

KEEP_SECONDS = 3600
"""Longer than any change may be under way, and than two MySQL hosts' clocks should differ."""


class Operation(NamedTuple):
    """One worker's last operation on a row."""

    worker: str
    number: int
    version: int
    seconds: int


def new_worker() -> str:
    """An id for one process from its start to its end: 64 random bits."""
    return secrets.token_hex(8)


def find(log: bytes, worker: str) -> Operation | None:
    """The worker's operation in a row's log."""
    own = worker.encode() + b"."
    entry = next((e for e in log.split(b";") if e.startswith(own)), None)
    if entry is None:
        return None
    name, number, version, seconds = entry.decode().split(".")
    return Operation(name, int(number, 16), int(version, 16), int(seconds))


def others(log: bytes, worker: str, now: float) -> bytes:
    """What a new entry of this worker leaves of a row's log: the others' that are not too old.

    Args:
        log: as it was loaded, or as this function left it.
        worker: who writes.
        now: MySQL's clock when the row was read, seconds since 1970.
    """
    if not log:
        return b""
    own = worker.encode()
    return b";".join(
        [
            entry
            for entry in log.split(b";")
            if entry
            and not entry.startswith(own)
            and int(entry.rpartition(b".")[2]) > now - KEEP_SECONDS
        ]
    )


def append(kept: bytes, worker: str, number: int, version: int) -> bytes:
    """The row's log with a new entry, all but its time, which MySQL adds behind it.

    Args:
        kept: what `others` left of the log that was loaded.
        worker: who writes.
        number: the operation.
        version: the version that it makes.
    """
    entry = b"%s.%x.%x." % (worker.encode(), number, version)
    return b"%s;%s" % (kept, entry) if kept else entry
