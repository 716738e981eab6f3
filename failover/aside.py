"""A blocking call beside the event loop: asked for by many, made once at a time.

A disk or a resolver that does not answer blocks the thread that asks, and nothing can cancel it. An
event loop has few such threads for everything. Here each call has one thread of its own at most,
everybody who wants the result waits for that one, and the last good result is used while the call
fails or does not return.
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
"""Seconds to wait for a call whose last good result is known, at most."""


class Aside(Generic[T]):
    """One call.

    Args:
        name: of its threads.
        call: may block, and raise.

    Attributes:
        good: the last good result; None before the first.
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
        """The result of a call that ends after this was asked for, or the last good one.

        The caller bounds the time that it has for the first result.

        Args:
            patience: seconds until the last good result is used, where there is one. A call that
                did not return in time before is not waited for.

        Raises:
            Exception: what the call raised, which never had a good result.
            OSError: there is no thread for it.
        """
        known = self.good
        try:
            running = self.running or self._begin()
            if known is not None and self._silent:
                return known
            # Whoever is cancelled leaves the call to the others: a running one takes no cancel.
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
        # A daemon: the process ends without waiting for it.
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


async def aside(name: str, call: Callable[[], T]) -> T:
    """The result of one blocking call. It keeps no process from ending; `asyncio.to_thread` does.

    Args:
        name: of its thread.
        call: may block, and raise.
    """
    return await Aside(name, call).get()
