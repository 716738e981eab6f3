"""The fault injector's faults on real sockets and with a real lookup node."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from drills.toxiproxy import Injector, InjectorFailed, Link
from stack.redis import RedisServer
from tests.support.wire import Upstream, closed, read_exactly, silent, took

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def injector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Injector]:
    with Injector.find_or_start(tmp_path_factory.mktemp("injector") / "log") as found:
        yield found


@pytest.fixture
def link(injector: Injector, upstream: Upstream) -> Iterator[Link]:
    made = injector.link("wire", upstream.address)
    yield made
    with contextlib.suppress(InjectorFailed):
        made.destroy()


def test_data_passes_in_both_directions_and_each_is_closed_by_itself(
    upstream: Upstream, link: Link
) -> None:
    client, server = upstream.connect(link)
    client.sendall(b"ping")
    assert read_exactly(server, 4) == b"ping"
    client.shutdown(socket.SHUT_WR)
    assert server.recv(1) == b""
    server.sendall(b"late answer")
    assert read_exactly(client, 11) == b"late answer"
    server.close()
    assert client.recv(1) == b""


@pytest.mark.parametrize(
    "toxics", [{}, {"latency": {"latency": 20}, "slicer": {"average_size": 9}}]
)
def test_a_large_amount_of_data_arrives_unchanged(
    upstream: Upstream, link: Link, toxics: dict[str, dict[str, int]]
) -> None:
    for kind, attributes in toxics.items():
        link.add(kind, stream="upstream", **attributes)
    client, server = upstream.connect(link)
    sent = bytes(range(251)) * (100 if toxics else 40_000)
    sender = threading.Thread(target=client.sendall, args=(sent,))
    sender.start()
    assert read_exactly(server, len(sent)) == sent
    sender.join()


def test_with_a_dead_upstream_a_connect_succeeds_and_then_the_connection_ends(
    upstream: Upstream, link: Link
) -> None:
    upstream.listener.close()
    client = upstream.knock(link)
    client.sendall(b"anybody?")
    assert client.recv(1) == b""


def test_a_disabled_proxy_refuses_and_closes_connections_and_keeps_its_toxics(
    upstream: Upstream, link: Link
) -> None:
    client, server = upstream.connect(link)
    link.add("latency", latency=1)
    with link.down():
        assert not link.enabled
        assert closed(client)
        assert closed(server)
        with pytest.raises(ConnectionRefusedError):
            upstream.knock(link)
    assert list(link.toxics) == ["latency_downstream"]
    client, server = upstream.connect(link)
    server.sendall(b"x")
    assert read_exactly(client, 1) == b"x"


def test_a_destroyed_proxy_closes_its_connections(upstream: Upstream, link: Link) -> None:
    client, server = upstream.connect(link)
    link.destroy()
    assert closed(client)
    assert closed(server)


def test_a_sender_waits_while_the_receiver_does_not_read(upstream: Upstream, link: Link) -> None:
    """The injector does not collect the data: only the sockets' buffers are filled."""
    link.add("latency", stream="upstream", latency=1)
    client, _server = upstream.connect(link)
    client.settimeout(0.5)
    sent = 0
    with contextlib.suppress(TimeoutError):
        while sent < 256_000_000:
            sent += client.send(b"x" * 65536)
    assert sent < 64_000_000


# --- toxics ---


def test_latency_delays_only_its_stream_at_once_on_an_open_connection(
    upstream: Upstream, link: Link
) -> None:
    client, server = upstream.connect(link)
    link.add("latency", latency=600)
    client.sendall(b"a")
    assert took(lambda: read_exactly(server, 1)) < 0.5
    server.sendall(b"b")
    assert 0.58 <= took(lambda: read_exactly(client, 1)) < 2


