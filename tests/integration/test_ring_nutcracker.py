"""The ring is compared with a real twemproxy: Debian's nutcracker in front of real Redis nodes.

twemproxy is asked for each key, through a script that answers with the name of the node that ran
it. Every key must have the same node.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from config.model import Lookup
from sharding.ring.hashes import HASHES, crc32a
from sharding.ring.ring import Ring
from stack.process import free_port
from stack.redis import RedisServer
from tests.support.nutcracker import Nutcracker, mark

pytestmark = pytest.mark.stack

Nodes = list[RedisServer]
Pool = dict[str, Any]

ALL = [(hash_, distribution) for hash_ in HASHES for distribution in ("ketama", "modula")]
UNEQUAL = (3, 1, 10, 2, 100, 7, 1, 60, 5, 2, 1, 30)
# Weights for which single precision gives fewer points than integers.
ROUNDED_DOWN = [
    (2, 60, 3, 5, 5),
    (10, 60, 5, 100, 7, 10),
    (100, 7, 1, 10, 100, 2, 60, 5, 3),
    (1, 1, 3, 3, 5, 10, 5, 5, 7, 60),
    (100, 60, 1, 2, 3, 2, 7, 100, 3, 5, 1, 100),
]


@pytest.fixture(scope="module")
def _module_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    folder = tmp_path_factory.mktemp("ring")
    # Without snapshots.
    nodes = [
        RedisServer(f"node{n}", folder / f"node{n}", options=("--save", "")) for n in range(12)
    ]
    yield nodes
    for node in nodes:
        node.kill()


@pytest.fixture
def nodes(_module_nodes: Nodes) -> Nodes:
    """Twelve running nodes."""
    return running(_module_nodes)


def running(nodes: Nodes) -> Nodes:
    """The nodes, after those that were killed are started again at other ports."""
    for node in nodes:
        if not node.running:
            node.port = free_port()  # another process may use its old port
            node.start()
            mark(node)
    return nodes


def pool(servers: Sequence[str], **words: Any) -> Pool:
    return {
        "hash": "fnv1a_64",
        "distribution": "ketama",
        "timeout": 5000,
        "auto_eject_hosts": True,
        "server_failure_limit": 1,
        "server_retry_timeout": 3_600_000,
        "servers": list(servers),
        **words,
    }


def servers_of(nodes: Nodes, weights: Sequence[int], *, named: bool = True) -> list[str]:
    """Servers for the first nodes, with names in another order, or without names."""
    return [
        f"{node.address}:{weight}" + (f" tape{number * 7 % 12}" if named else "")
        for number, (node, weight) in enumerate(zip(nodes, weights, strict=False))
    ]


def ring_of(pool: Pool) -> Ring:
    config = Lookup.model_validate(pool)
    return Ring(
        config.servers,
        hash=config.hash,
        hash_tag=config.hash_tag,
        distribution=config.distribution,
    )


def own_places(
    ring: Ring, nodes: Nodes, keys: Sequence[bytes], out: frozenset[str] = frozenset()
) -> list[str | None]:
    """The ring's node for each key, by name; None if no node is left."""
    by_address = {node.address: node.name for node in nodes}
    routed = (ring.route(key, out) for key in keys)
    return [None if server is None else by_address.get(str(server)) for server in routed]


def some_keys(count: int, seed: str) -> list[bytes]:
    """Different keys: of this service, of others, with any bytes, and up to 250 bytes long.

    Some of each kind have a hash tag.
    """
    rnd = random.Random(seed)
    kinds = (
        lambda: b"u:%d" % rnd.randrange(1, 2**62),
        lambda: b"uid:%d:pid:%d" % (rnd.randrange(1, 10**8), rnd.randrange(1, 10**8)),
        lambda: rnd.randbytes(rnd.randint(1, 40)),
        lambda: rnd.randbytes(rnd.randint(100, 240)),
        lambda: b"uid:{%d}:%d" % (rnd.randrange(1, 10**8), rnd.randrange(1, 10**8)),
        lambda: b"%b{%b}%b" % tuple(rnd.randbytes(rnd.randint(0, 9)) for _ in range(3)),
    )
    keys: dict[bytes, None] = {}
    while len(keys) < count:
        keys[kinds[len(keys) % len(kinds)]()] = None
    return list(keys)


def assert_same(found: list[str | None], expected: list[str | None], keys: Sequence[bytes]) -> None:
    wrong = [
        (key, there, here)
        for key, there, here in zip(keys, found, expected, strict=True)
        if there != here
    ]
    assert not wrong, (
        f"{len(wrong)} of {len(keys)} keys differ (key, nutcracker's node, ours): {wrong[:3]}"
    )


