"""A twemproxy pool (nutcracker.yml) as the section `lookup`: used, or refused by name."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from cli.main import app
from config.load import ConfigError, parse
from config.model import Lookup
from config.nutcracker import NutcrackerError, read_pool, translate
from sharding.ring.ring import Ring

EXAMPLE = Path(__file__).parent.parent / "support" / "nutcracker-0.5.0.yml"
"""The unchanged example of twemproxy 0.5.0 (conf/nutcracker.yml)."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(EXAMPLE, tmp_path / "nutcracker.yml")
    return tmp_path


def lookup(folder: Path, pool: str | None, **beside: Any) -> Lookup:
    words = {"nutcracker": "nutcracker.yml", "pool": pool, **beside}
    mysql = {"hosts": ["127.0.0.1:1"], "user": "nobody"}
    return parse({"lookup": words, "mysql": mysql}, base=folder).lookup


def problems(folder: Path, pool: str | None, **beside: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        lookup(folder, pool, **beside)
    return caught.value.problems


def refused(**words: Any) -> list[str]:
    pool = {"listen": "127.0.0.1:1", "redis": "true", "servers": ["127.0.0.1:1:1 a"], **words}
    with pytest.raises(NutcrackerError) as caught:
        translate("p", pool)
    return caught.value.problems


def test_the_redis_pools_of_twemproxy_s_example_are_read(folder: Path) -> None:
    alpha, beta = lookup(folder, "alpha"), lookup(folder, "beta")

    assert (alpha.hash, alpha.distribution, alpha.hash_tag) == ("fnv1a_64", "ketama", "")
    assert alpha.auto_eject_hosts
    assert (alpha.server_retry_timeout, alpha.server_failure_limit) == (2000, 1)
    assert [server.name for server in alpha.servers] == ["127.0.0.1:6379"]
    assert (beta.hash_tag, beta.timeout, beta.auto_eject_hosts) == ("{}", 400, False)
    assert [(s.name, s.port) for s in beta.servers] == [
        ("server1", 6380),
        ("server2", 6381),
        ("server3", 6382),
        ("server4", 6383),
    ]


@pytest.mark.parametrize("pool", ["gamma", "delta", "omega"])
def test_the_memcached_pools_of_twemproxy_s_example_are_refused_by_name(
    folder: Path, pool: str
) -> None:
    (problem,) = problems(folder, pool)

    assert problem.startswith(f"lookup.nutcracker: pool {pool} speaks memcached")


def test_a_value_that_a_pool_omits_has_twemproxy_s_default() -> None:
    pool = translate("p", {"redis": "true", "servers": ["127.0.0.1:7:1"]})
    words = Lookup.model_validate(pool.words)

    assert (words.hash, words.distribution) == ("fnv1a_64", "ketama")
    assert not words.auto_eject_hosts
    assert not words.preconnect
    assert not words.tcpkeepalive
    assert (words.server_retry_timeout, words.server_failure_limit) == (30_000, 2)
    assert (words.server_connections, words.redis_db) == (1, 0)
    assert words.timeout == 60_000
    assert words.password is None
    assert set(pool.notes) == {"auto_eject_hosts", "server_connections", "timeout"}
    assert pool.notes["timeout"].startswith("none, as in twemproxy")


def test_every_value_of_a_pool_is_used() -> None:
    pool = translate(
        "p",
        {
            "listen": "/var/run/nutcracker.sock 0666",
            "client_connections": "10",
            "backlog": "1024",
            "hash": "murmur",
            "hash_tag": "$$",
            "distribution": "modula",
            "timeout": "250",
            "preconnect": "true",
            "tcpkeepalive": "true",
            "redis": "true",
            "redis_db": "3",
            "server_connections": "4",
            "auto_eject_hosts": "true",
            "server_retry_timeout": "1500",
            "server_failure_limit": "0",
            "servers": ["10.0.0.1:6379:3 one", "redis.example:11211:1"],
        },
    )
    words = Lookup.model_validate(pool.words)

    assert (words.hash, words.hash_tag, words.distribution) == ("murmur", "$$", "modula")
    assert (words.timeout, words.preconnect, words.tcpkeepalive) == (250, True, True)
    assert (words.redis_db, words.server_connections) == (3, 4)
    assert (words.auto_eject_hosts, words.server_retry_timeout) == (True, 1500)
    assert words.server_failure_limit == 1  # 0 means 1: nc_server.c compares after counting
    assert [(s.name, s.weight) for s in words.servers] == [("one", 3), ("redis.example", 1)]
    assert set(pool.notes) == {"listen, backlog, client_connections"}


def test_with_a_password_the_database_is_0_as_in_twemproxy() -> None:
    servers = ["a:1:1"]
    pool = translate("p", {"redis": "true", "redis_auth": "x", "redis_db": "3", "servers": servers})
    words = Lookup.model_validate(pool.words)

    assert words.password is not None
    assert words.password.get_secret_value() == "x"
    assert words.redis_db == 0
    assert pool.notes["redis_db"].startswith("3 beside redis_auth comes to 0")


def test_a_pool_gives_the_same_ring_as_the_same_values_in_our_configuration(folder: Path) -> None:
    of_pool = lookup(folder, "beta").servers
    names = ["server1", "server2", "server3", "server4"]
    ours = Lookup.model_validate(
        {"servers": [f"127.0.0.1:{6380 + n}:1 {name}" for n, name in enumerate(names)]}
    ).servers
    one, two = Ring(of_pool, hash="fnv1a_64"), Ring(ours, hash="fnv1a_64")

    assert all(one.owner(b"k%d" % n) == two.owner(b"k%d" % n) for n in range(500))


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ({"distribution": "random"}, "distribution: random .* a lookup could not be found again"),
        ({"servers": []}, "servers: there are none"),
        ({"servers": ["/tmp/redis.sock:1"]}, r"a UNIX socket .* '/tmp/redis.sock:'"),
        ({"servers": ["/tmp/redis.sock:1 n"]}, r"a UNIX socket .* calls this one 'n'"),
        ({"auto_eject_hosts": "yes"}, 'auto_eject_hosts: is not "true" or "false"'),
        ({"redis": "yes"}, 'redis: is not "true" or "false"'),
        ({"timeout": "-1"}, "timeout: is not a number"),
        ({"timeout": "fast"}, "timeout: is not a number"),
        ({"server_connections": "0"}, "server_connections: cannot be 0"),
        ({"server_retry_timeout": "0"}, "server_retry_timeout: 0 puts"),
        ({"hash_tag": "{"}, "hash_tag: is not two characters"),
        ({"read_from_replicas": "true"}, "read_from_replicas: is no word of twemproxy"),
    ],
)
def test_a_value_that_cannot_be_used_is_refused_by_name_with_the_reason(
    words: dict[str, Any], complaint: str
) -> None:
    (problem,) = refused(**words)

    assert problem.startswith("pool p, ")
    assert re.search(complaint, problem)


