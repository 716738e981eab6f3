"""The fault injector's HTTP API, with the client library `toxiproxy-python` and by hand."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from toxiproxy import Toxiproxy
from toxiproxy.api import APIConsumer
from toxiproxy.exceptions import InvalidToxic, NotFound, ProxyExists

from drills.toxiproxy import Injector
from stack.process import free_port
from tests.support.wire import Upstream

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def injector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Injector]:
    with Injector.find_or_start(tmp_path_factory.mktemp("injector") / "log") as found:
        yield found


@pytest.fixture
def client(injector: Injector) -> Iterator[Toxiproxy]:
    """The client library, without the corrections of our wrapper."""
    before = APIConsumer.host, APIConsumer.port
    client = Toxiproxy()
    host, port = injector.address.split(":")
    client.update_api_consumer(host, int(port))
    yield client
    client.destroy_all()
    client.update_api_consumer(*before)


def post(injector: Injector, path: str, body: Any) -> requests.Response:
    data = {"data": body} if isinstance(body, str) else {"json": body}
    return requests.post(f"http://{injector.address}{path}", timeout=5, **data)


def test_the_client_sees_that_the_injector_runs_and_its_version(client: Toxiproxy) -> None:
    assert client.running()
    assert client.version() == b"2.4.0"


def test_a_created_proxy_has_a_port_and_is_listed_with_its_toxics(
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


def test_creating_a_proxy_answers_201_with_the_proxy(injector: Injector, client: Toxiproxy) -> None:
    answer = post(injector, "/proxies", {"name": "a", "upstream": "127.0.0.1:9", "enabled": False})
    assert answer.status_code == 201
    assert answer.json()["enabled"] is False


@pytest.mark.parametrize("field", ["name", "upstream"])
def test_a_missing_field_is_named_in_a_400(injector: Injector, field: str) -> None:
    body = {"name": "a", "upstream": "127.0.0.1:9", "listen": "127.0.0.1:0"}
    del body[field]
    answer = post(injector, "/proxies", body)
    assert answer.status_code == 400
    assert answer.headers["Content-Type"].startswith("text/plain")
    assert answer.json() == {"error": f"missing required field: {field}", "status": 400}


@pytest.mark.parametrize("body", ["", "{", "[]", '{"name": 5}', '{"name": "a", "enabled": "no"}'])
def test_a_malformed_body_is_a_400(injector: Injector, body: str) -> None:
    answer = post(injector, "/proxies", body)
    assert answer.status_code == 400
    assert answer.json()["status"] == 400


def test_a_second_proxy_with_the_same_name_is_a_409(injector: Injector, client: Toxiproxy) -> None:
    client.create("127.0.0.1:9", "a")
    answer = post(injector, "/proxies", {"name": "a", "upstream": "127.0.0.1:9"})
    assert answer.status_code == 409
    with pytest.raises(ProxyExists):
        client.create("127.0.0.1:9", "a")


def test_a_port_in_use_is_a_500_and_no_proxy_is_made(
    injector: Injector, client: Toxiproxy, upstream: Upstream
) -> None:
    body = {"name": "a", "upstream": "127.0.0.1:9", "listen": upstream.address}
    answer = post(injector, "/proxies", body)
    assert answer.status_code == 500
    assert upstream.address in answer.json()["error"]
    assert client.get_proxy("a") is None
    # The client library fails in its own way:
    with pytest.raises(KeyError):
        client.create("127.0.0.1:9", "a", listen=upstream.address)


def test_enabling_a_proxy_whose_port_is_in_use_is_a_500_and_it_stays_disabled(
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
def test_a_malformed_toxic_is_a_400(client: Toxiproxy, toxic: dict[str, Any], error: str) -> None:
    proxy = client.create("127.0.0.1:9", "a")
    with pytest.raises(InvalidToxic, match=error):
        proxy.add_toxic(**toxic)
    assert proxy.toxics() == {}


def test_a_second_toxic_with_the_same_name_is_a_409(injector: Injector, client: Toxiproxy) -> None:
    client.create("127.0.0.1:9", "a").add_toxic(type="latency")
    answer = post(injector, "/proxies/a/toxics", {"type": "latency"})
    assert answer.status_code == 409
    assert answer.json() == {"error": "toxic already exists", "status": 409}


def test_a_missing_toxic_or_proxy_is_a_404_that_says_which(client: Toxiproxy) -> None:
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


def test_populate_creates_only_missing_proxies(client: Toxiproxy) -> None:
    wanted = {"name": "a", "upstream": "127.0.0.1:9", "listen": f"127.0.0.1:{free_port()}"}
    assert [proxy.name for proxy in client.populate([wanted])] == ["a"]
    assert client.populate([wanted]) == []
    client.destroy_all()
    assert client.proxies() == {}


def test_a_proxy_and_a_toxic_are_shown_and_a_proxy_s_upstream_can_be_changed(
    injector: Injector, client: Toxiproxy, upstream: Upstream
) -> None:
    proxy = client.create("127.0.0.1:9", "a")
    proxy.add_toxic(type="latency", attributes={"latency": 1})
    base = f"http://{injector.address}/proxies/a"
    patched = requests.patch(base, json={"upstream": upstream.address}, timeout=5)
    assert patched.json() == requests.get(base, timeout=5).json()
    assert patched.json()["upstream"] == upstream.address
    assert patched.json()["listen"] == proxy.listen
    shown = requests.get(f"{base}/toxics/latency_downstream", timeout=5)
    assert shown.json() == patched.json()["toxics"][0]
    host, port = proxy.listen.split(":")
    with socket.create_connection((host, int(port)), 5):
        assert upstream.accept()
