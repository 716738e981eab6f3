"""Blocking calls beside the event loop: many callers share one call.

A disk or a resolver that does not answer blocks the calling thread, and nothing can cancel it. The
event loop's default executor has few threads. Here each call has at most one thread of its own, all
callers wait for it, and they get the last good result while it fails or does not return.
"""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")

PATIENCE = 0.25
"""Most seconds to wait for a call if there is an earlier good result."""


class SharedCall(Generic[T]):
    """One blocking call that many callers share; its threads have the name.

    Attributes:
        good: the last good result; None before the first one.
        running: the call that is under way.
    """

    __slots__ = ("_call", "_name", "_silent", "good", "running")

    def __init__(self, name: str, call: Callable[[], T]) -> None:
        self._name = name
        self._call = call
        self._silent = False
        self.good: T | None = None
        self.running: Future[T] | None = None

    async def get(self, patience: float = PATIENCE) -> T:
        """The result of a call that ends after this method was called, or the last good one.

        The caller sets a timeout for the first result.

        Args:
            patience: seconds until the last good result is returned, if there is one. A call that
                already took longer than that is not waited for again.

        Raises:
            Exception: what the call raised, if it never had a good result.
            OSError: no thread could be started.
        """
        known = self.good
        try:
            running = self.running or self._begin()
            if known is not None and self._silent:
                return known
            # Cancelling one caller does not cancel the shared call.
            async with asyncio.timeout(None if known is None else patience):
                return await asyncio.wrap_future(running)
        except Exception as error:
            if known is None:
                raise
            self._silent = self._silent or isinstance(error, TimeoutError)
            return known

    def _begin(self) -> Future[T]:
        running: Future[T] = Future()
        running.set_running_or_notify_cancel()
        self.running = running
        # A daemon thread: the process can end without waiting for it.
        thread = threading.Thread(target=self._run, args=(running,), name=self._name, daemon=True)
        try:
            thread.start()
        except (RuntimeError, MemoryError) as error:
            self.running = None
            raise OSError(errno.ENOMEM, f"no thread for {self._name}: {error}") from None
        return running

    def _run(self, running: Future[T]) -> None:
        try:
            good = self._call()
        except Exception as error:
            self.running = None
            running.set_exception(error)
        else:
            self.good = good
            self._silent = False
            self.running = None
            running.set_result(good)


async def in_thread(name: str, call: Callable[[], T]) -> T:
    """The result of a blocking call. Unlike `asyncio.to_thread` it cannot keep a process alive."""
    return await SharedCall(name, call).get()
