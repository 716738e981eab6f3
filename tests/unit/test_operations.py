"""Operation ids: a change that was committed without an answer is recognised, or the log says that
its entry may have been dropped."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sharding.store.idempotency import (
    KEPT,
    Operation,
    append,
    find,
    forgotten,
    new_worker,
    others,
)

LARGEST = 2**63 - 1
COLUMN = 65_535
"""The bytes that a BLOB can have."""

workers = st.integers(0, 2**64 - 1).map(lambda n: f"{n:016x}")
few_workers = st.integers(0, KEPT + 3).map(lambda n: f"{n:016x}")
numbers = st.integers(1, LARGEST)


def written(log: bytes, worker: str, number: int, version: int) -> bytes:
    """The log after a save."""
    return append(others(log, worker), worker, number, version)


@given(workers, numbers, numbers)
def test_an_operation_is_found_as_it_was_written(worker: str, number: int, version: int) -> None:
    log = written(b"", worker, number, version)

    assert find(log, worker) == Operation(worker, number, version)


def test_an_empty_log_has_no_operation_and_dropped_none() -> None:
    assert find(b"", new_worker()) is None
    assert not forgotten(b"", 1)


@given(workers, workers, numbers)
def test_a_log_has_only_operations_of_workers_that_wrote_it(
    worker: str, other: str, number: int
) -> None:
    log = written(b"", worker, number, 1)

    assert (find(log, other) is None) is (worker != other)


@given(st.lists(few_workers, min_size=1, max_size=60), st.data())
def test_each_operation_is_found_or_may_have_been_dropped(
    names: list[str], data: st.DataObject
) -> None:
    """Other workers may write between, and the writer may use a cached row."""
    log = b""
    committed: dict[str, tuple[int, int]] = {}
    before: tuple[str, bytes] | None = None
    for version, worker in enumerate(names, 1):
        if before is not None and before[0] == worker and data.draw(st.booleans()):
            log = before[1]  # the log that a worker's cache has of a row that it wrote itself
        kept = others(log, worker)
        log = append(kept, worker, version, version)
        before = (worker, kept)
        committed[worker] = (version, version)

    assert log.count(b";") < KEPT
    for worker, (number, version) in committed.items():
        found = find(log, worker)
        if found is None:
            assert forgotten(log, version)
        else:
            assert found == Operation(worker, number, version)


@given(st.lists(few_workers, max_size=60), st.integers(1, 60))
def test_an_operation_that_cannot_have_been_dropped_is_known_not_to_be_made(
    names: list[str], tried: int
) -> None:
    """A change that was never committed, because another worker made its version, is made again if
    fewer workers wrote since then than a row keeps."""
    log = b""
    for version, worker in enumerate(names, 1):
        log = written(log, worker, version, version)

    if len(set(names[tried - 1 :])) < KEPT:
        assert not forgotten(log, tried)


@given(st.lists(workers, min_size=KEPT + 1, max_size=KEPT + 40, unique=True))
def test_a_row_keeps_the_workers_that_wrote_it_last(names: list[str]) -> None:
    log = b""
    for version, worker in enumerate(names, 1):
        log = written(log, worker, version, version)

    assert [w for w in names if find(log, w) is not None] == names[-KEPT:]


@given(st.lists(st.tuples(workers, numbers), min_size=1, max_size=100, unique_by=lambda w: w[0]))
def test_a_log_in_the_earlier_format_is_read_and_shortened_too(
    entries: list[tuple[str, int]],
) -> None:
    log = b"".join(
        b"%s.%x.%x.%d;" % (worker.encode(), number, version, 1_796_000_000)
        for version, (worker, number) in enumerate(entries, 1)
    )
    for version, (worker, number) in enumerate(entries, 1):
        assert find(log, worker) == Operation(worker, number, version)

    newer = written(log, new_worker(), 1, len(entries) + 1)

    for version, (worker, number) in enumerate(entries, 1):
        found = find(newer, worker)
        assert found == Operation(worker, number, version) or forgotten(newer, version)


def test_the_largest_log_is_much_smaller_than_its_column() -> None:
    log = b""
    for n in range(10 * KEPT):
        log = written(log, new_worker(), LARGEST, LARGEST - 10 * KEPT + n)

    assert len(log) < 420 < COLUMN // 100


def test_no_two_workers_have_the_same_id() -> None:
    assert len({new_worker() for _ in range(1000)}) == 1000


def test_an_entry_is_shorter_than_30_bytes() -> None:
    assert len(written(b"", new_worker(), 10**6, 10**4)) < 30
