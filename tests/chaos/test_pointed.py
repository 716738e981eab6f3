"""Drills pointed at a running stack break its servers, and leave it as it was."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.terminal import Terminal, eventually, exists

# All run in one process of pytest-xdist, because they share a stack.
pytestmark = [pytest.mark.stack, pytest.mark.timeout(180), pytest.mark.xdist_group("pointed")]


@pytest.fixture(scope="module")
def terminal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    made = Terminal(tmp_path_factory.mktemp("pointed"))
    made.up("--ephemeral")
    yield made
    made.close()


def servers(terminal: Terminal) -> dict[str, str]:
    status = json.loads(terminal.run("stack", "status", "--json").stdout)
    return {name: server["state"] for name, server in status["servers"].items()}


def config(terminal: Terminal) -> list[str]:
    return ["--config", str(terminal.home / "tapedeck.yml")]


def test_a_running_stacks_own_servers_are_broken_and_come_back(terminal: Terminal) -> None:
    primary = json.loads(terminal.run("stack", "status", "--json").stdout)["mysql"]["primary"]

    ran = terminal.run(
        *("drill", "lookup-killed", "mysql-primary-killed", "--short", "--json"), *config(terminal)
    )

    answer = json.loads(ran.stdout)
    findings = [finding for one in answer["drills"] for finding in one["findings"]]
    assert all(finding["held"] or finding["timing"] for finding in findings), ran.stdout
    assert ran.returncode == (0 if answer["held"] else 1)
    assert all(one["acknowledged"] > 100 for one in answer["drills"])
    status = json.loads(terminal.run("stack", "status", "--json").stdout)
    assert status["mysql"]["primary"] != primary
    assert set(servers(terminal).values()) == {"running"}
    assert Path(terminal.folder / answer["drills"][0]["report"]).is_file()


def begin(terminal: Terminal, *words: str) -> subprocess.Popen[str]:
    """Start a drill; what it says goes into the file `said`."""
    return subprocess.Popen(
        [sys.executable, "-m", "cli", "drill", *words, *config(terminal)],
        cwd=terminal.folder,
        stdout=(terminal.folder / "said").open("w"),
        stderr=subprocess.STDOUT,
        text=True,
    )


def says(terminal: Terminal, text: str) -> bool:
    return text in " ".join((terminal.folder / "said").read_text().split())


def last_report(terminal: Terminal) -> dict[str, Any]:
    pages = re.findall(r"report +(\S+)/report.html", (terminal.folder / "said").read_text())
    read: dict[str, Any] = json.loads((terminal.folder / pages[-1] / "report.json").read_text())
    return read


def test_a_drill_that_is_interrupted_brings_back_what_it_broke_and_says_so(
    terminal: Terminal,
) -> None:
    last = terminal.pid("lookup3")
    drill = begin(terminal, "lookups-all-dead", "--short")
    assert eventually(lambda: not exists(last), 60)
    drill.send_signal(signal.SIGINT)

    assert drill.wait(60) == 130
    assert set(servers(terminal).values()) == {"running"}
    report = last_report(terminal)
    assert report["outcome"] == "interrupted"
    told = [mark["text"] for mark in report["marks"]]
    assert told[-4].startswith("interrupted")
    assert told[-3:] == [f"lookup{n} is started again" for n in (1, 2, 3)]
    assert says(terminal, "lookup3 is started again")


def test_a_drill_that_is_interrupted_twice_thaws_what_it_froze(terminal: Terminal) -> None:
    drill = begin(terminal, "lookup-frozen", "--short")
    frozen = Path(f"/proc/{terminal.pid('lookup1')}/stat")

    def state() -> str:
        return frozen.read_text().rpartition(")")[2].split()[0]

    assert eventually(lambda: state() == "T", 60)
    drill.terminate()
    assert eventually(lambda: says(terminal, "interrupted"))
    drill.send_signal(signal.SIGINT)

    assert drill.wait(60) == 128 + signal.SIGTERM
    assert state() in ("R", "S"), "the process is neither running nor waiting"
    assert says(terminal, "lookup1 is thawed")
    assert last_report(terminal)["outcome"] == "interrupted"


def test_a_stack_with_a_stopped_server_is_not_broken_further(terminal: Terminal) -> None:
    terminal.run("stack", "stop", "lookup2")
    drill = begin(terminal, "lookup-killed", "--short")

    assert drill.wait(60) == 1
    assert says(terminal, "not steady before the fault")
    report = last_report(terminal)
    assert report["outcome"] == "not steady before the fault"
    assert "lookup2" in report["findings"][0]["measured"]
    assert servers(terminal)["lookup1"] == "running"
    assert servers(terminal)["lookup2"] != "running", "it started a server that it did not stop"
    terminal.run("stack", "start", "lookup2")


def test_the_drill_by_hand_checks_a_load_while_a_user_kills_a_server(terminal: Terminal) -> None:
    command = ["drill", "by-hand", "--short", "--seconds", "6", "--json", *config(terminal)]
    command += ["--history", "history.jsonl"]
    drill = subprocess.Popen(
        [sys.executable, "-m", "cli", *command],
        cwd=terminal.folder,
        stdout=subprocess.PIPE,
        stderr=(terminal.folder / "said").open("w"),
        text=True,
    )
    assert eventually(lambda: "break what you like" in (terminal.folder / "said").read_text(), 60)
    os.kill(terminal.pid("lookup2"), signal.SIGKILL)
    answer = json.loads(drill.communicate(timeout=60)[0])

    assert answer["held"], answer
    assert answer["drills"][0]["acknowledged"] > 100
    assert servers(terminal)["lookup2"] == "dead", "it started a server that it did not stop"
    terminal.run("stack", "start", "lookup2")
    check(terminal.folder / "history.jsonl", answer["drills"][0]["acknowledged"])


def check(history: Path, acknowledged: int) -> None:
    """Check a history by the rules of docs/drills.md, without the drill's own checker."""
    operations = [json.loads(line) for line in history.read_text().splitlines()]
    puts = [one for one in operations if one["kind"] == "put" and one["outcome"] == "ok"]
    assert len(puts) > 50
    assert len(puts) < acknowledged < len(operations)
    by_client: dict[str, float] = {}
    for one in operations:
        assert by_client.get(one["client"], 0) <= one["start"] <= one["end"]
        by_client[one["client"]] = one["end"]
    versions: dict[tuple[str, int], list[str]] = {}
    for put in puts:
        assert put["version"] == put["expected"] + 1 == len(put["value"])
        assert put["value"][-1] == put["argument"]
        key = (put["key"], put["version"])
        assert versions.setdefault(key, put["value"]) is put["value"], "one version has two values"
    for get in (one for one in operations if one["kind"] == "get" and one["version"]):
        assert versions.get((get["key"], get["version"]), get["value"]) == get["value"]


def test_a_drill_that_cannot_be_pointed_at_a_running_stack_is_refused_with_the_reason(
    terminal: Terminal,
) -> None:
    ran = terminal.run("drill", "lookup-slow", "--short", *config(terminal))

    assert ran.returncode == 1
    said = " ".join(ran.stdout.split())
    assert "cannot be pointed at a running stack: it needs the fault injector" in said
