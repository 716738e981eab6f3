"""Reloads of whole gateways: all workers or none, two gateways one after the other, kills."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from config.load import parse
from config.model import MySQL
from failover.mysql.sign_in_trial import trial
from stack.process import free_port
from stack.redis import RedisServer
from tests.support.gateways import Gateway
from tests.support.rings import servers
from tests.support.terminal import tapedeck
from tests.support.traffic import Traffic

pytestmark = pytest.mark.stack

StackConfig = Callable[..., dict[str, Any]]


@pytest.fixture
def gateway(
    stack_config: StackConfig, lookup_servers: list[RedisServer], tmp_path: Path
) -> Iterator[Gateway]:
    """A gateway with two workers and two of the three lookup nodes."""
    document = stack_config(lookup={"servers": servers(*lookup_servers[:2])})
    with Gateway(document, tmp_path, "--workers", "2") as gateway:
        asyncio.run(gateway.until("/readyz", lambda _, body: body["status"] == "ready"))
        yield gateway


@pytest.fixture
def one_worker(
    stack_config: StackConfig, lookup_servers: list[RedisServer], tmp_path: Path
) -> Iterator[Gateway]:
    """A gateway with one worker and no supervisor."""
    document = stack_config(lookup={"servers": servers(*lookup_servers[:2])})
    with Gateway(document, tmp_path, "--workers", "1") as gateway:
        yield gateway


async def post(gateway: Gateway, path: str = "/reload") -> tuple[int, Any]:
    async with aiohttp.ClientSession(gateway.admin) as http, http.post(path) as answer:
        return answer.status, await answer.json()


async def metric(gateway: Gateway, name: str, **labels: str) -> list[float]:
    """The values of a metric in all processes of a gateway."""
    async with aiohttp.ClientSession(gateway.admin) as http, http.get("/metrics") as answer:
        lines = (await answer.text()).splitlines()
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    return [
        float(line.rpartition(" ")[2])
        for line in lines
        if re.match(rf"{name}[ {{]", line) and all(label in line for label in wanted)
    ]


async def generations(gateway: Gateway) -> list[float]:
    """The ring's generation of each worker that answers."""
    return sorted(await metric(gateway, "tapedeck_ring_generation"))


async def reloads(gateway: Gateway, result: str) -> float:
    """How many reloads ended so, in all processes together."""
    return sum(await metric(gateway, "tapedeck_reloads_total", result=result))


def without_memory(plan: str) -> str:
    """A plan without each node's memory, which changes between two plans."""
    return re.sub(r" +(- -> )?\S+ MB.*", "", plan)


def set_lookup(gateway: Gateway, **lookup: Any) -> None:
    gateway.document["lookup"].update(lookup)
    gateway.write_config()


def workers(gateway: Gateway) -> dict[int, int]:
    return {line["worker"]: line["pid"] for line in gateway.lines("worker started")}


async def test_if_one_worker_does_not_answer_all_workers_keep_the_old_ring(
    gateway: Gateway, lookup_servers: list[RedisServer]
) -> None:
    set_lookup(gateway, servers=servers(*lookup_servers))
    os.kill(workers(gateway)[2], signal.SIGSTOP)
    try:
        status, body = await post(gateway)
        assert status == 503
        assert "worker 2" in body["errors"][0]
        assert "Nothing changed" in body["errors"][0]
    finally:
        os.kill(workers(gateway)[2], signal.SIGCONT)
    await gateway.until("/readyz", lambda _, body: body["status"] == "ready")
    assert [g for g in await generations(gateway) if g] == [1, 1]
    assert (await post(gateway))[0] == 200
    assert [g for g in await generations(gateway) if g] == [2, 2]
    assert await reloads(gateway, "failed") == 1
    assert await reloads(gateway, "applied") == 1
    async with asyncio.timeout(5):  # the line may come after the answer
        while len(gateway.lines("configuration reloaded")) != 1:
            await asyncio.sleep(0.02)


