"""The fault injector: its API through the client `toxiproxy-python`, its faults on real sockets.

With TOXIPROXY_URL set, or a `toxiproxy-server` on PATH, a real server can be held to the same;
what this project's own promises beyond it is in test_injector_process.py.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
import requests
from redis.backoff import NoBackoff
from redis.retry import Retry
from toxiproxy import Toxiproxy
from toxiproxy.api import APIConsumer
from toxiproxy.exceptions import InvalidToxic, NotFound, ProxyExists

from tapedeck.drills.toxiproxy import Injector, InjectorFailed, Link
from tapedeck.localstack.process import free_port
from tapedeck.localstack.redis import RedisServer

pytestmark = pytest.mark.stack


@pytest.fixture(scope="session")
def injector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Injector]:
    with Injector.find_or_start(tmp_path_factory.mktemp("injector") / "log") as found:
        yield found


@pytest.fixture
def client(injector: Injector) -> Iterator[Toxiproxy]:
    """The bare client, without what the wrapper mends."""
    before = APIConsumer.host, APIConsumer.port
    client = Toxiproxy()
    host, port = injector.address.split(":")
    client.update_api_consumer(host, int(port))
    yield client
    client.destroy_all()
    client.update_api_consumer(*before)


class Upstream:
    """A server whose every word the test says itself."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(5)
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.sockets = contextlib.ExitStack()

    def accept(self) -> socket.socket:
        accepted = self.sockets.enter_context(self.listener.accept()[0])
        accepted.settimeout(5)
        return accepted

    def connect(self, link: Link) -> tuple[socket.socket, socket.socket]:
        """A connection through the proxy: the client's socket and the server's."""
        return self.knock(link), self.accept()

    def knock(self, link: Link) -> socket.socket:
        return self.sockets.enter_context(socket.create_connection((link.host, link.port), 5))

    def close(self) -> None:
        self.sockets.close()
        self.listener.close()


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    server = Upstream()
    yield server
    server.close()


@pytest.fixture
def link(injector: Injector, upstream: Upstream) -> Iterator[Link]:
    made = injector.link("wire", upstream.address)
    yield made
    with contextlib.suppress(InjectorFailed):
        made.destroy()


def read_exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = sock.recv(size - len(data))
        assert piece, f"EOF after {len(data)} of {size} bytes"
        data += piece
    return data


def silent(sock: socket.socket, seconds: float = 0.2) -> bool:
    """Whether nothing is heard, and the connection stays open, for so long."""
    sock.settimeout(seconds)
    try:
        sock.recv(1)
    except TimeoutError:
        return True
    finally:
        sock.settimeout(5)
    return False


def closed(sock: socket.socket) -> bool:
    """Whether it is closed, now or soon, in whichever way."""
    try:
        return sock.recv(1) == b""
    except ConnectionError:
        return True


def took(act: Callable[[], object]) -> float:
    start = time.monotonic()
    act()
    return time.monotonic() - start


def post(injector: Injector, path: str, body: Any) -> requests.Response:
    data = {"data": body} if isinstance(body, str) else {"json": body}
    return requests.post(f"http://{injector.address}{path}", timeout=5, **data)


# --- the API ---


def test_the_client_finds_it_running_and_knows_its_version(client: Toxiproxy) -> None:
    assert client.running()
    assert client.version() == b"2.4.0"


def test_a_proxy_is_created_at_a_real_port_and_listed_with_its_toxics(
    client: Toxiproxy, injector: Injector
) -> None:
    created = client.create("127.0.0.1:9", "a")
    assert created.enabled
    assert int(created.listen.removeprefix("127.0.0.1:")) > 0
    created.add_toxic(type="latency", attributes={"latency": 5})
    listed = requests.get(f"http://{injector.address}/proxies", timeout=5)
    assert listed.json() == {
        "a": {
            "name": "a",
            "listen": created.listen,
            "upstream": "127.0.0.1:9",
            "enabled": True,
            "toxics": [
                {
                    "attributes": {"latency": 5, "jitter": 0},
                    "name": "latency_downstream",
                    "type": "latency",
                    "stream": "downstream",
                    "toxicity": 1,
                }
            ],
        }
    }


