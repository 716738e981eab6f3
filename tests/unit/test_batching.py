"""Requests that wait at the same time share a round trip, and do not harm each other."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from sharding.batching import Batcher


class Works:
    """Carries out batches while its gate is open, and records them."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.under_way = 0
        self.most_under_way = 0

    async def run(self, items: list[int]) -> Sequence[int | Exception]:
        self.batches.append(items)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await self.gate.wait()
            return [item * 10 if item >= 0 else ValueError(item) for item in items]
        finally:
            self.under_way -= 1


async def settle() -> None:
    """Let everything run that can."""
    for _ in range(5):
        await asyncio.sleep(0)


def held(batcher: Batcher[int, int], items: Sequence[int]) -> list[asyncio.Task[int]]:
    return [asyncio.create_task(batcher.submit(item)) for item in items]


async def test_a_single_item_starts_at_once() -> None:
    works = Works()

    assert await Batcher("test", works.run).submit(1) == 10
    assert works.batches == [[1]]


async def test_items_submitted_at_the_same_time_share_a_batch() -> None:
    works = Works()

    answers = await asyncio.gather(*held(Batcher("test", works.run), range(10)))

    assert answers == [n * 10 for n in range(10)]
    assert works.batches == [list(range(10))]


async def test_items_submitted_while_a_batch_is_under_way_share_the_next_one() -> None:
    works = Works()
    works.gate.clear()
    batcher = Batcher("test", works.run, in_flight=1)
    first = held(batcher, [1])
    await settle()
    others = []
    for item in (2, 3, 4):
        others += held(batcher, [item])
        await settle()
    assert works.batches == [[1]]

    works.gate.set()
    await asyncio.gather(*first, *others)

    assert works.batches == [[1], [2, 3, 4]]


async def test_a_second_batch_does_not_wait_for_the_first() -> None:
    works = Works()
    works.gate.clear()
    batcher = Batcher("test", works.run, in_flight=2)
    tasks = []
    for item in (1, 2, 3):
        tasks += held(batcher, [item])
        await settle()

    assert works.batches == [[1], [2]]
    works.gate.set()
    await asyncio.gather(*tasks)
    assert works.batches == [[1], [2], [3]]


async def test_a_batch_has_at_most_the_configured_number_of_items() -> None:
    works = Works()

    await asyncio.gather(*held(Batcher("test", works.run, at_most=4, in_flight=1), range(10)))

    assert works.batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


async def test_a_batch_has_at_most_max_bytes_and_a_larger_item_is_a_batch_by_itself() -> None:
    works = Works()
    batcher = Batcher("test", works.run, in_flight=1, size=lambda item: item, max_bytes=lambda: 10)

    await asyncio.gather(*held(batcher, [4, 6, 1, 50, 3, 3, 3, 3]))

    assert works.batches == [[4, 6], [1], [50], [3, 3, 3], [3]]


async def test_a_batch_that_fails_fails_each_of_its_items_and_no_other() -> None:
    async def run(items: list[int]) -> Sequence[int]:
        if 2 in items:
            raise OSError("lost")
        return items

    batcher = Batcher("test", run, at_most=3, in_flight=1)

    answers = await asyncio.gather(*held(batcher, range(9)), return_exceptions=True)

    assert [a if isinstance(a, int) else str(a) for a in answers] == ["lost"] * 3 + [*range(3, 9)]
    assert await batcher.submit(7) == 7


async def test_an_item_s_exception_reaches_only_its_own_caller() -> None:
    works = Works()

    answers = await asyncio.gather(
        *held(Batcher("test", works.run), [1, -2, 3]), return_exceptions=True
    )

    assert [a for a in answers if not isinstance(a, Exception)] == [10, 30]
    assert isinstance(answers[1], ValueError)


async def test_a_caller_that_gives_up_does_not_affect_the_others() -> None:
    works = Works()
    works.gate.clear()
    batcher = Batcher("test", works.run, in_flight=1)
    under_way = held(batcher, [1, 2])
    await settle()
    queued = held(batcher, [3, 4, 5])
    await settle()

    under_way[0].cancel()
    queued[0].cancel()
    await settle()
    works.gate.set()
    answers = await asyncio.gather(*under_way, *queued, return_exceptions=True)

    assert [a for a in answers if isinstance(a, int)] == [20, 40, 50]
    # An item whose caller gave up before its batch began is not carried out.
    assert works.batches == [[1, 2], [4, 5]]


async def test_after_all_waiting_callers_gave_up_the_next_one_is_served() -> None:
    works = Works()
    works.gate.clear()
    batcher = Batcher("test", works.run, in_flight=1)
    tasks = held(batcher, [1])
    await settle()
    tasks += held(batcher, [2, 3])
    await settle()
    for task in tasks:
        task.cancel()
    await settle()
    works.gate.set()
    await settle()

    assert await batcher.submit(4) == 40


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-5, 60), st.booleans(), st.booleans()), max_size=40),
    st.integers(1, 6),
    st.integers(1, 3),
)
def test_every_item_is_carried_out_once_in_order_and_gets_its_own_answer(
    submissions: list[tuple[int, bool, bool]], at_most: int, in_flight: int
) -> None:
    """Items come with or without pauses, some fail, and some callers give up."""

    async def scenario() -> None:
        works = Works()
        batcher = Batcher("test", works.run, at_most=at_most, in_flight=in_flight)
        tasks = []
        for item, pause, give_up in submissions:
            (task,) = held(batcher, [item])
            tasks.append((item, give_up, task))
            if pause:
                await settle()
            if give_up:
                task.cancel()
        async with asyncio.timeout(5):
            answers = await asyncio.gather(*(t for *_, t in tasks), return_exceptions=True)
            while batcher._tasks:
                await asyncio.wait(batcher._tasks)
        for (item, give_up, _), answer in zip(tasks, answers, strict=True):
            if give_up and isinstance(answer, asyncio.CancelledError):
                continue
            assert answer == item * 10 if item >= 0 else isinstance(answer, ValueError)
        carried = [item for batch in works.batches for item in batch]
        wanted = [item for item, give_up, _ in tasks if not give_up]
        order = iter(item for item, *_ in tasks)
        assert all(item in order for item in carried)  # first come, first served
        assert len(carried) >= len(wanted)
        assert works.most_under_way <= in_flight
        assert all(0 < len(batch) <= at_most for batch in works.batches)

    asyncio.run(scenario())


async def test_many_waiting_items_start_a_third_batch_while_two_are_under_way() -> None:
    """Few items wait for one of the two batches to end; many start a third, up to `in_flight`."""
    works = Works()
    works.gate.clear()
    batcher = Batcher("test", works.run, in_flight=3, crowd=4)
    tasks: list[asyncio.Task[int]] = []

    async def submit(count: int) -> list[int]:
        tasks.extend(held(batcher, range(count)))
        await settle()
        return [len(batch) for batch in works.batches]

    await submit(1)
    assert await submit(1) == [1, 1]
    assert await submit(3) == [1, 1]
    assert await submit(1) == [1, 1, 4]
    assert await submit(9) == [1, 1, 4]

    works.gate.set()
    await asyncio.gather(*tasks)
    assert [len(batch) for batch in works.batches] == [1, 1, 4, 9]