async def test_a_worker_started_during_or_after_a_reload_has_the_new_ring(
    gateway: Gateway, lookup_servers: list[RedisServer]
) -> None:
    first = workers(gateway)
    for number in range(4):
        nodes = lookup_servers if number % 2 == 0 else lookup_servers[:2]
        set_lookup(gateway, servers=servers(*nodes))
        os.kill(workers(gateway)[1], signal.SIGKILL)
        status = 503
        while status == 503:  # the killed worker's successor does not answer yet
            status, body = await post(gateway)
        assert status == 200, body
    os.kill(workers(gateway)[2], signal.SIGKILL)

    def restarted(_: int, body: Any) -> bool:
        pids = workers(gateway)
        return body["status"] == "ready" and first[2] != pids[2]

    await gateway.until("/readyz", restarted)
    assert [g for g in await generations(gateway) if g] == [5, 5]
    async with aiohttp.ClientSession(gateway.admin) as http, http.get("/ring") as answer:
        body = await answer.json()
    assert {node["name"] for node in body["nodes"]} == {"lookup1", "lookup2"}


async def test_a_reload_with_an_invalid_ring_changes_nothing_and_says_why(
    gateway: Gateway, lookup_servers: list[RedisServer]
) -> None:
    set_lookup(gateway, servers=[*servers(*lookup_servers), f"127.0.0.1:1:1 {'x' * 300}"])
    status, body = await post(gateway)
    assert status == 422
    assert "longer than 264 bytes" in body["errors"][0]
    gateway.send(signal.SIGHUP)
    await gateway.until("/healthz", lambda *_: len(gateway.lines("reload refused")) == 2)
    assert [g for g in await generations(gateway) if g] == [1, 1]
    assert await reloads(gateway, "refused") == 2
    status, body = await post(gateway, "/reload/check")
    assert status == 422


async def test_sighup_and_a_changed_file_reload_the_configuration(
    gateway: Gateway, lookup_servers: list[RedisServer]
) -> None:
    set_lookup(gateway, servers=servers(*lookup_servers))
    gateway.document["reload"] = {"on_change": True, "look_every": 0.1}
    gateway.write_config()
    gateway.send(signal.SIGHUP)
    await gateway.until("/ring", lambda _, body: body["generation"] == 2)

    set_lookup(gateway, servers=servers(*lookup_servers[:1]))
    await gateway.until("/ring", lambda _, body: body["generation"] == 3)
    gateway.config.write_text(gateway.config.read_text().replace("servers:", "nonsense:"))
    await gateway.until("/healthz", lambda *_: len(gateway.lines("reload refused")) == 1)
    set_lookup(gateway, servers=servers(*lookup_servers[:2]))
    await gateway.until("/ring", lambda _, body: body["generation"] == 4)
    assert len(gateway.lines("reload refused")) == 1


async def test_a_reload_applies_limits_and_names_values_that_need_a_restart(
    one_worker: Gateway,
) -> None:
    document = one_worker.document
    document["lookup"] |= {"timeout": 123, "hint_deadline": 7, "server_failure_limit": 9}
    document["lookup"] |= {"auto_eject_hosts": False, "batch": 5, "capacity_every": 10}
    document["mysql"] |= {"deadline": 1234, "statement_timeout": 999, "batch": 3}
    document["partitions"] |= {"retention_days": 7, "prune": False}
    document["log"] = {"level": "warning"}
    one_worker.write_config()
    status, body = await post(one_worker)
    assert status == 200
    assert body["needs_restart"] == []
    assert set(body["changed"]) == {
        *(f"lookup.{key}" for key in ("timeout", "hint_deadline", "server_failure_limit")),
        *(f"lookup.{key}" for key in ("auto_eject_hosts", "batch", "capacity_every")),
        *(f"mysql.{key}" for key in ("deadline", "statement_timeout", "batch")),
        *("partitions.retention_days", "partitions.prune", "log.level"),
    }
    assert "ring" not in body
    async with Traffic([one_worker.url], one_worker.key).running() as traffic:
        await traffic.more()
    assert traffic.problems == []
    document["gateway"]["workers"] = 3
    document["mysql"]["hosts"] = ["127.0.0.1:1"]
    document["catalog"] = {"max_age": 1}
    one_worker.write_config()
    status, body = await post(one_worker)
    assert (status, body["changed"]) == (200, [])
    assert set(body["needs_restart"]) == {"mysql.hosts", "catalog.max_age"}


