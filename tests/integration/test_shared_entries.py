"""Lookup nodes that another application also uses: its entries are not changed."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from sharding.state import Key
from stack.redis import RedisServer
from tests.conftest import StackConfig
from tests.support.backends import opened
from tests.support.gateways import Gateway, put_mixes
from tests.support.serving import a_mix
from tests.support.states import bump, count
from tests.support.waiting import until

pytestmark = pytest.mark.stack

USER = 7
PLAYLISTS = {1: "20261020", 2: "20991231", 3: "20000101", 4: "a value of another application"}
JSON = {"Content-Type": "application/json"}
READING = {
    "GET",
    "HGET",
    "HSCAN",
    "HLEN",
    "EXISTS",
    "HEXISTS",
    "PING",
    "INFO",
    "DBSIZE",
    "RANDOMKEY",
}
READING |= {"HELLO", "CLIENT", "SELECT"}


class Watched:
    """All commands that a node carries out, from MONITOR."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self._commands: list[tuple[str, ...]] = []
        self._begun = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        assert self._begun.wait(10)

    def _watch(self) -> None:
        client = self._server.client()
        client.connection_pool.connection_kwargs["socket_timeout"] = None
        with client, client.monitor() as monitor:
            self._begun.set()
            for said in monitor.listen():
                words = tuple(said["command"].split(" "))
                if words == ("ECHO", "end"):
                    return
                self._commands.append(words)

    def writes(self) -> list[tuple[str, ...]]:
        """The commands that wrote until now, without the gateway's probes."""
        with self._server.client() as client:
            client.echo("end")
        self._thread.join(10)
        assert not self._thread.is_alive()
        return [
            words
            for words in self._commands
            if words[0].upper() not in READING and words[1:2] != ("tapedeck:probe",)
        ]


def written_by_others(server: RedisServer, layout: str) -> dict[bytes, Any]:
    with server.client() as client:
        for playlist, value in PLAYLISTS.items():
            if layout == "flat":
                client.set(f"uid:{USER}:pid:{playlist}", value)
            else:
                client.hset(f"u:{USER}", str(playlist), value)
    return everything(server)


def everything(server: RedisServer) -> dict[bytes, Any]:
    """All entries of a node, except those of probes."""
    with server.client() as client:
        return {
            name: (client.type(name), client.dump(name), client.pttl(name))
            for name in client.keys("*")
            if not name.startswith(b"tapedeck:")
        }


@pytest.fixture(params=["flat", "packed"])
def layout(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def gateway(
    stack_config: StackConfig, lookup_servers: list[RedisServer], layout: str, tmp_path: Path
) -> Iterator[Gateway]:
    lookup = {"servers": [lookup_servers[0].server], "layout": layout, "hint_deadline": 2000}
    document = stack_config(lookup=lookup, sessions={"enabled": False})
    put_mixes(document, [a_mix(number) for number in PLAYLISTS])
    with Gateway(document, tmp_path) as gateway:
        yield gateway


@pytest.fixture
async def http(gateway: Gateway) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(gateway.url, headers=gateway.key) as session:
        yield session


async def test_reads_of_absent_states_and_refused_changes_write_nothing_to_lookup_nodes(
    http: aiohttp.ClientSession, lookup_servers: list[RedisServer], layout: str
) -> None:
    node = lookup_servers[0]
    async with http.get(f"/sets/new?user_id={USER}") as answer:
        token = (await answer.json())["play_token"]
    before = written_by_others(node, layout)
    watched = Watched(node)

    for playlist in PLAYLISTS:
        path = f"/states/{USER}/{playlist}"
        for method in ("GET", "HEAD"):
            async with http.request(method, path) as answer:
                assert answer.status == 404
        for method, body in (("PUT", b"{}"), ("DELETE", None)):
            headers = {"If-Match": '"1"', **(JSON if body else {})}
            async with http.request(method, path, data=body, headers=headers) as answer:
                assert answer.status == 412
        async with http.get(f"/sets/{token}/tracks_played?mix_id={playlist}") as answer:
            assert answer.status == 200
    # A node's hints are written in order: when this one is written, no earlier one is pending.
    last = f"/states/{USER}/99"
    headers = {"If-None-Match": "*", **JSON}
    async with http.put(last, data=b"{}", headers=headers) as answer:
        assert answer.status == 201
    await until(lambda: written(node, layout, 99))

    writes = watched.writes()
    ours = f"uid:{USER}:pid:99" if layout == "flat" else f"u:{USER}"
    first = "SET" if layout == "flat" else "HSET"
    assert writes[0][:2] == (first, ours), writes  # the hint of this save is the first
    assert {words[1] for words in writes} == {ours}, writes
    if layout == "flat":
        found = everything(node)
        del found[f"uid:{USER}:pid:99".encode()]
        assert found == before


async def test_a_read_that_repairs_a_hint_deletes_nothing(
    stack_config: StackConfig, lookup_servers: list[RedisServer], layout: str
) -> None:
    node, key = lookup_servers[0], Key(USER, 11)
    document = stack_config(
        lookup={"servers": [node.server], "layout": layout, "hint_deadline": 2000},
        sessions={"enabled": False},
    )
    async with opened(document) as backend:
        await backend.store.change(key, bump)
        await backend.lookups.drain()
        with node.client() as client:
            client.flushall()
        written_by_others(node, layout)
        watched = Watched(node)

        assert await count(backend.store, key) == 1
        await backend.lookups.drain()

        assert (await backend.lookups.ask(key)).day == backend.days.today()
        removing = ("DEL", "UNLINK", "HDEL")
        assert not [words for words in watched.writes() if words[0].upper() in removing]


async def test_another_application_s_list_under_a_packed_entry_s_name_is_not_changed(
    stack_config: StackConfig, lookup_servers: list[RedisServer]
) -> None:
    node, key = lookup_servers[0], Key(USER, 11)
    document = stack_config(
        lookup={"servers": [node.server], "hint_deadline": 2000}, sessions={"enabled": False}
    )
    with node.client() as client:
        client.rpush(f"u:{USER}", "another's")
    before = everything(node)
    async with opened(document) as backend:
        for _ in range(2):
            await backend.store.change(key, bump)
            await backend.lookups.drain()
            assert await count(backend.store, key) > 0
            await backend.lookups.drain()

        assert everything(node) == before


def written(node: RedisServer, layout: str, playlist: int) -> bool:
    with node.client() as client:
        if layout == "flat":
            return bool(client.exists(f"uid:{USER}:pid:{playlist}"))
        return bool(client.hexists(f"u:{USER}", str(playlist)))
