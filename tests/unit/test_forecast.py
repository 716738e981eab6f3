"""The forecast of what a changed ring would move."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config.model import Lookup, LookupServer
from sharding.ring.hashes import bits
from sharding.ring.placement import moved
from sharding.ring.plan import Held, forecast
from sharding.ring.ring import Ring

weights = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 9), min_size=1, max_size=8)
distributions = st.sampled_from(["ketama", "modula"])


def servers(weights: dict[str, int]) -> list[LookupServer]:
    return [LookupServer(host=f"h-{n}", port=1, weight=w, name=n) for n, w in weights.items()]


def ring(weights: dict[str, int], distribution: str = "ketama", hash_: str = "fnv1a_64") -> Ring:
    return Ring(servers(weights), hash=hash_, distribution=distribution)


def placed(names: str, hash_: str = "fnv1a_64") -> Lookup:
    """A section `lookup` with nodes of the same weight."""
    return Lookup(servers=tuple(servers(equal(names))), hash=hash_)


def equal(names: str) -> dict[str, int]:
    return dict.fromkeys(names, 1)


@settings(deadline=None, max_examples=25)
@given(weights, weights, distributions)
def test_the_shares_that_move_are_those_found_by_trying_every_hash_value(
    before: dict[str, int], after: dict[str, int], distribution: str
) -> None:
    # crc32 has few enough values to try them all.
    one, two = ring(before, distribution, "crc32"), ring(after, distribution, "crc32")
    space = 1 << bits("crc32")
    pairs = Counter((one._whole.at(v).name, two._whole.at(v).name) for v in range(space))
    expected = {pair: n / space for pair, n in pairs.items() if pair[0] != pair[1]}
    # Of a modula ring that repeats, one round is counted; the incomplete last round is left out.
    assert one.moves(two) == pytest.approx(expected, abs=0.05 if distribution == "modula" else 0)


@settings(deadline=None, max_examples=25)
@given(weights, weights, distributions)
def test_the_shares_that_move_explain_the_difference_of_the_nodes_shares(
    before: dict[str, int], after: dict[str, int], distribution: str
) -> None:
    one, two = ring(before, distribution), ring(after, distribution)
    shares = Counter(one.shares())
    for (source, target), share in one.moves(two).items():
        shares[source] -= share
        shares[target] += share
    for name in {*before, *after}:
        assert shares[name] == pytest.approx(two.shares().get(name, 0), abs=1e-4)


def test_nothing_moves_between_equal_rings() -> None:
    for distribution in ("ketama", "modula"):
        one, two = (ring(equal("abc"), distribution) for _ in range(2))
        assert one.moves(two) == {}


def test_very_large_modula_rings_are_compared_by_a_sample() -> None:
    before = ring({"a": 99_991, "b": 99_989}, "modula")
    after = ring({"a": 99_991, "b": 99_989, "c": 99_961}, "modula")
    moved = sum(before.moves(after).values())

    keys = [b"uid:%d" % n for n in range(20_000)]
    seen = sum(before.owner(k).name != after.owner(k).name for k in keys) / len(keys)
    assert moved == pytest.approx(seen, abs=0.02)


def test_the_keys_and_memory_of_each_node_are_forecast_from_its_present_ones() -> None:
    held: dict[str, Held | None] = {
        "a": Held(1000, 100_000),
        "b": Held(500, 50_000),
        "c": Held(700, 70_000),
    }
    answer = forecast(placed("abc"), placed("abcd"), held)
    nodes = {node.name: node for node in answer.nodes}

    assert sum(node.keys for node in nodes.values()) == pytest.approx(2200, abs=3)
    assert sum(n.memory_bytes for n in nodes.values()) == pytest.approx(220_000, abs=3)
    for name in "abc":
        assert nodes[name].keys_before == held[name].keys  # type: ignore[union-attr]
        assert nodes[name].keys < nodes[name].keys_before
    assert nodes["d"].keys == sum(m.keys for m in answer.moves)
    assert (nodes["d"].weight_before, nodes["d"].weight) == (None, 1)
    assert answer.moved == pytest.approx(nodes["d"].share)
    assert {move.target for move in answer.moves} == {"d"}


def test_a_removed_node_has_nothing_afterwards() -> None:
    held: dict[str, Held | None] = dict.fromkeys("abc", Held(900, 9000))
    nodes = {node.name: node for node in forecast(placed("abc"), placed("bc"), held).nodes}

    assert (nodes["a"].keys, nodes["a"].share, nodes["a"].weight) == (0, 0.0, None)
    assert nodes["b"].keys + nodes["c"].keys == pytest.approx(2700, abs=2)


@pytest.mark.parametrize("held", [None, {"a": None, "b": None}])
def test_without_figures_of_the_nodes_only_shares_are_forecast(
    held: dict[str, Held | None] | None,
) -> None:
    answer = forecast(placed("ab"), placed("abc"), held)

    assert all(node.keys is None for node in answer.nodes)
    assert all(move.keys is None for move in answer.moves)
    assert answer.keys is None
    assert answer.moved > 0


def test_a_node_that_did_not_answer_hides_only_the_figures_that_depend_on_it() -> None:
    held: dict[str, Held | None] = {**dict.fromkeys("abc", Held(900, 9000)), "d": None}
    removed = forecast(placed("abcd"), placed("abc"), held)
    by_name = {node.name: node for node in removed.nodes}
    for name in "abc":  # each gains a part of d's keys, whose number is unknown
        assert (by_name[name].keys_before, by_name[name].keys) == (900, None)
    assert removed.keys is None

    heavier = [
        LookupServer(host=f"h-{n}", port=1, weight=3 if n == "d" else 1, name=n) for n in "abcd"
    ]
    weighed = forecast(placed("abcd"), Lookup(servers=tuple(heavier)), held)
    by_name = {node.name: node for node in weighed.nodes}
    for name in "abc":
        assert by_name[name].keys_before == 900
        assert by_name[name].keys < 900
        assert by_name[name].memory_bytes < 9000
    assert by_name["d"].keys is by_name["d"].keys_before is None


def test_another_hash_moves_every_key_and_the_forecast_has_each_node_s_new_share() -> None:
    held: dict[str, Held | None] = dict.fromkeys("ab", Held(1, 1))
    answer = forecast(placed("ab"), placed("abc", "md5"), held)

    assert (answer.moved, answer.moves, answer.keys) == (1.0, [], None)
    assert all(node.keys is None for node in answer.nodes)
    assert sum(node.share for node in answer.nodes) == pytest.approx(1)


@settings(deadline=None, max_examples=20)
@given(
    st.sets(st.sampled_from("abcdef"), min_size=1),
    st.sets(st.sampled_from("abcdef"), min_size=1),
)
def test_the_share_that_moves_is_the_same_in_a_forecast_and_in_a_reload(
    before: set[str], after: set[str]
) -> None:
    """And it is the sum of the moves between the nodes."""
    old, new = placed("".join(sorted(before))), placed("".join(sorted(after)))
    answer = forecast(old, new)

    assert answer.moved == moved(old, new)
    assert answer.moved == pytest.approx(sum(move.share for move in answer.moves))
    # Keys move only to a node that is added, or from one that is removed.
    assert (answer.moved == 0) == (before == after)
    for move in answer.moves:
        assert move.target not in before or move.source not in after
