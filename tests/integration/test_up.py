"""The commands `tapedeck up` and `tapedeck stack`, as a user at a terminal runs them."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from stack import mysql
from tests.support.certificates import Authority
from tests.support.terminal import Terminal, eventually, exists, full_pipe

pytestmark = pytest.mark.stack


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    # Longer than the 107 bytes that a unix socket's name may have.
    folder = tmp_path / ("a folder deep down " * 5)
    folder.mkdir()
    made = Terminal(folder)
    yield made
    made.close()


def test_a_stack_starts_carries_out_commands_stops_in_order_and_keeps_its_data(
    terminal: Terminal,
) -> None:
    up = terminal.up()
    pids = terminal.pids()
    assert all(exists(pid) for pid in pids)
    assert (terminal.home / "service.key").stat().st_mode & 0o777 == 0o600

    # The commands that the screen shows play a mix.
    lines = re.findall(r"^  (TOKEN=.*|curl .*)$", terminal.screen, re.MULTILINE)
    assert len(lines) == 3
    played = subprocess.run(
        ["sh", "-c", "\n".join(lines)], capture_output=True, text=True, check=True
    )
    assert played.stdout.count('"200 OK"') == 2

    second = terminal.run("up", *terminal.options)
    assert second.returncode == 1
    assert "runs in .tapedeck already" in second.stderr

    # A killed server stays dead until it is started by a command.
    os.kill(terminal.pid("lookup2"), signal.SIGKILL)
    assert eventually(lambda: "lookup2 ended (SIGKILL)" in terminal.screen)
    assert not (terminal.home / "run" / "lookup2.pid").exists()
    terminal.run("stack", "stop", "lookup3")
    status = json.loads(terminal.run("stack", "status", "--json").stdout)
    assert {name: server["state"] for name, server in status["servers"].items()} == {
        "lookup1": "running",
        "lookup2": "dead",
        "lookup3": "stopped",
        "mysql1": "running",
        "mysql2": "running",
        "gateway": "running",
    }
    assert status["servers"]["mysql2"].keys() == {"role", "state", "pid", "port"}
    assert status["mysql"] == {
        "engine": "MariaDB",
        "primary": "mysql1",
        "generation": 1,
        "redundant": True,
        "semi_sync": True,
        "standby": "following",
    }
    assert terminal.run("stack", "start", "lookup2").returncode == 0
    assert exists(terminal.pid("lookup2"))
    again = terminal.run("stack", "start", "lookup2")
    assert again.returncode == 1
    assert again.stderr.startswith("tapedeck: lookup2 runs already")
    assert "there is no 'mysql3'" in terminal.run("stack", "start", "mysql3").stderr
    unknown = terminal.run("stack", "stop", "lookup9")
    assert unknown.returncode == 2
    assert "lookup3" in unknown.stderr

    # If the primary is killed, its standby is promoted.
    os.kill(terminal.pid("mysql1"), signal.SIGKILL)
    assert eventually(lambda: "mysql2 is the primary now" in terminal.screen)
    status = json.loads(terminal.run("stack", "status", "--json").stdout)
    assert status["servers"]["mysql1"]["state"] == "dead", "no order stopped it"
    started = terminal.run("stack", "start", "mysql1")
    assert started.stdout.strip() == "mysql1 is the standby; the pair is redundant"

    up.send_signal(signal.SIGINT)
    assert up.wait(40) == 0
    assert not any(exists(pid) for pid in pids)
    assert list((terminal.home / "run").glob("*.pid")) == []
    stopped = terminal.run("stack", "status")
    assert stopped.returncode == 1
    assert "no local stack runs" in stopped.stderr

    terminal.up()
    assert terminal.get("/mixes/1.json")["status"] == "200 OK"
    assert "catalog" not in terminal.screen
    assert "mysql2 is the primary" in terminal.screen


@pytest.mark.usefixtures("mysql_template")
@pytest.mark.long
@pytest.mark.parametrize(("kind", "servers"), [("mysql", 2), ("group", 3)])
def test_on_mysql_listeners_are_served_while_another_host_becomes_the_primary(
    tmp_path: Path, kind: str, servers: int
) -> None:
    terminal = Terminal(tmp_path, mysql=servers)
    try:
        up = terminal.up("--mysql", kind)
        pids = terminal.pids()
        token = terminal.get("/sets/new")["play_token"]
        played = [terminal.track(token, "play")]
        primary = terminal.mysql()["primary"]
        os.kill(terminal.pid(primary), signal.SIGKILL)
        played += [terminal.track(token, "next") for _ in range(2)]
        assert terminal.mysql()["primary"] != primary
        started = terminal.run("stack", "start", primary)
        assert started.returncode == 0, started.stderr
        assert re.search("is (the standby|a secondary again)", started.stdout)
        assert terminal.mysql()["redundant"] is True
        handed_over = terminal.run("stack", "promote")
        assert handed_over.returncode == 0, handed_over.stderr
        played.append(terminal.track(token, "next"))
        assert len(set(played)) == 4, "a state was lost"
        pids += terminal.pids()
        up.send_signal(signal.SIGINT)
        assert up.wait(60) == 0
        assert not any(exists(pid) for pid in pids)

        # The data are kept, apart from those of other engines.
        terminal.up("--mysql", kind)
        assert terminal.track(token, "next") not in played
        assert (terminal.home / "data" / kind / "mysql1").is_dir()
        assert not (terminal.home / "data" / "mysql1").exists()
    finally:
        terminal.close()


def test_without_an_installed_mysql_up_says_how_to_install_it(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    if mysql.find() is not None:
        pytest.skip("a MySQL is installed here")
    refused = terminal.run("up", "--mysql", "group", *terminal.options[:-2])
    assert refused.returncode == 1
    assert "stack/engines.py install mysql-9" in refused.stderr
    assert not (terminal.home / "data").exists()


def test_with_tls_the_printed_commands_and_the_demo_player_work(
    terminal: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key = Authority(tmp_path / "the tls").issue("gateway")
    for section in ("GATEWAY", "ADMIN"):
        monkeypatch.setenv(f"TAPEDECK_{section}__TLS_CERTIFICATE_FILE", certificate)
        monkeypatch.setenv(f"TAPEDECK_{section}__TLS_KEY_FILE", key)
    terminal.up("--ephemeral")
    gateway, admin = (f"127.0.0.1:{port}" for port in terminal.ports[:2])
    assert f"http://{gateway}" not in terminal.screen
    assert f"http://{admin}" not in terminal.screen
    assert f"dashboard https://{admin}/" in terminal.screen
    assert f"API       https://{gateway}/openapi.json" in terminal.screen
    lines = re.findall(r"^  (TOKEN=.*|curl .*)$", terminal.screen, re.MULTILINE)
    played = subprocess.run(
        ["sh", "-c", "\n".join(lines)], capture_output=True, text=True, check=True
    )
    assert played.stdout.count('"200 OK"') == 2

    (player,) = re.findall(r"player +(http://\S+/) ", terminal.screen)
    with urllib.request.urlopen(f"{player}mixes/1") as answer:
        assert json.load(answer)["status"] == "200 OK"
    with urllib.request.urlopen(f"{player}where/1/1") as answer:
        assert answer.status == 200
    with urllib.request.urlopen(f"{player}stack") as answer:
        assert json.load(answer)["dashboard"] == f"https://{admin}/"
    order = urllib.request.Request(f"{player}listener", headers={"X-Tapedeck-Demo": "player"})
    with urllib.request.urlopen(order, data=b"") as answer:
        assert json.load(answer)["play_token"]


def test_a_port_in_use_is_named_before_any_server_is_started(terminal: Terminal) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", terminal.ports[2]))
        other.listen()
        refused = terminal.run("up", *terminal.options)
    assert refused.returncode == 1
    assert refused.stderr == (
        f"tapedeck: port {terminal.ports[2]} (lookup1) is taken: "
        "choose another with --lookup-ports\n"
    )
    assert not (terminal.home / "data").exists()


def test_a_killed_stack_leaves_no_process_and_the_next_start_uses_its_data(
    terminal: Terminal,
) -> None:
    up = terminal.up()
    pids = terminal.pids()
    up.kill()
    up.wait()
    assert eventually(lambda: not any(exists(pid) for pid in pids))
    again = terminal.up()
    assert terminal.get("/mixes/1.json")["status"] == "200 OK"
    again.terminate()
    assert again.wait(40) == 0


def test_an_ephemeral_stack_ends_with_a_killed_make_and_keeps_no_data(terminal: Terminal) -> None:
    command = f"'{sys.executable}' -m cli up --ephemeral {' '.join(terminal.options)}"
    makefile = terminal.folder / "Makefile"
    makefile.write_text(f"run:\n\t@true && exec {command} --parent $$PPID\n")
    with (terminal.folder / "screen").open("w") as screen:
        make = subprocess.Popen(
            ["make", "run"],
            cwd=terminal.folder,
            stdin=subprocess.DEVNULL,
            stdout=screen,
            stderr=screen,
        )
    assert eventually(lambda: "is ready" in terminal.screen or make.poll() is not None, 90)
    assert eventually(lambda: "stack status" in terminal.screen)
    pids = terminal.pids()
    assert (terminal.home / "ephemeral" / "mysql1").is_dir()
    make.kill()
    make.wait()
    assert eventually(lambda: not any(exists(pid) for pid in pids), 40)
    assert eventually(lambda: "nothing is left running" in terminal.screen)
    assert not (terminal.home / "ephemeral").exists()
    assert not (terminal.home / "data").exists()


def test_a_stack_whose_output_is_not_read_works_and_stops(terminal: Terminal) -> None:
    reader, writer = full_pipe()
    command = [sys.executable, "-m", "cli", "up", "--ephemeral", *terminal.options]
    terminal.process = subprocess.Popen(
        command, cwd=terminal.folder, stdin=subprocess.DEVNULL, stdout=writer, stderr=writer
    )
    os.close(writer)
    log = terminal.home / "log" / "stack.log"

    def logged(sentence: str) -> bool:
        return log.exists() and sentence in log.read_text()

    assert eventually(lambda: logged("the gateway is ready"), 90)
    assert eventually(lambda: terminal.run("stack", "status").returncode == 0, 90)
    os.kill(terminal.pid("lookup2"), signal.SIGKILL)
    assert eventually(lambda: logged("lookup2 ended (SIGKILL)"), 60)
    terminal.process.send_signal(signal.SIGTERM)
    assert terminal.process.wait(60) == 0
    os.close(reader)
