"""What each toxic does to a stream, with a clock of the test's own."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drills.injector.toxics import Ending, Event, InvalidToxic, Stage, Toxic

ALL = ("latency", "timeout", "bandwidth", "slow_close", "slicer", "limit_data", "reset_peer")


def stage(kind: str, now: float = 0.0, **attributes: int) -> Stage:
    made = Toxic.parse({"type": kind, "attributes": attributes}).stage(now, random.Random(7))
    assert made is not None
    return made


def given_until(of: Stage, end: float) -> list[tuple[float, Event]]:
    """The events of a stage up to the time `end`; it is asked only when it is due."""
    events: list[tuple[float, Event]] = []
    while (due := of.due) is not None and due <= end:
        found = of.give(due)
        assert found, "a stage that is due gives an event"
        events += [(due, event) for event in found]
        if isinstance(events[-1][1], Ending):
            break
    return events


def data(events: list[tuple[float, Event]]) -> bytes:
    return b"".join(event for _, event in events if isinstance(event, bytes))


def test_latency_delays_each_piece_and_not_the_end() -> None:
    late = stage("latency", latency=200)
    late.take(b"a", 0.0)
    late.take(b"b", 0.05)
    late.take(Ending.EOF, 0.1)
    assert given_until(late, 1) == [(0.2, b"a"), (0.25, b"b"), (0.25, Ending.EOF)]


def test_jitter_varies_the_delay_within_its_limits_and_keeps_the_order() -> None:
    late = stage("latency", latency=100, jitter=50)
    for n in range(200):
        late.take(bytes([n]), float(n))
    events = given_until(late, math.inf)
    delays = [due - n for n, (due, _) in enumerate(events)]
    assert data(events) == bytes(range(200))
    assert 0.05 <= min(delays) < 0.07
    assert 0.13 < max(delays) <= 0.15


def test_latency_with_larger_jitter_never_gives_a_piece_before_it_arrived() -> None:
    late = stage("latency", latency=1, jitter=1000)
    for n in range(50):
        late.take(b"x", float(n))
    assert all(due >= n for n, (due, _) in enumerate(given_until(late, math.inf)))


def test_timeout_drops_data_and_closes_after_its_time() -> None:
    silent = stage("timeout", now=10, timeout=500)
    silent.take(b"lost", 10.1)
    assert given_until(silent, 20) == [(10.5, Ending.CLOSE)]


def test_timeout_of_zero_lasts_until_it_is_removed_and_then_closes() -> None:
    silent = stage("timeout", timeout=0)
    silent.take(b"lost", 1)
    assert silent.due is None
    assert silent.held == 0
    assert silent.drain() == [Ending.CLOSE]


def test_timeout_lets_the_end_pass() -> None:
    silent = stage("timeout", timeout=500)
    silent.take(b"lost", 0.1)
    silent.take(Ending.EOF, 0.2)
    assert given_until(silent, 0.3) == [(0.2, Ending.EOF)]


def test_bandwidth_gives_small_pieces_at_its_rate() -> None:
    slow = stage("bandwidth", rate=10)
    slow.take(b"x" * 25_000, 0.0)
    slow.take(Ending.EOF, 0.0)
    events = given_until(slow, math.inf)
    assert len(data(events)) == 25_000
    assert events[-1] == (pytest.approx(2.5), Ending.EOF)
    assert events[0][0] == pytest.approx(0.1)


def test_bandwidth_gives_no_credit_for_idle_time() -> None:
    slow = stage("bandwidth", rate=1)
    slow.take(b"x" * 100, 0.0)
    slow.take(b"y" * 100, 60.0)
    assert given_until(slow, 70)[-1][0] == pytest.approx(60.1)


def test_bandwidth_of_zero_passes_nothing_until_it_is_removed() -> None:
    slow = stage("bandwidth", rate=0)
    slow.take(b"x", 0.0)
    assert slow.give(1e9) == []
    assert slow.drain() == [b"x"]


def test_slow_close_delays_only_the_end() -> None:
    slow = stage("slow_close", delay=300)
    slow.take(b"a", 1.0)
    slow.take(Ending.EOF, 1.0)
    assert given_until(slow, 2) == [(1.0, b"a"), (1.3, Ending.EOF)]


def test_slicer_cuts_pieces_within_its_variation_with_its_delay_between_them() -> None:
    slicer = stage("slicer", average_size=10, size_variation=3, delay=1000)
    text = bytes(range(256)) * 2
    slicer.take(text, 0.0)
    events = given_until(slicer, 10)
    sizes = [len(event) for _, event in events if isinstance(event, bytes)]
    assert data(events) == text
    assert all(7 <= size <= 13 for size in sizes[:-1])
    assert len(set(sizes)) > 2
    assert [due for due, _ in events] == pytest.approx([n * 0.001 for n in range(len(sizes))])


def test_slicer_gives_one_piece_at_a_time_even_if_more_are_due() -> None:
    slicer = stage("slicer", average_size=1)
    slicer.take(b"abc", 0.0)
    assert [slicer.give(5.0) for _ in range(4)] == [[b"a"], [b"b"], [b"c"], []]


def test_slicer_with_an_average_size_of_zero_still_passes_data() -> None:
    slicer = stage("slicer", size_variation=1000)
    slicer.take(b"ab", 0.0)
    assert data(given_until(slicer, 1)) == b"ab"


def test_limit_data_closes_after_exactly_its_number_of_bytes() -> None:
    limited = stage("limit_data", bytes=5)
    for piece in (b"abc", b"defg", b"hij"):
        limited.take(piece, 0.0)
    events = limited.give(0.0)
    assert events == [b"abc", b"de", Ending.CLOSE]


def test_limit_data_of_zero_closes_at_the_first_byte_and_not_before() -> None:
    limited = stage("limit_data", bytes=0)
    assert limited.due is None
    limited.take(b"a", 1.0)
    assert limited.give(1.0) == [Ending.CLOSE]


def test_reset_peer_resets_after_its_time_even_without_data() -> None:
    assert given_until(stage("reset_peer", now=5, timeout=250), 9) == [(5.25, Ending.RESET)]


def test_reset_peer_removed_before_its_time_loses_no_data() -> None:
    reset = stage("reset_peer", timeout=250)
    reset.take(b"a", 0.1)
    reset.take(Ending.EOF, 0.1)
    assert reset.give(0.2) == []
    assert reset.drain() == [b"a", Ending.EOF]


@given(
    kind=st.sampled_from(["latency", "bandwidth", "slow_close", "slicer"]),
    pieces=st.lists(
        st.tuples(st.binary(min_size=1, max_size=300), st.floats(0, 5)), min_size=1, max_size=20
    ),
    values=st.lists(st.integers(1, 300), min_size=3, max_size=3),
    removed_at=st.floats(0, 60) | st.none(),
)
def test_toxics_that_only_delay_change_no_byte_even_if_they_are_removed_meanwhile(
    kind: str, pieces: list[tuple[bytes, float]], values: list[int], removed_at: float | None
) -> None:
    names = list(Toxic.parse({"type": kind}).attributes)
    work = stage(kind, **dict(zip(names, values, strict=False)))
    now = 0.0
    events: list[Event] = []
    for piece, pause in pieces:
        work.take(piece, now)
        events += work.give(now)
        now += pause
    work.take(Ending.EOF, now)
    end = math.inf if removed_at is None else now + removed_at
    events += [event for _, event in given_until(work, end)]
    events += work.drain()
    assert events[-1] is Ending.EOF
    assert b"".join(e for e in events if isinstance(e, bytes)) == b"".join(p for p, _ in pieces)
    assert work.held == 0


@given(st.floats(0, 1))
def test_toxicity_is_the_share_of_affected_connections(toxicity: float) -> None:
    toxic = Toxic.parse({"type": "timeout", "toxicity": toxicity})
    chance = random.Random(1)
    met = sum(toxic.stage(0.0, chance) is not None for _ in range(1000))
    assert met / 1000 == pytest.approx(toxicity, abs=0.06)


@pytest.mark.parametrize("kind", ALL)
def test_a_toxic_has_the_defaults_of_the_api(kind: str) -> None:
    toxic = Toxic.parse({"type": kind}).as_json()
    assert toxic["name"] == f"{kind}_downstream"
    assert toxic["stream"] == "downstream"
    assert toxic["toxicity"] == 1.0
    assert toxic["attributes"]
    assert set(toxic["attributes"].values()) == {0}


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({}, "invalid toxic type"),
        ({"type": "plague"}, "invalid toxic type"),
        ({"type": "latency", "stream": "sideways"}, "stream was invalid"),
        ({"type": "latency", "toxicity": "much"}, "toxicity"),
        ({"type": "latency", "attributes": [1]}, "attributes"),
        ({"type": "latency", "attributes": {"latency": "5"}}, "latency"),
        ({"type": "latency", "attributes": {"latency": 5.5}}, "latency"),
        ({"type": "latency", "attributes": {"latency": True}}, "latency"),
        ({"type": "latency", "attributes": {"latency": 2**63}}, "latency"),
        ({"type": 5}, "type"),
    ],
)
def test_a_wrong_toxic_is_refused_with_the_reason(document: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidToxic, match=reason):
        Toxic.parse(document)


def test_attributes_that_a_type_does_not_have_are_ignored() -> None:
    toxic = Toxic.parse({"type": "timeout", "attributes": {"timeout": 5, "color": "red"}})
    assert toxic.attributes == {"timeout": 5}
