"""The cache of sessions keeps within its limits and drops the least recently used state."""

from __future__ import annotations

from datetime import date

from hypothesis import given
from hypothesis import strategies as st

from config.model import Sessions as Config
from sharding.partitions.sql import Row
from sharding.state import Key
from sharding.store.session_cache import CONFIRMATIONS, OVERHEAD, SessionCache

DAY = date(2026, 1, 1)


def row(version: int, size: int = 10) -> Row:
    return Row(DAY, version, 1, b"x" * size, b"")


def test_the_least_recently_written_state_is_dropped_first() -> None:
    sessions = SessionCache(Config(max_entries=2))
    for user in (1, 2):
        sessions.put(Key(user, 1), row(1))
    sessions.put(Key(1, 1), row(2))

    sessions.put(Key(3, 1), row(1))

    assert sessions.get(Key(1, 1)) == row(2)
    assert sessions.get(Key(2, 1)) is None
    assert sessions.get(Key(3, 1)) == row(1)


def test_states_are_dropped_until_a_large_one_fits_in_max_bytes() -> None:
    sessions = SessionCache(Config(max_bytes=3 * (OVERHEAD + 1000)))
    for user in range(1, 6):
        sessions.put(Key(user, 1), row(1, 1000))

    assert len(sessions) == 3
    sessions.put(Key(9, 1), row(1, 2 * OVERHEAD + 3000))

    assert len(sessions) == 1


def test_a_disabled_cache_keeps_nothing() -> None:
    sessions = SessionCache(Config(enabled=False))

    sessions.put(Key(1, 1), row(1))

    assert sessions.get(Key(1, 1)) is None
    assert (len(sessions), sessions.bytes) == (0, 0)


def test_changed_limits_apply_at_once() -> None:
    sessions = SessionCache(Config())
    for user in range(1, 6):
        sessions.put(Key(user, 1), row(1))

    sessions.configure(Config(max_entries=2))
    assert (len(sessions), sessions.get(Key(5, 1))) == (2, row(1))

    sessions.configure(Config(enabled=False))
    assert (len(sessions), sessions.bytes) == (0, 0)


def test_a_doubted_state_is_trusted_again_after_enough_confirmations() -> None:
    sessions = SessionCache(Config())
    key = Key(1, 1)
    sessions.put(key, row(1))
    sessions.doubt(key)
    for _ in range(CONFIRMATIONS - 1):
        sessions.confirm(key)
    sessions.put(key, row(2))
    assert sessions.doubted(key)

    sessions.confirm(key)

    assert not sessions.doubted(key)


def test_a_dropped_state_is_no_longer_doubted() -> None:
    sessions = SessionCache(Config(max_entries=1))
    for user in (1, 2):
        sessions.put(Key(user, 1), row(1))
        sessions.doubt(Key(user, 1))

    assert not sessions.doubted(Key(1, 1))
    sessions.drop(Key(2, 1))
    assert not sessions.doubted(Key(2, 1))
    sessions.doubt(Key(3, 1))
    assert not sessions.doubted(Key(3, 1))


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["put", "drop", "clear"]), st.integers(1, 6), st.integers(0, 4000)
        ),
        max_size=60,
    )
)
def test_the_cache_s_bytes_are_those_of_its_states(steps: list[tuple[str, int, int]]) -> None:
    sessions = SessionCache(Config(max_entries=4, max_bytes=3 * OVERHEAD + 4000))
    for what, user, size in steps:
        if what == "put":
            sessions.put(Key(user, 1), row(1, size))
        elif what == "drop":
            sessions.drop(Key(user, 1))
        else:
            sessions.clear()

    held = [found for user in range(1, 7) if (found := sessions.get(Key(user, 1))) is not None]
    assert len(held) == len(sessions) <= 4
    assert sessions.bytes == sum(len(each.body) + OVERHEAD for each in held)
    assert sessions.bytes <= 3 * OVERHEAD + 4000
