"""The engines in `.tapedeck/engines` are really installed and run."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stack import engines

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", engines.ENGINES)
def test_an_installed_engine_has_the_version_in_its_name(name: str) -> None:
    server = engines.find(name)
    if server is None:
        pytest.skip(f"{name} is not installed: python3 stack/engines.py install {name}")
    done = subprocess.run([server, "--version"], capture_output=True, text=True, check=True)
    words = done.stdout.replace("v=", "").split()
    assert any(word.startswith(engines.ENGINES[name].version) for word in words), done.stdout


@pytest.mark.long
def test_one_command_installs_an_engine_and_a_second_run_does_nothing(tmp_path: Path) -> None:
    (tmp_path / "stack").mkdir()
    shutil.copy(REPOSITORY / "stack" / "engines.py", tmp_path / "stack")
    command = [sys.executable, tmp_path / "stack" / "engines.py", "install", "valkey-9"]
    first = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "valkey-9: downloading" in first
    assert "valkey-9 is installed" in first
    server = tmp_path / ".tapedeck" / "engines" / "valkey-9" / "bin" / "valkey-server"
    shown = subprocess.run([server, "--version"], capture_output=True, text=True, check=True)
    assert "v=9." in shown.stdout
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == ""
