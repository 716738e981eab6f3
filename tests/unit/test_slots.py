"""What a node of a Redis Cluster says of its slots: read, or refused as a whole."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from tapedeck.config.model import HostPort
from tapedeck.failover.slots import (
    MOST_PRIMARIES,
    SLOTS,
    NoSlotMap,
    probe_keys,
    slot_map,
)

ASKED = HostPort(host="10.0.0.9", port=7000)


def server(host: Any, port: Any = 7001) -> list[Any]:
    return [host, port, b"e7d1eecce10fd6bb5eb35b9f99a514335d9ba9ca", []]


def test_a_cluster_of_three_with_replicas_is_read() -> None:
    found = slot_map(
        [
            [0, 5460, server(b"10.0.0.1"), server(b"10.0.0.4", 7004)],
            [5461, 10922, server(b"redis-2.example")],
            [10923, 16383, server(b"fd00::3"), server(b"10.0.0.6")],
        ],
        ASKED,
    )
    assert found.covered == SLOTS
    assert [str(found.primaries[slot]) for slot in (0, 5460, 5461, 16383)] == [
        "10.0.0.1:7001",
        "10.0.0.1:7001",
        "redis-2.example:7001",
        "fd00::3:7001",
    ]
    assert {str(one) for one in found.replicas} == {"10.0.0.4:7004", "10.0.0.6:7001"}


def test_ranges_of_one_primary_add_up_and_what_nobody_has_is_left_out() -> None:
    found = slot_map([[0, 0, server(b"a")], [2, 9, server(b"a")]], ASKED)
    assert found.covered == 9
    assert found.primaries[1] is None
    assert slot_map([], ASKED).covered == 0


@pytest.mark.parametrize("host", [None, b"", b"?"])
def test_a_node_that_does_not_know_its_own_host_is_where_it_was_asked(host: Any) -> None:
    assert slot_map([[0, 1, server(host)]], ASKED).primaries[0] == HostPort(
        host="10.0.0.9", port=7001
    )


@pytest.mark.parametrize(
    "reply",
    [
        None,
        b"OK",
        7,
        {},
        [7],
        [[]],
        [[0, 1]],
        [[0, 1, b"10.0.0.1"]],
        [[0, 1, [b"10.0.0.1"]]],
        [[0, 1, server(b"10.0.0.1", 0)]],
        [[0, 1, server(b"10.0.0.1", 65536)]],
        [[0, 1, server(b"10.0.0.1", b"7001")]],
        [[0, 1, server(b"a b")]],
        [[0, 1, server(b"\xff")]],
        [[0, 1, server(b"x" * 256)]],
        [[0, 1, server(7)]],
        [[0, SLOTS, server(b"a")]],
        [[-1, 1, server(b"a")]],
        [[2, 1, server(b"a")]],
        [[0, 2**62, server(b"a")]],
        [[b"0", b"1", server(b"a")]],
        [[0, 5, server(b"a")], [5, 9, server(b"b")]],
        [[n, n, server(b"h%d" % n)] for n in range(MOST_PRIMARIES + 1)],
    ],
    ids=lambda reply: str(reply)[:40],
)
def test_what_is_no_map_is_refused_with_a_reason(reply: Any) -> None:
    with pytest.raises(NoSlotMap, match="CLUSTER SLOTS"):
        slot_map(reply, ASKED)


def test_the_replicas_that_it_names_are_bounded() -> None:
    many = [[n, n, server(b"a"), *(server(b"r%d" % n, p) for p in (1, 2, 3))] for n in range(2000)]
    assert len(slot_map(many, ASKED).replicas) <= MOST_PRIMARIES + 2


SAID = st.recursive(
    st.none() | st.integers(-2, 2**64) | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=5),
    max_leaves=20,
)
SOME_SERVER = st.lists(SAID, max_size=3) | st.builds(
    server, st.binary(max_size=4), st.integers(0, 70_000)
)
RANGES = st.lists(
    st.tuples(st.integers(-1, 17_000), st.integers(-1, 17_000), SOME_SERVER).map(list), max_size=4
)


@given(SAID | RANGES)
def test_whatever_it_says_is_a_map_or_no_map(reply: Any) -> None:
    try:
        found = slot_map(reply, ASKED)
    except NoSlotMap:
        return
    assert len(found.primaries) == SLOTS


def test_each_slot_has_a_key_for_its_probes() -> None:
    assert [key_slot(key) for key in probe_keys()] == list(range(SLOTS))
    assert all(key.startswith(b"tapedeck:probe:") for key in probe_keys())
