"""Redis as the source of an import: all keys are read, or the run says why they are not."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest

from sharding.importing import sources
from sharding.importing.mapping import read_map
from sharding.importing.sources import BadSource, Source, SourceLost, open_source
from stack.process import free_port
from stack.redis import RedisServer
from stack.redis_cluster import RedisCluster
from tests.support.certificates import Authority

pytestmark = pytest.mark.stack

KEYS = range(1, 201)
PLAYER = "day: d\nplayer:\n  played: t\n"
ROW = {"d": "2026-11-30", "t": "70"}


def source(address: str, key: str = "place:{user}:{playlist}") -> Source:
    return open_source(address, "", read_map(f'key: "{key}"\n{PLAYER}'), None, ())


def users_of(one: Source) -> list[int]:
    parts = one.parts(date.min, date.max)
    rows = (row for part in parts for batch in one.rows(part) for row in batch)
    return sorted(int(values["user"]) for _, values in rows)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    one = RedisServer("source", tmp_path / "redis")
    one.start()
    yield one
    one.kill()


def test_all_keys_of_a_cluster_are_read_whichever_node_is_named(tmp_path: Path) -> None:
    cluster = RedisCluster(tmp_path)
    cluster.start()
    try:
        for user in KEYS:
            for node in cluster.servers[:3]:
                with node.client() as client:
                    try:
                        client.hset(f"place:{user}:7", mapping=ROW)
                    except Exception:
                        continue  # another node has its slot
        for node in cluster.servers[0], cluster.servers[-1]:
            assert users_of(source(f"redis://{node.address}")) == list(KEYS), node.name
        with pytest.raises(BadSource, match="no key is called as the map's key: places:"):
            users_of(source(f"redis://{node.address}", "places:{user}:{playlist}"))
    finally:
        cluster.kill()


def test_a_part_whose_server_was_restarted_while_it_was_read_is_not_taken_for_whole(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A restarted server scans in another order, from where the first one was."""
    monkeypatch.setattr(sources, "BATCH", 10)
    with server.client() as client:
        for user in KEYS:
            client.hset(f"place:{user}:7", mapping=ROW)
        client.save()
    one = source(f"redis://{server.address}")
    (part,) = one.parts(date.min, date.max)
    rows = one.rows(part)
    next(rows)
    server.kill()
    server.start()
    with pytest.raises(SourceLost):
        list(rows)
    assert users_of(one) == list(KEYS)


def test_a_key_may_have_its_user_twice(server: RedisServer) -> None:
    """As in `{42}:place:42:7`, whose braces keep a user's keys on one node of a cluster."""
    with server.client() as client:
        client.hset("{42}:place:42:7", mapping=ROW)
        client.hset("{42}:place:43:7", mapping=ROW)
    one = source(f"redis://{server.address}", "{{user}}:place:{user}:{playlist}")
    (part,) = one.parts(date.min, date.max)
    (batch,) = one.rows(part)
    good, bad = sorted(batch, key=lambda row: "broken" in row[1])
    assert (good[1]["user"], "broken" in bad[1]) == ("42", True)


def test_a_refused_source_says_what_its_address_needs(tmp_path: Path) -> None:
    authority, port = Authority(tmp_path), free_port()
    certificate, key = authority.issue("source")
    words = ("--tls-port", str(port), "--tls-cert-file", certificate, "--tls-key-file", key)
    words = (*words, "--tls-ca-cert-file", authority.file, "--tls-auth-clients", "no")
    server = RedisServer("source", tmp_path / "redis", options=words)
    server.start()
    try:
        with server.client() as client:
            client.hset("place:1:7", mapping=ROW)
            client.config_set("requirepass", "secret")
        for address, says in (
            (f"redis://{server.address}", "the password is in the address, or in TAPEDECK_SOURCE"),
            (f"redis://:wrong@{server.address}", "the password is in the address, or in TAPEDECK"),
            (f"redis://:secret@{server.address}/99", "index is out of range"),
            (f"rediss://:secret@127.0.0.1:{port}", r"add \?ssl_ca_certs=FILE to the address"),
        ):
            with pytest.raises(BadSource, match=says) as refused:
                users_of(source(address))
            assert not isinstance(refused.value, SourceLost), "another try would be refused too"
        with pytest.raises(BadSource, match="the database 'x' is no number"):
            source(f"redis://{server.address}/x")
        trusted = f"rediss://:secret@127.0.0.1:{port}/0?ssl_ca_certs={authority.file}"
        assert users_of(source(trusted)) == [1]
    finally:
        server.kill()
