"""Standard output and standard error whose writes never wait for the reader.

A pipe has room for 64 KiB (pipe(7)). Then a write waits for the reader, and stops the event loop.
So lines go into a queue, and a thread writes them. Lines that come while the queue is full are
dropped, counted, and reported once the reader reads again.
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
"""Most bytes in the queue of one stream: some thousand lines."""
EXIT_SECONDS = 1.0
"""Seconds that a process waits at its end for the reader of each stream."""


class Outlet(io.RawIOBase):
    """A stream whose writes never wait.

    `report` is called with the number of dropped lines, once there is room again. It may write to
    this stream.
    """

    def __init__(self, descriptor: int, report: Callable[[int], object] | None = None) -> None:
        super().__init__()
        self.name = f"outlet-{descriptor}"
        self._descriptor = descriptor
        self._report = report or self._report_dropped
        self._queue: SimpleQueue[bytes | threading.Event] = SimpleQueue()
        # Re-entrant: a signal handler or a finalizer may interrupt a write, and write itself.
        self._lock = threading.RLock()
        self._held = 0
        self._dropped = 0
        threading.Thread(target=self._write_lines, name=self.name, daemon=True).start()

    def write(self, data: Any) -> int:
        """Queue the data, or drop it; return its length in both cases."""
        line = bytes(data)
        with self._lock:
            if self._held and (self._dropped or self._held + len(line) > MOST_BYTES):
                # Also lines that would still fit: the report belongs where the gap is.
                self._dropped += 1
                metrics.LOG_LINES_DROPPED.inc()
            elif line:
                self._held += len(line)
                self._queue.put(line)
        return len(line)

    def drain(self, seconds: float) -> None:
        """Wait until the queue is written, for `seconds` at most."""
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

    def _write_lines(self) -> None:
        while True:
            item = self._queue.get()
            if isinstance(item, threading.Event):
                item.set()
                continue
            self._write(item)
            with self._lock:
                self._held -= len(item)
                if self._dropped and self._held <= MOST_BYTES // 2:
                    dropped, self._dropped = self._dropped, 0
                    self._report(dropped)

    def _write(self, line: bytes) -> None:
        left = memoryview(line)
        while left:
            try:
                left = left[os.write(self._descriptor, left) :]
            except BlockingIOError:
                # Another process with the same pipe made it non-blocking.
                select.select([], [self._descriptor], [])
            except OSError:
                # The reader has closed the pipe, or the disk is full: drop the line.
                metrics.LOG_LINES_DROPPED.inc()
                return

    def _report_dropped(self, lines: int) -> None:
        self.write(f"tapedeck: {lines} lines were dropped here: they were not read\n".encode())


def install(report: Callable[[int], object] | None = None) -> None:
    """Replace standard output and standard error of this process by an `Outlet` each.

    The interpreter's own output, such as the traceback at its end, goes there too. At its end the
    process waits `EXIT_SECONDS` for each reader.
    """
    for name in ("stdout", "stderr"):
        before = getattr(sys, name)
        outlet = Outlet(before.fileno(), report)
        with contextlib.suppress(OSError):
            before.flush()
        text = io.TextIOWrapper(outlet, before.encoding, "backslashreplace", line_buffering=True)
        setattr(sys, name, text)
        atexit.register(outlet.drain, EXIT_SECONDS)
