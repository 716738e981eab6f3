"""Standard output and standard error that never make the program wait for their reader.

A pipe takes 64 KiB (pipe(7)); then a write waits until the reader reads, and a program that writes
in its event loop stands still. So what is written here goes into a queue, and a thread hands it on
to the system. Lines that come while the queue is full are dropped, counted, and reported once the
reader reads again.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import os
import select
import sys
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from gateway import metrics

MOST_BYTES = 1 << 20
"""That wait for the reader of one stream at most: some thousand lines."""
EXIT_SECONDS = 1.0
"""How long a process that ends waits for the reader of each stream."""


class Outlet(io.RawIOBase):
    """A stream whose writes never wait.

    Args:
        descriptor: the file, pipe, socket or terminal that it leads to.
        report: is told how many lines were dropped, once there is room again. It may write here.
    """

    def __init__(self, descriptor: int, report: Callable[[int], object] | None = None) -> None:
        super().__init__()
        self.name = f"outlet-{descriptor}"
        self._descriptor = descriptor
        self._report = report or self._say_dropped
        self._queue: SimpleQueue[bytes | threading.Event] = SimpleQueue()
        # Re-entrant: a signal or the garbage collector may interrupt a writer, and write.
        self._lock = threading.RLock()
        self._held = 0
        self._dropped = 0
        threading.Thread(target=self._hand_on, name=self.name, daemon=True).start()

    def write(self, data: Any) -> int:
        """Queue what is to be written, or drop it: all of it is taken in any case."""
        line = bytes(data)
        with self._lock:
            if self._held and (self._dropped or self._held + len(line) > MOST_BYTES):
                # Also what would still fit: the gap is reported where it is.
                self._dropped += 1
                metrics.LOG_LINES_DROPPED.inc()
            elif line:
                self._held += len(line)
                self._queue.put(line)
        return len(line)

    def drain(self, seconds: float) -> None:
        """Wait until everything was handed on to the system.

        Args:
            seconds: to wait at most.
        """
        end = time.monotonic() + seconds
        while self._held and (left := end - time.monotonic()) > 0:
            passed = threading.Event()
            self._queue.put(passed)
            passed.wait(left)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def _hand_on(self) -> None:
        while True:
            item = self._queue.get()
            if isinstance(item, threading.Event):
                item.set()
                continue
            self._put(item)
            with self._lock:
                self._held -= len(item)
                if self._dropped and self._held <= MOST_BYTES // 2:
                    dropped, self._dropped = self._dropped, 0
                    self._report(dropped)

    def _put(self, line: bytes) -> None:
        left = memoryview(line)
        while left:
            try:
                left = left[os.write(self._descriptor, left) :]
            except BlockingIOError:
                # Another process that has the same pipe made it one that does not wait.
                select.select([], [self._descriptor], [])
            except OSError:
                # The reader went away, or the disk is full: that costs the line.
                metrics.LOG_LINES_DROPPED.inc()
                return

    def _say_dropped(self, lines: int) -> None:
        self.write(f"tapedeck: {lines} lines were dropped here: they were not read\n".encode())


def install(report: Callable[[int], object] | None = None) -> None:
    """Make standard output and standard error of this process streams that never wait.

    What the interpreter prints itself, as the traceback of an exception that ends the process, goes
    that way too. At its end the process waits `EXIT_SECONDS` for each reader.

    Args:
        report: as of `Outlet`.
    """
    for name in ("stdout", "stderr"):
        before = getattr(sys, name)
        outlet = Outlet(before.fileno(), report)
        with contextlib.suppress(OSError):
            before.flush()
        text = io.TextIOWrapper(outlet, before.encoding, "backslashreplace", line_buffering=True)
        setattr(sys, name, text)
        atexit.register(outlet.drain, EXIT_SECONDS)