def check(
    nodes: Nodes, folder: Path, pools: dict[str, Pool], keys: Sequence[bytes], *, lose: int = 0
) -> None:
    """Require that pools and rings agree, first and after each of the first nodes is lost."""
    nutcracker = Nutcracker(folder / "nutcracker", pools)
    nutcracker.start()
    try:
        rings = {name: ring_of(pool) for name, pool in pools.items()}
        out: dict[str, frozenset[str]] = dict.fromkeys(pools, frozenset())
        for lost in range(lose + 1):
            for node in nodes[:lost]:
                node.kill()
            dead = {node.address for node in nodes[:lost]}
            for name, ring in rings.items():
                out[name] = _eject(nutcracker, name, ring, out[name], dead, keys)
                expected = own_places(ring, nodes, keys, out[name])
                assert_same(nutcracker.places(name, keys), expected, keys)
    finally:
        nutcracker.kill()


def _eject(
    nutcracker: Nutcracker,
    name: str,
    ring: Ring,
    out: frozenset[str],
    dead: set[str],
    keys: Sequence[bytes],
) -> frozenset[str]:
    """Let twemproxy eject the dead nodes (addresses); the ejected nodes (names).

    twemproxy ejects a node only after a key was sent to it, so keys are sent until none of their
    nodes is dead.
    """
    gone = {server.name for server in ring.servers if str(server) in dead}
    while True:
        routed = ((key, ring.route(key, out)) for key in keys)
        hit = next(((k, s.name) for k, s in routed if s is not None and s.name in gone), None)
        if hit is None:
            return out
        key, node = hit
        out |= {node}
        nutcracker.eject(name, key, all_dead=len(gone) == len(ring.servers))


@pytest.mark.parametrize(("hash_", "distribution"), ALL)
def test_keys_have_the_same_nodes_as_in_twemproxy_also_after_an_ejection(
    nodes: Nodes, tmp_path: Path, hash_: str, distribution: str
) -> None:
    sizes = {"3": [1] * 3, "5": UNEQUAL[:5], "12": UNEQUAL}
    pools = {
        name: pool(servers_of(nodes, weights), hash=hash_, distribution=distribution)
        for name, weights in sizes.items()
    }
    pools["unnamed"] = pool(
        servers_of(nodes, UNEQUAL[:4], named=False),
        hash=hash_,
        distribution=distribution,
        hash_tag="{}",
    )
    check(nodes, tmp_path, pools, [*some_keys(1200, hash_), b""], lose=1)


@pytest.mark.long
@pytest.mark.parametrize(("hash_", "distribution"), ALL)
def test_ten_thousand_keys_have_the_same_nodes_as_in_twemproxy_on_1_to_12_nodes(
    nodes: Nodes, tmp_path: Path, hash_: str, distribution: str
) -> None:
    kinds: dict[str, tuple[Sequence[int], bool, str]] = {
        "even": ((1,) * 12, True, ""),
        "uneven": (UNEQUAL, True, "{}"),
        "bare": ((1,) * 12, False, "{}"),
        "mixed": (UNEQUAL, False, ""),
    }
    keys = some_keys(10_000, f"long {hash_}")
    for kind, (weights, named, tag) in kinds.items():
        running(nodes)
        pools = {
            f"{kind}{size}": pool(
                servers_of(nodes, weights[:size], named=named),
                hash=hash_,
                distribution=distribution,
                **({"hash_tag": tag} if tag else {}),
            )
            for size in range(1, 13)
        }
        check(nodes, tmp_path / kind, pools, keys, lose=1)


@pytest.mark.parametrize("distribution", ["ketama", "modula"])
def test_hash_tags_are_found_as_in_twemproxy(
    nodes: Nodes, tmp_path: Path, distribution: str
) -> None:
    servers = servers_of(nodes, UNEQUAL)
    pools = {
        name: pool(servers, hash_tag=tag, distribution=distribution)
        for name, tag in {"braces": "{}", "dollars": "$$", "back": "}{"}.items()
    }
    rnd = random.Random(5)
    keys = [b"", b"{}", b"a{}", b"{}{b}", b"}{", b"{", b"}", b"x{a", b"a}b{c}d}", b"{{a}}", b"$$"]
    keys += [b"$a$", b"a$b", b"uid:{7}:a", b"uid:{7}:b", b"uid:$7$:a"]
    keys += [bytes(rnd.choices(b"{}$ab\xe9", k=rnd.randint(1, 12))) for _ in range(3000)]
    check(nodes, tmp_path, pools, keys)


