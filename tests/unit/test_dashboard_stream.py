"""The dashboard over a real socket: who may see it, what it sends, and that no viewer delays it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from gateway import telemetry
from gateway.admin.routes import AdminApi
from gateway.admin_answers import Snapshot
from gateway.dashboard import page as dashboard_module
from gateway.dashboard import stream
from gateway.dashboard.page import Dashboard
from gateway.factory import admin_application
from gateway.http import protocol
from gateway.http.listening import Listening, bind
from gateway.peers import Peers
from gateway.reload.runtime_config import RuntimeConfig
from sharding.partitions.shown import Partition
from sharding.shown import Node, Outline, Ring
from tests.support.serving import a_config
from tests.support.waiting import until

TOKEN = "the-admin-token"
KEY = {"Authorization": f"Bearer {TOKEN}"}


class Seen:
    """Counts how often it is observed. Its snapshots are large, so that the socket of a viewer that
    reads nothing is soon full."""

    def __init__(self) -> None:
        self.observed = 0
        self.asked = 0
        self.node = "lookup1"
        self.peers = Peers(RuntimeConfig(a_config()))

    async def observe(self) -> Snapshot:
        self.observed += 1
        ring = Ring(1, [Node(self.node, "x" * 200_000, 1, "live", "", None, None, 0, 1.0)])
        return Snapshot(self.observed * 5.0, "ready", [], ring, None, telemetry.families())

    async def outline(self) -> Outline:
        return Outline([self.node], [self.node])

    async def partitions(self) -> list[Partition]:
        self.asked += 1
        raise RuntimeError("the dashboard goes on after this error")


class Admin:
    """A running admin port."""

    def __init__(self, seen: Seen, board: Dashboard, listening: Listening, port: int) -> None:
        self.seen = seen
        self.board = board
        self.listening = listening
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    @property
    def viewers(self) -> int:
        return len(self.board._viewers)


@pytest.fixture
async def admin(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Admin]:
    monkeypatch.setattr(dashboard_module, "WATCHED_SECONDS", 0.02)
    monkeypatch.setattr(dashboard_module, "STEP", 0.2)
    seen, live = Seen(), RuntimeConfig(a_config())
    board = Dashboard(seen, live)  # type: ignore[arg-type]
    sock = bind("127.0.0.1", 0, "admin.port", "--admin-port")
    port = sock.getsockname()[1]
    application = admin_application(live, AdminApi(seen, None, live, board, TOKEN))  # type: ignore[arg-type]
    listening = Listening(application, sock)
    await listening.start()
    board.start()
    try:
        yield Admin(seen, board, listening, port)
    finally:
        await board.close()
        with contextlib.suppress(OSError):  # stopped by the test
            await listening.stop(0.1)


async def events(answer: aiohttp.ClientResponse) -> AsyncIterator[tuple[str, Any]]:
    rest = b""
    async for chunk in answer.content.iter_any():
        *blocks, rest = (rest + chunk).split(b"\n\n")
        for block in blocks:
            lines = dict(line.split(": ", 1) for line in block.decode().split("\n"))
            if "event" in lines:
                yield lines["event"], json.loads(lines["data"])


async def test_the_page_needs_no_token_and_its_data_needs_one(admin: Admin) -> None:
    async with aiohttp.ClientSession(admin.url) as http:
        for path in ("/", "/dashboard/main.js", "/dashboard/page.css", "/dashboard/icon.svg"):
            async with http.get(path) as answer:
                assert answer.status == 200, path
                assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
                assert answer.headers["X-Content-Type-Options"] == "nosniff"
                assert TOKEN not in await answer.text()
        for path in (
            "/dashboard/events",
            "/overview",
            "/ring/outline",
            "/mysql",
            "/where/1/1",
        ):
            async with http.get(path) as answer:
                assert answer.status == 401, path
            async with http.get(path, headers={"Authorization": "Bearer wrong"}) as answer:
                assert answer.status == 401, path


@pytest.mark.parametrize(
    "name", ["..%2fdashboard.py", "%2e%2e/admin.py", "main.py", "nothing.js", "index.html"]
)
async def test_only_the_pages_own_files_are_served(admin: Admin, name: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", admin.port)
    writer.write(f"GET /dashboard/{name} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert (await reader.readline()).split()[1] == b"404"
    writer.close()


async def test_a_viewer_gets_the_history_and_then_each_new_state(admin: Admin) -> None:
    await until(lambda: admin.seen.observed > 3)
    async with (
        aiohttp.ClientSession(admin.url) as http,
        http.get("/dashboard/events", headers=KEY) as answer,
    ):
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        assert answer.headers["X-Request-Id"]
        got: dict[str, list[Any]] = {}
        async for name, data in events(answer):
            got.setdefault(name, []).append(data)
            if len(got.get("state", ())) > 3 and "outline" in got:
                break
    assert len(got["points"][0]) >= 2
    times = [point["at"] for points in got["points"] for point in points]
    assert times == sorted(set(times))
    assert [state["at"] for state in got["state"]] == sorted({s["at"] for s in got["state"]})
    assert got["state"][0]["ring"]["nodes"][0]["name"] == "lookup1"


async def test_without_a_viewer_the_dashboard_observes_seldom_and_asks_mysql_nothing(
    admin: Admin,
) -> None:
    before = admin.seen.observed
    await until(lambda: admin.seen.observed > before + 3)
    assert admin.seen.asked == 0
    began = asyncio.get_running_loop().time()
    before = admin.seen.observed
    await until(lambda: admin.seen.observed >= before + 3)
    assert asyncio.get_running_loop().time() - began > 0.3


async def test_many_viewers_cost_as_many_observations_as_one(admin: Admin) -> None:
    async with aiohttp.ClientSession(admin.url) as http, contextlib.AsyncExitStack() as stack:
        streams = [
            events(await stack.enter_async_context(http.get("/dashboard/events", headers=KEY)))
            for _ in range(8)
        ]
        before = admin.seen.observed
        for stream in streams:
            states = 0
            async for name, _ in stream:
                states += name == "state"
                if states == 5:
                    break
        assert admin.seen.observed - before < 40


async def test_a_viewer_that_disconnects_is_forgotten(admin: Admin) -> None:
    async with aiohttp.ClientSession(admin.url) as http:
        async with http.get("/dashboard/events", headers=KEY) as answer:
            await answer.content.read(100)
            await until(lambda: admin.viewers == 1)
            answer.close()
        await until(lambda: admin.viewers == 0)


async def viewer_that_reads_nothing(admin: Admin) -> asyncio.StreamWriter:
    _, stuck = await asyncio.open_connection("127.0.0.1", admin.port, limit=1024)
    stuck.transport.pause_reading()  # type: ignore[attr-defined]
    request = f"GET /dashboard/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
    stuck.write(request.encode())
    await until(lambda: admin.viewers == 1)
    return stuck


async def test_a_viewer_that_reads_nothing_is_disconnected_and_delays_no_other(
    admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Longer than a busy machine stops, so that the viewer that reads is not disconnected.
    monkeypatch.setattr(protocol, "STALLED_SECONDS", 3.0)
    stuck = await viewer_that_reads_nothing(admin)
    async with (
        aiohttp.ClientSession(admin.url) as http,
        http.get("/dashboard/events", headers=KEY) as answer,
    ):
        states = 0
        async for name, _ in events(answer):
            states += name == "state"
            if states > 20 and admin.viewers == 1:
                break
    stuck.close()


async def test_a_viewer_past_the_limit_gets_503(
    admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "MOST_VIEWERS", 1)
    async with (
        aiohttp.ClientSession(admin.url) as http,
        http.get("/dashboard/events", headers=KEY) as first,
    ):
        await first.content.read(10)
        async with http.get("/dashboard/events", headers=KEY) as second:
            assert second.status == 503
            assert second.headers["Retry-After"]


async def test_a_stop_sends_viewers_the_event_bye_and_does_not_wait_for_them(admin: Admin) -> None:
    loop = asyncio.get_running_loop()
    async with (
        aiohttp.ClientSession(admin.url) as http,
        http.get("/dashboard/events", headers=KEY) as answer,
    ):
        names = []
        began = loop.time()
        async for name, _ in events(answer):
            names.append(name)
            if len(names) == 3:
                began = loop.time()
                closing = asyncio.create_task(admin.board.close())
        await closing
        assert names[-1] == "bye"
        assert await admin.listening.stop(1.0)
        assert loop.time() - began < 1.5


async def test_a_stop_does_not_wait_for_a_viewer_that_reads_nothing(admin: Admin) -> None:
    stuck = await viewer_that_reads_nothing(admin)
    before = admin.seen.observed
    await until(lambda: admin.seen.observed > before + 30)
    async with asyncio.timeout(5):
        await admin.board.close()
        await admin.listening.stop(1.0)
    await until(lambda: admin.viewers == 0)
    stuck.close()


async def test_a_worker_under_a_supervisor_serves_no_dashboard() -> None:
    live = RuntimeConfig(a_config())
    application = admin_application(live, AdminApi(Seen(), None, live))  # type: ignore[arg-type]
    listening = Listening(application, sock := bind("127.0.0.1", 0, "admin.port", "--admin-port"))
    await listening.start()
    url = f"http://127.0.0.1:{sock.getsockname()[1]}/"
    async with aiohttp.ClientSession() as http, http.get(url) as answer:
        assert answer.status == 404
    await listening.stop(0.1)
