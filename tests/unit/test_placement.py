"""How many keys a changed ring moves, and how the changes are described."""

from __future__ import annotations

import pytest

from config.load import parse
from config.model import Lookup
from sharding.ring.placement import alike, differences, moved


def placement(*servers: str, **words: str) -> Lookup:
    document = {"lookup": {"servers": list(servers), **words}, "mysql": MYSQL}
    return parse(document).lookup


MYSQL = {"hosts": ["127.0.0.1:1"], "user": "nobody"}
A = "127.0.0.1:7001:1 a"
B = "127.0.0.1:7002:1 b"
C = "127.0.0.1:7003:1 c"
D = "127.0.0.1:7004:1 d"


@pytest.mark.parametrize(("nodes", "share"), [([A], 1 / 2), ([A, B], 1 / 3), ([A, B, C], 1 / 4)])
def test_an_added_node_moves_about_its_share_of_the_keys(nodes: list[str], share: float) -> None:
    assert moved(placement(*nodes), placement(*nodes, D)) == pytest.approx(share, abs=0.08)


def test_an_added_node_moves_most_keys_with_modula() -> None:
    before = placement(A, B, C, distribution="modula")
    assert moved(before, placement(A, B, C, D, distribution="modula")) > 0.6


def test_a_removed_node_moves_its_keys_and_no_others() -> None:
    assert moved(placement(A, B, C), placement(A, B)) == pytest.approx(1 / 3, abs=0.08)


def test_a_new_name_or_address_of_a_node_moves_keys_and_another_order_moves_none() -> None:
    assert moved(placement(A, B), placement("127.0.0.1:7009:1 a", B)) > 0.3
    assert moved(placement(A, B), placement("127.0.0.1:7001:1 other", B)) > 0.1
    assert moved(placement(A, B), placement(B, A)) == 0
    assert alike(placement(A, B), placement(B, A))
    assert not alike(placement(A, B), placement(A, B, layout="flat"))


def test_another_layout_moves_everything() -> None:
    assert moved(placement(A), placement(A, layout="flat")) == 1


def test_the_changes_of_a_ring_are_described_in_words() -> None:
    after = placement("127.0.0.1:7001:3 a", "127.0.0.1:7009:1 b", C, hash="md5")
    assert differences(placement(A, B, D), after) == [
        "c (127.0.0.1:7003) is added",
        "d (127.0.0.1:7004) is removed",
        "a weighs 3 instead of 1",
        "b moves from 127.0.0.1:7002 to 127.0.0.1:7009",
        "hash is 'md5', was 'fnv1a_64'",
    ]