def test_creating_answers_201_and_the_proxy(injector: Injector, client: Toxiproxy) -> None:
    answer = post(injector, "/proxies", {"name": "a", "upstream": "127.0.0.1:9", "enabled": False})
    assert answer.status_code == 201
    assert answer.json()["enabled"] is False


@pytest.mark.parametrize("field", ["name", "upstream"])
def test_a_missing_field_is_a_400_that_names_it(injector: Injector, field: str) -> None:
    body = {"name": "a", "upstream": "127.0.0.1:9", "listen": "127.0.0.1:0"}
    del body[field]
    answer = post(injector, "/proxies", body)
    assert answer.status_code == 400
    assert answer.headers["Content-Type"].startswith("text/plain")
    assert answer.json() == {"error": f"missing required field: {field}", "status": 400}


@pytest.mark.parametrize("body", ["", "{", "[]", '{"name": 5}', '{"name": "a", "enabled": "no"}'])
def test_a_body_that_cannot_be_read_is_a_400(injector: Injector, body: str) -> None:
    answer = post(injector, "/proxies", body)
    assert answer.status_code == 400
    assert answer.json()["status"] == 400


def test_a_second_proxy_of_one_name_is_a_409(injector: Injector, client: Toxiproxy) -> None:
    client.create("127.0.0.1:9", "a")
    answer = post(injector, "/proxies", {"name": "a", "upstream": "127.0.0.1:9"})
    assert answer.status_code == 409
    with pytest.raises(ProxyExists):
        client.create("127.0.0.1:9", "a")


def test_a_busy_port_is_a_500_and_leaves_no_proxy(
    injector: Injector, client: Toxiproxy, upstream: Upstream
) -> None:
    body = {"name": "a", "upstream": "127.0.0.1:9", "listen": upstream.address}
    answer = post(injector, "/proxies", body)
    assert answer.status_code == 500
    assert upstream.address in answer.json()["error"]
    assert client.get_proxy("a") is None
    # The bare client's way of saying it:
    with pytest.raises(KeyError):
        client.create("127.0.0.1:9", "a", listen=upstream.address)


def test_enabling_at_a_port_that_was_taken_meanwhile_is_a_500_and_stays_disabled(
    injector: Injector, client: Toxiproxy
) -> None:
    proxy = client.create("127.0.0.1:9", "a")
    proxy.disable()
    with socket.create_server(("127.0.0.1", int(proxy.listen.rpartition(":")[2]))):
        answer = post(injector, "/proxies/a", {"enabled": True})
        assert answer.status_code == 500
        assert not client.get_proxy("a").enabled
    proxy.enable()
    assert client.get_proxy("a").enabled


def test_toxics_are_listed_upstream_first_and_found_by_name(client: Toxiproxy) -> None:
    proxy = client.create("127.0.0.1:9", "a")
    proxy.add_toxic(type="timeout", attributes={"timeout": 5})
    proxy.add_toxic(type="bandwidth", stream="upstream", name="slow", toxicity=0.5)
    assert list(proxy.toxics()) == ["slow", "timeout_downstream"]
    slow = proxy.get_toxic("slow")
    assert (slow.type, slow.stream, slow.toxicity) == ("bandwidth", "upstream", 0.5)
    assert slow.attributes == {"rate": 0}
    assert proxy.get_toxic("other") is None
    assert proxy.destroy_toxic("slow")
    assert list(proxy.toxics()) == ["timeout_downstream"]


@pytest.mark.parametrize(
    ("toxic", "error"),
    [
        ({"type": "plague"}, "invalid toxic type"),
        ({"type": "latency", "stream": "sideways"}, "stream"),
        ({"type": "latency", "attributes": {"latency": "long"}}, "latency"),
        ({"type": "latency", "attributes": {"latency": 1.5}}, "latency"),
    ],
)
def test_a_toxic_that_cannot_be_is_a_400(
    client: Toxiproxy, toxic: dict[str, Any], error: str
) -> None:
    proxy = client.create("127.0.0.1:9", "a")
    with pytest.raises(InvalidToxic, match=error):
        proxy.add_toxic(**toxic)
    assert proxy.toxics() == {}


def test_a_second_toxic_of_one_name_is_a_409(injector: Injector, client: Toxiproxy) -> None:
    client.create("127.0.0.1:9", "a").add_toxic(type="latency")
    answer = post(injector, "/proxies/a/toxics", {"type": "latency"})
    assert answer.status_code == 409
    assert answer.json() == {"error": "toxic already exists", "status": 409}


