"""A drill pointed at a stack that runs: it breaks that one, and leaves it as it was."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.terminal import Terminal, eventually

pytestmark = [pytest.mark.stack, pytest.mark.timeout(180)]


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


def test_a_drill_that_is_interrupted_brings_back_what_it_broke(terminal: Terminal) -> None:
    command = [sys.executable, "-m", "cli", "drill", "lookups-all-dead", *config(terminal)]
    drill = subprocess.Popen(
        command, cwd=terminal.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert eventually(lambda: servers(terminal)["lookup3"] == "dead", 60)
    drill.send_signal(signal.SIGINT)
    said, _ = drill.communicate(timeout=60)

    assert drill.returncode == 1
    assert "interrupted; nothing is left running" in said
    assert set(servers(terminal).values()) == {"running"}


def test_by_hand_checks_a_load_while_somebody_else_breaks_things(terminal: Terminal) -> None:
    command = ["drill", "by-hand", "--short", "--seconds", "6", "--json", *config(terminal)]
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
    assert servers(terminal)["lookup2"] == "dead", "what somebody else broke is theirs to mend"
    terminal.run("stack", "start", "lookup2")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("lookup-slow", "fault injector"),
        ("midnight-outage", "clocks"),
        ("mysql-past-deadline", r"settings of its own \(mysql\)"),
        ("gateway-killed", "needs two of them"),
    ],
)
def test_what_cannot_be_done_to_a_running_stack_is_refused_with_the_reason(
    terminal: Terminal, name: str, reason: str
) -> None:
    ran = terminal.run("drill", name, "--short", *config(terminal))

    assert ran.returncode == 1
    assert re.search(f"cannot be pointed at a running stack: .*{reason}", ran.stdout), ran.stdout


def test_by_hand_without_a_stack_is_a_usage_error(terminal: Terminal) -> None:
    ran = terminal.run("drill", "by-hand")

    assert ran.returncode == 2
    assert "by-hand needs --config FILE" in ran.stderr