def test_all_problems_of_a_pool_are_reported_at_once() -> None:
    assert len(refused(timeout="x", redis_db="y", distribution="random", colour="red")) == 4


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("p: {redis: true, redis: true, servers: [a:1:1]}", "line 1: 'redis' is given twice"),
        ("p: {hash_tag: {}, redis: true, servers: [a:1:1]}", "one value is expected (put it in"),
        ("p: {redis: true, servers: a:1:1}", "servers: a list is expected"),
        ("- p", "a mapping is expected"),
        ("", "a mapping is expected"),
        ("p: [", "is no YAML at line 1"),
        (
            "p: {redis: true, servers: [a:1:1]}\np: {}",
            "line 2: 'p' is given twice, first",
        ),
    ],
)
def test_a_file_that_twemproxy_would_refuse_is_refused(
    tmp_path: Path, text: str, complaint: str
) -> None:
    (tmp_path / "nutcracker.yml").write_text(text)

    assert any(complaint in problem for problem in problems(tmp_path, "p"))


def test_a_missing_file_and_a_missing_pool_are_named(folder: Path) -> None:
    assert "has no pool 'zeta'; it has alpha, beta, gamma (mem" in problems(folder, "zeta")[0]
    assert "lookup.pool says which pool" in problems(folder, None)[0]
    (folder / "nutcracker.yml").unlink()
    assert problems(folder, "alpha")[0].startswith("lookup.nutcracker: ")


