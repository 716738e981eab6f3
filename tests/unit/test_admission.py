"""The gateway's limits: rates, connections, slow clients, long headers, overload."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from typing import Any

import pytest

from failover.loop_lag import LoopLag
from gateway.http import admission
from gateway.reload.reload import weigh
from tests.support.serving import SERVICE_KEY, Served, a_config, serving

KEY = {"Authorization": f"Bearer {SERVICE_KEY}"}


@pytest.fixture(autouse=True)
def _often_check_for_slow_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "SWEEP_SECONDS", 0.02)


async def connect(gateway: Served) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", gateway.port)


async def end_of(reader: asyncio.StreamReader, seconds: float = 10) -> bytes:
    """Everything until the other side closes or resets the connection."""
    text = b""
    async with asyncio.timeout(seconds):
        with contextlib.suppress(ConnectionError):
            while part := await reader.read(65536):
                text += part
    return text


async def new_token(gateway: Served) -> str:
    async with gateway.http.get("/sets/new") as answer:
        return str((await answer.json())["play_token"])


def status_of(text: bytes) -> int:
    return int(text.split()[1])


# --- rates


async def test_an_address_with_too_many_requests_gets_429_in_each_api_s_format() -> None:
    limits = {"address_rate": 0.01, "address_burst": 3}
    async with serving(limits=limits) as gateway:
        statuses = []
        for _ in range(3):
            async with gateway.http.get("/mixes/1") as answer:
                statuses.append(answer.status)
        assert statuses == [200] * 3
        async with gateway.http.get("/mixes/1") as answer:
            assert answer.status == 429
            assert int(answer.headers["Retry-After"]) > 60
            body = await answer.json()
            assert body["status"] == "429 Too Many Requests"
            assert body["errors"] == ["Too many requests from this address; try again later."]
            assert body["api_version"] == 3
        async with gateway.http.get("/states/1/1", headers=KEY) as answer:
            assert answer.status == 429
            assert set(await answer.json()) == {"status", "errors"}


async def test_behind_a_trusted_proxy_each_client_has_its_own_limit() -> None:
    limits = {"address_rate": 0.01, "address_burst": 1, "trusted_proxies": ["127.0.0.0/8"]}

    async def ask(gateway: Served, *forwarded: str) -> int:
        headers = [("X-Forwarded-For", value) for value in forwarded]
        async with gateway.http.get("/mixes/1", headers=headers) as answer:
            return answer.status

    async with serving(limits=limits) as gateway:
        assert await ask(gateway, "192.0.2.1") == 200
        assert await ask(gateway, "192.0.2.1") == 429
        assert await ask(gateway, "192.0.2.2") == 200
        # What the client itself writes before the proxy's value changes nothing.
        assert await ask(gateway, "198.51.100.9, 192.0.2.1") == 429
        assert await ask(gateway, "198.51.100.9", "192.0.2.1") == 429
        assert [await ask(gateway) for _ in range(3)] == [200] * 3  # the proxy's own probes


async def test_a_client_that_is_no_trusted_proxy_cannot_claim_another_address() -> None:
    async with serving(limits={"address_rate": 0.01, "address_burst": 1}) as gateway:
        statuses = []
        for n in range(3):
            headers = {"X-Forwarded-For": f"192.0.2.{n}"}
            async with gateway.http.get("/mixes/1", headers=headers) as answer:
                statuses.append(answer.status)
        assert statuses == [200, 429, 429]


async def test_a_listener_with_too_many_requests_gets_429_and_others_do_not() -> None:
    async with serving(limits={"token_rate": 0.01, "token_burst": 2}) as gateway:
        greedy, modest = await new_token(gateway), await new_token(gateway)
        statuses = []
        for _ in range(4):
            async with gateway.http.get(f"/sets/{greedy}/play?mix_id=1") as answer:
                statuses.append(answer.status)
        assert statuses == [200, 200, 429, 429]
        async with gateway.http.get(f"/sets/{modest}/play?mix_id=1") as answer:
            assert answer.status == 200


async def test_a_reload_changes_the_limits() -> None:
    async with serving() as gateway:
        new = gateway.live.config.model_copy(
            update={
                "limits": gateway.live.config.limits.model_copy(
                    update={"address_rate": 0.01, "address_burst": 1.0}
                )
            }
        )
        gateway.live.replace((await weigh(gateway.live.config, 1, new)).merged)
        statuses = []
        for _ in range(2):
            async with gateway.http.get("/mixes/1") as answer:
                statuses.append(answer.status)
        assert statuses == [200, 429]


# --- connections


async def test_a_connection_past_the_limit_gets_503_until_another_one_closes() -> None:
    async with serving(limits={"connections": 2}) as gateway:
        first, second = await connect(gateway), await connect(gateway)
        await answered(first)
        await answered(second)
        reader, writer = await connect(gateway)
        text = await end_of(reader)
        writer.close()
        assert status_of(text) == 503
        assert b"Retry-After: 1\r\n" in text
        assert b"Too many connections are open." in text
        first[1].close()
        for _ in range(200):
            third = await connect(gateway)
            with contextlib.suppress(AssertionError, ConnectionError):
                await answered(third)
                break
            await asyncio.sleep(0.02)
        else:
            raise AssertionError("no new connection was accepted after one had closed")
        third[1].close()
        second[1].close()


async def test_one_address_cannot_use_all_connections() -> None:
    async with serving(limits={"address_connections": 1}) as gateway:
        first = await connect(gateway)
        await answered(first)
        second = await connect(gateway)
        text = await end_of(second[0])
        assert status_of(text) == 503
        assert b"from this address" in text
        other = socket.socket()
        other.bind(("127.0.0.2", 0))
        await asyncio.to_thread(other.connect, ("127.0.0.1", gateway.port))
        await answered(await asyncio.open_connection(sock=other))


async def answered(connection: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
    reader, writer = connection
    writer.write(b"GET /mixes/1 HTTP/1.1\r\nHost: x\r\n\r\n")
    async with asyncio.timeout(10):
        line = await reader.readline()
        assert line.startswith(b"HTTP/1.1 200"), line
        length = 0
        while (header := await reader.readline()) not in (b"\r\n", b""):
            if header.lower().startswith(b"content-length:"):
                length = int(header.split(b":")[1])
        await reader.readexactly(length)


# --- slow clients


@pytest.mark.parametrize("after", [0, 1])
async def test_headers_that_arrive_too_slowly_get_408(after: int) -> None:
    async with serving(limits={"header_seconds": 0.3}) as gateway:
        reader, writer = await connect(gateway)
        for _ in range(after):
            await answered((reader, writer))
        text: asyncio.Task[bytes] = asyncio.create_task(end_of(reader))
        writer.write(b"GET /mixes/1 HTTP/1.1\r\n")
        n = 0
        while not text.done():
            writer.write(f"X-{n}: y\r\n".encode())
            n += 1
            await asyncio.sleep(0.02)
        writer.close()
        assert status_of(await text) == 408
        assert b"The request did not arrive within 0.3 s." in await text


async def test_a_quick_client_is_not_taken_for_a_slow_one() -> None:
    async with serving(limits={"header_seconds": 0.1}) as gateway:
        connection = await connect(gateway)
        for _ in range(3):
            await answered(connection)
            await asyncio.sleep(0.15)  # idle, between requests
        reader, writer = connection
        writer.write(b"GET /mixes/1 HTTP/1.1\r\nHos")
        await asyncio.sleep(0.03)
        writer.write(b"t: x\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.close()


async def test_a_body_that_arrives_too_slowly_gets_408() -> None:
    async with serving(limits={"body_seconds": 0.2}) as gateway:
        headers = {**KEY, "Content-Type": "application/json", "If-None-Match": "*"}

        async def slowly() -> Any:
            while True:
                yield b" "
                await asyncio.sleep(0.02)

        async with gateway.http.put("/states/1/1", data=slowly(), headers=headers) as answer:
            assert answer.status == 408
            assert "within 0.2 s" in (await answer.json())["errors"][0]


async def test_a_client_that_does_not_read_its_answers_is_disconnected() -> None:
    async with serving(limits={"write_seconds": 0.3}) as gateway:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", gateway.port))
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        asked = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 50
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(10):
                while True:
                    await loop.sock_sendall(sock, asked)
                    await asyncio.sleep(0.01)
        assert gateway.application.admission is not None
        async with asyncio.timeout(10):
            while gateway.application.admission._connections:
                await asyncio.sleep(0.02)
        sock.close()


async def test_an_idle_connection_is_closed() -> None:
    async with serving(limits={"keepalive_seconds": 0.2}) as gateway:
        connection = await connect(gateway)
        await answered(connection)
        assert await end_of(connection[0]) == b""


async def test_headers_that_are_too_long_or_too_many_are_refused() -> None:
    async with serving(limits={"header_bytes": 1024, "headers": 16}) as gateway:
        for headers in (b"X: " + b"y" * 2000 + b"\r\n", b"X: y\r\n" * 40):
            reader, writer = await connect(gateway)
            writer.write(b"GET /mixes/1 HTTP/1.1\r\nHost: x\r\n" + headers + b"\r\n")
            assert status_of(await end_of(reader)) == 431
            writer.close()


# --- overload


async def test_an_overloaded_worker_refuses_further_requests_with_503() -> None:
    async with serving(limits={"always_accepted": 2}) as gateway:
        assert gateway.application.admission is not None
        for _ in range(20):
            gateway.application.admission.adapt_limit(late=2.0)
        entered, leave = asyncio.Semaphore(0), asyncio.Event()
        ask = gateway.catalog.cards

        async def slow(ids: Any) -> Any:
            entered.release()
            await leave.wait()
            return await ask(ids)

        gateway.catalog.cards = slow  # type: ignore[method-assign]
        waiting = [asyncio.create_task(gateway.http.get("/mixes/1").__aenter__()) for _ in "ab"]
        await entered.acquire()
        await entered.acquire()
        async with gateway.http.get("/mixes/1") as answer:
            assert answer.status == 503
            assert answer.headers["Retry-After"] == "1"
        leave.set()
        for request in waiting:
            assert (await request).status == 200


def block_the_loop() -> None:
    time.sleep(0.1)


async def test_a_late_event_loop_lowers_the_request_limit_and_counts_as_absence() -> None:
    watching = admission.AdmissionControl(
        a_config(limits={"queueing_target": 10, "always_accepted": 5})
    )
    loop_lag = LoopLag()
    watching.start(loop_lag, lambda: 100)
    loop_lag.start()
    try:
        async with asyncio.timeout(60):
            while watching.allowed > 100:
                block_the_loop()
                await asyncio.sleep(0)
        assert watching.allowed == 75
        assert loop_lag.seconds_late > 0.1
    finally:
        loop_lag.close()
