"""A drill that is ended early leaves a report and no process behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.terminal import eventually

pytestmark = [pytest.mark.stack, pytest.mark.timeout(120)]


def processes(folder: Path) -> set[str]:
    """The command lines that name something below a folder."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if f"{folder}/" in line:
            found.add(line)
    return found


@pytest.mark.parametrize(
    ("moment", "numbers", "status"),
    [
        ("servers and gateways start", [signal.SIGINT, signal.SIGINT], 130),
        ("answers 2 s late", [signal.SIGHUP], 128 + signal.SIGHUP),
    ],
    ids=["while it starts, and twice", "during the fault"],
)
def test_a_drill_that_is_ended_early_leaves_a_report_and_no_process(
    moment: str, numbers: list[int], status: int, tmp_path: Path
) -> None:
    said, temporary = tmp_path / "said", tmp_path / "temporary"
    temporary.mkdir()
    drill = subprocess.Popen(
        [sys.executable, "-m", "cli", "drill", "lookup-slow", "--short", "--out", str(tmp_path)],
        env={**os.environ, "TMPDIR": str(temporary)},
        stdout=said.open("w"),
        stderr=subprocess.STDOUT,
    )

    def words() -> str:
        return " ".join(said.read_text().split())

    assert eventually(lambda: moment in words() and bool(processes(temporary)), 60)
    for number in numbers:
        drill.send_signal(number)

    assert drill.wait(60) == status, words()
    assert processes(temporary) == set()
    assert list(temporary.iterdir()) == []
    (report,) = tmp_path.glob("lookup-slow-*/report.json")
    assert json.loads(report.read_text())["outcome"] == "interrupted"
    assert "the drill's servers and gateways are ended" in words()