def test_what_does_not_exist_is_a_404_that_says_which_kind(client: Toxiproxy) -> None:
    proxy = client.create("127.0.0.1:9", "a")
    with pytest.raises(NotFound, match="toxic not found"):
        proxy.destroy_toxic("none")
    proxy.destroy()
    for act in (proxy.destroy, proxy.enable, proxy.toxics, lambda: proxy.add_toxic(type="latency")):
        with pytest.raises(NotFound, match="proxy not found"):
            act()


def test_reset_removes_all_toxics_and_enables_all_proxies(
    client: Toxiproxy, upstream: Upstream
) -> None:
    proxies = [client.create(upstream.address, name) for name in ("a", "b")]
    proxies[0].add_toxic(type="timeout")
    proxies[1].add_toxic(type="timeout", stream="upstream")
    proxies[1].disable()
    assert client.reset()
    assert all(proxy.enabled for proxy in client.proxies().values())
    assert [proxy.toxics() for proxy in proxies] == [{}, {}]


def test_populate_makes_what_is_missing(client: Toxiproxy) -> None:
    wanted = {"name": "a", "upstream": "127.0.0.1:9", "listen": f"127.0.0.1:{free_port()}"}
    assert [proxy.name for proxy in client.populate([wanted])] == ["a"]
    assert client.populate([wanted]) == []
    client.destroy_all()
    assert client.proxies() == {}


# --- connections ---


