"""The commands `tapedeck ring where --keys` and `ring plan`, without servers."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from config.model import Lookup
from sharding.ring.ring import ring_of

SERVERS = ["127.0.0.1:1:1 a", "127.0.0.1:2:2 b", "127.0.0.1:3:1 cé"]
RING = ring_of(Lookup.model_validate({"servers": SERVERS}))


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "tapedeck.yml"
    mysql = {"hosts": ["127.0.0.1:1"], "user": "nobody"}
    admin = {"port": 2}  # nothing listens there
    sections = {"lookup": {"servers": SERVERS}, "mysql": mysql, "admin": admin}
    path.write_text(yaml.safe_dump(sections))
    return path


def ring(config: Path, *args: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    code = "from cli.main import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, "ring", *args, "--config", str(config)],
        input=given,
        capture_output=True,
        check=False,
        env={**os.environ, "COLUMNS": "200"},
    )


LINES = [b"uid:1:pid:2", b"", b"\xff\xfe\r", b'"quoted" and \\', "ünï".encode(), b"a\tb\x00", b"z"]
FILE = b"uid:1:pid:2\r\n\n\xff\xfe\r\r\n" + b"\n".join(LINES[3:])  # no newline at the end


def test_each_line_of_a_file_of_keys_gets_its_node_whatever_bytes_it_has(
    config: Path, tmp_path: Path
) -> None:
    (tmp_path / "keys").write_bytes(FILE)
    done = ring(config, "where", "--keys", str(tmp_path / "keys"), "--json")

    assert done.stderr == b""
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [a["key"].encode("utf-8", "surrogateescape") for a in answers] == LINES
    assert [a["node"] for a in answers] == [RING.owner(key).name for key in LINES]


def test_ring_where_needs_only_the_section_lookup(tmp_path: Path) -> None:
    alone = tmp_path / "alone.yml"
    alone.write_text(yaml.safe_dump({"lookup": {"servers": SERVERS}}))
    done = ring(alone, "where", "--keys", "-", given=b"uid:1:pid:2\n")

    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == b"uid:1:pid:2\t%b\n" % RING.owner(b"uid:1:pid:2").name.encode()


def test_keys_are_read_from_standard_input_too_and_printed_unchanged(config: Path) -> None:
    done = ring(config, "where", "--keys", "-", given=FILE)

    expected = [b"%b\t%b\n" % (key, RING.owner(key).name.encode()) for key in LINES]
    assert done.stdout == b"".join(expected)


def test_a_reader_of_only_the_first_line_causes_no_error(config: Path, tmp_path: Path) -> None:
    (tmp_path / "keys").write_bytes(b"\n".join(b"uid:%d" % n for n in range(200_000)))
    code = "from cli.main import main; main()"
    argv = [sys.executable, "-c", code, "ring", "where", "--config", str(config)]
    with subprocess.Popen(
        [*argv, "--keys", str(tmp_path / "keys"), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        first = json.loads(process.stdout.readline())
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 0
    assert first == {"key": "uid:0", "node": RING.owner(b"uid:0").name}


@pytest.mark.parametrize("args", [("where",), ("where", "1"), ("where", "1", "2", "--keys", "x")])
def test_a_wrong_number_of_arguments_is_a_usage_error(config: Path, args: tuple[str, ...]) -> None:
    assert ring(config, *args).returncode == 2


def test_a_missing_file_of_keys_is_named(config: Path) -> None:
    done = ring(config, "where", "--keys", "nowhere")

    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr == b"tapedeck: nowhere cannot be read: No such file or directory\n"


def test_a_plan_says_what_would_move_even_if_no_node_answers(config: Path) -> None:
    done = ring(config, "plan", "--add", "127.0.0.1:4:4 d", "--remove", "a", "--json")
    answer = json.loads(done.stdout)

    assert answer["silent"] == ["a", "b", "cé", "d"]
    assert {node["name"] for node in answer["nodes"]} == {"a", "b", "cé", "d"}
    assert sum(move["share"] for move in answer["moves"]) == pytest.approx(answer["moved"])
    shown = ring(config, "plan", "--weight", "b=5").stdout.decode()
    assert re.match(r"[\d.]+% of the keys would move to another node:\n  b weighs 5 instead", shown)
    assert "2 -> 5" in shown
    assert "a reload refuses" not in shown  # this warning is only for new nodes


def test_a_plan_warns_of_a_reload_only_if_a_new_node_does_not_answer(
    config: Path,
) -> None:
    removed = ring(config, "plan", "--remove", "a").stdout.decode()
    assert "warning: a did not answer" in removed
    assert "refuses" not in removed
    added = ring(config, "plan", "--add", "127.0.0.1:4:4 d").stdout.decode()
    (line,) = [line for line in added.splitlines() if "refuses" in line]
    assert line.startswith("warning: d did not answer; ")


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        ([], b"nothing listens at http://127.0.0.1:2"),
        (["--remove", "x"], b"there is no node 'x'; there are a, b, c"),
        (["--weight", "x=2"], b"there is no node 'x'"),
        (["--weight", "a"], b"--weight a: write NAME=WEIGHT, such as a=2"),
        (["--weight", "a=0"], b"lookup.servers.0.weight: "),
        (["--weight", "a=heavy"], b"valid integer"),
        (["--add", "127.0.0.1:9:1 a"], b"two servers are called 'a' (is it in "),
        (["--add", "127.0.0.1"], b"is not host:port:weight"),
        (["--remove", "a", "--remove", "b", "--remove", "cé"], b"lookup.servers: "),
    ],
)
def test_a_plan_that_cannot_be_made_is_refused(
    config: Path, args: list[str], complaint: bytes
) -> None:
    done = ring(config, "plan", *args)

    assert done.returncode == 1
    assert complaint in done.stderr
