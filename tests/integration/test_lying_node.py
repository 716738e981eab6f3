"""A lookup node that gives wrong answers of any kind costs reads of MySQL, and nothing else.

The liar is the only node; MySQL is real. Every load and change gets the right answer, and the
process's memory does not grow.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import resource
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from hiredis import ProtocolError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from config.load import parse
from failover.redis.connections import ELEMENTS, REPLY_BYTES
from failover.redis.nodes import Node
from sharding.backend import Backend
from sharding.state import Key
from stack.redis import RedisServer
from tests.conftest import StackConfig
from tests.support.backends import opened
from tests.support.liar import Liar
from tests.support.states import bump, count

pytestmark = pytest.mark.stack

# --- the node's answers

DAYS = st.sampled_from(
    [b"20260301", b"19700101", b"99991231", b"20269999", b"00000000", b"2026030"]
)
SCALARS = st.one_of(
    st.builds(lambda text: b"+" + text + b"\r\n", st.binary(max_size=20)),
    st.builds(lambda n: b":%d\r\n" % n, st.integers(-(2**70), 2**70)),
    st.builds(lambda day: b"$8\r\n" + day + b"\r\n", DAYS),
    st.builds(lambda b: b"$%d\r\n%s\r\n" % (len(b), b), st.binary(max_size=64)),
    st.sampled_from(
        [b"$-1\r\n", b"*-1\r\n", b"_\r\n", b"#t\r\n", b",3.14\r\n", b",nan\r\n", b"(9\r\n"]
    ),
)
ERRORS = st.sampled_from(
    [
        b"-ERR unknown\r\n",
        b"-\r\n",
        b"-MOVED 3999 127.0.0.1:1\r\n",
        b"-MOVED x y z\r\n",
        b"-MOVED\r\n",
        b"-ASK 3999 127.0.0.1:1\r\n",
        b"-CLUSTERDOWN The cluster is down\r\n",
        b"-LOADING wait\r\n",
        b"-WRONGTYPE Operation\r\n",
        b"-NOAUTH Authentication required.\r\n",
        b"-EXECABORT\r\n",
        b"-OOM command not allowed\r\n",
        b"-READONLY\r\n",
        b"-ERR \xff\xfe\x00\r\n",
    ]
)
NESTED = st.recursive(
    SCALARS | ERRORS,
    lambda inner: st.builds(
        lambda kind, parts: kind + b"%d\r\n" % len(parts) + b"".join(parts),
        st.sampled_from([b"*", b"~", b">", b"%"]),
        st.lists(inner, max_size=4),
    ),
    max_leaves=12,
)
HALVES = st.builds(lambda reply, cut: reply[: cut % (len(reply) + 1)], NESTED, st.integers(0, 200))
HEADERS = st.builds(
    lambda kind, n: kind + b"%d\r\n" % n,
    st.sampled_from([b"*", b"$", b"%", b"~", b">", b"|"]),
    st.sampled_from([-2, 0, 1, 65_537, 2**31 - 1, 2**31, 2**32, 2**62, 2**63, 10**30]),
)
ANYTHING = st.one_of(
    NESTED,
    HALVES,
    HEADERS,
    st.builds(b"".join, st.lists(NESTED | HEADERS, max_size=5)),  # too many, in any order
    st.binary(max_size=80),
    st.none(),
)


def endless(piece: bytes) -> Iterator[bytes]:
    return itertools.repeat(piece)


STREAMS = {
    "a bulk string without an end": itertools.chain([b"$536870912\r\n"], endless(b"x" * 65_536)),
    "arrays in arrays without an end": endless(b"*1\r\n" * 10_000),
    "wide arrays in arrays": endless(b"*65000\r\n" * 100),
    "pushes without an end": endless(b">2\r\n$3\r\nfoo\r\n$3\r\nbar\r\n" * 1000),
    "one line without an end": endless(b"+" + b"x" * 65_536),
    "errors without an end": endless(b"-ERR no\r\n" * 1000),
    "days without an end": endless(b"$8\r\n20260301\r\n" * 1000),
    "nothing, byte by byte": endless(b""),
}


def megabytes() -> float:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# --- the gateway that asks it


@pytest.fixture
async def liar() -> AsyncIterator[Liar]:
    async with Liar() as one:
        yield one


@pytest.fixture
async def backend(stack_config: StackConfig, liar: Liar) -> AsyncIterator[Backend]:
    document = stack_config(
        lookup={
            "servers": [f"127.0.0.1:{liar.port}:1 liar"],
            # It is never ejected, so each request asks it.
            "auto_eject_hosts": False,
            "timeout": 150,
            "hint_deadline": 50,
            "capacity_every": 0,
        },
        sessions={"enabled": False},
    )
    async with opened(document) as one:
        yield one


_users = itertools.count(1)


async def get_right_answers(backend: Backend) -> None:
    """Change and load some states, concurrently so that there are batches; check the answers."""
    keys = [Key(next(_users), 1) for _ in range(4)]
    async with asyncio.timeout(20):
        for wanted in (1, 2):
            outcomes = await asyncio.gather(*(backend.store.change(key, bump) for key in keys))
            assert [outcome.answer for outcome in outcomes] == [wanted] * 4
            assert (
                await asyncio.gather(*(count(backend.store, key) for key in keys)) == [wanted] * 4
            )
        await backend.lookups.drain()


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(ANYTHING, min_size=1, max_size=6))
async def test_requests_are_answered_from_mysql_whatever_a_node_says(
    backend: Backend, liar: Liar, said: list[bytes | None]
) -> None:
    turns = itertools.cycle(said)
    liar.script = lambda _: next(turns)
    await get_right_answers(backend)


@pytest.mark.parametrize("what", STREAMS)
async def test_an_endless_answer_costs_no_memory_and_no_answer(
    backend: Backend, liar: Liar, what: str
) -> None:
    liar.script = lambda _: STREAMS[what]
    await get_right_answers(backend)
    before = megabytes()
    for _ in range(3):
        await get_right_answers(backend)
    assert megabytes() - before < 64


@pytest.mark.parametrize("day", [b"19700101", b"99991231", b"20260301"])
async def test_a_wrong_day_as_a_hint_changes_no_answer(
    backend: Backend, liar: Liar, day: bytes
) -> None:
    liar.script = lambda words: b"$8\r\n" + day + b"\r\n" if words[0] == b"HGET" else b":1\r\n"
    await get_right_answers(backend)


def node_at(server: str, **lookup: Any) -> Node:
    mysql = {"hosts": ["127.0.0.1:1"], "user": "nobody"}
    config = parse({"lookup": {"servers": [server], **lookup}, "mysql": mysql}).lookup
    return Node(config.servers[0], config)


async def test_a_superfluous_answer_is_not_taken_for_the_next_one(liar: Liar) -> None:
    node = node_at(f"127.0.0.1:{liar.port}:1 liar", auto_eject_hosts=False)
    liar.script = lambda words: b"$1\r\n" + words[1] + b"\r\n$3\r\nold\r\n"
    try:
        for key in (b"a", b"b", b"c"):
            assert await node.run([("GET", key)]) == [key]
            await asyncio.sleep(0.01)
    finally:
        node.close()


@pytest.mark.parametrize(
    "reply",
    [
        b"*%d\r\n" % (ELEMENTS + 1),
        b"*2\r\n*40000\r\n" + b":1\r\n" * 10 + b"*40000\r\n",
        b"$%d\r\n" % REPLY_BYTES + b"x" * REPLY_BYTES + b"\r\n",
        b">2\r\n+a\r\n+b\r\n",
        b"%1\r\n+a\r\n+b\r\n",
        b"#t\r\n",
    ],
)
@pytest.mark.parametrize("pieces", [1, 7])
async def test_an_answer_that_is_too_large_or_no_resp2_is_a_failure_of_the_node(
    liar: Liar, reply: bytes, pieces: int
) -> None:
    node = node_at(f"127.0.0.1:{liar.port}:1 liar", timeout=3000)
    size = -(-len(reply) // pieces)
    parts = [reply[n : n + size] for n in range(0, len(reply), size)]
    liar.script = lambda _: iter(parts)
    try:
        assert await node.run([("GET", b"a")]) is None
        assert "Protocol" in node.health.reason
    finally:
        node.close()


async def test_the_longest_correct_answers_are_read(
    lookup_servers: list[RedisServer],
) -> None:
    """A listener has 500 playlists, and another application's key looks like a header."""
    node = node_at(lookup_servers[0].server, timeout=3000)
    try:
        fields = [word for n in range(500) for word in (2**62 + n, b"20260301")]
        assert await node.run([("HSET", b"u:1", *fields)], writes=True), node.health.reason
        replies = await node.run([("HSCAN", b"u:1", 0, "COUNT", 512)] * 128)
        assert replies is not None, node.health.reason
        assert sum(len(reply[1]) for reply in replies) >= 500
        assert await node.run([("SET", b"x", b"y\r\n*999999\r\n"[:4])], writes=True), (
            node.health.reason
        )
        # An answer with such a key may not be parsed: that must not count as a failure of the node.
        assert await node.run([("SET", b"*999999", b"1")], writes=True), node.health.reason
        for _ in range(16):
            with contextlib.suppress(ProtocolError):
                await node.ask_uncounted([("RANDOMKEY",)])
        assert await node.run([("GET", b"x")]) == [b"y\r\n*"]
        assert node.health.live
        assert not node.health.failures
    finally:
        node.close()