def test_data_passes_both_ways_and_half_closing_ends_one_way_only(
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


def test_a_server_that_speaks_first_is_heard(upstream: Upstream, link: Link) -> None:
    client, server = upstream.connect(link)
    server.sendall(b"hello")
    assert read_exactly(client, 5) == b"hello"


@pytest.mark.parametrize(
    "toxics", [{}, {"latency": {"latency": 20}, "slicer": {"average_size": 9}}]
)
def test_much_data_arrives_unchanged(
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


def test_a_dead_upstream_is_a_connect_that_succeeds_and_then_eof(
    upstream: Upstream, link: Link
) -> None:
    upstream.listener.close()
    client = upstream.knock(link)
    client.sendall(b"anybody?")
    assert client.recv(1) == b""


def test_an_upstream_that_closes_is_eof(upstream: Upstream, link: Link) -> None:
    client, server = upstream.connect(link)
    server.sendall(b"bye")
    server.close()
    assert read_exactly(client, 3) == b"bye"
    assert client.recv(1) == b""


def test_a_disabled_proxy_refuses_and_closes_and_its_toxics_survive(
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


def test_a_reader_that_stops_stops_the_sender(upstream: Upstream, link: Link) -> None:
    """Nothing piles up between: the sender feels it within the buffers of the sockets."""
    link.add("latency", stream="upstream", latency=1)
    client, _server = upstream.connect(link)
    client.settimeout(0.5)
    sent = 0
    with contextlib.suppress(TimeoutError):
        while sent < 256_000_000:
            sent += client.send(b"x" * 65536)
    assert sent < 64_000_000


# --- toxics ---


def test_latency_delays_its_stream_alone_at_once_on_an_open_connection(
    upstream: Upstream, link: Link
) -> None:
    client, server = upstream.connect(link)
    link.add("latency", latency=300)
    client.sendall(b"a")
    assert took(lambda: read_exactly(server, 1)) < 0.25
    server.sendall(b"b")
    assert 0.28 <= took(lambda: read_exactly(client, 1)) < 2


def test_latency_delays_what_the_client_says_on_a_new_connection(
    upstream: Upstream, link: Link
) -> None:
    link.add("latency", stream="upstream", latency=300)
    client, server = upstream.connect(link)
    client.sendall(b"a")
    assert 0.28 <= took(lambda: read_exactly(server, 1)) < 2


def test_what_latency_held_arrives_when_it_is_removed(upstream: Upstream, link: Link) -> None:
    client, server = upstream.connect(link)
    with link.toxic("latency", latency=60_000):
        server.sendall(b"held")
        assert silent(client)
    assert read_exactly(client, 4) == b"held"
    server.sendall(b"x")
    assert took(lambda: read_exactly(client, 1)) < 0.25


def test_a_timeout_of_zero_hangs_and_its_removal_closes(upstream: Upstream, link: Link) -> None:
    client, server = upstream.connect(link)
    with link.toxic("timeout", timeout=0):
        client.sendall(b"still heard")
        assert read_exactly(server, 11) == b"still heard"
        server.sendall(b"lost")
        assert silent(client)
    assert closed(client)
    assert closed(server)


def test_a_timeout_closes_when_it_is_over(upstream: Upstream, link: Link) -> None:
    client, server = upstream.connect(link)
    link.add("timeout", timeout=300)
    server.sendall(b"lost")
    assert 0.2 <= took(lambda: closed(client)) < 2
    assert closed(server)


def test_bandwidth_limits_the_rate(upstream: Upstream, link: Link) -> None:
    link.add("bandwidth", rate=100)
    client, server = upstream.connect(link)
    server.sendall(b"x" * 50_000)
    assert 0.4 <= took(lambda: read_exactly(client, 50_000)) < 3


def test_slow_close_delays_the_end(upstream: Upstream, link: Link) -> None:
    link.add("slow_close", delay=300)
    client, server = upstream.connect(link)
    server.sendall(b"x")
    server.close()
    assert took(lambda: read_exactly(client, 1)) < 0.25
    assert 0.2 <= took(lambda: closed(client)) < 2


def test_slicer_sends_small_pieces(upstream: Upstream, link: Link) -> None:
    link.add("slicer", average_size=10, size_variation=2, delay=20_000)
    client, server = upstream.connect(link)
    server.sendall(b"x" * 100)
    pieces = []
    while sum(pieces) < 100:
        pieces.append(len(client.recv(1000)))
    assert len(pieces) >= 5


def test_limit_data_closes_after_so_many_bytes(upstream: Upstream, link: Link) -> None:
    client, server = upstream.connect(link)
    link.add("limit_data", bytes=5)
    server.sendall(b"0123456789")
    assert read_exactly(client, 5) == b"01234"
    assert closed(client)
    assert closed(server)


def test_reset_peer_sends_a_tcp_reset_to_both(upstream: Upstream, link: Link) -> None:
    client, server = upstream.connect(link)
    link.add("reset_peer", timeout=0)
    for sock in (client, server):
        with pytest.raises(ConnectionResetError):
            sock.recv(1)


def test_reset_peer_waits_and_meets_new_connections_too(upstream: Upstream, link: Link) -> None:
    link.add("reset_peer", stream="upstream", timeout=300)
    client, _server = upstream.connect(link)

    def until_reset() -> None:
        client.sendall(b"x")
        with pytest.raises(ConnectionResetError):
            client.recv(1)

    assert 0.2 <= took(until_reset) < 2


def test_toxicity_spares_some_connections_for_all_their_life(
    upstream: Upstream, link: Link
) -> None:
    pairs = [upstream.connect(link) for _ in range(40)]
    link.add("timeout", toxicity=0.5)
    spared = 0
    for client, server in pairs:
        server.sendall(b"x")
        client.settimeout(0.05)
        with contextlib.suppress(TimeoutError):
            spared += len(client.recv(1))
    assert 5 < spared < 35


def test_a_toxicity_of_zero_meets_nobody(upstream: Upstream, link: Link) -> None:
    link.add("timeout", toxicity=0.0)
    client, server = upstream.connect(link)
    server.sendall(b"x")
    assert read_exactly(client, 1) == b"x"


def test_several_toxics_add_up(upstream: Upstream, link: Link) -> None:
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


def test_redis_works_through_it_and_meets_its_faults(
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


def test_a_frozen_node_behind_it_accepts_and_does_not_answer(
    node: Link, lookup_servers: list[RedisServer]
) -> None:
    with through(node) as client:
        client.ping()
        lookup_servers[0].freeze()
        with pytest.raises(redis.TimeoutError):
            client.ping()
        lookup_servers[0].thaw()
        assert client.ping()


def test_a_node_that_is_killed_and_started_again_is_reached_by_the_same_proxy(
    node: Link, lookup_servers: list[RedisServer]
) -> None:
    with through(node) as client:
        client.ping()
        lookup_servers[0].kill()
        with pytest.raises(redis.ConnectionError):
            client.ping()
        lookup_servers[0].start()
        assert client.ping()
