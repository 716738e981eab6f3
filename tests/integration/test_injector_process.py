"""The fault injector as a process: it is found or started, ends, and leaks no socket; and the
wrapper's corrections of the client library."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import toxiproxy
from aiohttp import ClientSession, web
from toxiproxy.api import APIConsumer

import drills.toxiproxy as wrapper
from drills.injector.server import Api
from drills.toxiproxy import Injector, InjectorFailed, Link
from stack.process import free_port
from tests.support.terminal import eventually
from tests.support.wire import Upstream, closed, read_exactly, took

pytestmark = pytest.mark.stack


@pytest.fixture(autouse=True)
def _no_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOXIPROXY_URL", raising=False)


@pytest.fixture
def injector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Injector]:
    """This project's own injector, even if a toxiproxy-server is installed."""
    monkeypatch.setattr(wrapper.shutil, "which", lambda name: None)
    with Injector.find_or_start(tmp_path / "log") as started:
        yield started


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def sockets_of(injector: Injector) -> int:
    assert injector.child is not None
    links = Path(f"/proc/{injector.child.pid}/fd").iterdir()
    count = 0
    for link in links:
        with contextlib.suppress(FileNotFoundError):  # closed while we look
            count += os.readlink(link).startswith("socket:")
    return count


# --- found, started, ended ---


