"""`tapedeck`, `tapedeck check-config` and the errors of `tapedeck serve`, as processes."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
import yaml

from tests.support.terminal import tapedeck

GOOD = {
    "auth": {"service_keys": ["a-secret-service-key"]},
    "lookup": {"servers": ["127.0.0.1:1:1 lookup1"]},
    "mysql": {"hosts": ["127.0.0.1:1"], "user": "nobody", "password": "a-secret-password"},
}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "tapedeck.yml"
    path.write_text(yaml.safe_dump(GOOD))
    return path


def test_help_and_version_are_printed_and_wrong_arguments_exit_with_2() -> None:
    assert tapedeck("--help").returncode == 0
    assert tapedeck("--version").stdout.startswith("tapedeck ")
    assert "Example: tapedeck serve" in tapedeck("serve", "--help").stdout
    assert "Example: tapedeck check-config" in tapedeck("check-config", "--help").stdout
    # Whole sentences, and defaults in brackets.
    assert "..." not in tapedeck("--help").stdout.partition("Commands:")[2]
    assert "[default: 8082, or any free one]" in " ".join(tapedeck("up", "--help").stdout.split())
    for wrong in (("--nonsense",), ("nonsense",), ("serve", "--workers", "0")):
        assert tapedeck(*wrong).returncode == 2


def test_drills_that_break_servers_are_refused_once_for_an_installation_elsewhere(
    config: Path,
) -> None:
    done = tapedeck("drill", "--all", "--short", "--config", str(config))
    assert (done.returncode, done.stdout) == (1, "")
    assert "no local stack's: `by-hand` checks a load" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("words", [("--all", "lookup-killed"), ("lookup-killed", "--seconds", "9")])
def test_a_drills_options_that_would_be_ignored_are_refused(words: tuple[str, ...]) -> None:
    assert tapedeck("drill", *words).returncode == 2


def test_a_file_that_cannot_be_written_is_named_in_one_line(config: Path, tmp_path: Path) -> None:
    said = tmp_path / "map.yml"
    said.write_text("user: u\nplaylist: p\nday: d\nplayer:\n  played: t\n")
    target = tmp_path / "missing" / "states.csv"
    export = ("export", "--to", str(target), "--map", str(said), "--config", str(config))
    for command, named in (
        (export, target),
        (("up", "--config", "/proc/missing/tapedeck.yml"), "/proc/missing"),
    ):
        done = tapedeck(*command)
        assert done.returncode == 1
        assert done.stderr == f"tapedeck: {named}: No such file or directory\n"


def test_check_config_shows_the_whole_configuration_without_secrets(config: Path) -> None:
    done = tapedeck("check-config", str(config), TAPEDECK_LOOKUP__HASH="md5")
    assert done.returncode == 0
    shown = yaml.safe_load(done.stdout)
    assert shown["lookup"]["hash"] == "md5"
    assert shown["partitions"]["retention_days"] == 30
    assert "a-secret" not in done.stdout
    as_json = json.loads(tapedeck("check-config", "--config", str(config), "--json").stdout)
    assert as_json["config"]["mysql"]["password"] == "***"


def test_check_config_lists_every_problem_and_says_one_line_on_stderr(tmp_path: Path) -> None:
    path = tmp_path / "bad.yml"
    path.write_text(yaml.safe_dump({**GOOD, "gateway": {"port": -1}, "nonsense": {}}))
    done = tapedeck("check-config", str(path), TAPEDECK_PLAYER__SKIPS="1")
    assert done.returncode == 1
    assert len(done.stdout.splitlines()) == 3
    for word in ("gateway.port", "nonsense", "TAPEDECK_PLAYER__SKIPS"):
        assert word in done.stdout
    assert len(done.stderr.splitlines()) == 1
    as_json = tapedeck("check-config", str(path), "--json", TAPEDECK_PLAYER__SKIPS="1")
    assert as_json.returncode == 1
    assert len(json.loads(as_json.stdout)["problems"]) == 3


def test_serve_says_in_one_line_what_is_wrong_with_its_configuration(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.yml", tmp_path):
        done = tapedeck("serve", "--config", str(path))
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 1
        assert path.name in done.stderr


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize(
    ("option", "value"), [("--port", "gateway.port"), ("--admin-port", "admin.port")]
)
def test_a_port_in_use_is_named_with_the_value_to_change(
    config: Path, workers: str, option: str, value: str
) -> None:
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as taken:
        port = str(taken.getsockname()[1])
        free = {"--port", "--admin-port"} - {option}
        done = tapedeck(
            *("serve", "--config", str(config), "--workers", workers),
            *(option, port, free.pop(), "0"),
        )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert port in done.stderr
    assert value in done.stderr
    assert option in done.stderr
