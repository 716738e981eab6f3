"""Operation ids: a change that landed without an acknowledgement is recognised."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tapedeck.sharding.operations import (
    KEEP_SECONDS,
    Operation,
    append,
    find,
    new_worker,
    others,
)

NOW = 1_800_000_000

workers = st.integers(0, 2**64 - 1).map(lambda n: f"{n:016x}")
numbers = st.integers(1, 2**63 - 1)


def written(log: bytes, worker: str, number: int, version: int, now: float) -> bytes:
    """The log as it lies in MySQL: the statement puts its own time behind the newest entry."""
    return append(others(log, worker, now), worker, number, version) + b"%d;" % now


@given(workers, numbers, numbers)
def test_an_operation_is_found_as_it_was_written(worker: str, number: int, version: int) -> None:
    log = written(b"", worker, number, version, NOW)

    assert find(log, worker) == Operation(worker, number, version, NOW)


def test_an_empty_log_knows_nobody() -> None:
    assert find(b"", new_worker()) is None


@given(workers, workers, numbers)
def test_a_log_knows_only_who_wrote_it(worker: str, other: str, number: int) -> None:
    log = written(b"", worker, number, 1, NOW)

    assert (find(log, other) is None) is (worker != other)


@given(st.lists(st.tuples(workers, numbers), min_size=1, max_size=60))
def test_many_workers_are_each_known_by_their_last_operation(
    writes: list[tuple[str, int]],
) -> None:
    log = b""
    for version, (worker, number) in enumerate(writes, 1):
        log = written(log, worker, number, version, NOW + version)

    last = {worker: (number, version) for version, (worker, number) in enumerate(writes, 1)}
    for worker, (number, version) in last.items():
        assert find(log, worker) == Operation(worker, number, version, NOW + version)
    assert log.count(b";") == len(last)


@given(st.lists(st.tuples(workers, st.integers(0, 3 * KEEP_SECONDS)), max_size=40))
def test_entries_go_by_age_alone(writes: list[tuple[str, int]]) -> None:
    """Each write drops what had grown old by its own time, and nothing younger."""
    log, now = b"", NOW
    seen: dict[str, int] = {}
    for version, (worker, pause) in enumerate(writes, 1):
        now += pause
        log = written(log, worker, version, version, now)
        seen = {w: at for w, at in seen.items() if at > now - KEEP_SECONDS}
        seen[worker] = now

    assert {w for w, _ in writes if find(log, w) is not None} == set(seen)


def test_a_thousand_workers_of_one_hour_are_all_kept() -> None:
    names = [new_worker() for _ in range(1000)]
    log = b""
    for n, name in enumerate(names):
        log = written(log, name, n + 1, n + 1, NOW + n)

    assert all(find(log, name) is not None for name in names)


def test_no_two_processes_have_one_id() -> None:
    assert len({new_worker() for _ in range(1000)}) == 1000


def test_an_entry_is_small() -> None:
    assert len(written(b"", new_worker(), 10**6, 10**4, NOW)) < 45
