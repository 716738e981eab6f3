"""A gateway and an application behind twemproxy share one set of lookup nodes.

Both are configured by twemproxy's own file.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import redis
import yaml

from config.load import ConfigError, parse
from config.nutcracker import NutcrackerError, read_pool
from sharding.backend import Backend
from sharding.lookups.hint_rules import Hint, HintKind
from sharding.state import Key
from stack.redis import RedisServer
from tests.conftest import StackConfig
from tests.support import backends
from tests.support.gateways import Gateway
from tests.support.nutcracker import ErrorAnswer, Nutcracker, mark
from tests.support.states import bump

pytestmark = pytest.mark.stack

KEYS = [Key(user, playlist) for user in range(1, 41) for playlist in (1, 2, 3)]
HOUR = 3_600_000


class Application:
    """Like the original system, it reads and writes days through twemproxy."""

    def __init__(self, nutcracker: Nutcracker) -> None:
        self._nutcracker = nutcracker

    def read(self, key: Key) -> bytes | None:
        return self._nutcracker.ask("lookups", b"GET", b"uid:%d:pid:%d" % key)

    def write(self, key: Key, day: bytes) -> None:
        name = b"uid:%d:pid:%d" % key
        assert self._nutcracker.ask("lookups", b"SET", name, day, b"EX", b"86400") == b"OK"


@pytest.fixture
def shared(lookup_servers: list[RedisServer], tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """A function that starts a twemproxy, with values for its pool."""
    started = []

    def start(**words: Any) -> Nutcracker:
        for server in lookup_servers:
            mark(server)
        weights = (1, 3, 2)
        pool = {
            "hash": "murmur",
            "timeout": 400,
            "auto_eject_hosts": True,
            "server_failure_limit": 1,
            "server_retry_timeout": HOUR,
            "servers": [
                f"{server.address}:{weight} {server.name}"
                for server, weight in zip(lookup_servers, weights, strict=True)
            ],
            **words,
        }
        nutcracker = Nutcracker(tmp_path / "n", {"lookups": pool})
        nutcracker.start()
        started.append(nutcracker)
        return nutcracker

    yield start
    for nutcracker in started:
        nutcracker.kill()


def opened(
    stack_config: StackConfig, nutcracker: Nutcracker, **beside: Any
) -> AbstractAsyncContextManager[Backend]:
    # A state in a worker's cache needs no hint.
    document = stack_config(sessions={"enabled": False})
    # Long, so that no hint is late on a busy machine.
    words = {"layout": "flat", "hint_deadline": 400, **beside}
    document["lookup"] = {"nutcracker": str(nutcracker.file), **words}
    return backends.opened(document)


async def play(backend: Backend, keys: list[Key]) -> None:
    await asyncio.gather(*(backend.store.change(key, bump) for key in keys))
    await backend.lookups.drain()


async def test_gateway_and_application_read_each_other_s_entries(
    stack_config: StackConfig, shared: Callable[..., Nutcracker]
) -> None:
    nutcracker = shared()
    application = Application(nutcracker)
    async with opened(stack_config, nutcracker) as backend:
        await play(backend, KEYS)
        today = f"{backend.days.today():%Y%m%d}".encode()
        assert {application.read(key) for key in KEYS} == {today}

        yesterday = backend.days.today() - timedelta(days=1)
        for key in KEYS:
            application.write(key, f"{yesterday:%Y%m%d}".encode())
        hints = await asyncio.gather(*(backend.lookups.ask(key) for key in KEYS))
        assert set(hints) == {Hint(HintKind.DAY, yesterday)}
        # The gateway repairs the old hints, and the application reads the new ones.
        for key in KEYS:
            assert (await backend.store.load(key)) is not None
        await backend.lookups.drain()
        assert {application.read(key) for key in KEYS} == {today}


async def test_gateway_and_application_agree_on_the_nodes_left_after_one_is_lost(
    stack_config: StackConfig,
    shared: Callable[..., Nutcracker],
    lookup_servers: list[RedisServer],
) -> None:
    nutcracker = shared()
    application = Application(nutcracker)
    async with opened(stack_config, nutcracker) as backend:
        await play(backend, KEYS)
        today = backend.days.today()
        text = f"{today:%Y%m%d}".encode()
        end, wrong, passes = threading.Event(), [], 0

        def run() -> None:
            nonlocal passes
            while not end.is_set():
                for key in KEYS:
                    try:
                        application.write(key, text)
                        # Between the two commands the node may be lost with the entry.
                        if (read := application.read(key)) not in (text, None):
                            wrong.append((key, read))
                    except ErrorAnswer:
                        pass  # twemproxy gives an error at the first request to a dead node
                passes += 1

        busy = asyncio.create_task(asyncio.to_thread(run))
        try:
            deadline = time.monotonic() + 20
            while passes < 6:
                await play(backend, KEYS)  # raises if the gateway failed
                if passes >= 2 and lookup_servers[1].running:
                    lookup_servers[1].kill()
                assert time.monotonic() < deadline
        finally:
            end.set()
            await busy
        assert not wrong
        assert backend.nodes.out == {lookup_servers[1].name}

        for key in KEYS:
            application.write(key, text)
        hints = await asyncio.gather(*(backend.lookups.ask(key) for key in KEYS))
        assert set(hints) == {Hint(HintKind.DAY, today)}
        for server in (lookup_servers[0], lookup_servers[2]):
            with server.client() as client:
                for key in KEYS:
                    client.delete(backend.lookups.layout.ring_key(key))
        for key in KEYS:
            backend.lookups.put(key, today, saved=True)
        await backend.lookups.drain()
        assert {application.read(key) for key in KEYS} == {text}


async def test_a_returned_node_serves_gateway_and_application_again(
    stack_config: StackConfig,
    shared: Callable[..., Nutcracker],
    lookup_servers: list[RedisServer],
) -> None:
    nutcracker = shared(server_retry_timeout=300)
    application = Application(nutcracker)
    async with opened(stack_config, nutcracker) as backend:
        await play(backend, KEYS)
        lookup_servers[1].kill()
        with contextlib.suppress(ErrorAnswer):
            for key in KEYS:
                application.read(key)
        await play(backend, KEYS)
        assert backend.nodes.out
        lookup_servers[1].start()
        deadline = time.monotonic() + 20
        while backend.nodes.out:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
        text = f"{backend.days.today():%Y%m%d}".encode()
        while True:
            # twemproxy lets the node return by itself after its time.
            await play(backend, KEYS)
            for key in KEYS:
                await backend.store.load(key)
            await backend.lookups.drain()
            if {application.read(key) for key in KEYS} == {text}:
                break
            assert time.monotonic() < deadline
        with lookup_servers[1].client() as client:
            assert client.dbsize() > 10, "the returned node has no entries"


@pytest.mark.parametrize("password", ["", "hush"])
async def test_a_pool_s_database_password_and_number_of_connections_are_used(
    stack_config: StackConfig, tmp_path: Path, password: str
) -> None:
    nodes = [RedisServer(f"n{n}", tmp_path / f"n{n}") for n in (1, 2)]
    words: dict[str, Any] = {"redis_auth": password} if password else {}
    nutcracker = Nutcracker(
        tmp_path / "n",
        {
            "lookups": {
                **words,
                "redis_db": 2,
                "server_connections": 1,
                "preconnect": True,
                "timeout": 400,
                "servers": [node.server for node in nodes],
            }
        },
    )

    def state_of(node: RedisServer) -> tuple[set[str], int]:
        with redis.Redis(port=node.port, password=password or None, socket_timeout=5) as client:
            others = len(client.client_list()) - 1
            return set(client.info("keyspace")), others - 1  # one of them is twemproxy's

    try:
        for node in nodes:
            node.start()
            with node.client() as client:
                client.config_set("requirepass", password)
        nutcracker.start()
        application = Application(nutcracker)
        async with opened(stack_config, nutcracker) as backend:
            assert [state_of(node) for node in nodes] == [(set(), 1)] * 2, "preconnect"
            await asyncio.gather(*(play(backend, KEYS) for _ in range(3)))
            text = f"{backend.days.today():%Y%m%d}".encode()
            assert {application.read(key) for key in KEYS} == {text}
            # With a password twemproxy's SELECT fails, and it uses database 0.
            where = "db0" if password else "db2"
            assert [state_of(node) for node in nodes] == [({where}, 1)] * 2
    finally:
        nutcracker.kill()
        for node in nodes:
            node.kill()


async def test_a_reload_reads_the_pool_s_file_again(
    stack_config: StackConfig,
    shared: Callable[..., Nutcracker],
    lookup_servers: list[RedisServer],
    tmp_path: Path,
) -> None:
    nutcracker = shared()
    document = stack_config()
    document["lookup"] = {"nutcracker": "n/nutcracker.yml", "layout": "flat"}
    gateway = Gateway(document, tmp_path)
    servers = nutcracker.pools["lookups"]["servers"]
    file = yaml.safe_load(nutcracker.file.read_text())

    async def reload(**words: Any) -> tuple[int, Any]:
        nutcracker.file.write_text(yaml.safe_dump({"lookups": {**file["lookups"], **words}}))
        async with aiohttp.ClientSession(gateway.admin) as http, http.post("/reload") as answer:
            return answer.status, await answer.json()

    async def nodes() -> set[str]:
        ring = await gateway.until("/ring", lambda status, _: status == 200)
        return {node["name"] for node in ring["nodes"]}

    try:
        await asyncio.to_thread(gateway.start)
        assert await nodes() == {server.name for server in lookup_servers}
        status, answer = await reload(servers=servers[:2], timeout=300)
        assert (status, await nodes()) == (200, {server.name for server in lookup_servers[:2]})
        assert {"lookup.servers", "lookup.timeout"} <= set(answer["changed"])
        for words, complaint in (
            ({"redis": False}, "pool lookups speaks memcached"),
            ({"distribution": "random"}, "a lookup could not be found again"),
        ):
            status, answer = await reload(**words)
            assert status == 422
            assert complaint in answer["errors"][0]
            assert await nodes() == {server.name for server in lookup_servers[:2]}
    finally:
        gateway.kill()


VARIANTS = {
    "plain": "",
    "every word": (
        "  backlog: 10\n  client_connections: 5\n  preconnect: false\n  tcpkeepalive: true\n"
        "  redis_auth: x\n  redis_db: 1\n  server_connections: 2\n  auto_eject_hosts: true\n"
        "  server_retry_timeout: 5\n  server_failure_limit: 1\n  timeout: 1\n  hash_tag: '{}'\n"
        "  hash: hsieh\n  distribution: modula\n"
    ),
    "yes": "  auto_eject_hosts: yes\n",
    "quoted": '  auto_eject_hosts: "true"\n  timeout: "400"\n',
    "TRUE": "  preconnect: TRUE\n",
    "hash": "  hash: sha1\n",
    "distribution": "  distribution: ring\n",
    "tag of one": '  hash_tag: "{"\n',
    "tag of three": '  hash_tag: "{}}"\n',
    "bare tag": "  hash_tag: {}\n",
    "negative": "  timeout: -1\n",
    "hexadecimal": "  timeout: 0x10\n",
    "empty": "  timeout:\n",
    "twice": "  timeout: 4\n  timeout: 4\n",
    "unknown": "  colour: red\n",
    "no connections": "  server_connections: 0\n",
}
SERVERS = {
    "named": ["127.0.0.1:1:1 a", "127.0.0.1:2:1 b"],
    "no weight": ["127.0.0.1:1"],
    "weight 0": ["127.0.0.1:1:0"],
    "port 0": ["127.0.0.1:0:1"],
    "port 65536": ["127.0.0.1:65536:1"],
    "two of one name": ["127.0.0.1:1:1 a", "127.0.0.1:2:1 a"],
    "two of one address": ["127.0.0.1:1:1", "127.0.0.1:1:2"],
    "two spaces": ["127.0.0.1:1:1  a"],
    "a name of two words": ["127.0.0.1:1:1 a b"],
    "none": [],
}


@pytest.mark.parametrize("case", [*VARIANTS, *SERVERS])
def test_a_gateway_refuses_the_same_files_as_twemproxy(tmp_path: Path, case: str) -> None:
    file = tmp_path / "nutcracker.yml"
    servers = "".join(f"   - {server}\n" for server in SERVERS.get(case, ["127.0.0.1:1:1"]))
    variant = VARIANTS.get(case, "")
    file.write_text(f"p:\n  listen: 127.0.0.1:22121\n  redis: true\n{variant}  servers:\n{servers}")
    done = subprocess.run(
        ["nutcracker", "-t", "-c", str(file)], capture_output=True, text=True, check=False
    )
    theirs = done.returncode == 0
    try:
        read_pool(file)
        parse(
            {
                "lookup": {"nutcracker": str(file)},
                "mysql": {"hosts": ["127.0.0.1:1"], "user": "nobody"},
            }
        )
        ours = True
    except (ConfigError, NutcrackerError):
        ours = False
    assert ours == theirs, done.stderr
