"""The ring's rules. (test_ring_nutcracker.py compares them with twemproxy itself.)"""

from __future__ import annotations

import ctypes
import hashlib
import math
import random
import struct
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config.model import Lookup, LookupServer
from sharding.ring.hashes import HASHES
from sharding.ring.ring import Ring

KEYS = [b"uid:%d" % number for number in range(3000)]

weights = st.lists(st.integers(1, 100), min_size=1, max_size=12)
distributions = st.sampled_from(["ketama", "modula"])
hashes = st.sampled_from(sorted(HASHES))


def servers(*weights: int, names: Sequence[str] = ()) -> list[LookupServer]:
    names = names or [f"tape{number}" for number in range(1, len(weights) + 1)]
    return [
        LookupServer(host="127.0.0.1", port=7000 + number, weight=weight, name=name)
        for number, (weight, name) in enumerate(zip(weights, names, strict=True))
    ]


def ring(*weights: int, names: Sequence[str] = (), **words: str) -> Ring:
    return Ring(servers(*weights, names=names), **{"hash": "fnv1a_64", **words})


def name_of(server: LookupServer | None) -> str | None:
    return server.name if server is not None else None


def reference_points(ring: Ring, out: frozenset[str] = frozenset()) -> list[tuple[int, str]]:
    """ketama's points, computed step by step as in twemproxy's source."""
    live = sorted(
        (server for server in ring.servers if server.name not in out),
        key=lambda server: (len(server.name), server.name),
    )
    points = []
    for server in live:
        share = ctypes.c_float(server.weight / sum(other.weight for other in live)).value
        scaled = ctypes.c_float(ctypes.c_float(share * 160).value / 4).value
        scaled = ctypes.c_float(scaled * len(live)).value
        for group in range(math.floor(ctypes.c_float(scaled + 1e-10).value)):
            digest = hashlib.md5(f"{server.name}-{group}".encode()).digest()
            points += [(point, server.name) for point in struct.unpack("<4I", digest)]
    points.sort(key=lambda point: point[0])
    return points


def at(points: list[tuple[int, str]], value: int) -> str | None:
    if not points:
        return None
    return next((name for point, name in points if point >= value), points[0][1])


@settings(deadline=None, max_examples=50)
@given(
    weights,
    st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=20),
    st.frozensets(st.integers(1, 12), max_size=12),
)
def test_ketama_agrees_with_twemproxy_s_source_whichever_nodes_are_ejected(
    weights: list[int], keys: list[bytes], numbers: frozenset[int]
) -> None:
    subject = ring(*weights)
    out = frozenset(f"tape{number}" for number in numbers)
    points = reference_points(subject, out)
    for key in keys:
        assert name_of(subject.route(key, out)) == at(points, HASHES["fnv1a_64"](key))


@settings(deadline=None, max_examples=50)
@given(weights, distributions, hashes, st.binary(max_size=40))
def test_a_key_has_the_same_node_at_every_gateway_and_time(
    weights: list[int], distribution: str, hash_: str, key: bytes
) -> None:
    first = ring(*weights, distribution=distribution, hash=hash_)
    shuffled = servers(*weights)
    random.Random(0).shuffle(shuffled)
    second = Ring(shuffled, distribution=distribution, hash=hash_)
    assert first.owner(key) == first.owner(key) == first.route(key) == second.owner(key)


@settings(deadline=None, max_examples=20)
@given(weights, distributions, st.binary(max_size=40))
def test_a_key_s_order_has_its_nodes_as_they_are_ejected_one_after_another(
    weights: list[int], distribution: str, key: bytes
) -> None:
    subject = ring(*weights, distribution=distribution)
    order = subject.order(key)
    assert sorted(server.name for server in order) == sorted(s.name for s in subject.servers)
    assert order[0] == subject.owner(key)
    for gone in range(len(order)):
        out = frozenset(server.name for server in order[:gone])
        assert subject.route(key, out) == order[gone]