def test_nodes_without_a_name_have_the_same_names_as_in_twemproxy(
    nodes: Nodes, tmp_path: Path
) -> None:
    # Nothing listens at the last two: their keys get an error.
    unnamed = [f"{node.address}:1" for node in nodes[:3]]
    unnamed += ["127.11.21.1:11211:1", "127.11.21.1:11212:2"]
    pools = {"unnamed": pool(unnamed, auto_eject_hosts=False)}
    ring = ring_of(pools["unnamed"])
    assert [server.name for server in ring.servers[3:]] == ["127.11.21.1", "127.11.21.1:11212"]
    check(nodes, tmp_path, pools, some_keys(3000, "unnamed"))


def test_long_and_non_ascii_names_give_the_same_points_as_in_twemproxy(
    nodes: Nodes, tmp_path: Path
) -> None:
    long = [f"{node.address}:1 {node.name.rjust(264, 'x')}" for node in nodes]
    accents = [f"{node.address}:{n} bänd-{n}-é" for n, node in enumerate(nodes, 1)]
    pools = {"long": pool(long), "accents": pool(accents)}
    check(nodes, tmp_path, pools, some_keys(3000, "names"), lose=1)


def test_modula_orders_nodes_by_length_and_name_as_twemproxy_does(
    nodes: Nodes, tmp_path: Path
) -> None:
    names = ["zebra", "b", "é", "B", "a10", "a9", "a100", "ab", "z", "10", "9", "aa"]
    servers = [
        f"{node.address}:{weight} {name}"
        for node, weight, name in zip(nodes, UNEQUAL, names, strict=True)
    ]
    unnamed = [f"{node.address}:{weight}" for node, weight in zip(nodes, UNEQUAL, strict=True)]
    pools = {
        "named": pool(servers, distribution="modula"),
        "unnamed": pool(unnamed, distribution="modula"),
    }
    check(nodes, tmp_path, pools, some_keys(3000, "order"), lose=1)


def test_points_are_computed_in_single_precision_as_in_twemproxy(
    nodes: Nodes, tmp_path: Path
) -> None:
    pools = {
        f"rounded{n}": pool(servers_of(nodes, weights))
        for n, weights in enumerate([*ROUNDED_DOWN, (1000, 1), (1, 1000)])
    }
    # 25 nodes with equal weights have 39 groups of points each, not 40.
    pools["twentyfive"] = pool([f"{nodes[n % 12].address}:1 tape{n}" for n in range(25)])
    check(nodes, tmp_path, pools, some_keys(3000, "rounded"), lose=1)


def test_a_key_on_a_point_and_a_point_of_two_nodes_have_the_same_node_as_in_twemproxy(
    nodes: Nodes, tmp_path: Path
) -> None:
    exact = [f"{node.address}:1 lookup{n}" for n, node in enumerate(nodes, 1)]
    keys = [b"uid:1303041", b"uid:1698141", b"uid:5719265", b"uid:11984459"]
    pools = {"exact": pool(exact, hash="crc32a")}
    check(nodes, tmp_path / "exact", pools, keys)

    # Pairs of names that have a point in common, and that point.
    for one, other, point in [
        ("tape49", "tape344", 0xC32948F5),
        ("tape549", "tape428", 0x7B80C1DC),
    ]:
        first, second = f"{nodes[0].address}:1 {one}", f"{nodes[1].address}:1 {other}"
        pools = {
            "pair": pool([first, second], hash="crc32a"),
            "swapped": pool([second, first], hash="crc32a"),
        }
        candidates = (b"uid:%d" % n for n in range(100_000))
        keys = [key for key in candidates if 0 <= point - crc32a(key) < 500_000]
        assert keys
        check(nodes, tmp_path / one, pools, keys)


def test_keys_written_through_twemproxy_are_on_the_nodes_of_the_ring(
    nodes: Nodes, tmp_path: Path
) -> None:
    name, words = "written", pool(servers_of(nodes, UNEQUAL))
    nutcracker = Nutcracker(tmp_path / "nutcracker", {name: words})
    nutcracker.start()
    try:
        keys = some_keys(2000, "written")
        nutcracker.write(name, keys)
    finally:
        nutcracker.kill()
    expected = own_places(ring_of(words), nodes, keys)
    for node in nodes:
        with node.client() as client:
            held = {key for key in client.scan_iter(count=1000) if key != b"@node"}
        mine = {key for key, place in zip(keys, expected, strict=True) if place == node.name}
        assert held == mine, f"{node.name} holds other keys than the ring says"


def test_with_all_nodes_ejected_a_key_has_no_node_and_twemproxy_answers_with_errors(
    nodes: Nodes, tmp_path: Path
) -> None:
    pools = {
        distribution: pool(servers_of(nodes, [1, 2]), distribution=distribution)
        for distribution in ("ketama", "modula")
    }
    check(nodes, tmp_path, pools, some_keys(200, "none left"), lose=2)
