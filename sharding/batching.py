"""Requests that wait at the same time share a round trip.

Nothing waits in order to be batched: a lone request starts at once; while as many batches as may
be are under way, the next one gathers.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from tapedeck.failover.errors import PrimaryUnavailable
from tapedeck.sharding import metrics

Item = TypeVar("Item")
Result = TypeVar("Result")


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
        size: bytes of an item; a batch stops growing at `max_bytes`.
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
        max_bytes: int = 1 << 20,
    ) -> None:
        self._run = run
        self.at_most = at_most
        self._free = in_flight
        self._for_crowds = max(0, in_flight - 2) if crowd else 0
        self._crowd = crowd
        self._size = size
        self._max_bytes = max_bytes
        self._queue: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sizes = metrics.BATCH_SIZE.labels(kind)

    async def submit(self, item: Item) -> Result:
        """Carry out one item. A caller that is cancelled leaves a batch under way unharmed."""
        return await self.put(item)

    def put(self, item: Item) -> asyncio.Future[Result]:
        """Have one item carried out; its future is cancelled by who gives it up."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = self._loop.create_future()
        self._queue.append((item, future))
        if self._free > self._for_crowds or (self._free and len(self._queue) >= self._crowd):
            self._free -= 1
            # The task's first step comes after everything that is ready to run now has queued.
            task = asyncio.create_task(self._carry_out())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return future

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

    def _take(self) -> list[tuple[Item, asyncio.Future[Result]]]:
        batch: list[tuple[Item, asyncio.Future[Result]]] = []
        weight = 0
        while self._queue and len(batch) < self.at_most:
            item, future = self._queue[0]
            if not future.done():
                weight += self._size(item)
                if batch and weight > self._max_bytes:
                    break
                batch.append((item, future))
            self._queue.popleft()
        return batch

    async def _carry_out_batch(self, batch: list[tuple[Item, asyncio.Future[Result]]]) -> None:
        self._sizes.observe(len(batch))
        try:
            results = await self._run([item for item, _ in batch])
            if len(results) != len(batch):
                raise RuntimeError(f"{len(results)} results for {len(batch)} items")
        except BaseException as error:
            stopped = not isinstance(error, Exception)
            failure = PrimaryUnavailable("the gateway stops") if stopped else error
            for _, future in batch:
                if not future.done():
                    future.set_exception(failure)
            if stopped:
                raise
            return
        for (_, future), result in zip(batch, results, strict=True):
            if future.done():
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)
