"""A configuration is read from its file, the environment and secret files.

All problems are reported at once, and no message shows a secret.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from config.load import ConfigError, load, load_lookup, parse
from config.mistakes import GONE
from config.model import Hash, LookupServer, Sections
from config.tls import own_url
from config.values import is_loopback, join_address, split_address

SECRET = "do-not-print-me-0123456789abcdefghij"


def document(**sections: Any) -> dict[str, Any]:
    """The smallest configuration, with `sections` in place of its own values."""
    least: dict[str, Any] = {
        "lookup": {"servers": ["127.0.0.1:7101:1 lookup1"]},
        "mysql": {"hosts": ["127.0.0.1:7306"], "user": "tapedeck"},
    }
    for name, values in sections.items():
        least[name] = {**least.get(name, {}), **values} if isinstance(values, dict) else values
    return least


def problems(given: dict[str, Any], **more: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(given, **more)
    return caught.value.problems


def written(folder: Path, given: dict[str, Any]) -> Path:
    path = folder / "tapedeck.yml"
    path.write_text(yaml.safe_dump(given))
    return path


def test_the_smallest_configuration_has_the_promised_defaults() -> None:
    sections = parse(document())

    assert (sections.gateway.port, sections.admin.port) == (8080, 8081)
    assert sections.lookup.layout == "packed"
    assert sections.lookup.hint_deadline == 50
    assert sections.partitions.retention_days == 30
    assert (sections.player.skip_limit, sections.player.skip_window) == (2, 3600)
    assert sections.states.max_bytes == 64 * 1024


def test_all_problems_are_reported_at_once() -> None:
    found = problems(
        {
            "gateway": {"port": 70_000, "colour": "red"},
            "lookup": {"servers": ["nonsense", "h:1:1 a"], "hash": "sha3"},
            "mysql": {"hosts": ["h:1"]},
            "partitions": {"retention_days": 0},
            "jukebox": {},
        },
        environ={"TAPEDECK_PLAYER__VOLUME": "11", "TAPEDECK_LOG__LEVEL": "loud"},
    )

    for where in (
        "gateway.port",
        "gateway.colour: there is no such value",
        "lookup.servers.0",
        "lookup.hash",
        "mysql.user",
        "partitions.retention_days",
        "jukebox: there is no such section",
        "TAPEDECK_PLAYER__VOLUME (environment): there is no value player.volume",
        "log.level (environment: TAPEDECK_LOG__LEVEL)",
    ):
        assert sum(problem.startswith(where) for problem in found) == 1, (where, found)
    assert len(found) == 9


def test_a_problem_says_what_is_wrong_and_how_it_should_look() -> None:
    found = problems(document(lookup={"servers": ["127.0.0.1:7101"]}))

    assert found == [
        "lookup.servers.0: '127.0.0.1:7101' is not host:port:weight or host:port:weight name"
    ]


def test_the_error_names_its_source(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^/.*\.yml: line [0-9]+: gateway"):
        load(written(tmp_path, document(gateway={"port": -1})), {})


def test_the_environment_overrides_any_value_of_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, document(gateway={"port": 1234}))

    sections = load(
        path,
        {
            "TAPEDECK_GATEWAY__PORT": "4321",
            "TAPEDECK_LOOKUP__SERVERS": "a:1:1 one, b:2:3 two",
            "TAPEDECK_LOOKUP__AUTO_EJECT_HOSTS": "false",
            "TAPEDECK_MYSQL__HOSTS": "x:1,y:2",
            "TAPEDECK_MYSQL__PASSWORD": SECRET,
            "TAPEDECK_PLAYER__SKIP_LIMIT": "5",
            "TAPEDECK_HOME": "/ignored",
            "PATH": "/ignored",
        },
    )

    assert sections.gateway.port == 4321
    assert [(s.name, s.weight) for s in sections.lookup.servers] == [("one", 1), ("two", 3)]
    assert sections.lookup.auto_eject_hosts is False
    assert [str(host) for host in sections.mysql.hosts] == ["x:1", "y:2"]
    assert sections.mysql.password.get_secret_value() == SECRET
    assert sections.player.skip_limit == 5


def test_the_environment_can_give_the_mode_and_a_section_that_the_file_lacks() -> None:
    sections = parse(
        {"lookup": {"servers": ["h:1:1 a"]}},
        environ={
            "TAPEDECK_MODE": "local",
            "TAPEDECK_MYSQL__USER": "tapedeck",
            "TAPEDECK_MYSQL__HOSTS": "h:1",
        },
    )

    assert (sections.mode, sections.mysql.user) == ("local", "tapedeck")


@pytest.mark.parametrize("name", GONE)
def test_a_removed_value_is_refused_by_name_with_what_to_do(name: str, tmp_path: Path) -> None:
    section, _, key = name.partition(".")
    variable = f"TAPEDECK_{section}__{key}".upper()
    old = document()
    old.setdefault(section, {})[key] = 1

    (in_file,) = problems(old)
    (in_environment,) = problems(document(), environ={variable: "1"})
    with pytest.raises(ConfigError) as caught:
        load_lookup(written(tmp_path, old), {})

    assert in_file.startswith(f"{name}: is gone (")
    assert in_environment.startswith(f"{variable} (environment): is gone (")
    assert in_file.endswith("; remove it")
    assert in_environment.endswith("; remove it")
    (with_line,) = caught.value.problems
    assert with_line.endswith(in_file)
    assert with_line.startswith("line ")


def test_parsing_without_an_environment_ignores_that_of_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TAPEDECK_GATEWAY__PORT", "4321")

    assert parse(document()).gateway.port == 8080


def test_secrets_come_from_files_beside_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "token.keys").write_text(f"{SECRET}1\n\n  {SECRET}2  \n")
    (tmp_path / "password").write_text(f"{SECRET}\n")
    path = written(
        tmp_path,
        document(
            auth={"token_keys_file": "token.keys", "service_keys_file": str(tmp_path / "password")},
            admin={"token_file": "password"},
            mysql={"password_file": "password"},
        ),
    )

    sections = load(path, {})

    assert [key.get_secret_value() for key in sections.auth.token_keys] == [
        f"{SECRET}1",
        f"{SECRET}2",
    ]
    assert [key.get_secret_value() for key in sections.auth.service_keys] == [SECRET]
    assert sections.mysql.password.get_secret_value() == SECRET
    assert sections.admin.token is not None
    assert sections.admin.token.get_secret_value() == SECRET


def test_a_secret_file_that_is_missing_or_empty_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n \n")
    given = document(
        mysql={"password_file": "nowhere"},
        admin={"token_file": "empty"},
        auth={"token_keys": [SECRET], "token_keys_file": "empty"},
    )

    found = " ".join(problems(given, base=tmp_path))

    assert f"mysql.password_file: {tmp_path}/nowhere cannot be read: there is no" in found
    assert "admin.token_file: " in found
    assert "is empty" in found
    assert "auth.token_keys_file: auth.token_keys is given too" in found
    assert SECRET not in found


BAD_SECRETS: list[dict[str, Any]] = [
    {"auth": {"token_keys": [SECRET[:20]]}},
    {"auth": {"token_keys": {"key": SECRET}}},
    {"auth": {"token_keys": [[SECRET]]}},
    {"auth": {"service_keys": 5, "token_keys": [SECRET]}},
    {"admin": {"token": [SECRET]}},
    {"mysql": {"password": {"x": SECRET}, "hosts": []}},
    {"lookup": {"password": [SECRET], "servers": ["h:1:1 a"]}},
    {"mode": "production", "auth": {"token_keys": [SECRET]}, "admin": {"token": SECRET}},
]


@pytest.mark.parametrize("given", BAD_SECRETS)
def test_no_problem_shows_a_secret(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(document(**given))

    assert SECRET[:20] not in str(caught.value)
    assert SECRET[:20] not in repr(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "mysql:\n  password: {}: x\n",
        "mysql:\n  password: @{}\n",
        "mysql:\n  password: *{}\n",
        "mysql:\n  password: !{} x\n",
    ],
)
def test_no_message_about_broken_yaml_shows_a_secret(tmp_path: Path, text: str) -> None:
    path = tmp_path / "tapedeck.yml"
    path.write_text(text.format(SECRET))

    with pytest.raises(ConfigError) as caught:
        load(path, {})

    assert "YAML" in str(caught.value)
    assert "line 2" in str(caught.value)
    assert SECRET[:10] not in str(caught.value)
    assert SECRET[-10:] not in str(caught.value)


def test_a_configuration_s_text_shows_no_secret() -> None:
    sections = parse(
        document(
            auth={"token_keys": [SECRET], "service_keys": [SECRET]},
            admin={"token": SECRET},
            mysql={"password": SECRET},
            lookup={"password": SECRET},
        )
    )

    for text in (repr(sections), str(sections), repr(sections.model_dump()), f"{sections.mysql}"):
        assert SECRET not in text
    assert SECRET not in sections.model_dump_json()


def test_production_mode_requires_its_own_secrets() -> None:
    found = " ".join(problems(document(mode="production")))

    assert "auth.token_keys" in found
    assert "auth.service_keys" in found
    keys = {"token_keys": [SECRET], "service_keys": [SECRET]}
    assert parse(document(mode="production", auth=keys)).mode == "production"


def test_token_keys_with_fewer_than_32_characters_are_refused() -> None:
    found = problems(document(auth={"token_keys": ["k" * 32, "k" * 31]}))

    assert found == ["auth.token_keys: key 2 has fewer than 32 characters"]


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("gateway.example", False),
        ("127.example.org", False),
    ],
)
def test_an_admin_port_that_is_not_on_loopback_requires_a_token(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
    if loopback:
        parse(document(admin={"host": host}))
    else:
        assert "admin.token" in " ".join(problems(document(admin={"host": host})))
        parse(document(admin={"host": host, "token": SECRET}))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:7101:1 lookup1", ("127.0.0.1", 7101, 1, "lookup1")),
        ("redis-1.example:6379:20", ("redis-1.example", 6379, 20, "redis-1.example:6379")),
        # twemproxy leaves memcached's port out of the name it makes.
        ("cache:11211:1", ("cache", 11211, 1, "cache")),
        ("cache:11211:1 named", ("cache", 11211, 1, "named")),
        ("::1:6379:1 six", ("::1", 6379, 1, "six")),
        ("[::1]:6379:1 six", ("::1", 6379, 1, "six")),
        ("[fd00::7]:6379:20", ("fd00::7", 6379, 20, "[fd00::7]:6379")),
    ],
)
def test_a_server_is_written_as_twemproxy_writes_it(
    text: str, expected: tuple[str, int, int, str]
) -> None:
    (server,) = parse(document(lookup={"servers": [text]})).lookup.servers

    assert (server.host, server.port, server.weight, server.name) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "host",
        "host:1",
        "host:1:",
        "host::1",
        ":1:1",
        "host:1:1:",
        "host:x:1",
        "host:-1:1",
        "host:1:-1",
        "host:0:1 a",
        "host:65536:1 a",
        "host:1:0 a",
        "host:1:1000001 a",
        "host:1:1.5 a",
        "[::1:1:1 a",
        "::1]:1:1 a",
        "[host]:1:1 a",
        "[::1]1:1:1 a",
        "[[::1]]:1:1 a",
        "fe80:x:1:1 a",
    ],
)
def test_a_server_in_another_form_is_refused(text: str) -> None:
    assert "lookup.servers.0" in " ".join(problems(document(lookup={"servers": [text]})))


@pytest.mark.parametrize("text", ["[::1]:3306", "::1:3306"])
def test_an_ipv6_address_is_read_with_or_without_brackets(text: str) -> None:
    made = parse(
        document(
            mysql={"hosts": [text]},
            gateway={"host": text.removesuffix(":3306")},
            admin={"host": text.removesuffix(":3306")},
            lookup={"mode": "cluster", "servers": ["[::1]:6379"]},
        )
    )

    assert [(host.host, host.port) for host in made.mysql.hosts] == [("::1", 3306)]
    assert str(made.mysql.hosts[0]) == "[::1]:3306"
    assert (made.gateway.host, made.admin.host) == ("::1", "::1")
    assert own_url(made.gateway) == "http://[::1]:8080"
    assert [(seed.host, seed.port) for seed in made.lookup.servers] == [("::1", 6379)]


@pytest.mark.parametrize("text", ["[::1:3306", "::1]:3306", "fe80:1:3306", "[db]:3306", "db:70000"])
def test_a_wrong_address_is_refused_with_its_place(text: str) -> None:
    (problem,) = problems(document(mysql={"hosts": [text]}))

    assert problem.startswith("mysql.hosts.0: ")
    assert "is no IPv6 address" in problem or "end at 65535" in problem


@given(st.ip_addresses(), st.integers(1, 65535))
def test_an_address_written_as_text_is_read_back(address: object, port: int) -> None:
    assert split_address(join_address(str(address), port)) == (str(address), port)


@given(st.text())
def test_any_text_is_an_address_or_refused(anything: str) -> None:
    with contextlib.suppress(ValueError):
        host, port = split_address(anything)
        assert split_address(join_address(host, port)) == (host, port)


def test_two_servers_with_the_same_name_are_refused() -> None:
    found = problems(document(lookup={"servers": ["a:1:1 x", "b:1:1 x"]}))

    assert found == ["lookup.servers: two servers are called 'x'"]


def test_an_empty_list_of_servers_is_refused() -> None:
    assert "lookup.servers" in " ".join(problems(document(lookup={"servers": []})))
    assert "mysql.hosts" in " ".join(problems(document(mysql={"hosts": []})))


@pytest.mark.parametrize("name", get_args(Hash))
def test_every_hash_of_twemproxy_can_be_configured(name: str) -> None:
    assert parse(document(lookup={"hash": name})).lookup.hash == name


@pytest.mark.parametrize(("tag", "valid"), [("", True), ("{}", True), ("{", False), ("{x}", False)])
def test_a_hash_tag_is_two_characters(tag: str, valid: bool) -> None:
    if valid:
        assert parse(document(lookup={"hash_tag": tag})).lookup.hash_tag == tag
    else:
        assert "lookup.hash_tag" in " ".join(problems(document(lookup={"hash_tag": tag})))


@pytest.mark.parametrize(("hint", "timeout", "seconds"), [(50, 400, 0.05), (500, 400, 0.4)])
def test_a_load_waits_for_the_smaller_of_hint_deadline_and_timeout(
    hint: int, timeout: int, seconds: float
) -> None:
    sections = parse(document(lookup={"hint_deadline": hint, "timeout": timeout}))

    assert sections.lookup.hint_seconds == seconds


@pytest.mark.parametrize("name", ["", "tape deck", "a`b", "a;b", "a.b", "x" * 65, "a\x00b"])
def test_a_database_name_that_could_be_sql_is_refused(name: str) -> None:
    assert "mysql.database" in " ".join(problems(document(mysql={"database": name})))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yml: cannot be read: there is no such file"):
        load(tmp_path / "nowhere.yml", {})


def test_the_local_stacks_missing_file_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="make run"):
        load(".tapedeck/tapedeck.yml", {})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"- a\n- b\n", "mapping"),
        (b"just text", "mapping"),
        (b"a: [", "YAML"),
        (b"\xff\xfe\x00", "cannot be read"),
        (b"", "lookup"),
        (b"lookup: 5\nmysql: [1]\n", "mysql"),
        (b"{1: 2, null: 3}", "lookup"),
        (b"lookup: {1: 2, servers: [5]}\nmysql:\n", "lookup.servers.0"),
    ],
)
def test_a_file_with_other_content_is_an_error_not_a_crash(
    tmp_path: Path, content: bytes, words: str
) -> None:
    path = tmp_path / "tapedeck.yml"
    path.write_bytes(content)

    with pytest.raises(ConfigError, match=words):
        load(path, {})


def test_a_folder_in_place_of_the_file_is_an_error_not_a_crash(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path, {})


def test_a_loaded_configuration_cannot_be_changed() -> None:
    sections = parse(document())

    with pytest.raises(ValidationError):
        sections.gateway.port = 1  # type: ignore[misc]


def test_parsing_does_not_change_the_document(tmp_path: Path) -> None:
    (tmp_path / "password").write_text(SECRET)
    given = document(mysql={"password_file": "password"})
    before = yaml.safe_dump(given)

    parse(given, environ={"TAPEDECK_GATEWAY__PORT": "1"}, base=tmp_path)

    assert yaml.safe_dump(given) == before


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2)
    ),
    max_leaves=4,
)


@given(
    st.dictionaries(
        st.sampled_from([*Sections.model_fields, "other"]),
        plain
        | st.dictionaries(
            st.sampled_from(["servers", "hosts", "port", "password", "password_file", "token"]),
            plain,
            max_size=3,
        ),
        max_size=4,
    )
)
def test_any_document_is_a_configuration_or_a_list_of_problems(given: dict[str, Any]) -> None:
    try:
        assert isinstance(parse(given), Sections)
    except ConfigError as error:
        if not error.problems:
            raise


def test_a_servers_address_is_host_and_port() -> None:
    assert str(LookupServer(host="h", port=1, name="n")) == "h:1"
