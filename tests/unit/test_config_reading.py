"""What a configuration's files may contain: anything else is refused in one sentence."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from config.load import ConfigError, load, load_lookup, parse
from config.nutcracker import NutcrackerError, read_pool
from config.reading import BadYaml, compose_plain, read_yaml

LEAST = """\
lookup: {servers: ["127.0.0.1:7101:1 lookup1"]}
mysql:
  hosts: ["127.0.0.1:7306"]
  user: tapedeck
"""
SECRET = "do-not-print-me-0123456789"


def refused(path: Path, environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(path, environ or {})
    assert all(problem == " ".join(problem.split()) for problem in caught.value.problems)
    assert all(len(problem) < 400 for problem in caught.value.problems), caught.value.problems
    return caught.value.problems


def file(folder: Path, text: str | bytes) -> Path:
    path = folder / "tapedeck.yml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape"))
    return path


BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60))


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ("gateway: {port: 2026-13-45}\n", "gateway.port"),
        ("gateway: {port: 2026-10-20}\n", "gateway.port"),
        ("partitions: {retention_days: " + "9" * 5000 + "}\n", "partitions.retention_days"),
        ("gateway: " + "[" * 5000 + "]" * 5000 + "\n", "line 5: is nested more than 32 levels"),
        ("gateway: " + "{a: " * 900 + "1" + "}" * 900 + "\n", "line 5: is nested more than 32"),
        (BOMB, "values, with all that aliases name"),
        ("gateway: &g {port: *g}\n", "line 5: an alias stands within what it names"),
        ("gateway: {host: !!python/object/apply:os.system [ls]}\n", "line 5: a tag means nothing"),
        (f"admin: {{token: !{SECRET} }}\n", "line 5: a tag means nothing in this YAML; quote"),
        ("gateway: {port: !!int abc}\n", "line 5: a tag means nothing in this YAML"),
        ('gateway: {host: "a\\0b"}\n', "line 5: a control character"),
        ('gateway: {host: "\\ud800"}\n', "line 5: a control character"),
        ("gateway: {host: \x07}\n", "line 5 holds a character that YAML does not allow"),
        ("? [a, b]\n: 1\n", "line 5: a key must be one word"),
        ('"a\\nb": 1\n', "line 5: a key must be one word"),
        ("---\nlookup: {}\n", "is no YAML at line 5"),
        ("gateway: {1: 2}\n", "gateway.1: there is no such value"),
        ("gateway: {port: 1:30}\n", "gateway.port"),
        ("gateway: {port: 0x1F90}\n", "gateway.port"),
        ("player: {skip_window: .inf}\n", "player.skip_window"),
        ("player: {skip_window: .nan}\n", "player.skip_window"),
        ("mysql: {user: twice}\n", "line 5: 'mysql' is given twice, first on line 2"),
        ("gateway:\n  port: 1\n  host: h\n  port: 2\n", "line 8: 'port' is given twice, first on"),
    ],
)
def test_a_problem_of_a_file_is_one_sentence_that_says_where(
    tmp_path: Path, more: str, sentence: str
) -> None:
    found = refused(file(tmp_path, LEAST + more))

    assert any(sentence in problem for problem in found), found
    assert SECRET not in str(found)


def test_all_keys_that_are_given_twice_are_reported_at_once(tmp_path: Path) -> None:
    found = refused(file(tmp_path, LEAST + "log: {level: info, level: debug}\nlog: {}\n"))

    assert len(found) == 2


def test_a_value_that_looks_like_a_date_or_an_octal_number_is_read_as_text() -> None:
    text = "a: 2026-10-20\nb: 0777\nc: 12:30:45\nd: 1_000\ne: 17\nf: 1.5\ng: yes\nh:\ni: -3\n"

    found = read_yaml(text).value

    assert isinstance(found, dict)
    assert list(found.values()) == [
        *("2026-10-20", "0777", "12:30:45", "1_000", 17, 1.5, True, None, -3)
    ]


def test_a_few_aliases_and_merges_are_read() -> None:
    assert read_yaml("a: &a {x: 1}\nb: {<<: *a, y: 2}\nc: *a\n").value == {
        "a": {"x": 1},
        "b": {"x": 1, "y": 2},
        "c": {"x": 1},
    }


@given(st.text(max_size=60) | st.text("[]{}:,-?&*!|>%@`'\"#ab12 \n\t~<", max_size=60))
def test_any_text_is_a_document_or_refused_with_reasons_of_one_line(text: str) -> None:
    for read in (read_yaml, compose_plain):
        problems: list[str] = []
        try:
            read(text)
        except BadYaml as error:
            problems = error.problems
        assert all(len(problem.splitlines()) == 1 for problem in problems)


plain = (
    st.none() | st.booleans() | st.integers(-(10**17), 10**17) | st.text("ab1-:.0_ é", max_size=8)
)
trees = st.recursive(
    plain,
    lambda t: st.lists(t, max_size=3) | st.dictionaries(st.text("ab", max_size=3), t, max_size=3),
)


@given(trees)
def test_a_document_written_as_yaml_is_read_back(tree: Any) -> None:
    assert read_yaml(yaml.safe_dump(tree)).value == tree


def test_a_byte_order_mark_at_the_beginning_is_ignored(tmp_path: Path) -> None:
    assert load(file(tmp_path, "\ufeff" + LEAST), {}).mysql.user == "tapedeck"


def test_a_pipe_a_device_or_a_huge_file_is_refused_and_not_read(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    large = tmp_path / "large"
    with large.open("wb") as sparse:
        sparse.truncate(1 << 40)
    for path, reason in (
        (fifo, "no regular file"),
        (Path("/dev/zero"), "no regular file"),
        (large, "1 MiB"),
    ):
        assert reason in refused(path)[0]
        more = f"  password_file: {path}\n"
        found = refused(file(tmp_path, LEAST + more))
        assert f"mysql.password_file: {path} cannot be read: it " in found[0]
        with pytest.raises(NutcrackerError, match=reason):
            read_pool(path)


@pytest.mark.parametrize(
    ("secret", "sentence"),
    [
        (b"\xef\xbb\xbfpassword\n", "holds a byte order mark"),
        (b"pass\0word\n", "holds the character U+0000"),
        (b"pass\x1bword\r\n", "holds the character U+001B"),
        ("p\0".encode("utf-16"), "line 1 is no UTF-8"),
    ],
)
def test_a_secret_with_an_invisible_character_is_refused(
    tmp_path: Path, secret: bytes, sentence: str
) -> None:
    (tmp_path / "password").write_bytes(secret)
    found = refused(file(tmp_path, LEAST + "  password_file: password\n"))

    assert len(found) == 1
    assert found[0].startswith("line 5: mysql.password_file: ")
    assert sentence in found[0]


def test_a_variable_that_is_no_text_is_a_problem_of_one_line() -> None:
    undecodable = b"\xff\xfe".decode("utf-8", "surrogateescape")
    environ = {
        "TAPEDECK_MYSQL__PASSWORD": undecodable,
        "TAPEDECK_MODE": undecodable,
        f"TAPEDECK_{undecodable}__X": "1",
        "TAPEDECK_MYSQL__TLS__CA": "x",
        "TAPEDECK_PLAYER__SKIP_WINDOW": "nan",
        "TAPEDECK_GATEWAY__PORT": "9" * 5000,
        "UNRELATED": undecodable,
    }
    document = {"lookup": {"servers": ["h:1:1 a"]}, "mysql": {"hosts": ["h:1"], "user": "u"}}
    with pytest.raises(ConfigError) as caught:
        parse(document, environ=environ)

    found = caught.value.problems
    assert len(found) == 6, found
    assert "TAPEDECK_MYSQL__PASSWORD (environment): is no UTF-8" in found
    assert "TAPEDECK_MODE (environment): is no UTF-8" in found
    assert all(problem.isascii() and len(problem) < 200 for problem in found)


@pytest.mark.parametrize(
    "pool",
    [
        "p: {redis: true, timeout: " + "9" * 5000 + ", servers: [h:1:1]}",
        "p: {redis: true, servers: [{a: b}]}",
        "p: " + "[" * 5000,
        "p: &p {redis: *p}",
        "p: !!python/name:os.system {redis: true}",
    ],
)
def test_a_problem_of_a_twemproxy_pool_is_one_line(tmp_path: Path, pool: str) -> None:
    path = tmp_path / "nutcracker.yml"
    path.write_text(pool)
    with pytest.raises(NutcrackerError) as caught:
        read_pool(path)

    assert all("\n" not in problem and len(problem) < 400 for problem in caught.value.problems)


def test_load_lookup_reads_only_the_section_lookup(tmp_path: Path) -> None:
    path = file(
        tmp_path,
        "lookup: {servers: ['h:1:1 a'], password_file: nowhere}\ngateway: {port: wrong}\n",
    )

    assert load_lookup(path, {"TAPEDECK_LOOKUP__HASH": "md5"}).hash == "md5"
    with pytest.raises(ConfigError, match="there is no value lookup"):
        load_lookup(path, {"TAPEDECK_LOOKUP__COLOUR": "red"})
    with pytest.raises(ConfigError, match="lookup"):
        load_lookup(file(tmp_path, "gateway: {}\n"), {})