@pytest.mark.parametrize("layout", ["packed", pytest.param("flat", marks=pytest.mark.long)])
async def test_no_change_is_lost_while_only_one_of_two_gateways_has_reloaded(
    stack_config: StackConfig, lookup_servers: list[RedisServer], tmp_path: Path, layout: str
) -> None:
    one, two, three = lookup_servers
    lookup = {"servers": servers(one, two), "layout": layout}
    pair = [Gateway(stack_config(lookup=lookup), tmp_path) for _ in range(2)]
    for gateway in pair:
        await asyncio.to_thread(gateway.start)
    try:
        urls = [gateway.url for gateway in pair]
        async with Traffic(urls, pair[0].key).running() as traffic:
            await traffic.more()
            for nodes in ((one, two, three), (two, three), (one,)):
                for gateway in pair:
                    set_lookup(gateway, servers=servers(*nodes))
                    assert (await post(gateway))[0] == 200
                    await traffic.more(250)  # one has the new ring, the other the old one
        assert traffic.problems == []
    finally:
        for gateway in pair:
            gateway.kill()


async def test_check_config_shows_what_a_reload_would_change_without_secrets(
    one_worker: Gateway, lookup_servers: list[RedisServer], tmp_path: Path
) -> None:
    file = tmp_path / "new.yml"
    document = {**one_worker.document, "lookup": {"servers": servers(*lookup_servers)}}
    document["player"] = {"skip_limit": 5}
    document["mysql"] = {**document["mysql"], "password": "a-secret", "connections": 3}
    document["gateway"] = {**document["gateway"], "workers": 7}
    file.write_text(yaml.safe_dump(document))
    shown = tapedeck("check-config", str(file), "--against", one_worker.admin)
    assert shown.returncode == 0, shown
    lines = shown.stdout.splitlines()
    assert "changes: player.skip_limit: 2 -> 5" in lines
    assert "needs a restart: mysql.connections: 16 -> 3" in lines
    assert "changes: mysql.password" in lines
    assert "overridden where the gateway runs: gateway.workers: 1 -> 7" in lines
    assert any(re.fullmatch(r"ring: lookup3 \(.+\) is added", line) for line in lines)
    moves = re.fullmatch(r"ring: ([\d.]+)% of the keys move to another node", lines[-1])
    assert moves is not None
    assert 22 < float(moves[1]) < 45
    assert "a-secret" not in shown.stdout
    assert re.search("warning: mysql.hosts: .* refuses the user", shown.stderr), shown

    # `ring plan` and the reload give the same share.
    planned = tapedeck("ring", "plan", "--config", str(file), "--against", one_worker.admin)
    assert planned.stdout.splitlines()[:2] == [
        f"{moves[1]}% of the keys would move to another node:",
        f"  lookup3 ({lookup_servers[2].address}) is added",
    ], planned
    added = f"{lookup_servers[2].address}:1 lookup3"
    before = tapedeck("ring", "plan", "--config", str(one_worker.config), "--add", added)
    assert without_memory(before.stdout) == without_memory(planned.stdout)

    file.write_text(yaml.safe_dump(one_worker.document))
    same = tapedeck("check-config", str(file), "--against", one_worker.admin)
    assert same.stdout == "nothing differs\n", same.stdout
    assert await generations(one_worker) == [1]

    refused = tapedeck("check-config", str(file), "--against", "http://127.0.0.1:1")
    assert refused.returncode == 1
    assert "nothing listens at http://127.0.0.1:1" in refused.stderr
    status, body = await post(one_worker, "/reload/check")
    assert (status, body) == (200, {"changed": [], "needs_restart": []})
    planned = tapedeck(
        "ring", "plan", "--config", str(one_worker.config), "--against", one_worker.admin
    )
    assert "a reload moves nothing" in planned.stdout, planned

    set_lookup(one_worker, servers=servers(*lookup_servers))
    status, body = await post(one_worker)
    assert f"{body['ring']['moved']:.1%}" == f"{moves[1]}%"


