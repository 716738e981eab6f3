"""A Redis Cluster whose nodes give wrong answers about slots costs hints, and nothing else.

The liar is the only node that the configuration names.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY
from redis.crc import key_slot

from failover.redis.cluster import SLOTS, ClusterNodes
from sharding.backend import Backend
from sharding.lookups.hint_rules import HintKind
from sharding.state import Key
from stack.process import free_port
from tests.conftest import StackConfig
from tests.integration.test_lying_node import ANYTHING, STREAMS, get_right_answers, megabytes
from tests.support.backends import opened
from tests.support.liar import Liar, Script
from tests.support.waiting import until

pytestmark = pytest.mark.stack


@pytest.fixture(autouse=True)
def _no_such_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answer look-ups of names that cannot exist (RFC 6761) without asking a resolver."""
    ask = socket.getaddrinfo

    def answer(host: str, *args: Any, **kwargs: Any) -> Any:
        if host.endswith(".invalid"):
            raise socket.gaierror(socket.EAI_NONAME, f"{host} does not exist")
        return ask(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", answer)


def resp(value: Any) -> bytes:
    """A value in RESP2."""
    if isinstance(value, int):
        return b":%d\r\n" % value
    if isinstance(value, str):
        value = value.encode()
    if value is None:
        return b"$-1\r\n"
    if isinstance(value, bytes):
        return b"$%d\r\n%s\r\n" % (len(value), value)
    return b"*%d\r\n" % len(value) + b"".join(resp(part) for part in value)


def slots_of(*servers: tuple[Any, Any]) -> bytes:
    """An answer to CLUSTER SLOTS in which each server has the same number of slots."""
    bounds = [n * SLOTS // len(servers) for n in range(len(servers) + 1)]
    return resp(
        [
            [bounds[n], bounds[n + 1] - 1, [host, port, "0" * 40, []]]
            for n, (host, port) in enumerate(servers)
        ]
    )


def says(of_slots: Any, otherwise: bytes = b"$-1\r\n") -> Script:
    """A script that answers CLUSTER SLOTS with `of_slots`, and everything else with `otherwise`."""
    return lambda words: of_slots if words[0] == b"CLUSTER" else otherwise


@pytest.fixture
async def liar() -> AsyncIterator[Liar]:
    async with Liar(says(resp([]))) as one:
        yield one


@pytest.fixture
async def backend(stack_config: StackConfig, liar: Liar) -> AsyncIterator[Backend]:
    document = stack_config(sessions={"enabled": False})
    document["lookup"] = {
        "mode": "cluster",
        "servers": [f"127.0.0.1:{liar.port}"],
        "timeout": 150,
        "hint_deadline": 50,
        "server_retry_timeout": 200,
        "capacity_every": 0,
    }
    async with opened(document) as one:
        yield one


def nodes_of(backend: Backend) -> ClusterNodes:
    assert isinstance(backend.nodes, ClusterNodes)
    return backend.nodes


def reasons(backend: Backend) -> str:
    return "; ".join(backend.readiness().reasons)


@pytest.mark.parametrize("what", STREAMS)
async def test_an_endless_map_of_slots_costs_no_memory_and_no_answer_and_is_reported(
    backend: Backend, liar: Liar, what: str
) -> None:
    liar.script = says(STREAMS[what])
    await nodes_of(backend).refresh()
    await get_right_answers(backend)
    before = megabytes()
    for _ in range(3):
        await nodes_of(backend).refresh()
        await get_right_answers(backend)
    assert megabytes() - before < 64
    assert "the Redis Cluster gives no hints: " in reasons(backend)
    assert backend.readiness().status == "degraded"


@pytest.mark.parametrize(
    "said",
    [
        resp([]),
        resp([[0, 2**62, ["a", 1]]]),
        resp([[0, 1]]),
        resp([[0, 1, ["a", 70000]]]),
        resp([[0, 9, ["a", 1]], [9, 9, ["b", 1]]]),
        resp([[0, SLOTS - 1, ["a", 1]]] * 2),
        resp([[n, n, ["127.0.0.1", n + 1]] for n in range(1001)]),
        b"+OK\r\n",
        b"-ERR no\r\n",
        b"-MOVED x\r\n",
        b"%1\r\n+a\r\n*0\r\n",
        None,
    ],
    ids=lambda value: str(value)[:30],
)
async def test_a_malformed_map_of_slots_degrades_readyz_and_every_request_is_answered(
    backend: Backend, liar: Liar, said: Any
) -> None:
    liar.script = says(said)
    await nodes_of(backend).refresh()
    assert backend.readiness().status == "degraded"
    await get_right_answers(backend)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    st.lists(ANYTHING, min_size=1, max_size=4),
    st.sampled_from(["127.0.0.1", "127.0.0.2", "", None, "?", "nowhere.invalid"]),
    st.booleans(),
)
async def test_requests_are_answered_from_mysql_whatever_a_cluster_node_says(
    backend: Backend, liar: Liar, said: list[bytes | None], host: str | None, honest: bool
) -> None:
    turns = itertools.cycle(said)
    honestly = slots_of((host, liar.port))
    liar.script = lambda words: honestly if honest and words[0] == b"CLUSTER" else next(turns)
    await nodes_of(backend).refresh()
    await get_right_answers(backend)


async def test_a_map_that_names_missing_hosts_costs_no_answer_and_is_reported(
    backend: Backend, liar: Liar
) -> None:
    gone = [("nowhere.invalid", 7000), ("127.0.0.1", free_port()), ("127.0.0.1", 1)]
    liar.script = says(slots_of(*gone))
    await nodes_of(backend).refresh()
    for _ in range(3):
        await get_right_answers(backend)
    # Each is ejected after enough requests for keys in its slots.
    await until(lambda: not any(node.health.live for node in nodes_of(backend)))
    for host, port in gone:
        assert f"lookup node {host}:{port} is out of the ring" in reasons(backend)
    started = time.monotonic()
    for user in range(1000, 1050):
        assert (await backend.lookups.ask(Key(user, 1))).found is HintKind.NO_ANSWER
    assert time.monotonic() - started < 0.5


async def test_nodes_of_earlier_maps_are_forgotten(backend: Backend, liar: Liar) -> None:
    numbers = itertools.count()

    def script(words: list[bytes]) -> bytes:
        if words[0] != b"CLUSTER":
            return b"$-1\r\n"
        return slots_of(*((f"n{next(numbers)}.invalid", 7000) for _ in range(300)))

    liar.script = script
    nodes = nodes_of(backend)
    while next(numbers) < 1000:
        await nodes.refresh()
        await get_right_answers(backend)
    assert len(list(nodes)) <= 300
    named = {
        sample.labels["node"]
        for family in REGISTRY.collect()
        for sample in family.samples
        if sample.labels.get("node", "").endswith(".invalid:7000")
    }
    # (the background reads further maps meanwhile)
    assert len(named) <= 600
    assert len(asyncio.all_tasks()) < 1000


async def test_redirections_lead_to_few_servers_and_to_no_error(
    backend: Backend, liar: Liar
) -> None:
    numbers = itertools.count()
    honest = slots_of(("127.0.0.1", liar.port))

    def script(words: list[bytes]) -> bytes:
        if words[0] == b"CLUSTER":
            return honest
        if words[0] not in (b"HGET", b"GET", b"HSET"):
            return b"$-1\r\n"
        slot, number = key_slot(words[1]), next(numbers)
        return (
            b"-ASK %d n%d.invalid:7000\r\n" % (slot, number),
            b"-ASK %d 127.0.0.1:99999\r\n" % slot,
            b"-MOVED 99999 127.0.0.1:1\r\n",
            b"-MOVED -1 127.0.0.1:1\r\n",
            b"-MOVED %d :70000\r\n" % slot,
            b"-MOVED %d a\tb:1\r\n" % slot,
        )[number % 6]

    liar.script = script
    nodes = nodes_of(backend)
    await nodes.refresh()
    for _ in range(20):
        await get_right_answers(backend)
        await asyncio.gather(*(backend.lookups.ask(Key(next(numbers), 2)) for _ in range(64)))
        await nodes.refresh()
    assert next(numbers) > 1000
    assert len(list(nodes)) < 10


async def test_hints_are_used_when_the_cluster_s_answers_are_right_again(
    backend: Backend, liar: Liar
) -> None:
    liar.script = says(STREAMS["one line without an end"])
    await nodes_of(backend).refresh()
    await get_right_answers(backend)
    today = backend.days.today()
    liar.script = says(slots_of(("127.0.0.1", liar.port)), resp(f"{today:%Y%m%d}"))
    await until(lambda: backend.readiness().status == "ready")
    assert (await backend.lookups.ask(Key(1, 1))).day == today


async def test_a_cluster_that_one_primary_calls_down_is_one_fault_until_that_one_answers(
    backend: Backend, liar: Liar
) -> None:
    nodes = nodes_of(backend)
    async with Liar(says(resp([]))) as other:
        both = slots_of(("127.0.0.1", liar.port), ("127.0.0.1", other.port))
        liar.script, other.script = says(both), says(both, b"-CLUSTERDOWN The cluster is down\r\n")
        with structlog.testing.capture_logs() as lines:
            await nodes.refresh()
            for number in range(40):
                await backend.lookups.ask(Key(1 + number, 1))
            assert "CLUSTERDOWN" in reasons(backend)
        assert [line["event"] for line in lines].count("redis cluster failed") == 1
        other.script = says(both)
        await until(lambda: "CLUSTERDOWN" not in reasons(backend))