def test_data_delayed_by_latency_arrives_when_it_is_removed(upstream: Upstream, link: Link) -> None:
    client, server = upstream.connect(link)
    with link.toxic("latency", latency=60_000):
        server.sendall(b"held")
        assert silent(client)
    assert read_exactly(client, 4) == b"held"
    server.sendall(b"x")
    assert took(lambda: read_exactly(client, 1)) < 5


def test_a_timeout_of_zero_stops_data_and_its_removal_closes(
    upstream: Upstream, link: Link
) -> None:
    client, server = upstream.connect(link)
    with link.toxic("timeout", timeout=0):
        client.sendall(b"still heard")
        assert read_exactly(server, 11) == b"still heard"
        server.sendall(b"lost")
        assert silent(client)
    assert closed(client)
    assert closed(server)


def test_reset_peer_sends_a_tcp_reset_to_both(upstream: Upstream, link: Link) -> None:
    client, server = upstream.connect(link)
    link.add("reset_peer", timeout=0)
    for sock in (client, server):
        with pytest.raises(ConnectionResetError):
            sock.recv(1)


def test_toxicity_affects_the_same_connections_until_they_end(
    upstream: Upstream, link: Link
) -> None:
    pairs = [upstream.connect(link) for _ in range(40)]
    link.add("timeout", toxicity=0.5)
    for said in (b"a", b"b"):
        for _, server in pairs:
            server.sendall(said)
        deadline = time.monotonic() + 0.5
        heard = []
        for client, _ in pairs:
            client.settimeout(max(0.001, deadline - time.monotonic()))
            with contextlib.suppress(TimeoutError):
                heard.append((client, client.recv(1)))
        assert 5 < len(heard) < 35
        assert {word for _, word in heard} == {said}
        if said == b"a":
            first = [client for client, _ in heard]
    assert [client for client, _ in heard] == first


def test_the_delays_of_several_toxics_are_added(upstream: Upstream, link: Link) -> None:
    link.add("latency", latency=150, name="near")
    link.add("latency", latency=150, name="far")
    client, server = upstream.connect(link)
    server.sendall(b"x")
    assert 0.28 <= took(lambda: read_exactly(client, 1)) < 2


# --- a lookup node behind it ---


@pytest.fixture
def node(injector: Injector, lookup_servers: list[RedisServer]) -> Iterator[Link]:
    made = injector.link("node", lookup_servers[0].address)
    yield made
    made.destroy()


def through(link: Link) -> redis.Redis:
    return redis.Redis(port=link.port, socket_timeout=1, retry=Retry(NoBackoff(), 0))


def test_redis_works_through_the_injector_and_meets_its_faults(
    node: Link, lookup_servers: list[RedisServer]
) -> None:
    with through(node) as client:
        pipeline = client.pipeline(transaction=False)
        for n in range(500):
            pipeline.set(f"key{n}", str(n) * 100)
        assert len(pipeline.execute()) == 500
        assert client.get("key7") == b"7" * 100
        with node.toxic("latency", latency=2000), pytest.raises(redis.TimeoutError):
            client.get("key7")
        assert client.get("key7") == b"7" * 100
        with node.toxic("reset_peer"), pytest.raises(redis.ConnectionError):
            client.get("key7")
        with node.down(), pytest.raises(redis.ConnectionError, match="refused"):
            client.get("key7")
        assert client.get("key7") == b"7" * 100


def test_a_frozen_node_behind_the_injector_accepts_and_does_not_answer(
    node: Link, lookup_servers: list[RedisServer]
) -> None:
    with through(node) as client:
        client.ping()
        lookup_servers[0].freeze()
        with pytest.raises(redis.TimeoutError):
            client.ping()
        lookup_servers[0].thaw()
        assert client.ping()


def test_a_restarted_node_is_reached_through_the_same_proxy(
    node: Link, lookup_servers: list[RedisServer]
) -> None:
    with through(node) as client:
        client.ping()
        lookup_servers[0].kill()
        with pytest.raises(redis.ConnectionError):
            client.ping()
        lookup_servers[0].start()
        assert client.ping()
