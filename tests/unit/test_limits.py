"""The rules of rate limits, of addresses behind proxies, and of the limit during overload."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.http.concurrency_limit import PATIENCE, Governor
from gateway.http.rate_limit import Addresses, Buckets, one_client

PAUSES = st.lists(st.floats(0, 5), min_size=1, max_size=60)


@given(PAUSES, st.floats(0.1, 50), st.integers(1, 20))
def test_a_bucket_never_allows_more_than_its_burst_and_its_rate(
    pauses: list[float], rate: float, burst: int
) -> None:
    buckets, now, allowed = Buckets(rate, burst, 100), 0.0, 0
    for pause in pauses:
        now += pause
        allowed += buckets.take("a", now) == 0
    assert allowed <= burst + now * rate + 1e-6


@given(PAUSES, st.floats(0.1, 50), st.integers(1, 20))
def test_a_client_that_waits_as_long_as_it_was_told_is_allowed(
    pauses: list[float], rate: float, burst: int
) -> None:
    buckets, now = Buckets(rate, burst, 100), 0.0
    for pause in pauses:
        now += pause
        wait = buckets.take("a", now)
        if wait:
            now += wait + 1e-9
            assert buckets.take("a", now) == 0


def test_each_client_has_its_own_bucket() -> None:
    buckets = Buckets(1, 1, 100)
    assert buckets.take("a", 0) == 0
    assert buckets.take("a", 0) > 0
    assert buckets.take("b", 0) == 0


@given(st.lists(st.integers(0, 10_000), max_size=300))
def test_the_number_of_buckets_is_limited_and_the_least_recent_one_is_dropped(
    keys: list[int],
) -> None:
    buckets = Buckets(0.001, 1, 100)
    for key in keys:
        buckets.take(key, 0)
        assert buckets.take(key, 0) > 0, "the most recent client's bucket is kept"
        assert len(buckets) <= 100


def test_x_forwarded_for_is_believed_only_from_trusted_proxies() -> None:
    addresses = Addresses(["10.0.0.0/8", "::1/128"])
    cases = [
        ("203.0.113.5", None, "203.0.113.5"),
        ("203.0.113.5", "1.2.3.4", "203.0.113.5"),  # a client that claims another address
        ("10.0.0.1", "203.0.113.5", "203.0.113.5"),
        (
            "10.0.0.1",
            "1.2.3.4, 203.0.113.5",
            "203.0.113.5",
        ),  # the first address was written by the client
        ("10.0.0.1", "203.0.113.5, 10.2.2.2", "203.0.113.5"),
        ("10.0.0.1", "203.0.113.5:4711", "203.0.113.5"),
        ("10.0.0.1", "[2001:db8::1]:4711", "2001:db8::"),
        ("::ffff:10.0.0.1", "203.0.113.5", "203.0.113.5"),
        ("::1", "203.0.113.5", "203.0.113.5"),
        ("10.0.0.1", None, None),  # the proxy's own probes
        ("10.0.0.1", "unknown", None),
        ("10.0.0.1", "10.3.3.3", None),
    ]
    for peer, forwarded, client in cases:
        assert addresses.client(peer, forwarded) == client, (peer, forwarded)


@given(st.text(max_size=60))
def test_no_x_forwarded_for_header_causes_an_exception(forwarded: str) -> None:
    Addresses(["10.0.0.0/8"]).client("10.0.0.1", forwarded)


def test_ipv6_addresses_of_one_network_count_as_one_client() -> None:
    assert one_client("2001:db8::1") == one_client("2001:db8::ffff") != one_client("2001:db8:1::1")


# --- overload


def test_one_long_delay_of_the_event_loop_is_no_overload() -> None:
    governor = Governor(target=0.1, floor=32, ceiling=4096)
    for _ in range(50):
        for _ in range(PATIENCE - 1):
            governor.adapt(late=5.0, in_flight=3000)
        governor.adapt(late=0.0, in_flight=10)
    assert governor.limit == 4096


def test_a_lasting_delay_lowers_the_limit_and_its_end_raises_it_again() -> None:
    governor = Governor(target=0.1, floor=32, ceiling=4096)
    for _ in range(PATIENCE):
        governor.adapt(late=0.5, in_flight=800)
    assert governor.limit == 600
    for _ in range(100):
        governor.adapt(late=0.5, in_flight=800)
    assert governor.limit == 32
    for _ in range(200):
        governor.adapt(late=0.01, in_flight=32)
    assert governor.limit == 4096


def test_requests_that_only_wait_are_no_overload() -> None:
    """In a failover of MySQL thousands of requests wait, and the event loop is idle."""
    governor = Governor(target=0.1, floor=32, ceiling=4096)
    for _ in range(500):
        governor.adapt(late=0.0, in_flight=4000)
    assert governor.limit == 4096


def test_without_a_target_the_limit_is_never_lowered() -> None:
    governor = Governor(target=None, floor=32, ceiling=4096)
    for _ in range(100):
        governor.adapt(late=9.0, in_flight=4000)
    assert governor.limit == 4096


@given(st.lists(st.tuples(st.floats(0, 3), st.integers(0, 10_000)), max_size=200))
def test_the_limit_stays_between_floor_and_ceiling(samples: list[tuple[float, int]]) -> None:
    governor = Governor(target=0.1, floor=32, ceiling=4096)
    for late, in_flight in samples:
        governor.adapt(late, in_flight)
        assert 32 <= governor.limit <= 4096


def test_an_overloaded_worker_s_delay_settles_near_the_target() -> None:
    """Each request takes 1 ms, and 2000 clients always ask again at once: without a limit, the
    delay would be 2 s."""
    governor = Governor(target=0.1, floor=32, ceiling=4096)
    lates = []
    for _ in range(400):
        served = min(2000, governor.limit)
        refused = 2000 - served
        late = served * 0.001 + refused * 0.00001
        governor.adapt(late, served)
        lates.append(late)
    assert max(lates[50:]) < 0.3
    assert sum(lates[50:]) / 350 > 0.02, "the worker is not idle"
