"""While DNS does not answer, for one server or for all, every request is served."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from drills.dns import RESOLVER_SECONDS, Dns
from tests.support.gateways import SECONDS, Gateway, put_mixes
from tests.support.serving import a_mix

pytestmark = [
    pytest.mark.stack,
    pytest.mark.skipif(os.geteuid() != 0, reason="a port below 1024, and a mount of its own"),
]

StackConfig = Callable[..., dict[str, Any]]

PRIMARY, STANDBY = "primary.test", "standby.test"
NODES = [f"node{n}.test" for n in (1, 2, 3)]

CASES: dict[str, tuple[list[str], str | None]] = {
    "standby-silent": ([STANDBY], None),
    "nodes-silent": (NODES, None),
    "primary-silent": ([PRIMARY], None),
    "all-silent": ([PRIMARY, STANDBY, *NODES], None),
    "all-fail": ([PRIMARY, STANDBY, *NODES], "fail"),
    "all-gone": ([PRIMARY, STANDBY, *NODES], ""),
}
"""The names that fail in each case, and what DNS answers for them (drills.dns)."""


@dataclass
class Served:
    """A gateway with names of servers, and the DNS server that it asks."""

    gateway: Gateway
    dns: Dns


Serving = Callable[[str], Served]


@pytest.fixture
def serving(stack_config: StackConfig, tmp_path: Path) -> Iterator[Serving]:
    """A function that makes one, without starting it."""
    put_mixes(stack_config(), [a_mix(7, tracks=3)])
    with contextlib.ExitStack() as made:

        def make(name: str) -> Served:
            document, folder = stack_config(), tmp_path / name
            port = document["mysql"]["hosts"][0].rpartition(":")[2]
            # The standby's address refuses connections.
            document["mysql"]["hosts"] = [f"{PRIMARY}:{port}", f"{STANDBY}:1"]
            document["lookup"]["servers"] = [
                f"{name}:{server.partition(':')[2]}"
                for name, server in zip(NODES, document["lookup"]["servers"], strict=True)
            ]
            folder.mkdir()
            dns = made.enter_context(Dns())
            dns.names = dict.fromkeys((PRIMARY, *NODES), "127.0.0.1") | {STANDBY: "127.0.0.9"}
            gateway = Gateway(document, folder, within=dns.within(folder))
            made.callback(gateway.kill)
            return Served(gateway, dns)

        yield make


async def statuses(gateway: Gateway, seconds: float) -> list[int]:
    """The statuses for listeners who begin a mix one after the other, for some seconds."""
    found = []
    end = time.monotonic() + seconds
    async with aiohttp.ClientSession(gateway.url) as http:
        while time.monotonic() < end:
            async with http.post("/mixes/7") as answer:
                found.append(answer.status)
            await asyncio.sleep(0.05)
    return found


async def go_without(served: Served, names: list[str], said: str | None) -> tuple[Any, ...]:
    """Make names fail; the statuses before and after, and log lines of lost servers."""
    gateway, dns = served.gateway, served.dns
    async with asyncio.timeout(SECONDS):
        while set(dns.asked) < set(dns.names):
            await asyncio.sleep(0.05)
    before = await statuses(gateway, 0.3)
    dns.names |= dict.fromkeys(names, said)
    # Longer than the first look-ups, after which look-ups behind them would fail.
    after = await statuses(gateway, 2 * RESOLVER_SECONDS + 1)
    events = ("mysql primary lost", "lookup node ejected")
    return set(before), set(after), [line for event in events for line in gateway.lines(event)]


def test_no_request_fails_while_dns_does_not_answer(serving: Serving) -> None:
    # All cases run at once: each waits for a resolver and uses little CPU.
    served = {case: serving(case) for case in CASES}
    with ThreadPoolExecutor(2) as starters:
        list(starters.map(lambda one: one.gateway.start(), served.values()))

    async def all_cases() -> list[tuple[Any, ...]]:
        return await asyncio.gather(
            *(go_without(served[case], names, said) for case, (names, said) in CASES.items())
        )

    found = dict(zip(CASES, asyncio.run(all_cases()), strict=True))
    assert found == {case: ({200}, {200}, []) for case in CASES}


def test_a_gateway_starts_while_dns_does_not_answer_for_the_standby_and_a_node(
    serving: Serving,
) -> None:
    served = serving("silent")
    served.gateway.start()
    served.gateway.stop()
    served.dns.names |= {STANDBY: None, NODES[0]: None}
    served.gateway.start()
    assert set(asyncio.run(statuses(served.gateway, 1))) == {200}