async def test_every_way_to_reload_refuses_a_new_node_that_does_not_answer_unless_forced(
    gateway: Gateway, lookup_servers: list[RedisServer]
) -> None:
    one, two, three = lookup_servers
    missing = f"127.0.0.1:{free_port()}:1 lookup4"
    two.kill()  # it is in the ring already, so a reload is not refused because of it
    set_lookup(gateway, servers=[*servers(one, two), missing])

    warned = tapedeck("check-config", str(gateway.config))
    assert warned.returncode == 0
    assert "warning" not in warned.stdout  # it is on stderr
    assert "warning: lookup.servers: lookup4" in warned.stderr
    assert "mysql" not in warned.stderr
    assert "ConnectionRefusedError" in warned.stderr
    assert (await post(gateway, "/reload/check"))[0] == 422
    status, body = await post(gateway)
    assert status == 422
    (sentence,) = body["errors"]
    assert "the new node lookup4" in sentence
    assert "tapedeck reload --force" in sentence
    assert "does not work" in sentence
    assert "POST /reload?force=1" in sentence
    gateway.send(signal.SIGHUP)
    await gateway.until("/healthz", lambda *_: len(gateway.lines("reload refused")) == 2)
    assert "POST /reload?force=1" in gateway.lines("reload refused")[-1]["problems"][0]
    assert [g for g in await generations(gateway) if g] == [1, 1]

    # A new node that answers is accepted, although another node is down.
    set_lookup(gateway, servers=servers(one, two, three))
    assert (await post(gateway))[0] == 200
    assert [g for g in await generations(gateway) if g] == [2, 2]

    set_lookup(gateway, servers=[*servers(one, two, three), missing])
    assert (await post(gateway))[0] == 422
    status, body = await post(gateway, "/reload?force=1")
    assert (status, body["ring"]["generation"]) == (200, 3)
    (warning,) = body["warnings"]  # not one for each worker
    assert "the new node lookup4" in warning
    assert "does not work" in warning
    assert [g for g in await generations(gateway) if g] == [3, 3]


async def test_every_way_to_reload_refuses_a_mysql_password_that_mysql_refuses_unless_forced(
    gateway: Gateway,
) -> None:
    good = gateway.document["mysql"]["password"]
    gateway.document["mysql"]["password"] = "wrong"
    gateway.write_config()
    url = ("--url", gateway.admin)
    for words in (("reload", "--dry-run", *url), ("reload", *url)):
        refused = tapedeck(*words)
        assert refused.returncode == 1
        assert "mysql.password: 127.0.0.1:" in refused.stderr
        assert "refuses the user, its password or its rights: 1045" in refused.stderr
        assert "nothing changed" in refused.stderr
    gateway.send(signal.SIGHUP)
    await gateway.until("/healthz", lambda *_: len(gateway.lines("reload refused")) == 2)
    # Workers still use the old password: the next reload finds no change.
    gateway.document["mysql"]["password"] = good
    gateway.write_config()
    assert await post(gateway) == (200, {"changed": [], "needs_restart": []})

    gateway.document["mysql"]["password"] = "wrong"
    gateway.write_config()
    forced = tapedeck("reload", "--force", *url)
    assert forced.returncode == 0
    assert "changed: mysql.password" in forced.stdout
    assert "warning: mysql.password: 127.0.0.1:" in forced.stdout


async def test_a_reload_refuses_a_password_that_lookup_nodes_refuse_unless_forced(
    gateway: Gateway, lookup_servers: list[RedisServer]
) -> None:
    set_lookup(gateway, password="wrong")
    status, body = await post(gateway)
    assert status == 422
    assert len(body["errors"]) == 2
    assert "lookup.password: the node lookup1 (127.0.0.1:" in body["errors"][0]
    assert "does not work: refused: " in body["errors"][0]
    assert "nothing changed" in body["errors"][0]
    await gateway.until("/readyz", lambda _, body: body["status"] == "ready")

    status, body = await post(gateway, "/reload?force=1")
    assert (status, body["changed"]) == (200, ["lookup.password"])
    assert len(body["warnings"]) == 2


async def test_a_new_sign_in_is_accepted_if_one_host_accepts_it_and_others_do_not_answer(
    stack_config: StackConfig,
) -> None:
    document = stack_config()
    up, down = document["mysql"]["hosts"][0], f"127.0.0.1:{free_port()}"

    def mysql(*hosts: str, **values: Any) -> MySQL:
        return parse({**document, "mysql": {**document["mysql"], "hosts": hosts, **values}}).mysql

    old = mysql(up, password="old")
    assert await trial(old, mysql(down, password="old")) == []  # nothing to try
    assert await trial(old, mysql(up, down)) == []
    (wrong,) = await trial(old, mysql(up, down, password="wrong"))
    assert wrong.startswith(f"mysql.password: {up} refuses the user")
    (silent,) = await trial(old, mysql(down))
    assert silent.startswith("mysql.password: no MySQL host let this gateway in to try it")
    assert down in silent
    (plain,) = await trial(old, mysql(down, password="old", tls=True))
    assert plain.startswith("mysql.tls: ")