def test_the_injector_at_toxiproxy_url_is_used_and_keeps_its_own_proxies(
    injector: Injector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOXIPROXY_URL", f"http://{injector.address}")
    kept = injector.link("kept", "127.0.0.1:9")
    with Injector.find_or_start(tmp_path / "none") as found:
        assert (found.address, found.child) == (injector.address, None)
        mine = found.link("mine", "127.0.0.1:9")
        assert answers(mine.port)
    assert not answers(mine.port)
    assert kept.enabled


def test_without_an_injector_at_toxiproxy_url_its_address_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("TOXIPROXY_URL", address)
    with pytest.raises(InjectorFailed, match=address):
        Injector.find_or_start(tmp_path / "log")


def test_an_installed_toxiproxy_server_is_preferred_to_our_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / "bin" / "toxiproxy-server"
    installed.parent.mkdir()
    installed.write_text(
        f'#!/bin/sh\necho "installed: $@"\n'
        f'exec "{sys.executable}" -m drills.injector --host "$2" --port "$4"\n'
    )
    installed.chmod(0o755)
    monkeypatch.setenv("PATH", f"{installed.parent}:{os.environ['PATH']}")
    with Injector.find_or_start(tmp_path / "log") as started:
        assert started.version() == "2.4.0"
    assert (tmp_path / "log").read_text().startswith("installed: -host 127.0.0.1 -port ")


def test_an_injector_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    program = (
        "import sys, time, pathlib\n"
        "from drills.toxiproxy import Injector\n"
        "injector = Injector.find_or_start(pathlib.Path(sys.argv[1]))\n"
        "print(injector.address.split(':')[1], flush=True)\n"
        "time.sleep(60)\n"
    )
    argv = [sys.executable, "-c", program, str(tmp_path / "log")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        port = int(parent.stdout.readline())
        assert answers(port)
        parent.send_signal(signal.SIGKILL)
    assert eventually(lambda: not answers(port))


def test_an_injector_whose_port_is_in_use_ends_with_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        argv = [sys.executable, "-m", "drills.injector", "--port", port]
        ended = subprocess.run(argv, capture_output=True, text=True, timeout=20)
    assert ended.returncode == 1
    assert port in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_sigterm_ends_an_injector_at_once_even_with_open_connections(
    injector: Injector, upstream: Upstream
) -> None:
    client, _ = upstream.connect(injector.link("a", upstream.address))
    child = injector.child
    assert child is not None
    assert took(lambda: child.stop(10)) < 5
    assert child.exit_status == 0
    assert closed(client)


def test_a_request_of_a_browser_is_refused(injector: Injector) -> None:
    headers = {"User-Agent": "Mozilla/5.0"}
    url = f"http://{injector.address}/reset"
    assert wrapper.requests.post(url, headers=headers, timeout=5).status_code == 403


# --- the wrapper's corrections ---


def test_two_injectors_and_the_client_library_s_own_settings_stay_separate(
    injector: Injector, tmp_path: Path
) -> None:
    before = APIConsumer.host, APIConsumer.port
    with Injector.find_or_start(tmp_path / "second") as second:
        links = [each.link("same", "127.0.0.1:9") for each in (injector, second)]
        links[0].add("timeout")
        assert list(links[0].toxics) == ["timeout_downstream"]
        assert links[1].toxics == {}
    assert (APIConsumer.host, APIConsumer.port) == before
    assert toxiproxy.server.APIConsumer is APIConsumer


def test_the_wrapper_raises_an_error_for_a_500(injector: Injector, upstream: Upstream) -> None:
    with pytest.raises(InjectorFailed, match="address already in use") as failed:
        injector.link("a", "127.0.0.1:9", listen=upstream.address)
    assert failed.value.status == 500
    link = injector.link("b", "127.0.0.1:9")
    link.disable()
    with socket.create_server(("127.0.0.1", link.port)):
        with pytest.raises(InjectorFailed, match="500"):
            link.enable()
        assert not link.enabled


def test_a_call_to_an_injector_that_does_not_answer_ends_after_its_time(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wrapper, "CALL_SECONDS", 0.2)
    hung = Injector(f"http://{upstream.address}")

    def call() -> None:
        with pytest.raises(InjectorFailed, match="does not answer"):
            hung.reset()

    assert took(call) < 3


def test_a_proxy_of_an_earlier_run_is_replaced(injector: Injector, upstream: Upstream) -> None:
    left = injector.link("a", "127.0.0.1:9")
    left.add("timeout")
    link = injector.link("a", upstream.address, listen=left.listen)
    assert link.toxics == {}
    client, server = upstream.connect(link)
    server.sendall(b"x")
    assert read_exactly(client, 1) == b"x"


def test_heal_removes_all_faults(injector: Injector, upstream: Upstream) -> None:
    link = injector.link("a", upstream.address)
    link.add("timeout")
    link.add("latency", stream="upstream", latency=5)
    link.disable()
    link.heal()
    assert link.enabled
    assert link.toxics == {}


# --- no socket or task is leaked ---


def end_politely(client: socket.socket, server: socket.socket, link: Link) -> None:
    client.close()
    server.close()


def end_by_the_server(client: socket.socket, server: socket.socket, link: Link) -> None:
    server.close()
    assert closed(client)
    client.close()


def end_by_a_toxic(kind: str) -> Callable[[socket.socket, socket.socket, Link], None]:
    def end(client: socket.socket, server: socket.socket, link: Link) -> None:
        with link.toxic(kind):
            with contextlib.suppress(ConnectionError):
                server.sendall(b"x" * 1000)
            assert kind == "timeout" or closed(client)
        assert closed(client)

    return end


def end_with_data_under_way(client: socket.socket, server: socket.socket, link: Link) -> None:
    with link.toxic("latency", latency=60_000):
        server.sendall(b"x" * 1000)
        client.close()
        server.close()


def end_by_disabling(client: socket.socket, server: socket.socket, link: Link) -> None:
    with link.down():
        assert closed(client)


@pytest.mark.parametrize(
    "end",
    [
        end_politely,
        end_by_the_server,
        end_by_a_toxic("timeout"),
        end_by_a_toxic("reset_peer"),
        end_by_a_toxic("limit_data"),
        end_with_data_under_way,
        end_by_disabling,
    ],
)
def test_no_socket_is_leaked_however_connections_end(
    injector: Injector,
    upstream: Upstream,
    end: Callable[[socket.socket, socket.socket, Link], None],
) -> None:
    link = injector.link("a", upstream.address)
    before = sockets_of(injector)
    for _ in range(30):
        end(*upstream.connect(link), link)
    assert eventually(lambda: sockets_of(injector) == before)


def test_connections_to_a_dead_upstream_leak_no_socket(injector: Injector) -> None:
    link = injector.link("a", f"127.0.0.1:{free_port()}")
    before = sockets_of(injector)
    clients = [socket.create_connection((link.host, link.port), 5) for _ in range(50)]
    # Although the clients do not close their side.
    assert eventually(lambda: sockets_of(injector) == before)
    for client in clients:
        assert client.recv(1) == b""
        client.close()


def test_clients_of_an_upstream_that_does_not_accept_leak_no_socket(
    injector: Injector,
) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        # One connection fills the queue, and others wait.
        address = full.getsockname()
        with socket.create_connection(address, 5):
            link = injector.link("a", f"127.0.0.1:{address[1]}")
            before = sockets_of(injector)
            clients = [socket.create_connection((link.host, link.port), 5) for _ in range(10)]
            for client in clients:
                client.sendall(b"anybody?")
            assert eventually(lambda: sockets_of(injector) == before + 20)
            link.disable()
            assert all(closed(client) for client in clients)
            assert eventually(lambda: sockets_of(injector) < before)
            for client in clients:
                client.close()


async def test_many_connections_leak_no_task(upstream: Upstream) -> None:
    api = Api()
    runner = web.AppRunner(api.application())
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    before = len(asyncio.all_tasks())
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/proxies"
    async with ClientSession() as session:
        for name, target in (("live", upstream.address), ("dead", f"127.0.0.1:{free_port()}")):
            async with session.post(url, json={"name": name, "upstream": target}) as answer:
                port = int((await answer.json())["listen"].rpartition(":")[2])
            for _ in range(100):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                if name == "live":
                    server, _ = await asyncio.to_thread(upstream.listener.accept)
                    server.close()
                assert await reader.read() == b""
                writer.close()
                await writer.wait_closed()
    deadline = time.monotonic() + 5
    while len(asyncio.all_tasks()) > before or any(p.connections for p in api.proxies.values()):
        assert time.monotonic() < deadline, asyncio.all_tasks()
        await asyncio.sleep(0.01)
    await runner.cleanup()
