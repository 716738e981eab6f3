"""Several workers of one port, and their supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from config.load import parse
from gateway.api.document import document as describe
from stack.process import port_is_free
from tests.integration.test_admin import reload
from tests.support.gateways import SECONDS, Gateway, put_mixes
from tests.support.serving import a_mix
from tests.support.terminal import exists
from tests.unit.test_openapi import valid

pytestmark = pytest.mark.stack

StackConfig = Callable[..., dict[str, Any]]


@pytest.fixture
def gateway(stack_config: StackConfig, tmp_path: Path) -> Iterator[Gateway]:
    document = stack_config()
    put_mixes(document, [a_mix(7, tracks=3)])
    with Gateway(document, tmp_path, "--workers", "2") as gateway:
        asyncio.run(gateway.until("/readyz", lambda _, body: body["status"] == "ready"))
        yield gateway


def workers(gateway: Gateway) -> dict[int, int]:
    """The process id of each worker, from the log."""
    return {line["worker"]: line["pid"] for line in gateway.lines("worker started")}


def until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, f"not in {SECONDS} s: {what}"
        time.sleep(0.02)


async def new_token(http: aiohttp.ClientSession) -> str:
    async with http.get("/sets/new") as answer:
        assert answer.status == 200
        return str((await answer.json())["play_token"])


async def one_request_each(gateway: Gateway, requests: int) -> list[int]:
    """Send requests at the same time, each on a new connection; their statuses."""

    async def ask() -> int:
        async with aiohttp.ClientSession(gateway.url) as http, http.post("/mixes/7") as answer:
            return answer.status

    return await asyncio.gather(*(ask() for _ in range(requests)))


async def test_all_workers_serve_and_accept_each_other_s_tokens(gateway: Gateway) -> None:
    assert await one_request_each(gateway, 60) == [200] * 60
    async with aiohttp.ClientSession(gateway.admin) as http, http.get("/metrics") as answer:
        text = await answer.text()
    assert text.count("# TYPE tapedeck_http_requests_total ") == 1
    labels = 'method="POST",route="/mixes/{id}",status="200",worker='
    for worker in (1, 2):
        assert f'tapedeck_http_requests_total{{{labels}"{worker}"}}' in text
    async with aiohttp.ClientSession(gateway.admin) as http, http.get("/stats") as answer:
        stats = await answer.json()
    assert {
        "labels": {"method": "POST", "route": "/mixes/{id}", "status": "200"},
        "value": 60,
    } in stats["tapedeck_http_requests"]
    assert stats["tapedeck_workers"] == 2
    async with aiohttp.ClientSession(gateway.url) as http:
        tokens = await asyncio.gather(*(new_token(http) for _ in range(10)))
    for token in tokens:
        async with (
            aiohttp.ClientSession(gateway.url) as http,
            http.get(f"/sets/{token}/play?mix_id=7") as answer,
        ):
            assert answer.status == 200


async def test_the_admin_port_answers_for_all_workers(gateway: Gateway) -> None:
    description = describe(parse(gateway.document))
    async with aiohttp.ClientSession(gateway.admin) as http:
        for path in ("/healthz", "/readyz", "/ring", "/partitions", "/stats", "/openapi.json"):
            async with http.get(path) as answer:
                valid(description, path, "GET", answer.status, await answer.json())
                assert answer.status == 200


def test_a_dead_worker_is_replaced_and_no_new_connection_is_lost(gateway: Gateway) -> None:
    before = workers(gateway)
    os.kill(before[1], signal.SIGKILL)
    # Some of these connections wait in the dead worker's queue for its successor.
    statuses = asyncio.run(one_request_each(gateway, 60))
    assert statuses == [200] * 60
    until(lambda: workers(gateway)[1] != before[1], "a new worker 1")
    after = workers(gateway)
    assert after[2] == before[2]
    assert exists(after[1])
    assert not exists(before[1])
    stats = asyncio.run(
        gateway.until("/stats", lambda _, body: body.get("tapedeck_worker_restarts") == 1)
    )
    assert stats["tapedeck_workers"] == 2


def test_a_worker_that_hangs_is_replaced_and_the_others_stay(
    stack_config: StackConfig, tmp_path: Path
) -> None:
    document = stack_config(gateway={"hung_seconds": 3, "workers": 2})
    put_mixes(document, [a_mix(7, tracks=3)])
    with Gateway(document, tmp_path) as gateway:
        until(lambda: len(workers(gateway)) == 2, "two workers")
        before = workers(gateway)
        os.kill(before[1], signal.SIGSTOP)
        # Some of these connections are the hanging worker's: its successor answers them.
        assert asyncio.run(one_request_each(gateway, 20)) == [200] * 20
        until(lambda: workers(gateway)[1] != before[1], "a new worker 1")
        assert workers(gateway)[2] == before[2]
        assert not exists(before[1])
        assert [line["worker"] for line in gateway.lines("worker killed")] == [1]


def test_a_worker_that_starts_slowly_is_not_taken_for_one_that_hangs(
    stack_config: StackConfig, tmp_path: Path
) -> None:
    document = stack_config(gateway={"hung_seconds": 1, "workers": 2})
    with Gateway(document, tmp_path) as gateway:
        until(lambda: len(workers(gateway)) == 2, "two workers")
        before = workers(gateway)
        os.kill(before[1], signal.SIGKILL)
        until(lambda: len(children(gateway.pid) - {before[1]}) == 2, "a successor")
        (successor,) = children(gateway.pid) - set(before.values())
        os.kill(successor, signal.SIGSTOP)
        time.sleep(8)  # as on a machine with far too much to do
        os.kill(successor, signal.SIGCONT)
        until(lambda: workers(gateway)[1] != before[1], "a new worker 1")
        assert workers(gateway)[1] == successor
        assert gateway.lines("worker killed") == []


def children(pid: int) -> set[int]:
    return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def test_a_supervisor_without_descriptors_kills_no_worker(
    stack_config: StackConfig, tmp_path: Path
) -> None:
    document = stack_config(gateway={"hung_seconds": 1, "workers": 2})
    with Gateway(document, tmp_path) as gateway, contextlib.ExitStack() as closing:
        soft, hard = resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE)
        assert soft == hard
        until(lambda: len(workers(gateway)) == 2, "two workers")
        time.sleep(1)  # both have answered it
        files = Path(f"/proc/{gateway.pid}/fd")
        highest = max(int(file.name) for file in files.iterdir())
        resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE, (highest + 10, hard))
        for _ in range(30):  # more than it can accept
            client = socket.create_connection(("127.0.0.1", document["admin"]["port"]), 5)
            closing.callback(client.close)
        time.sleep(3)  # several times as long as a worker may be silent
        assert gateway.lines("worker killed") == []
        assert all(map(exists, workers(gateway).values()))


def test_after_the_supervisor_is_killed_no_worker_and_no_port_is_left(gateway: Gateway) -> None:
    pids = workers(gateway).values()
    gateway.kill()
    until(lambda: not any(exists(pid) for pid in pids), "no worker left")
    # The sockets of a killed process may stay open a little longer.
    ports = [gateway.document[section]["port"] for section in ("gateway", "admin")]
    until(lambda: all(map(port_is_free, ports)), "both ports are free")


def test_a_stop_drains_all_workers_and_exits_with_0(gateway: Gateway) -> None:
    broken: list[str] = []
    refused = 0

    async def client(stopping: asyncio.Event) -> None:
        nonlocal refused
        async with aiohttp.ClientSession(gateway.url) as http:
            while True:
                try:
                    async with http.post("/mixes/7") as answer:
                        assert answer.status == 200
                        await answer.json()
                except aiohttp.ClientConnectorError:
                    refused += 1
                    return
                except (aiohttp.ClientError, AssertionError) as error:
                    broken.append(repr(error))
                    return
                if not stopping.is_set():
                    gateway.send(signal.SIGTERM)
                    stopping.set()

    async def clients() -> None:
        stopping = asyncio.Event()
        await asyncio.gather(*(client(stopping) for _ in range(20)))

    asyncio.run(clients())
    assert broken == []
    assert refused == 20
    assert gateway.wait() == 0
    assert {line.get("worker") for line in gateway.lines("worker stopped")} == {1, 2}
    assert not any(exists(pid) for pid in workers(gateway).values())


async def test_a_reload_changes_all_workers_or_none(gateway: Gateway) -> None:
    async def skips_allowed() -> set[bool]:
        seen = set()
        for _ in range(20):
            async with aiohttp.ClientSession(gateway.url) as http:
                token = await new_token(http)
                async with http.get(f"/sets/{token}/play?mix_id=7") as answer:
                    seen.add((await answer.json())["set"]["skip_allowed"])
        return seen

    assert await skips_allowed() == {True}
    gateway.document["player"] = {"skip_limit": 0}
    gateway.write_config()
    assert await reload(gateway) == (200, {"changed": ["player.skip_limit"], "needs_restart": []})
    assert await skips_allowed() == {False}
    gateway.document["player"] = {"skip_limit": "many"}
    gateway.write_config()
    status, body = await reload(gateway)
    assert status == 422
    assert "player.skip_limit" in body["errors"][0]
    assert await skips_allowed() == {False}
    # A worker that starts later has the reloaded values, not those of the file.
    for pid in workers(gateway).values():
        os.kill(pid, signal.SIGKILL)
    await gateway.until("/stats", lambda _, b: b.get("tapedeck_worker_restarts") == 2)
    assert await skips_allowed() == {False}


async def test_a_sighup_while_a_worker_does_not_answer_makes_a_reload_when_it_does(
    gateway: Gateway,
) -> None:
    late = workers(gateway)[1]
    os.kill(late, signal.SIGSTOP)  # as one that starts on a busy machine
    gateway.document["player"] = {"skip_limit": 5}
    gateway.write_config()
    gateway.send(signal.SIGHUP)
    until(lambda: bool(gateway.lines("reload failed")), "a reload that failed")
    os.kill(late, signal.SIGCONT)
    until(lambda: bool(gateway.lines("configuration reloaded")), "a reload")
    assert gateway.lines("configuration reloaded")[0]["changed"] == ["player.skip_limit"]
    assert workers(gateway)[1] == late


def test_local_mode_without_token_keys_generates_one_for_all_workers_and_does_not_log_it(
    stack_config: StackConfig, tmp_path: Path
) -> None:
    document = stack_config()
    del document["auth"]["token_keys"]
    put_mixes(document, [a_mix(7)])

    async def plays(gateway: Gateway) -> None:
        async with aiohttp.ClientSession(gateway.url) as http:
            token = await new_token(http)
        for _ in range(12):
            async with (
                aiohttp.ClientSession(gateway.url) as http,
                http.get(f"/sets/{token}/play?mix_id=7") as answer,
            ):
                assert answer.status == 200

    with Gateway(document, tmp_path, "--workers", "2") as gateway:
        asyncio.run(gateway.until("/readyz", lambda _, body: body["status"] == "ready"))
        asyncio.run(plays(gateway))
        assert len(gateway.lines("token key generated")) == 1
        assert not [w for w in gateway.log.read_text().split('"') if len(w) >= 64 and w.isalnum()]
