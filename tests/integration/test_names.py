"""Names that DNS does not answer, of one peer or of all: every request is served all the same."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from drills.dns import Dns
from stack.mariadb import MariaDB
from tests.support.gateways import SECONDS, Gateway, put_mixes
from tests.support.serving import a_mix

pytestmark = [
    pytest.mark.stack,
    pytest.mark.skipif(os.geteuid() != 0, reason="a port below 1024, and a mount of its own"),
]

StackConfig = Callable[..., dict[str, Any]]

PRIMARY, STANDBY = "primary.test", "standby.test"
NODES = [f"node{n}.test" for n in (1, 2, 3)]
RESOLVER_SECONDS = 10
"""How long glibc's resolver tries: five seconds, twice."""


@pytest.fixture
def dns() -> Iterator[Dns]:
    with Dns() as dns:
        dns.names = dict.fromkeys((PRIMARY, *NODES), "127.0.0.1") | {STANDBY: "127.0.0.9"}
        yield dns


@pytest.fixture
def gateway(
    stack_config: StackConfig, mysql: MariaDB, dns: Dns, tmp_path: Path
) -> Iterator[Gateway]:
    document = stack_config()
    put_mixes(document, [a_mix(7, tracks=3)])
    port = document["mysql"]["hosts"][0].rpartition(":")[2]
    # The standby's address refuses connections.
    document["mysql"]["hosts"] = [f"{PRIMARY}:{port}", f"{STANDBY}:1"]
    document["lookup"]["servers"] = [
        f"{name}:{server.partition(':')[2]}"
        for name, server in zip(NODES, document["lookup"]["servers"], strict=True)
    ]
    with Gateway(document, tmp_path, within=dns.within(tmp_path)) as gateway:
        yield gateway


async def statuses(gateway: Gateway, seconds: float) -> list[int]:
    """Of listeners who begin a mix, one after the other, for so long."""
    found = []
    end = time.monotonic() + seconds
    async with aiohttp.ClientSession(gateway.url) as http:
        while time.monotonic() < end:
            async with http.post("/mixes/7") as answer:
                found.append(answer.status)
            await asyncio.sleep(0.05)
    return found


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([STANDBY], None),
        (NODES, None),
        ([PRIMARY], None),
        ([PRIMARY, STANDBY, *NODES], None),
        ([PRIMARY, STANDBY, *NODES], "fail"),
        ([PRIMARY, STANDBY, *NODES], ""),
    ],
    ids=["standby-silent", "nodes-silent", "primary-silent", "all-silent", "all-fail", "all-gone"],
)
async def test_names_that_dns_does_not_answer_cost_no_request(
    gateway: Gateway, dns: Dns, names: list[str], said: str | None
) -> None:
    async with asyncio.timeout(SECONDS):
        while set(dns.asked) < set(dns.names):
            await asyncio.sleep(0.05)
    assert set(await statuses(gateway, 0.3)) == {200}
    dns.names |= dict.fromkeys(names, said)
    # Past the end of the first look-ups, when those that wait behind them would have given up.
    assert set(await statuses(gateway, RESOLVER_SECONDS + 5)) == {200}
    assert gateway.lines("mysql primary lost") == []
    assert gateway.lines("lookup node ejected") == []


async def test_a_gateway_starts_though_the_standbys_name_and_a_nodes_are_silent(
    stack_config: StackConfig, gateway: Gateway, dns: Dns
) -> None:
    gateway.stop()
    dns.names |= {STANDBY: None, NODES[0]: None}
    await asyncio.to_thread(gateway.start)
    assert set(await statuses(gateway, 1)) == {200}
