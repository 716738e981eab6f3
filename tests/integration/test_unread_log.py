"""A gateway whose log is not read drops lines, and still serves, reloads and stops."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.gateways import Gateway, put_mixes
from tests.support.serving import a_mix

pytestmark = pytest.mark.stack

StackConfig = Callable[..., dict[str, Any]]
RELOADS = 40
SECONDS = aiohttp.ClientTimeout(total=20)


@pytest.fixture(params=[1, 2], ids=["one-process", "two-workers"])
def unread(
    request: pytest.FixtureRequest, stack_config: StackConfig, tmp_path: Path
) -> Iterator[tuple[Gateway, int]]:
    """A gateway whose standard output and error are a pipe that the test has not read yet."""
    document = stack_config(log={"requests": True}, gateway={"workers": request.param})
    put_mixes(document, [a_mix(7, tracks=3)])
    gateway = Gateway(document, tmp_path)
    os.mkfifo(gateway.log)
    reader = os.open(gateway.log, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(reader, True)
    with gateway:
        yield gateway, reader
    os.close(reader)


async def log_much(gateway: Gateway) -> None:
    """Make the gateway log more than 1.5 MB, by refused reloads with many problems."""
    held = gateway.config.read_text()
    odd = "".join(f"  value_{n:03}_{'x' * 400}: 1\n" for n in range(100))
    gateway.config.write_text(held + "player:\n" + odd)
    async with aiohttp.ClientSession(gateway.admin, timeout=SECONDS) as http:
        for _ in range(RELOADS):
            async with http.post("/reload") as answer:
                assert answer.status == 422
                assert len((await answer.json())["errors"]) == 100
    gateway.config.write_text(held)


async def serves(gateway: Gateway) -> None:
    async with aiohttp.ClientSession(gateway.admin, timeout=SECONDS) as http:
        async with http.get("/healthz") as answer:
            assert answer.status == 200
        async with http.post("/reload") as answer:
            assert answer.status == 200
    for _ in range(10):  # on new connections, so that every worker answers some
        async with aiohttp.ClientSession(gateway.url, timeout=SECONDS) as http:
            async with http.get("/sets/new") as answer:
                token = (await answer.json())["play_token"]
            async with http.get(f"/sets/{token}/play?mix_id=7") as answer:
                assert answer.status == 200


async def read_all(gateway: Gateway, reader: int) -> list[dict[str, Any]]:
    """Read the log until it says what was dropped, stop the gateway, and read to the end."""
    text = b""
    while b'"log lines dropped"' not in text:
        text += await asyncio.to_thread(os.read, reader, 1 << 16)
    gateway.send(signal.SIGTERM)
    while piece := await asyncio.to_thread(os.read, reader, 1 << 16):
        text += piece
    lines = []
    for line in text.splitlines():
        # Long lines of several processes may be mixed in a pipe (pipe(7)).
        with contextlib.suppress(json.JSONDecodeError):
            lines.append(json.loads(line))
    return lines


async def test_a_gateway_serves_and_reports_the_dropped_lines_when_its_log_is_read_again(
    unread: tuple[Gateway, int],
) -> None:
    gateway, reader = unread
    await log_much(gateway)
    await serves(gateway)
    stats = await gateway.until("/stats", lambda status, _: status == 200)
    dropped = stats["tapedeck_log_lines_dropped"]
    assert dropped > 5
    lines = await read_all(gateway, reader)
    assert gateway.wait() == 0
    told = [line for line in lines if line["event"] == "log lines dropped"]
    assert sum(line["lines"] for line in told) >= dropped
    refused = [line for line in lines if line["event"] == "reload refused"]
    assert 5 < len(refused) < RELOADS
    assert lines[-1]["event"] in ("worker stopped", "supervisor stopped")


def test_a_gateway_stops_in_order_while_its_log_is_not_read(unread: tuple[Gateway, int]) -> None:
    gateway, _ = unread
    asyncio.run(log_much(gateway))
    assert gateway.stop() == 0
