"""The ring changes under traffic: no request fails and no state is lost."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from stack.redis import RedisServer
from tests.integration.test_reload_gateways import post
from tests.support.gateways import Gateway
from tests.support.rings import servers
from tests.support.traffic import Traffic

pytestmark = pytest.mark.stack

StackConfig = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def _extra_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RedisServer]]:
    folder = tmp_path_factory.mktemp("more-lookups")
    servers = [RedisServer(f"lookup{n}", folder / f"lookup{n}") for n in (4, 5)]
    for server in servers:
        server.start()
    yield servers
    for server in servers:
        server.kill()


@pytest.fixture
def more_servers(_extra_servers: list[RedisServer]) -> list[RedisServer]:
    """Two more lookup nodes, running and empty."""
    for server in _extra_servers:
        server.thaw()
        if not server.running:
            server.start()
        with server.client() as client:
            client.flushall()
    return _extra_servers


async def reloaded(gateway: Gateway, **lookup: Any) -> dict[str, Any]:
    """Reload with these values of `lookup`; the answer."""
    gateway.document["lookup"].update(lookup)
    gateway.write_config()
    status, body = await post(gateway)
    assert status == 200, body
    return dict(body)


async def ring(gateway: Gateway) -> dict[str, Any]:
    async with aiohttp.ClientSession(gateway.admin) as http, http.get("/ring") as answer:
        return dict(await answer.json())


def names(body: dict[str, Any]) -> set[str]:
    return {node["name"] for node in body["nodes"]}


@pytest.mark.parametrize("workers", [1, 2])
async def test_no_request_fails_while_nodes_are_added_removed_reweighted_renamed_or_moved(
    stack_config: StackConfig,
    lookup_servers: list[RedisServer],
    more_servers: list[RedisServer],
    tmp_path: Path,
    workers: int,
) -> None:
    one, two, three = lookup_servers
    four, five = more_servers
    gateway = Gateway(stack_config(), tmp_path, "--workers", str(workers))
    await asyncio.to_thread(gateway.start)
    try:
        async with Traffic([gateway.url], gateway.key).running() as traffic:
            await traffic.more()
            answer = await reloaded(gateway, servers=servers(one, two, three, four))
            assert answer["changed"] == ["lookup.servers"]
            assert answer["ring"]["generation"] == 2
            assert 0.15 < answer["ring"]["moved"] < 0.35
            await traffic.more()
            after = await ring(gateway)
            assert names(after) == {"lookup1", "lookup2", "lookup3", "lookup4"}
            assert after["generation"] == 2

            for number, change in enumerate(
                (
                    {"servers": servers(two, three, four)},
                    {"servers": [*servers(two, weight=5), *servers(three, four)]},
                    {"servers": [f"{two.address}:5 another-name", *servers(three, four)]},
                    {"servers": [f"{five.address}:5 another-name", *servers(three, four)]},
                    {"hash": "murmur", "distribution": "modula"},
                    {"hash_tag": "::"},
                    {"layout": "flat"},
                    {"layout": "packed", "servers": servers(one, two)},
                ),
                3,
            ):
                answer = await reloaded(gateway, **change)
                assert answer["needs_restart"] == []
                if "hash_tag" not in change:  # our keys do not have this tag, so none moves
                    assert answer["ring"]["moved"] > 0
                await traffic.more()
                assert (await ring(gateway))["generation"] == number
            assert names(await ring(gateway)) == {"lookup1", "lookup2"}
        assert traffic.problems == []
        assert not [line for line in gateway.lines() if line["level"] == "error"]
    finally:
        gateway.kill()


async def test_after_many_reloads_in_a_row_no_state_is_lost_and_the_last_ring_is_used(
    stack_config: StackConfig,
    lookup_servers: list[RedisServer],
    more_servers: list[RedisServer],
    tmp_path: Path,
) -> None:
    chance = random.Random(7)
    nodes = [*lookup_servers, *more_servers]
    gateways = [Gateway(stack_config(), tmp_path, "--workers", workers) for workers in ("2", "1")]
    try:
        for gateway in gateways:
            await asyncio.to_thread(gateway.start)
        urls = [gateway.url for gateway in gateways]
        async with Traffic(urls, gateways[0].key).running() as traffic:
            for _ in range(20):
                gateway = chance.choice(gateways)
                some = chance.sample(nodes, chance.randint(1, 4))
                weighted = [f"{n.address}:{chance.randint(1, 3)} {n.name}" for n in some]
                await reloaded(gateway, servers=weighted, layout=chance.choice(["packed", "flat"]))
                await traffic.more(20)
            for gateway in gateways:
                await reloaded(gateway, servers=servers(*nodes), layout="flat")
            for gateway in gateways:
                assert names(await ring(gateway)) == {node.name for node in nodes}
        assert traffic.problems == []
        for gateway in gateways:
            assert not [line for line in gateway.lines() if line["level"] == "error"]
    finally:
        for gateway in gateways:
            gateway.kill()
