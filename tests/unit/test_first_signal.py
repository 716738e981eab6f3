"""A signal that arrives while a command starts ends it in an orderly way."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest


def test_only_quick_imports_come_before_the_signal_handlers() -> None:
    code = "import sys; before = {*sys.modules}; import cli; print(*{*sys.modules} - before)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    loaded = set(ran.stdout.split())
    assert "signal" in loaded
    foreign = {name for name in loaded if name.split(".")[0] not in sys.stdlib_module_names}
    assert foreign == {"cli"}
    assert len(loaded) <= 20, f"each import takes time in which a SIGTERM is lost: {loaded}"


INTERRUPTED_IN_AN_IMPORT = """
import os, signal, sys

class Interrupt:
    def find_spec(self, name, path, target=None):
        if name == interrupted:
            os.kill(os.getpid(), signal.SIGINT)

interrupted, *words = sys.argv[1:]
sys.meta_path.insert(0, Interrupt())
sys.argv = ["tapedeck", *words]
from cli.main import main
main()
"""


@pytest.mark.parametrize(
    ("module", "command"),
    [
        ("typer", ["--help"]),
        ("cli.status", ["status"]),
        ("pydantic", ["check-config"]),
        ("drills.scenarios", ["drill", "--list"]),
        ("gateway.process.worker", ["serve"]),
        ("stack.stack", ["up", "--ephemeral"]),
    ],
)
def test_ctrl_c_while_a_command_is_imported_ends_it_with_one_line(
    module: str, command: list[str], tmp_path: Path
) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_IN_AN_IMPORT, module, *command],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (ran.returncode, ran.stderr) == (130, "tapedeck: interrupted\n")


def test_ctrl_c_while_a_command_waits_for_mysql_ends_it_with_one_line(tmp_path: Path) -> None:
    config = tmp_path / "tapedeck.yml"
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        lookup, mysql = "lookup: {servers: ['127.0.0.1:1:1']}", f"hosts: ['127.0.0.1:{port}']"
        config.write_text(f"{lookup}\nmysql: {{{mysql}, user: a}}\n")
        argv = [sys.executable, "-m", "cli", "partitions", "list", "--config", str(config)]
        with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as command:
            silent.accept()
            command.send_signal(signal.SIGINT)
            _, said = command.communicate(timeout=20)

    assert (command.returncode, said) == (130, "tapedeck: interrupted\n")
