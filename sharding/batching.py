"""Requests that wait at the same time share a round trip.

No request waits in order to be batched. A single request starts at once; while the most allowed
batches are under way, later requests gather into the next one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, Protocol, TypeVar

from failover.mysql.errors import PrimaryUnavailable
from sharding import metrics

Item = TypeVar("Item")
Result = TypeVar("Result")
Told = TypeVar("Told", contravariant=True)


class Waiter(Protocol[Told]):
    """Receives the result of an item: a future, or an object that spares one.

    It is called within the batch's own step, so its methods must be short and must not raise.
    """

    def done(self) -> bool:
        """Whether the result is no longer wanted."""

    def set_result(self, result: Told, /) -> None:
        """The item was carried out."""

    def set_exception(self, exception: Exception, /) -> None:
        """The item was not carried out, or that is not known."""


class Batcher(Generic[Item, Result]):
    """Carries items out in batches, first come first served.

    Args:
        kind: its name in the metrics.
        run: carries out a batch; returns for each item its result or the exception to raise.
            An exception from `run` itself is raised to every item of the batch.
        at_most: items in a batch; may be changed at any time.
        in_flight: most batches under way at once.
        crowd: items that must wait before a third batch starts. Many items need not wait for a
            long round trip, and where round trips are short, batches stay large.
        size: bytes of an item.
        max_bytes: at which a batch stops growing, read for each batch; it has at least one item.
        linger: seconds that the first item of a batch waits for others; for items that no request
            waits for.
    """

    def __init__(
        self,
        kind: str,
        run: Callable[[list[Item]], Awaitable[Sequence[Result | Exception]]],
        *,
        at_most: int = 64,
        in_flight: int = 2,
        crowd: int = 0,
        size: Callable[[Item], int] = lambda _: 0,
        max_bytes: Callable[[], int] = lambda: 1 << 20,
        linger: float = 0,
    ) -> None:
        self._run = run
        self.at_most = at_most
        self._free = in_flight
        self._for_crowds = max(0, in_flight - 2) if crowd else 0
        self._crowd = crowd
        self._size = size
        self._max_bytes = max_bytes
        self._linger = linger
        self._queue: deque[tuple[Item, Waiter[Result]]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._sizes = metrics.BATCH_SIZE.labels(kind)

    async def submit(self, item: Item) -> Result:
        """Carry out one item. Cancelling the caller does not stop a batch under way."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self.put(item, future)
        return await future

    def put(self, item: Item, waiter: Waiter[Result]) -> None:
        """Queue one item. It is left out if its waiter is done before its batch starts."""
        self._queue.append((item, waiter))
        if self._free > self._for_crowds or (self._free and len(self._queue) >= self._crowd):
            self._free -= 1
            if self._linger:
                asyncio.get_running_loop().call_later(self._linger, self._start)
            else:
                self._start()

    def _start(self) -> None:
        # The task's first step comes after everything that is ready to run now has queued.
        task = asyncio.create_task(self._carry_out())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry_out(self) -> None:
        try:
            while batch := self._take():
                await self._carry_out_batch(batch)
        finally:
            self._free += 1

    def _take(self) -> list[tuple[Item, Waiter[Result]]]:
        batch: list[tuple[Item, Waiter[Result]]] = []
        weight, max_bytes = 0, self._max_bytes()
        while self._queue and len(batch) < self.at_most:
            item, waiter = self._queue[0]
            if not waiter.done():
                weight += self._size(item)
                if batch and weight > max_bytes:
                    break
                batch.append((item, waiter))
            self._queue.popleft()
        return batch

    async def _carry_out_batch(self, batch: list[tuple[Item, Waiter[Result]]]) -> None:
        self._sizes.observe(len(batch))
        try:
            results = await self._run([item for item, _ in batch])
            if len(results) != len(batch):
                raise RuntimeError(f"{len(results)} results for {len(batch)} items")
        except Exception as error:
            results = [error] * len(batch)
        except BaseException:
            results = [PrimaryUnavailable("the gateway stops")] * len(batch)
            raise
        finally:
            for (_, waiter), result in zip(batch, results, strict=True):
                if waiter.done():
                    continue
                if isinstance(result, Exception):
                    waiter.set_exception(result)
                else:
                    waiter.set_result(result)
