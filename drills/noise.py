"""What the machine itself costs, meanwhile: a drill's promises on latency leave that out.

A commit waits for the disk, and a disk that others use is slow for reasons that no gateway has part
in. So a small file beside the servers' data is written through to the disk all the while, and how
long that takes is kept.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, Protocol

from drills.measure import percentile

EVERY = 0.05
"""Seconds between writes."""
STARVED = 2.0
"""Seconds that the writing thread may miss in a drill. If it missed more, the drill and its servers
had too little CPU time, and errors show nothing of the gateways."""


class Beat(NamedTuple):
    """One write through to the disk.

    Attributes:
        at: when it began, seconds since the drill began.
        took: seconds.
    """

    at: float
    took: float


class Timed(Protocol):
    """Something that began at `at` and took so many seconds."""

    @property
    def at(self) -> float: ...
    @property
    def took(self) -> float: ...


def p99(timed: Iterable[Timed], begin: float, end: float) -> float:
    """The 99th percentile of what these took that began from `begin` to `end`, in seconds."""
    return percentile(sorted(x.took for x in timed if begin <= x.at < end), 0.99)


def missed(beats: Sequence[Beat]) -> float:
    """Seconds in which the next write was due and the writing thread did not run."""
    return sum(
        max(0.0, later.at - (beat.at + beat.took + 2 * EVERY)) for beat, later in pairwise(beats)
    )


class Heartbeat:
    """Writes from `start` to `stop`.

    Args:
        folder: where the servers' data is; the file there has no name.
        now: seconds since the drill began.

    Attributes:
        beats: all writes so far.
    """

    def __init__(self, folder: Path, now: Callable[[], float]) -> None:
        self.beats: list[Beat] = []
        self._folder = folder
        self._now = now
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Begin, in a thread of its own."""
        self._thread.start()

    def stop(self) -> None:
        """End; returns once the last write is done."""
        self._ending.set()
        self._thread.join()

    def _run(self) -> None:
        with tempfile.TemporaryFile(dir=self._folder) as file:
            while not self._ending.wait(EVERY):
                at, began = self._now(), time.monotonic()
                os.pwrite(file.fileno(), b"x" * 512, 0)
                os.fsync(file.fileno())
                self.beats.append(Beat(at, time.monotonic() - began))
