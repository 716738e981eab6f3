"""Memory and evictions of real lookup nodes, as a gateway and an operator see them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
from typer.testing import CliRunner

from cli.main import app
from config.load import parse
from failover.redis.nodes import Nodes
from sharding.lookups.capacity import Survey
from stack.redis import RedisServer
from tests.conftest import StackConfig
from tests.support.gateways import Gateway

pytestmark = pytest.mark.stack


async def test_a_survey_of_a_failing_node_does_not_eject_it_and_keeps_its_last_figures(
    stack_config: StackConfig, lookup_servers: list[RedisServer]
) -> None:
    document = stack_config(lookup={"timeout": 100, "server_failure_limit": 1})
    nodes = Nodes(parse(document).lookup)
    survey = Survey(60)
    try:
        await survey.check(nodes)
        lookup_servers[0].freeze()
        lookup_servers[1].kill()
        for _ in range(3):
            await survey.check(nodes)
        assert not nodes.out
        assert set(survey.found) == {server.name for server in lookup_servers}
    finally:
        await nodes.close()


@pytest.fixture
def gateway(stack_config: StackConfig, tmp_path: Path) -> Iterator[Gateway]:
    with Gateway(stack_config(lookup={"capacity_every": 0.2}), tmp_path) as gateway:
        yield gateway


async def test_evictions_degrade_the_gateway_and_are_logged_counted_and_shown(
    gateway: Gateway, lookup_servers: list[RedisServer]
) -> None:
    await gateway.until(
        "/ring", lambda _, ring: all(node.get("capacity") for node in ring["nodes"])
    )

    def overfill() -> None:
        with lookup_servers[0].client() as client:
            client.config_set("maxmemory-policy", "allkeys-lru")
            client.config_set("maxmemory", client.info("memory")["used_memory"] + 200_000)
            for n in range(2000):
                client.set(f"uid:{n}:pid:1", "20260101" * 20)

    await asyncio.to_thread(overfill)
    name = lookup_servers[0].name
    ready = await gateway.until("/readyz", lambda _, body: body["status"] == "degraded")
    assert ready["reasons"][0].startswith(f"lookup node {name} evicts entries before the reten")
    ring = await gateway.until("/ring", lambda _, __: True)
    found = {node["name"]: node["capacity"] for node in ring["nodes"]}
    assert found[name]["evicted_last_hour"] > 100
    assert found[lookup_servers[1].name]["evicted_last_hour"] == 0
    (line,) = gateway.lines("lookup entries evicted")
    assert (line["node"], line["maxmemory_policy"]) == (name, "allkeys-lru")
    async with aiohttp.ClientSession(gateway.admin) as http, http.get("/metrics") as answer:
        text = await answer.text()
    assert f'tapedeck_capacity_alarm{{node="{name}"}} 1.0' in text
    assert f'tapedeck_capacity_alarm{{node="{lookup_servers[1].name}"}} 0.0' in text

    shown = await asyncio.to_thread(
        CliRunner().invoke, app, ["ring", "show", "--config", str(gateway.config), "--json"]
    )
    nodes = {node["name"]: node for node in json.loads(shown.stdout)["nodes"]}
    assert nodes[name]["evicted_last_hour"] > 100
    assert nodes[name]["maxmemory_policy"] == "allkeys-lru"
    table = await asyncio.to_thread(
        CliRunner().invoke, app, ["ring", "show", "--config", str(gateway.config)]
    )
    assert "evicted: entries that went before the retention of 30 days" in table.stdout

    # A file that the gateway has not loaded, or whose values its environment overrides.
    fewer = gateway.config.with_name("fewer.yml")
    lookup = {"servers": [node.server for node in lookup_servers[:2]]}
    fewer.write_text(json.dumps({**gateway.document, "lookup": lookup}))
    table = await asyncio.to_thread(
        CliRunner().invoke, app, ["ring", "show", "--config", str(fewer)]
    )
    assert f"The gateway's ring also has {lookup_servers[2].name}: not in {fewer}" in table.stdout


def test_ring_show_works_without_a_gateway_and_with_a_dead_node(
    stack_config: StackConfig, lookup_servers: list[RedisServer], tmp_path: Path
) -> None:
    config = tmp_path / "tapedeck.yml"
    config.write_text(json.dumps(stack_config()))
    lookup_servers[2].kill()
    done = CliRunner().invoke(app, ["ring", "show", "--config", str(config), "--json"])

    assert done.exit_code == 0
    nodes = json.loads(done.stdout)["nodes"]
    assert [node["state"] == "answers" for node in nodes] == [True, True, False]
    assert "refused" in nodes[2]["state"]
    table = CliRunner().invoke(app, ["ring", "show", "--config", str(config)]).stdout
    assert "generation   not known: nothing listens at http://127.0.0.1:" in table


def test_ring_where_shows_the_lookup_node_even_while_mysql_is_down(
    stack_config: StackConfig, tmp_path: Path
) -> None:
    document = stack_config()
    document["mysql"] |= {"hosts": ["127.0.0.1:1"], "deadline": 300}
    config = tmp_path / "tapedeck.yml"
    config.write_text(json.dumps(document))
    done = CliRunner().invoke(app, ["ring", "where", "7", "1", "--config", str(config)])

    assert done.exit_code == 1
    assert "lookup key   u:7" in done.stdout
    assert "hint         lookup" in done.stdout
    assert "MySQL cannot say where the state is: " in str(done.exception)
    as_json = CliRunner().invoke(
        app, ["ring", "where", "7", "1", "--json", "--config", str(config)]
    )
    answer = json.loads(as_json.stdout)
    assert len(answer["order"]) == 3
    assert answer["problem"]
