"""Requests that wait at the same time share a round trip.

Nothing waits in order to be batched: a lone request starts at once; while as many batches as may
be are under way, the next one gathers.
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
    """Who is told what became of an item: a future, or whatever spares one.

    It is told within the batch's own step: what it does then must be short and not raise.
    """

    def done(self) -> bool:
        """Whether nobody waits any more."""

    def set_result(self, result: Told, /) -> None:
        """It was carried out."""

    def set_exception(self, exception: Exception, /) -> None:
        """It was not, or that is not known."""


class Batcher(Generic[Item, Result]):
    """Carries items out in batches, first come first served.

    Args:
        kind: its name in the metrics.
        run: carries out a batch; returns for each item its result or the exception to raise.
            What it raises itself is raised to every item of the batch.
        at_most: items in a batch; may be changed while it works.
        in_flight: batches under way at once.
        crowd: items that must wait before there may be more than two; where a round trip takes
            long, many at once are not kept waiting for it, and where it is short, batches stay
            large.
        size: bytes of an item.
        max_bytes: at which a batch stops growing, asked for each; one item always goes.
        linger: seconds that the first item of a batch waits for others; for what nobody waits for.
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
        """Carry out one item. A caller that is cancelled leaves a batch under way unharmed."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self.put(item, future)
        return await future

    def put(self, item: Item, waiter: Waiter[Result]) -> None:
        """Have one item carried out. One whose waiter is done by then leaves the queue."""
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

    async def drain(self) -> None:
        """Wait until nothing is under way."""
        while self._tasks:
            await asyncio.wait(self._tasks)

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
        except BaseException as error:
            stopped = not isinstance(error, Exception)
            failure = (
                error if isinstance(error, Exception) else PrimaryUnavailable("the gateway stops")
            )
            for _, waiter in batch:
                if not waiter.done():
                    waiter.set_exception(failure)
            if stopped:
                raise
            return
        for (_, waiter), result in zip(batch, results, strict=True):
            if waiter.done():
                continue
            if isinstance(result, Exception):
                waiter.set_exception(result)
            else:
                waiter.set_result(result)