def test_the_only_pool_of_a_file_needs_no_name(tmp_path: Path) -> None:
    (tmp_path / "nutcracker.yml").write_text("p: {redis: true, servers: [a:1:1 x]}")

    assert [server.name for server in lookup(tmp_path, None).servers] == ["x"]


def test_values_beside_the_pool_override_its_own(folder: Path) -> None:
    words = lookup(folder, "alpha", layout="flat", hint_deadline=20, timeout=300, password="mine")

    assert (words.layout, words.hint_deadline, words.timeout) == ("flat", 20, 300)
    assert words.auto_eject_hosts
    assert words.password is not None


@pytest.mark.parametrize("word", ["hash", "distribution", "servers", "hash_tag"])
def test_values_that_decide_where_keys_lie_are_refused_beside_a_pool(
    folder: Path, word: str
) -> None:
    value = ["127.0.0.1:1:1"] if word == "servers" else "md5"

    assert problems(folder, "alpha", **{word: value})[0].startswith(f"lookup.{word}: is said by")


def test_a_pool_without_a_file_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        parse({"lookup": {"pool": "alpha", "servers": ["a:1:1"]}})
    assert "lookup.pool: needs lookup.nutcracker, the file that has the pool" in (
        caught.value.problems
    )


def test_check_config_shows_a_pool_s_values_and_notes_about_them(folder: Path) -> None:
    path = folder / "tapedeck.yml"
    words = {"nutcracker": "nutcracker.yml", "pool": "alpha"}
    mysql = {"hosts": ["127.0.0.1:1"], "user": "nobody"}
    path.write_text(yaml.safe_dump({"lookup": words, "mysql": mysql}))
    shown = CliRunner().invoke(app, ["check-config", str(path)]).stdout

    assert "# timeout: none, as in twemproxy" in shown
    assert "# layout: packed; an application that goes through nutcracker" in shown
    assert yaml.safe_load(shown)["lookup"]["server_retry_timeout"] == 2000
    as_json = json.loads(CliRunner().invoke(app, ["check-config", str(path), "--json"]).stdout)
    assert any(note.startswith("listen: left to nutcracker") for note in as_json["notes"])


def test_the_file_of_a_pool_is_read_again_at_each_load(folder: Path) -> None:
    assert len(lookup(folder, "beta").servers) == 4
    text = (folder / "nutcracker.yml").read_text()
    text = text.replace("   - 127.0.0.1:6383:1 server4\n", "")
    (folder / "nutcracker.yml").write_text(text)

    assert len(lookup(folder, "beta").servers) == 3


def test_the_notes_about_a_pool_show_no_secret() -> None:
    pool = translate("p", {"redis": "true", "redis_auth": "hush", "servers": ["a:1:1"]})

    assert "hush" not in "".join(pool.notes.values())
    assert read_pool(EXAMPLE, "alpha").words["servers"] == ["127.0.0.1:6379:1"]


def test_a_cluster_needs_only_addresses() -> None:
    words = Lookup.model_validate({"mode": "cluster", "servers": ["10.0.0.1:7000", "redis-2:7001"]})
    assert [(s.host, s.port) for s in words.servers] == [("10.0.0.1", 7000), ("redis-2", 7001)]
    # A supervisor gives its workers all values.
    assert Lookup.model_validate(words.model_dump()) == words
    with pytest.raises(ValueError, match="is not host:port:weight"):
        Lookup.model_validate({"servers": ["10.0.0.1:7000"]})


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("hash", "md5"),
        ("hash_tag", "{}"),
        ("distribution", "modula"),
        ("redis_db", 1),
        ("nutcracker", "nutcracker.yml"),
    ],
)
def test_values_that_a_cluster_does_not_have_are_refused_by_name(word: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"mode: cluster .*{word}"):
        Lookup.model_validate({"mode": "cluster", "servers": ["h:1"], word: value})