def test_an_ejected_name_that_the_ring_does_not_have_changes_nothing() -> None:
    subject = ring(1, 2, 3)
    assert all(subject.route(k, frozenset({"gone"})) == subject.owner(k) for k in KEYS)


@pytest.mark.parametrize("nodes", range(2, 13))
def test_an_ejected_node_moves_only_its_own_keys_with_ketama(nodes: int) -> None:
    subject = ring(*[1] * nodes)
    out = frozenset({"tape2"})
    for key in KEYS:
        owner, now = subject.owner(key), subject.route(key, out)
        assert now is not None
        assert now.name != "tape2"
        assert owner.name == "tape2" or now == owner


def test_routes_are_right_for_more_sets_of_ejected_nodes_than_are_cached() -> None:
    subject = ring(*[1] * 9)
    names = [server.name for server in subject.servers]
    sets = [
        frozenset(n for bit, n in enumerate(names) if mask >> bit & 1) for mask in range(1, 200)
    ]
    first = [subject.route(b"uid:1", out) for out in sets]
    assert [subject.route(b"uid:1", out) for out in sets] == first
    assert all(s is not None and s.name not in out for s, out in zip(first, sets, strict=True))


@settings(deadline=None, max_examples=50)
@given(weights, distributions, hashes)
def test_the_shares_of_the_nodes_sum_to_1(
    weights: list[int], distribution: str, hash_: str
) -> None:
    subject = ring(*weights, distribution=distribution, hash=hash_)
    shares = subject.shares()
    assert list(shares) == [server.name for server in subject.servers]
    assert sum(shares.values()) == 1
    assert all(share >= 0 for share in shares.values())


@pytest.mark.parametrize("distribution", ["ketama", "modula"])
@pytest.mark.parametrize("hash_", ["md5", "crc32", "jenkins"])
def test_the_shares_agree_with_the_nodes_of_many_keys(distribution: str, hash_: str) -> None:
    subject = ring(1, 2, 3, 4, 10, distribution=distribution, hash=hash_)
    keys = 40_000
    seen = Counter(subject.owner(b"uid:%d" % number).name for number in range(keys))
    for name, share in subject.shares().items():
        # Five standard deviations.
        assert abs(seen[name] / keys - share) <= 5 * math.sqrt(share * (1 - share) / keys) + 1e-9


def test_modula_shares_equal_the_weights_and_ketama_s_are_near_them() -> None:
    weights = (1, 2, 3, 4)
    modula = ring(*weights, distribution="modula").shares()
    ketama = ring(*weights, distribution="ketama").shares()
    for name, weight in zip(modula, weights, strict=True):
        assert modula[name] == pytest.approx(weight / 10, abs=1e-8)
        assert ketama[name] == pytest.approx(weight / 10, abs=0.04)


def test_a_node_with_a_very_small_weight_gets_keys_when_the_others_are_ejected() -> None:
    subject = ring(1000, 1)
    assert subject.shares() == {"tape1": 1, "tape2": 0}
    assert name_of(subject.route(b"uid:1", frozenset({"tape1"}))) == "tape2"


def test_a_node_with_a_name_keeps_its_keys_at_another_address() -> None:
    here = Lookup(servers="10.0.0.1:6379:1 a,10.0.0.2:6379:1 b").servers
    there = Lookup(servers="10.9.0.1:6380:1 a,10.9.0.2:6380:1 b").servers
    before, after = Ring(here, hash="md5"), Ring(there, hash="md5")
    assert all(before.owner(key).name == after.owner(key).name for key in KEYS)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"hash": "sha1"}, "Input should be 'one_at_a_time'"),
        ({"distribution": "md5"}, "Input should be 'ketama' or 'modula'"),
        ({"distribution": "random"}, "random .* a lookup could not be found again"),
        ({"hash_tag": "«»"}, "should match pattern"),
        ({"servers": f"127.0.0.1:1:1 {'b' * 265}"}, "longer than 264 bytes"),
    ],
)
def test_a_ring_that_twemproxy_does_not_have_is_refused_by_name(
    change: dict[str, str], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        Lookup.model_validate({"servers": "127.0.0.1:1:1 a", **change})
